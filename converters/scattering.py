"""Reductions by index, and writes by flat index: PyTorch's torch page, "Indexing, Slicing, Joining, Mutating Ops"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

from .indexing import add_at, leading, non_negative, put, ranked, too_large

aten = torch.ops.aten
Value = Tensor | torch.Tensor

_KINDS = {"sum": "SUM", "mean": "SUM", "prod": "PROD", "amax": "MAX", "amin": "MIN"}


def _neutral(reduce: str, dtype: torch.dtype) -> float:
    """What changes no result of the reduction."""
    if reduce in ("amax", "amin"):
        limit = torch.iinfo(dtype).min if not dtype.is_floating_point else -math.inf
        return limit if reduce == "amax" else -1 - limit if not dtype.is_floating_point else math.inf
    return 1 if reduce == "prod" else 0


def _reduce_at(
    net: Network, x: Tensor, dim: int, index: Value, src: Tensor, reduce: str, include_self: bool
) -> Tensor:  # fmt: skip
    """Every element of ``x`` combined with those of ``src`` whose ``index`` (of src's rank, sizes equal or 1) names it.

    TensorRT's scatter does not combine. A comparison of the index with every position says which updates each element gets.
    """
    places = torch.arange(x.shape[dim]).reshape(-1, *[1] * (x.ndim - 1 - dim))
    hit = net.elementwise("EQUAL", net.unsqueeze(index, dim + 1), places)
    neutral = torch.tensor(_neutral(reduce, x.dtype), dtype=x.dtype)
    kind = _KINDS[reduce]
    updates = net.reduce(net.select(hit, net.unsqueeze(src, dim + 1), neutral), kind, [dim], keepdim=False)
    count = net.reduce(net.cast(hit, torch.int32), "SUM", [dim], keepdim=False)
    if updates.shape == count.shape:  # else the index is that of whole slices
        count = _grown(net, count, x.shape, 0)
    updates = _grown(net, updates, x.shape, float(neutral))
    touched = net.elementwise("GREATER", count, 0)
    result = net.elementwise(kind, x, updates) if include_self else updates
    if reduce == "mean":
        many = net.add(count, 1) if include_self else net.elementwise("MAX", count, 1)
        result = net.elementwise("DIV" if x.dtype.is_floating_point else "FLOOR_DIV", result, many, x.dtype)
    return net.select(touched, result, x)


def _grown(net: Network, x: Tensor, shape: Sequence[int], value: float) -> Tensor:
    """``x`` with ``value`` after its ends, up to ``shape``."""
    pads = [pad for own, wanted in zip(x.shape[::-1], tuple(shape)[::-1]) for pad in (0, wanted - own)]
    return net.pad(x, pads, value=value)


def scatter_reduce_supports(self: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool) -> str:
    """See _reduce_at."""
    return _reducible(self.dtype) or too_large(math.prod(index.shape) * (self.shape[dim] if self.shape else 1))


def _reducible(dtype: torch.dtype) -> str:
    return f"a reduction by index of {dtype}; cast to float or int32" if dtype in (torch.bool, torch.int8, torch.uint8) else ""


@converter(aten.scatter_reduce.two, supports=scatter_reduce_supports)
def scatter_reduce(
    net: Network, self: Value, dim: int, index: Value, src: Value, reduce: str, include_self: bool
) -> Tensor:  # fmt: skip
    """scatter_reduce.two(Tensor self, int dim, Tensor index, Tensor src, str reduce, *, bool include_self=True) -> Tensor"""
    x, where = net.tensor(ranked(net, self)), ranked(net, index)
    result = _reduce_at(net, x, dim % x.ndim, where, leading(net, src, where.shape), reduce, include_self)
    return net.reshape(result, self.shape)


def index_reduce_supports(self: Any, dim: int, index: Any, source: Any, reduce: str, include_self: bool) -> str:
    """See _reduce_at."""
    return _reducible(self.dtype) or too_large(math.prod(source.shape) * (self.shape[dim] if self.shape else 1))


@converter(aten.index_reduce.default, supports=index_reduce_supports)
def index_reduce(
    net: Network, self: Value, dim: int, index: Value, source: Value, reduce: str, include_self: bool
) -> Tensor:  # fmt: skip
    """index_reduce(Tensor self, int dim, Tensor index, Tensor source, str reduce, *, bool include_self=True) -> Tensor"""
    x, new = net.tensor(ranked(net, self)), net.tensor(ranked(net, source))
    dim %= x.ndim
    where = net.reshape(index, [-1 if d == dim else 1 for d in range(x.ndim)])
    return net.reshape(_reduce_at(net, x, dim, where, new, reduce, include_self), self.shape)


def put_supports(self: Any, index: Any, source: Any, accumulate: bool) -> str:
    """See add_at."""
    return too_large(math.prod(self.shape) * math.prod(index.shape)) if accumulate else ""


@converter(aten.put.default, supports=put_supports)
def put_(net: Network, self: Value, index: Value, source: Value, accumulate: bool) -> Tensor:
    """put(Tensor self, Tensor index, Tensor source, bool accumulate=False) -> Tensor

    ``index`` counts in the flattened tensor.
    """
    flat = net.reshape(self, (-1,))
    places = non_negative(net, index, flat.shape[0])
    places = places.reshape(-1) if isinstance(places, torch.Tensor) else net.reshape(places, (-1,))
    new = net.reshape(source, (-1,))
    return net.reshape((add_at if accumulate else put)(net, flat, new, 0, places), self.shape)
