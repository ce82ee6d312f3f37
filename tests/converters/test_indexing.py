"""Rows of converters/indexing.py: slices, diagonals, windows. Index tensors: test_indexing_tensors.py."""

from __future__ import annotations

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, check_row, rows
from torch import nn

aten = torch.ops.aten
I64 = Spec((3, 4), torch.int64, low=-9)
BOOL = Spec((3, 4), torch.bool)


ROWS = [
    *rows(
        aten.narrow_copy.default,
        [(lambda x: torch.narrow_copy(x, 1, 1, 2), (2, 4, 3)), (lambda x: x.narrow_copy(-1, 0, 3), (5,))],
    ),
    *rows(
        aten.select.int,
        [(lambda x: x[1], (3, 4)), (lambda x: x[:, -1], (2, 3, 4)), (lambda x: x[0], (1,)), (lambda x: x[..., 2], BOOL)],
    ),
    *rows(
        aten.slice.Tensor,
        [
            (lambda x: x[1:], (3, 4)),
            (lambda x: x[:, -3:-1], (2, 5, 3)),
            (lambda x: x[..., 1:100:2], (2, 3, 6)),
            (lambda x: x[-100:2], (3, 4)),
            (lambda x: x[::2, ::3], (5, 7)),
            (lambda x: x[:, 1:3, ..., ::2], (1, 4, 2, 3, 5)),
            (lambda x: x[1:2], BOOL),
        ],
    ),
    *rows(aten.slice.Tensor, [(lambda x: x[:, 1:3], (2, 4, 3))], (F16, BF16)),
    *rows(
        aten.narrow.default,
        [
            (lambda x: x.narrow(1, 1, 2), (2, 4)),
            (lambda x: x.narrow(-1, -3, 2), I64),
            (lambda x: torch.narrow(x, 0, 0, 1), (1,)),
        ],
    ),
    *rows(
        aten.select_scatter.default,
        [
            (lambda x, y: x.select_scatter(y, 1, 2), (2, 4, 3), (2, 3)),
            (lambda x, y: x.select_scatter(y, -1, -4), (3, 4), (3,)),
            (lambda x, y: x.select_scatter(y, 0, 0), (1,), ()),
            (lambda x: torch.zeros(3, 4, dtype=torch.int64).select_scatter(x[0], 0, 1), I64),
        ],
    ),
    *rows(
        aten.slice_scatter.default,
        [
            (lambda x, y: x.slice_scatter(y, 1, 1, 3), (2, 4, 3), (2, 2, 3)),
            (lambda x, y: x.slice_scatter(y, -1, -2, 99), (3, 5), (3, 2)),
            (lambda x, y: x.slice_scatter(y, 0, 0, 6, 2), (5, 2), (3, 2)),
            (lambda x, y: x.slice_scatter(y), (2, 3), (2, 3)),
            (lambda x: torch.ones(5, 4, dtype=torch.bool).slice_scatter(x, 0, 1, 4), BOOL),
        ],
    ),
    *rows(
        aten.diagonal.default,
        [
            (lambda x: x.diagonal(), (3, 3)),
            (torch.diag, (3, 5)),
            (lambda x: x.diagonal(1), (3, 5)),
            (lambda x: x.diagonal(-2, 0, 2), (5, 2, 4)),
            (lambda x: x.diagonal(2, -1, 0), (3, 2, 5)),
            (lambda x: x.diagonal(), I64),
        ],
    ),
    *rows(
        aten.diagonal_scatter.default,
        [
            (lambda x, y: x.diagonal_scatter(y), (3, 5), (3,)),
            (lambda x, y: x.diagonal_scatter(y, 1, -2, -1), (2, 3, 3), (2, 2)),
            (lambda x, y: x.diagonal_scatter(y, -1, 2, 0), (3, 2, 4), (2, 3)),
        ],
    ),
    *rows(
        aten.tril.default,
        [(torch.tril, (2, 3, 4)), (lambda x: x.tril(-1), (4, 3)), (lambda x: x.tril(1), I64), (torch.tril, BOOL)],
    ),
    *rows(aten.triu.default, [(torch.triu, (3, 4)), (lambda x: x.triu(2), (1, 3, 3))], (F32, F16)),
    *rows(
        aten.flip.default,
        [
            (lambda x: x.flip(0), (3, 4)),
            (lambda x: x.flip(1, -1), (2, 3, 4)),
            (torch.fliplr, BOOL),
            (lambda x: x.rot90(1, (1, 2)), (2, 3, 4)),
            (lambda x: x.rot90(2), I64),
        ],
    ),
    *rows(
        aten.roll.default,
        [
            (lambda x: x.roll((-1, 2), (1, 2)), (2, 3, 5, 2)),
            (lambda x: x.roll(5), (2, 3)),
            (lambda x: x.roll((1, 1), (0, 0)), (5, 2)),
            (lambda x: x.roll(-7, -1), I64),
            (lambda x: x.roll(1, 0), BOOL),
        ],
    ),
    *rows(
        aten.unfold.default,
        [
            (lambda x: x.unfold(1, 3, 1), (2, 5, 3)),
            (lambda x: x.unfold(-1, 2, 2), (3, 5)),
            (lambda x: x.unfold(2, 2, 2).unfold(3, 3, 2), (1, 2, 4, 5)),
            (lambda x: x.unfold(0, 1, 1), ()),
        ],
    ),
    *rows(
        aten.im2col.default,
        [
            (nn.Unfold(3, padding=1), (1, 2, 4, 5)),
            (nn.Unfold((2, 3), dilation=(2, 1), padding=(1, 2), stride=(1, 2)), (2, 3, 5, 4)),
            (nn.Unfold(2, stride=2), (2, 3, 4, 6)),
            (nn.Unfold((1, 2)), (3, 4, 5)),
        ],
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)
