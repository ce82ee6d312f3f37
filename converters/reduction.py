"""Reductions: PyTorch's torch page, "Reduction Ops", and cumsum."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torch2edge.lower.network import Network, Tensor, is_symbolic
from torch2edge.lower.registry import converter

aten = torch.ops.aten


def _reduce(net: Network, x: Tensor, kind: str, dims: Sequence[int], keepdim: bool) -> Tensor:
    """A reduction; as a pooling where it is one of an image with a window that DLA takes (8 by 8 at most)."""
    windows = x.shape[2:]
    if (
        kind in ("AVG", "MAX") and x.ndim == 4 and x.dtype.is_floating_point
        and not any(map(is_symbolic, windows)) and max(windows) <= 8 and sorted(d % 4 for d in dims) == [2, 3]
    ):  # fmt: skip
        pooled = net.pooling(x, "AVERAGE" if kind == "AVG" else "MAX", windows, (1, 1), (0, 0))
        return pooled if keepdim else net.reshape(pooled, x.shape[:2])
    return net.reduce(x, kind, dims, keepdim)


@converter(aten.sum.dim_IntList)
def sum_(net: Network, self: Tensor, dim: list[int] | None, keepdim: bool, dtype: torch.dtype | None) -> Tensor:
    """sum.dim_IntList(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor

    Integers and bools are summed in the result's int64.
    """
    return net.reduce(net.cast(self, net.out.dtype), "SUM", dim or [], keepdim)


@converter(aten.mean.dim)
def mean_dim(net: Network, self: Tensor, dim: list[int] | None, keepdim: bool, dtype: torch.dtype | None) -> Tensor:
    """mean.dim(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor"""
    return _reduce(net, net.cast(self, net.out.dtype), "AVG", dim or [], keepdim)


@converter(aten.mean.default)
def mean(net: Network, self: Tensor, dtype: torch.dtype | None) -> Tensor:
    """mean(Tensor self, *, ScalarType? dtype=None) -> Tensor"""
    return net.reduce(net.cast(self, net.out.dtype), "AVG", [], keepdim=False)


@converter(aten.prod.default)
def prod(net: Network, self: Tensor, dtype: torch.dtype | None) -> Tensor:
    """prod(Tensor self, *, ScalarType? dtype=None) -> Tensor"""
    return net.reduce(net.cast(self, net.out.dtype), "PROD", [], keepdim=False)


@converter(aten.prod.dim_int)
def prod_dim(net: Network, self: Tensor, dim: int, keepdim: bool, dtype: torch.dtype | None) -> Tensor:
    """prod.dim_int(Tensor self, int dim, bool keepdim=False, *, ScalarType? dtype=None) -> Tensor"""
    return net.reduce(net.cast(self, net.out.dtype), "PROD", [dim], keepdim)


# ---- extremes -----------------------------------------------------------------------------------------------------------


@converter(aten.amax.default)
def amax(net: Network, self: Tensor, dim: list[int], keepdim: bool) -> Tensor:
    """amax(Tensor self, int[1] dim=[], bool keepdim=False) -> Tensor"""
    return _reduce(net, self, "MAX", dim, keepdim)


@converter(aten.amin.default)
def amin(net: Network, self: Tensor, dim: list[int], keepdim: bool) -> Tensor:
    """amin(Tensor self, int[1] dim=[], bool keepdim=False) -> Tensor"""
    return net.reduce(self, "MIN", dim, keepdim)


@converter(aten.max.default)
def max_(net: Network, self: Tensor) -> Tensor:
    """max(Tensor self) -> Tensor"""
    return net.reduce(self, "MAX", [], keepdim=False)


@converter(aten.min.default)
def min_(net: Network, self: Tensor) -> Tensor:
    """min(Tensor self) -> Tensor"""
    return net.reduce(self, "MIN", [], keepdim=False)


@converter(aten.max.dim)
def max_dim(net: Network, self: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """max.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)

    Two layers: a reduction for the values, and a slower one for the indices, which TensorRT drops where nothing uses them.
    """
    indices = net.extreme_index(self, "MAX", dim)
    return net.reduce(self, "MAX", [dim], keepdim), net.reshape(indices, net.outputs[1].shape)


@converter(aten.min.dim)
def min_dim(net: Network, self: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """min.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)

    Two layers: a reduction for the values, and a slower one for the indices, which TensorRT drops where nothing uses them.
    """
    indices = net.extreme_index(self, "MIN", dim)
    return net.reduce(self, "MIN", [dim], keepdim), net.reshape(indices, net.outputs[1].shape)


def _arg(net: Network, x: Tensor, kind: str, dim: int | None) -> Tensor:
    flat = x if dim is not None else net.reshape(x, (-1,))
    return net.reshape(net.extreme_index(flat, kind, dim or 0), net.out.shape)


@converter(aten.argmax.default)
def argmax(net: Network, self: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    """argmax(Tensor self, int? dim=None, bool keepdim=False) -> Tensor

    Of equal floats PyTorch gives the first; TensorRT does not document which one it gives.
    """
    return _arg(net, self, "MAX", dim)


@converter(aten.argmin.default)
def argmin(net: Network, self: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    """argmin(Tensor self, int? dim=None, bool keepdim=False) -> Tensor

    Of equal floats PyTorch gives the first; TensorRT does not document which one it gives.
    """
    return _arg(net, self, "MIN", dim)


# ---- bools --------------------------------------------------------------------------------------------------------------


def _truth(net: Network, x: Tensor, kind: str, dims: Sequence[int] | None, keepdim: bool) -> Tensor:
    """Over all axes where ``dims`` is None; unlike sum(), over none where it is empty. Of uint8 it is uint8."""
    result = net.cast(x, torch.bool)
    if dims is None or len(dims):
        result = net.reduce(result, kind, dims or [], keepdim)
    return net.cast(result, net.out.dtype)


@converter(aten.any.default)
def any_(net: Network, self: Tensor) -> Tensor:
    """any(Tensor self) -> Tensor"""
    return _truth(net, self, "MAX", None, False)


@converter(aten.any.dim)
def any_dim(net: Network, self: Tensor, dim: int, keepdim: bool) -> Tensor:
    """any.dim(Tensor self, int dim, bool keepdim=False) -> Tensor"""
    return _truth(net, self, "MAX", [dim], keepdim)


@converter(aten.any.dims)
def any_dims(net: Network, self: Tensor, dim: list[int] | None, keepdim: bool) -> Tensor:
    """any.dims(Tensor self, int[]? dim=None, bool keepdim=False) -> Tensor"""
    return _truth(net, self, "MAX", dim, keepdim)


@converter(aten.all.default)
def all_(net: Network, self: Tensor) -> Tensor:
    """all(Tensor self) -> Tensor"""
    return _truth(net, self, "MIN", None, False)


@converter(aten.all.dim)
def all_dim(net: Network, self: Tensor, dim: int, keepdim: bool) -> Tensor:
    """all.dim(Tensor self, int dim, bool keepdim=False) -> Tensor"""
    return _truth(net, self, "MIN", [dim], keepdim)


@converter(aten.all.dims)
def all_dims(net: Network, self: Tensor, dim: list[int] | None, keepdim: bool) -> Tensor:
    """all.dims(Tensor self, int[]? dim=None, bool keepdim=False) -> Tensor"""
    return _truth(net, self, "MIN", dim, keepdim)


# ---- moments, norms, running sums ---------------------------------------------------------------------------------------


@converter(aten.var.correction)
def var(net: Network, self: Tensor, dim: list[int] | None, correction: float | None, keepdim: bool) -> Tensor:
    """var.correction(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False) -> Tensor"""
    return net.variance(self, dim or [], 1 if correction is None else correction, keepdim)[0]


@converter(aten.var_mean.correction)
def var_mean(
    net: Network, self: Tensor, dim: list[int] | None, correction: float | None, keepdim: bool
) -> tuple[Tensor, Tensor]:
    """var_mean.correction(Tensor self, int[1]? dim=None, *, Scalar? correction=None, bool keepdim=False)
    -> (Tensor, Tensor)"""
    return net.variance(self, dim or [], 1 if correction is None else correction, keepdim)


@converter(aten.linalg_vector_norm.default)
def vector_norm(
    net: Network, self: Tensor, ord: float, dim: list[int] | None, keepdim: bool, dtype: torch.dtype | None
) -> Tensor:
    """linalg_vector_norm(Tensor self, Scalar ord=2, int[1]? dim=None, bool keepdim=False, *, ScalarType? dtype=None)
    -> Tensor"""
    return net.vector_norm(self, ord, dim or [], keepdim, net.out.dtype)


@converter(aten.cumsum.default)
def cumsum(net: Network, self: Tensor, dim: int, dtype: torch.dtype | None) -> Tensor:
    """cumsum(Tensor self, int dim, *, ScalarType? dtype=None) -> Tensor"""
    return net.running_sum(net.cast(self, net.out.dtype), dim)
