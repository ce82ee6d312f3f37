"""Shapes: view, permute, squeeze, expand (PyTorch's torch page, "Indexing, Slicing, Joining, Mutating Ops")."""

from __future__ import annotations

import torch

from torch2edge.lower.network import Network, Tensor, same
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Value = Tensor | torch.Tensor


@converter(aten.view.default, aten._unsafe_view.default, aten._reshape_copy.default)
def view(net: Network, self: Value, size: list[int]) -> Tensor:
    """view(Tensor(a) self, SymInt[] size) -> Tensor(a)"""
    return net.reshape(self, net.out.shape)


@converter(aten.reshape.default)
def reshape(net: Network, self: Value, shape: list[int]) -> Tensor:
    """reshape(Tensor(a) self, SymInt[] shape) -> Tensor(a)"""
    return net.reshape(self, net.out.shape)


@converter(aten.flatten.using_ints)
def flatten(net: Network, self: Value, start_dim: int, end_dim: int) -> Tensor:
    """flatten.using_ints(Tensor(a) self, int start_dim=0, int end_dim=-1) -> Tensor(a)"""
    return net.reshape(self, net.out.shape)


@converter(aten.unflatten.int)
def unflatten(net: Network, self: Value, dim: int, sizes: list[int]) -> Tensor:
    """unflatten.int(Tensor(a) self, int dim, SymInt[] sizes) -> Tensor(a)"""
    return net.reshape(self, net.out.shape)


@converter(aten.squeeze.default)
def squeeze(net: Network, self: Value) -> Tensor:
    """squeeze(Tensor(a) self) -> Tensor(a)"""
    return net.reshape(self, net.out.shape)


@converter(aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default)
def squeeze_dim(net: Network, self: Value, dim: int | list[int]) -> Tensor:
    """squeeze.dim(Tensor(a) self, int dim) -> Tensor(a)"""
    return net.reshape(self, net.out.shape)


@converter(aten.permute.default)
def permute(net: Network, self: Value, dims: list[int]) -> Tensor:
    """permute(Tensor(a) self, int[] dims) -> Tensor(a)"""
    return net.permute(self, dims)


@converter(aten.transpose.int)
def transpose(net: Network, self: Value, dim0: int, dim1: int) -> Tensor:
    """transpose.int(Tensor(a) self, int dim0, int dim1) -> Tensor(a)"""
    order = list(range(self.ndim))
    if order:
        order[dim0], order[dim1] = order[dim1], order[dim0]
    return net.permute(self, order)


@converter(aten.t.default)
def t(net: Network, self: Value) -> Tensor:
    """t(Tensor(a) self) -> Tensor(a)"""
    return net.permute(self, range(self.ndim)[::-1])


@converter(aten.expand.default)
def expand(net: Network, self: Value, size: list[int], implicit: bool) -> Tensor:
    """expand(Tensor(a) self, SymInt[] size, *, bool implicit=False) -> Tensor(a)"""
    return net.expand(self, net.out.shape)


@converter(aten.repeat.default)
def repeat(net: Network, self: Value, repeats: list[int]) -> Tensor:
    """repeat(Tensor self, SymInt[] repeats) -> Tensor"""
    x = net.reshape(self, (1,) * (len(repeats) - self.ndim) + tuple(self.shape))
    if all(same(n, 1) or same(r, 1) for n, r in zip(x.shape, repeats)):
        return net.expand(x, net.out.shape)
    return net.strided(x, (0,) * x.ndim, net.out.shape, (1,) * x.ndim, "WRAP")


@converter(aten.pixel_shuffle.default)
def pixel_shuffle(net: Network, self: Value, upscale_factor: int) -> Tensor:
    """pixel_shuffle(Tensor self, int upscale_factor) -> Tensor"""
    *batch, c, h, w = self.shape
    r, n = upscale_factor, len(batch)
    split = (*batch, c // r**2, r, r, h, w)
    return net.rearrange(self, split, (*range(n), n, n + 3, n + 1, n + 4, n + 2), net.out.shape)


@converter(aten.pixel_unshuffle.default)
def pixel_unshuffle(net: Network, self: Value, downscale_factor: int) -> Tensor:
    """pixel_unshuffle(Tensor self, int downscale_factor) -> Tensor"""
    *batch, c, h, w = self.shape
    r, n = downscale_factor, len(batch)
    split = (*batch, c, h // r, r, w // r, r)
    return net.rearrange(self, split, (*range(n), n, n + 2, n + 4, n + 1, n + 3), net.out.shape)


@converter(aten.channel_shuffle.default)
def channel_shuffle(net: Network, self: Value, groups: int) -> Tensor:
    """channel_shuffle(Tensor self, SymInt groups) -> Tensor"""
    batch, channels, *rest = self.shape
    split = (batch, groups, channels // groups, *rest)
    return net.rearrange(self, split, (0, 2, 1, *range(3, len(split))), net.out.shape)
