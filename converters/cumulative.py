"""Running products and extremes: PyTorch's torch page, the cumulative ones of "Other Operations"; cumsum is in reduction.py.

All of them combine prefixes by doubling, for TensorRT has a layer for sums only.
"""

from __future__ import annotations

import math

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten


@converter(aten.cumprod.default)
def cumprod(net: Network, self: Tensor, dim: int, dtype: torch.dtype | None) -> Tensor:
    """cumprod(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor"""
    x = net.cast(self, net.out.dtype)
    return net.prefixes(net.mul, x, dim) if x.ndim else x


@converter(aten.logcumsumexp.default)
def logcumsumexp(net: Network, self: Tensor, dim: int) -> Tensor:
    """logcumsumexp(Tensor self, int dim) -> Tensor

    ``log(exp(a) + exp(b))`` is the greater plus ``log(1 + exp(-difference))``; in float32 for half types.
    """
    wide = net.cast(self, torch.float32)
    return net.cast(net.prefixes(lambda a, b: _log_add(net, a, b), wide, dim) if self.ndim else wide, self.dtype)


def _log_add(net: Network, a: Tensor, b: Tensor) -> Tensor:
    greater = net.elementwise("MAX", a, b)
    difference = net.unary(net.unary(net.sub(a, b), "ABS"), "NEG")
    result = net.add(greater, net.unary(net.add(net.unary(difference, "EXP"), 1.0), "LOG"))
    # of two equal infinities the difference is NaN
    return net.select(net.elementwise("EQUAL", net.unary(greater, "ABS"), math.inf), greater, result)


@converter(aten.cummax.default)
def cummax(net: Network, self: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """cummax(Tensor self, int dim) -> (Tensor values, Tensor indices)

    Of equal elements the last, as in PyTorch. What becomes of NaN TensorRT does not document.
    """
    return _extremes(net, self, "MAX", dim)


@converter(aten.cummin.default)
def cummin(net: Network, self: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """cummin(Tensor self, int dim) -> (Tensor values, Tensor indices)

    Of equal elements the last, as in PyTorch. What becomes of NaN TensorRT does not document.
    """
    return _extremes(net, self, "MIN", dim)


def _extremes(net: Network, x: Tensor, kind: str, dim: int) -> tuple[Tensor, Tensor]:
    """Running extremes; an element that equals the one up to it is its place, and so is the last of such places."""
    if not x.ndim:
        return net.identity(x), net.constant(torch.zeros((), dtype=torch.int64))
    dim %= x.ndim
    data = net.cast(x, torch.int32) if x.dtype in (torch.bool, torch.uint8, torch.int8) else x
    values = net.prefixes(lambda a, b: net.elementwise(kind, a, b), data, dim)
    places = torch.arange(x.shape[dim], dtype=torch.int32).reshape([-1 if d == dim else 1 for d in range(x.ndim)])
    hits = net.select(net.elementwise("EQUAL", data, values), places, torch.tensor(-1, dtype=torch.int32))
    indices = net.prefixes(lambda a, b: net.elementwise("MAX", a, b), hits, dim)
    return net.cast(values, x.dtype), net.cast(indices, torch.int64)
