"""Rows of converters/shape.py."""

from __future__ import annotations

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, check_row, rows
from torch import nn

aten = torch.ops.aten
I64 = Spec((2, 3, 4), torch.int64)
BOOL = Spec((2, 3, 4), torch.bool)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    """einops' "b (h d) n -> b n h d", as rotary embeddings write it."""
    return x.reshape(2, 3, 4, 5).permute(0, 3, 1, 2).flatten(2).unflatten(-1, (2, 6)).transpose(1, 2)


ROWS = [
    *rows(aten._reshape_copy.default, [(lambda x: aten._reshape_copy(x, [6, 4]), (2, 3, 4))]),
    *rows(
        aten.view.default,
        [
            (lambda x: x.view(6, 4), (2, 3, 4)),
            (lambda x: x.view(-1, 2, 2), (2, 3, 4)),
            (lambda x: x.view(()), (1, 1)),
            (lambda x: x.view(1, 1, 1), ()),
            (lambda x: x.view(3, 8), I64),
            (lambda x: x.view(24), BOOL),
            (lambda x, y: x.view_as(y) + y, (2, 6), (3, 4)),
        ],
    ),
    *rows(aten.view.default, [(lambda x: x.view(4, 6), (2, 3, 4))], (F16, BF16)),
    *rows(aten._unsafe_view.default, [(lambda x: aten._unsafe_view(x, [4, -1]), (2, 6))]),
    *rows(
        aten.reshape.default,
        [
            (lambda x: x.reshape(4, -1), (2, 3, 4)),
            (lambda x: x.transpose(0, 1).reshape(-1), (2, 3, 4)),
            (lambda x, y: x.reshape_as(y), (2, 6), (3, 4)),
            (rotate_half, (2, 12, 5)),
        ],
    ),
    *rows(
        aten.flatten.using_ints,
        [(nn.Flatten(), (2, 3, 4, 5)), (lambda x: x.flatten(-2), (2, 3, 4, 5)), (torch.flatten, ())],
    ),
    *rows(aten.unflatten.int, [(nn.Unflatten(1, (2, 3)), (2, 6, 4)), (lambda x: x.unflatten(-1, (-1, 2)), (3, 8))]),
    *rows(aten.squeeze.default, [(torch.squeeze, (1, 3, 1, 4)), (torch.squeeze, (1, 1)), (torch.squeeze, (2, 3))]),
    *rows(aten.squeeze.dim, [(lambda x: x.squeeze(-2), (3, 1, 4)), (lambda x: x.squeeze(0), (3, 1, 4))]),
    *rows(aten.squeeze.dims, [(lambda x: x.squeeze((0, -2)), (1, 2, 1, 3)), (lambda x: x.squeeze((0, 1)), (1, 2, 1))]),
    *rows(
        aten.unsqueeze.default,
        [(lambda x: x.unsqueeze(-1), (2, 3)), (lambda x: x[None], ()), (lambda x: x[:, None, ..., None], (2, 3, 4))],
    ),
    *rows(
        aten.permute.default,
        [
            (lambda x: x.permute(0, -1, 1, 2), (2, 3, 4, 5)),
            (lambda x: x.permute(4, 2, 0, 1, 3), (2, 3, 1, 5, 4)),
            (lambda x: x.movedim(1, -1), (2, 3, 4, 5)),
            (lambda x: x.movedim((0, 1), (-1, 0)), BOOL),
            (lambda x: x.permute(2, 1, 0), I64),
        ],
    ),
    *rows(aten.permute.default, [(lambda x: x.permute(2, 0, 1), (2, 3, 4))], (F16,)),
    *rows(
        aten.transpose.int,
        [
            (lambda x: x.transpose(1, -1), (2, 3, 4)),
            (lambda x: x.transpose(0, 0), ()),
            (lambda x: x.mT, (2, 3, 4)),
            (lambda x: x.swapaxes(0, 2), (2, 3, 4)),
        ],
    ),
    *rows(aten.t.default, [(lambda x: x.t(), (2, 3)), (lambda x: x.t(), (4,))]),
    *rows(
        aten.expand.default,
        [
            (lambda x: x.expand(2, 3, 4), (3, 1)),
            (lambda x: x.expand(-1, 5, -1), (2, 1, 3)),
            (lambda x: x.expand(2, 3), ()),
            (lambda x, y: x.expand_as(y), (3, 1), (2, 3, 4)),
            (lambda x: x.broadcast_to(4, 2, 3), Spec((1, 3), torch.bool)),
            (lambda x: torch.stack(torch.meshgrid(x, x.flip(0), indexing="xy")), (3,)),
            (lambda x: x.repeat_interleave(3, dim=1), (2, 3, 4)),
            (lambda x: x.repeat_interleave(2), (2, 3)),
        ],
    ),
    *rows(
        aten.repeat.default,
        [
            (lambda x: x.repeat(2, 3), (2, 3)),
            (lambda x: x.repeat(4, 1, 2), (2, 3)),
            (lambda x: x.repeat(2, 1, 5), (1, 3, 1)),
            (lambda x: x.repeat(3), ()),
            (lambda x: x.tile(2), (2, 3)),
            (lambda x: x.repeat(1, 2, 3), I64),
            (lambda x: x.repeat(1, 2, 3), BOOL),
        ],
    ),
    *rows(aten.pixel_shuffle.default, [(nn.PixelShuffle(2), (2, 8, 3, 5)), (nn.PixelShuffle(3), (9, 2, 3))], (F32, F16)),
    *rows(aten.pixel_unshuffle.default, [(nn.PixelUnshuffle(2), (2, 3, 4, 6)), (nn.PixelUnshuffle(3), (1, 2, 3, 6, 3))]),
    *rows(aten.channel_shuffle.default, [(nn.ChannelShuffle(3), (2, 6, 4, 5)), (nn.ChannelShuffle(2), (1, 4, 3))]),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)
