"""Rows of converters/joining.py."""

from __future__ import annotations

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, check_row, rows

aten = torch.ops.aten
I32 = Spec((2, 3), torch.int32)
BOOL = Spec((2, 3), torch.bool)

ROWS = [
    *rows(
        aten.cat.default,
        [
            (lambda x, y: torch.cat([x, y], 1), (2, 3, 4, 5), (2, 1, 4, 5)),
            (lambda x, y: torch.cat([x, y], -1), I32, (2, 4)),
            (lambda x, y: torch.cat([x, y]), BOOL, I32),
            (lambda x, y: torch.cat([x, y]), BOOL, BOOL),
            (lambda x: torch.cat([torch.empty(0), x, torch.ones(2, 1, dtype=torch.float16)], 1), (2, 3)),
            (lambda x: torch.cat([x], 0), (2, 3)),
            (lambda x, y: torch.hstack([x, y]), (3,), (2,)),
            (lambda x, y: torch.vstack([x, y]), (3,), (3,)),
            (lambda x, y: torch.cat([x, torch.ones(2, dtype=torch.int64), y]), Spec((3,), F16), (2,)),
        ],
    ),
    *rows(aten.cat.default, [(lambda x: torch.cat([x, torch.ones(2, 3, dtype=x.dtype)], 1), (2, 4))], (F16, BF16)),
    *rows(
        aten.stack.default,
        [
            (lambda x, y: torch.stack([x, y]), (2, 3), (2, 3)),
            (lambda x, y: torch.stack([x, y, x], 1), (2, 3, 4), (2, 3, 4)),
            (lambda x, y: torch.stack([x, y], -1), (2, 3), (2, 3)),
            (lambda x, y: torch.stack([x, y], -2), (2, 3), (2, 3)),
            (lambda x, y: torch.stack([x, y]), (), ()),
            (lambda x: torch.stack([x, torch.ones(2, 3)]), I32),
        ],
    ),
    *rows(
        aten.split.Tensor,
        [(lambda x: x.split(2, 1), (2, 5, 3)), (lambda x: torch.split(x, 4, -1), (2, 3)), (lambda x: x.split(1)[1], BOOL)],
    ),
    *rows(
        aten.split_with_sizes.default, [(lambda x: x.split([1, 3, 2], -2), (2, 6, 3)), (lambda x: x.split([2, 0, 3]), (5, 2))]
    ),
    *rows(aten.chunk.default, [(lambda x: x.chunk(3, 1), (2, 7, 2, 2)), (lambda x: x.chunk(4, -1)[0], (3, 2))], (F32, F16)),
    *rows(aten.unbind.int, [(lambda x: x.unbind(1), (2, 3, 4)), (lambda x: list(x), (2,)), (lambda x: x.unbind(-1)[1:], I32)]),
    *rows(
        aten.slice.Tensor,
        [
            (lambda x: x.tensor_split(3, 1), (2, 7)),
            (lambda x: x.tensor_split((1, 4)), (5, 2)),
            (lambda x: x.hsplit(2), (2, 4)),
        ],
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)
