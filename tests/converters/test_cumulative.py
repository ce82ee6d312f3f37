"""Rows of converters/cumulative.py."""

from __future__ import annotations

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, check_row, rows

aten = torch.ops.aten
TIES = Spec((2, 3, 9), torch.int64, -3, 4)
INF = float("inf")


def holes(x: torch.Tensor) -> torch.Tensor:
    """A part of the elements minus infinity, the first one too."""
    return torch.where((x < 0) | (torch.arange(x.shape[-1]) == 0), -INF, x)


ROWS = [
    *rows(aten.cumprod.default, [
        (lambda x: x.cumprod(-1), (2, 3, 9)), (lambda x: x.cumprod(0), (5,)), (lambda x: x.cumprod(1), TIES),
        (lambda x: x.cumprod(0), ()), (lambda x: x.cumprod(1), (4, 1)), (lambda x: x.cumprod(1), Spec((2, 5), torch.bool)),
        (lambda x: x.cumprod(1, dtype=F32), TIES), (lambda x: x.cumprod(0), Spec((100, 2), center=1, scale=0.1)),
        (lambda x: torch.where(x > 1, 0, x).cumprod(1), (2, 30)),
    ]),
    *rows(aten.cumprod.default, [(lambda x: x.cumprod(1), Spec((2, 5), center=1, scale=0.5))], (F16, BF16)),
    *rows(aten.logcumsumexp.default, [
        (lambda x: x.logcumsumexp(1), (2, 9)), (lambda x: x.logcumsumexp(0), Spec((40, 2), scale=60)),
        (lambda x: holes(x).logcumsumexp(1), (3, 9)), (lambda x: x.logcumsumexp(0), ()),
        (lambda x: (x / (x > 1)).logcumsumexp(1), Spec((3, 9), positive=True)),
    ]),
    *rows(aten.logcumsumexp.default, [(lambda x: x.logcumsumexp(1), (2, 9))], (F16, BF16)),
    *rows(aten.cummax.default, [
        (lambda x: tuple(x.cummax(1)), (2, 9)), (lambda x: tuple(x.cummax(0)), (17, 2)), (lambda x: tuple(x.cummax(-1)), TIES),
        (lambda x: tuple(x.cummax(0)), ()), (lambda x: tuple(x.cummax(1)), Spec((2, 5), torch.bool)),
        (lambda x: tuple(x.cummax(1)), Spec((2, 5), torch.uint8)), (lambda x: tuple(holes(x).cummax(1)), (3, 9)),
    ]),
    *rows(aten.cummin.default, [(lambda x: tuple(x.cummin(1)), (2, 9)), (lambda x: tuple(x.cummin(1)), TIES)]),
    *rows(aten.cummin.default, [(lambda x: tuple(x.cummin(1)), (2, 9))], (F16,)),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)
