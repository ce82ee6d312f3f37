"""Layers that take computed sizes: views, slices, joins, paddings, tensors made from sizes, indices, products, resampling."""

from __future__ import annotations

import pytest
import torch
from support.dynamic_rows import check_dynamic_row, dynamic_rows
from support.rows import F16, F32, Spec
from support.torch_features import SYMBOLS_LEFT_ALONE
from torch import nn
from torch.nn import functional as F

aten = torch.ops.aten
I64 = torch.int64
IMAGE = ("n", 3, "h", "w")


class Positions(nn.Module):
    """A learned table whose first rows are added."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 32, 6, generator=torch.Generator().manual_seed(0)))
        self.token = nn.Parameter(torch.randn(1, 1, 6, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        return x + self.table[:, : x.shape[1]]


def attention(mask):
    def fn(x):
        n, t, e = x.shape
        q = x.view(n, t, 2, e // 2).transpose(1, 2)
        return F.scaled_dot_product_attention(q, q, q, **mask(t)).transpose(1, 2).reshape(n, t, e)

    return fn


def written(x):
    y = x.clone()
    y[:, 1:] = -x[:, :-1]
    return y


DYNAMIC_ROWS = [
    *dynamic_rows(aten.view.default, [
        (lambda x: x.view(x.shape[0], -1), ("n", 3, 4)), (lambda x: x.view(x.shape[0] * 2, 2, x.shape[2]), ("n", 4, "t")),
        (lambda x: x.view(x.shape[0], x.shape[1], -1), ("n", "c", "h", "w")), (lambda x: x.view(-1), ("n", "t")),
        (lambda x: x.view(x.shape[0], 2, -1, x.shape[2]), ("n", 4, "t")),
    ]),
    *dynamic_rows(aten.reshape.default, [(lambda x: x.transpose(0, 1).reshape(-1, 2), ("n", "t", 4))]),
    *dynamic_rows(aten.flatten.using_ints, [(lambda x: x.flatten(1), ("n", 3, 4)), (lambda x: x.flatten(2), IMAGE)]),
    *dynamic_rows(aten.unflatten.int, [(lambda x: x.unflatten(1, (2, -1)), ("n", 6, "t"))]),
    *dynamic_rows(aten.permute.default, [(lambda x: x.permute(3, 1, 0, 2), IMAGE)]),
    *dynamic_rows(aten.transpose.int, [(lambda x: x.transpose(1, 3), IMAGE)]),
    *dynamic_rows(aten.squeeze.dim, [(lambda x: x.squeeze(1), ("n", 1, "t"))]),
    *dynamic_rows(aten.unsqueeze.default, [(lambda x: x.unsqueeze(1), ("n", "t")), (lambda x: x[..., None], ("n", "t"))]),
    *dynamic_rows(aten.expand.default, [
        (lambda x: x[:, None].expand(-1, 4, -1), ("n", "t")), (lambda x, y: x.expand(y.shape[0], -1), (1, 5), ("n", 2)),
        (lambda x, y: x.expand_as(y), ("t",), ("n", "t")), (Positions(), ("n", "t", 6)),
    ]),
    *dynamic_rows(aten.repeat.default, [
        (lambda x: x.repeat(2, 1, 3), ("n", "t", 2)), (lambda x, y: x.repeat(y.shape[0], 1), (2, 5), ("n", 2)),
    ]),
    *dynamic_rows(aten.slice.Tensor, [
        (lambda x: x[:, 1:], ("n", "t")), (lambda x: x[:, :-1], ("n", "t")), (lambda x: x[:, -2:], ("n", "t")),
        (lambda x: x[:, ::2], ("n", "t")), (lambda x: x[..., 1::2, ::2], IMAGE), (lambda x: x[:, 1:3], ("n", 5, "t")),
        (lambda x: x[:, : x.shape[1] // 2], ("n", "t")), (lambda x: x[:, x.shape[1] // 2 :], ("n", "t")),
        *([(lambda x, y: x[:, : y.shape[1]], (2, 16, 3), ("n", "t"))] if SYMBOLS_LEFT_ALONE else []),
    ]),
    *dynamic_rows(aten.select.int, [
        (lambda x: x[:, 0], ("n", "t", 3)), (lambda x: x[:, -1], ("n", "t", 3)), (lambda x: x[0], ("n", "t")),
    ]),
    *dynamic_rows(aten.narrow.default, [(lambda x: x.narrow(1, 1, x.shape[1] - 1), ("n", "t"))]),
    *dynamic_rows(aten.split.Tensor, [(lambda x: x.split(2, 1), ("n", 6, "t"))]),
    *dynamic_rows(aten.split_with_sizes.default, [(lambda x: x.split([1, x.shape[1] - 1], 1), ("n", "t"))]),
    *dynamic_rows(aten.chunk.default, [(lambda x: x.chunk(3, -1), ("n", "t", 6))]),
    *dynamic_rows(aten.unbind.int, [(lambda x: x.unbind(1), ("n", 3, "t"))]),
    *dynamic_rows(aten.cat.default, [
        (lambda x, y: torch.cat([x, y], 1), ("n", 3, "t"), ("n", 2, "t")),
        (lambda x, y: torch.cat([x, y], 1), ("n", "t"), ("n", "w")),
        (lambda x: torch.cat([x, torch.zeros(x.shape[0], 2)], 1), ("n", 3)),
    ]),
    *dynamic_rows(aten.stack.default, [
        (lambda x: torch.stack([x, x * 2], 1), ("n", "t")),
        (lambda x: torch.stack([x, -x], -1), ("n", "t")),
    ]),
    *dynamic_rows(aten.pad.default, [
        (lambda x: F.pad(x, (1, 2, 3, 0)), IMAGE), (lambda x: F.pad(x, (1, 2), value=3.0), ("n", "t")),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"), IMAGE), (lambda x: F.pad(x, (-1, 0)), ("n", "t")),
        (lambda x: F.pad(x, (2, 1, 1, 3), mode="reflect"), IMAGE), (lambda x: F.pad(x, (2, 1, 1, 3), mode="replicate"), IMAGE),
        (lambda x: F.pad(x, (0, 4 * x.shape[1] - x.shape[2])), ("n", "h", "w")),
        (lambda x: F.pad(x, (0, (-x.shape[-1]) % 4)), ("n", "w")),
    ]),
    *dynamic_rows(aten.roll.default, [
        (lambda x: x.roll((1, -2), (2, 3)), IMAGE),
        (lambda x: x.roll(x.shape[1] // 2, 1), ("n", "t")),
    ]),
    *dynamic_rows(aten.flip.default, [(lambda x: x.flip(1), ("n", "t")), (lambda x: x.flip((2, 3)), IMAGE)]),
    *dynamic_rows(aten.pixel_shuffle.default, [(nn.PixelShuffle(2), ("n", 8, "h", "w"))]),
    *dynamic_rows(aten.pixel_unshuffle.default, [(lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), ("n", 8, "h", "w"))]),
    *dynamic_rows(aten.channel_shuffle.default, [(nn.ChannelShuffle(2), ("n", 8, "h", "w"))]),
    *dynamic_rows(aten.diagonal.default, [(lambda x: x.diagonal(1, -2, -1), ("n", 5, 6))]),
    *dynamic_rows(aten.unfold.default, [(lambda x: x.unfold(1, 2, 1), ("n", "t"))]),
    *dynamic_rows(aten.im2col.default, [
        (lambda x: F.unfold(x, 3, padding=1), IMAGE),
        (lambda x: F.unfold(x, 2, stride=2), IMAGE),
    ]),
    *dynamic_rows(aten.unfold_backward.default, [
        (lambda x: torch.ops.aten.unfold_backward(x.unfold(1, 4, 2), [x.shape[0], 6 * 8], 1, 4, 2), ("n", 6 * 8)),
    ]),
    *dynamic_rows(aten.col2im.default, [(lambda x: F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1), IMAGE)]),
    # made of sizes
    *dynamic_rows(aten.full.default, [
        (lambda x: x + torch.zeros(x.shape[0], 4), ("n", 4)), (lambda x: x + torch.full((x.shape[1],), 2.5), ("n", "t")),
        (lambda x: torch.ones_like(x) + x, ("n", "t")), (lambda x: x.new_full((x.shape[0], 1), 3) + x, ("n", "t")),
    ]),
    *dynamic_rows(aten.arange.default, [
        (lambda x: x + torch.arange(x.shape[1]), ("n", "t")),
        (lambda x: torch.arange(x.shape[2])[None] * torch.arange(x.shape[1])[:, None], ("n", "h", "w")),
    ]),
    *dynamic_rows(aten.arange.start, [(lambda x: x[:, 1:] + torch.arange(1, x.shape[1]), ("n", "t"))]),
    *dynamic_rows(aten.arange.start_step, [(lambda x: x[:, ::2] + torch.arange(0, x.shape[1], 2), ("n", "t"))]),
    *dynamic_rows(aten.eye.default, [(lambda x: x @ torch.eye(x.shape[1]), ("n", "t"))]),
    *dynamic_rows(aten.eye.m, [(lambda x: x @ torch.eye(x.shape[1], 4), ("n", "t"))]),
    *dynamic_rows(aten.scalar_tensor.default, [(lambda x: x * torch.scalar_tensor(x.shape[1]), ("n", "t"))]),
    *dynamic_rows(aten.tril.default, [
        (lambda x: x.tril(), ("n", "h", "w")),
        (lambda x: torch.ones(x.shape[1], x.shape[1]).tril() @ x, ("n", "t", 3)),
    ]),
    *dynamic_rows(aten.triu.default, [
        (lambda x: x.triu(-1), ("n", "h", "w")),
        (lambda x: x + torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1), (1, "t", "t")),
    ]),
    *dynamic_rows(aten.where.self, [(lambda x: x.masked_fill(x > 0, -1.0), ("n", "t"))]),
    # indices
    *dynamic_rows(aten.embedding.default, [(nn.Embedding(10, 4), Spec(("n", "t"), I64))]),
    *dynamic_rows(aten.gather.default, [(lambda x, i: x.gather(1, i), ("n", 10, "t"), Spec(("n", 2, "t"), I64))]),
    *dynamic_rows(aten.index.Tensor, [
        (lambda x, i: x[:, i], ("n", 10, "t"), Spec(("w",), I64)),
        (lambda x, i: x[torch.arange(x.shape[0]), i], ("n", 10), Spec(("n",), I64)),
        (lambda x: x[:, torch.tensor([2, 0])], ("n", 3, "t")),
        (lambda x: x[torch.arange(x.shape[0]), x.argmax(1)], ("n", 10)),
        (lambda x: x[:, torch.tensor([1, -1])], ("n", "t")),
    ]),
    *dynamic_rows(aten.index_select.default, [(lambda x, i: x.index_select(1, i), ("n", 10, "t"), Spec(("w",), I64))]),
    *dynamic_rows(aten.scatter.src, [
        (lambda x, i, y: x.scatter(1, i, y), ("n", 10, "t"), Spec(("n", 1, "t"), I64), ("n", 1, "t")),
    ]),
    *dynamic_rows(aten.slice_scatter.default, [
        (lambda x, y: x.slice_scatter(y, 1, 1, 3), ("n", "t"), ("n", 2)),
        (lambda x: written(x), ("n", "t")),
    ]),
    *dynamic_rows(aten.select_scatter.default, [(lambda x, y: x.select_scatter(y, 1, -1), ("n", "t"), ("n",))]),
    # products
    *dynamic_rows(aten.linear.default, [(nn.Linear(6, 4), ("n", "t", 6)), (nn.Linear(6, 4), ("n", 6))]),
    *dynamic_rows(aten.matmul.default, [
        (lambda x, y: x @ y, ("n", "t", 4), (4, 3)), (lambda x: x @ x.transpose(-1, -2), ("n", "t", 4)),
        (lambda x, y: x @ y, ("n", 1, "t", "w"), ("c", "w", 3)), (lambda x, y: x @ y, ("n", "t"), ("t",)),
    ]),
    *dynamic_rows(aten.bmm.default, [(torch.bmm, ("n", "t", 4), ("n", 4, "w"))]),
    *dynamic_rows(aten.addmm.default, [(torch.addmm, (3,), ("n", 4), (4, 3))]),
    *dynamic_rows(aten.einsum.default, [
        (lambda x, y: torch.einsum("bhqd,bhkd->bhqk", x, y), ("n", 2, "t", 4), ("n", 2, "w", 4)),
        (lambda x, y: torch.einsum("...ij,jk->...ik", x, y), ("n", "t", 4), (4, 3)),
    ]),
    *dynamic_rows(aten.scaled_dot_product_attention.default, [
        (attention(lambda t: {}), ("n", "t", 8)), (attention(lambda t: {"is_causal": True}), ("n", "t", 8)),
        (attention(lambda t: {"attn_mask": torch.ones(t, t, dtype=torch.bool).tril()}), ("n", "t", 8)),
        (attention(lambda t: {"attn_mask": torch.full((t, t), float("-inf")).triu(1)}), ("n", "t", 8)),
    ], [F32, F16]),
    *dynamic_rows(aten._cdist_forward.default, [(torch.cdist, ("n", "t", 3), ("n", "w", 3))]),
    # resampling
    *dynamic_rows(aten.upsample_nearest2d.vec, [
        (lambda x: F.interpolate(x, scale_factor=2), IMAGE),
        (lambda x, y: F.interpolate(x, y.shape[2:]), ("n", 3, "h", "w"), (1, 1, "t", "c")),
        (lambda x: F.interpolate(x, scale_factor=0.5), IMAGE), (lambda x: F.interpolate(x, scale_factor=1.7), IMAGE),
        (lambda x: F.interpolate(x, size=(5, 9)), IMAGE),
    ]),
    *dynamic_rows(aten.upsample_bilinear2d.vec, [
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), IMAGE),
        (lambda x, y: F.interpolate(x, y.shape[2:], mode="bilinear"), ("n", 3, 5, 7), (1, 1, "h", "w")),
        (lambda x, y: F.interpolate(x, y.shape[2:], mode="bilinear", align_corners=True), ("n", 3, 5, 7), (1, 1, "h", "w")),
        (lambda x: F.interpolate(x, scale_factor=0.7, mode="bilinear"), IMAGE),
        (lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=True), IMAGE),
        (lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear", recompute_scale_factor=True), IMAGE),
        (lambda x: F.interpolate(x, size=(6, 9), mode="bilinear"), IMAGE),
    ]),
    *dynamic_rows(aten.upsample_bicubic2d.vec, [
        (lambda x, y: F.interpolate(x, y.shape[2:], mode="bicubic"), ("n", 3, 5, 7), (1, 1, "h", "w")),
    ]),
    *dynamic_rows(aten.upsample_linear1d.vec, [(lambda x: F.interpolate(x, scale_factor=2, mode="linear"), ("n", 3, "t"))]),
    *dynamic_rows(aten._upsample_nearest_exact2d.vec, [
        (lambda x: F.interpolate(x, scale_factor=2, mode="nearest-exact"), IMAGE),
    ]),
    *dynamic_rows(aten.grid_sampler.default, [
        (lambda x, g: F.grid_sample(x, g.tanh(), align_corners=False), IMAGE, ("n", "t", 4, 2)),
    ]),
]  # fmt: skip


@pytest.mark.parametrize("row", DYNAMIC_ROWS, ids=str)
def test_row(row):
    check_dynamic_row(row)
