"""Rows of converters/special.py."""

from __future__ import annotations

import math

import pytest
import torch
from support.rows import BF16, F16, Row, Spec, check_row, rows

aten = torch.ops.aten
V, M = (7,), (2, 3, 4)
INTS = Spec(M, torch.int64, -3, 3)

ROWS = [
    *rows(aten.erfc.default, [(torch.erfc, M), (torch.erfc, (1,)), (torch.erfc, Spec(V, scale=4.0))]),
    # the upper tail by itself, where 1 - erf(x) has no digits left
    *rows(aten.erfc.default, [(lambda x: torch.erfc(x.abs() + 3).log(), Spec((40,), scale=2.0))]),
    *rows(aten.special_erfc.default, [(torch.special.erfc, M)]),
    *rows(aten.erfc.default, [(torch.erfc, M)], (F16, BF16)),
    *rows(aten.erfinv.default, [
        (lambda x: torch.erfinv(torch.tanh(x)), M),
        (lambda x: torch.erfinv(torch.tanh(x)), Spec((50,), scale=4.0)),
        (lambda x: torch.erfinv(torch.tanh(x * 0.01)), V),
        (lambda x: torch.erfinv(x.round()), V),  # infinite at 1, NaN beyond
    ]),
    *rows(aten.special_erfinv.default, [(lambda x: torch.special.erfinv(torch.tanh(x)), M)]),
    *rows(aten.erfinv.default, [(lambda x: torch.erfinv(x.clamp(-0.9, 0.9)), M)], (F16,)),
    *rows(aten.signbit.default, [
        (torch.signbit, M),
        (torch.signbit, INTS),
        (lambda x: torch.signbit(x * torch.tensor([0.0, -0.0, 1e-38, 1.0, -1.0, 1e30, math.inf])), V),
        (lambda x: torch.signbit(torch.round(x * 0.3)), (2, 20)),
    ]),
    *rows(aten.copysign.Tensor, [
        (torch.copysign, M, M),
        (torch.copysign, (3, 1), (4,)),
        (torch.copysign, (1,), (2, 3)),
        (torch.copysign, INTS, M),
        (torch.copysign, M, INTS),
        (lambda x: torch.copysign(x, torch.tensor([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, 0.0])), V),
        (lambda x, y: torch.copysign(x, torch.round(y * 0.3)), M, M),
    ]),
    *rows(aten.copysign.Tensor, [(torch.copysign, M, M)], (F16, BF16)),
    *rows(aten.copysign.Scalar, [(lambda x: torch.copysign(x, -0.0), M), (lambda x: torch.copysign(x, 2), INTS)]),
    *[
        row
        for op, fn in ((aten.fmax.default, torch.fmax), (aten.fmin.default, torch.fmin))
        for row in (
            *rows(op, [
                (fn, M, M),
                (fn, (3, 1), (4,)),
                (fn, INTS, Spec(M, torch.int32, -3, 3)),
                (lambda x, fn=fn: fn(torch.log(x), torch.tensor(-1.0)), V),
                (lambda x, y, fn=fn: fn(torch.log(x), torch.log(y)), M, M),
            ]),
            *rows(op, [(fn, M, M)], (F16, BF16)),
        )
    ],
    *rows(aten.ldexp.Tensor, [
        (torch.ldexp, M, INTS),
        (torch.ldexp, (3, 4), Spec((4,), torch.int32, -9, 9)),
        (lambda x: torch.ldexp(x, torch.tensor([3])), M),
    ]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)
