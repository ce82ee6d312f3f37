"""Joining and splitting: PyTorch's torch page, "Indexing, Slicing, Joining, Mutating Ops"."""

from __future__ import annotations

import torch

from torch2edge.lower.network import Network, Tensor, same
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Value = Tensor | torch.Tensor


@converter(aten.cat.default)
def cat(net: Network, tensors: list[Value], dim: int) -> Tensor:
    """cat(Tensor[] tensors, int dim=0) -> Tensor

    PyTorch lets an empty tensor of shape (0,) join tensors of any rank; TensorRT does not.
    """
    return net.concat([t for t in tensors if not any(same(n, 0) for n in t.shape)], dim, net.out.dtype)


@converter(aten.stack.default)
def stack(net: Network, tensors: list[Value], dim: int) -> Tensor:
    """stack(Tensor[] tensors, int dim=0) -> Tensor

    Along an axis that is there already, stacking is a concatenation whose axis is then split: no layer per tensor.
    """
    rank = len(tensors[0].shape)
    at = dim % (rank + 1)
    if at < rank:
        return net.reshape(net.concat(tensors, at, net.out.dtype), net.out.shape)
    return net.concat([net.unsqueeze(t, at) for t in tensors], at, net.out.dtype)


def pieces(net: Network, x: Value, dim: int) -> list[Tensor]:
    """``x`` cut along ``dim`` into the lengths that the op's results have."""
    lengths = [out.shape[dim] for out in net.outputs]
    return [net.slice(x, dim, sum(lengths[:i]), length) for i, length in enumerate(lengths)]


@converter(aten.split.Tensor)
def split(net: Network, self: Value, split_size: int, dim: int) -> list[Tensor]:
    """split.Tensor(Tensor(a -> *) self, SymInt split_size, int dim=0) -> Tensor(a)[]"""
    return pieces(net, self, dim)


@converter(aten.split_with_sizes.default)
def split_with_sizes(net: Network, self: Value, split_sizes: list[int], dim: int) -> list[Tensor]:
    """split_with_sizes(Tensor(a -> *) self, SymInt[] split_sizes, int dim=0) -> Tensor(a)[]"""
    return pieces(net, self, dim)


@converter(aten.chunk.default)
def chunk(net: Network, self: Value, chunks: int, dim: int) -> list[Tensor]:
    """chunk(Tensor(a -> *) self, int chunks, int dim=0) -> Tensor(a)[]"""
    return pieces(net, self, dim)


@converter(aten.unbind.int)
def unbind(net: Network, self: Value, dim: int) -> list[Tensor]:
    """unbind.int(Tensor(a -> *) self, int dim=0) -> Tensor(a)[]"""
    return [net.reshape(net.slice(self, dim, i, 1), out.shape) for i, out in enumerate(net.outputs)]
