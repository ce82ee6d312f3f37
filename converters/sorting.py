"""Order: PyTorch's torch page, the sorting ones of "Comparison Ops" and the searching ones of "Other Operations"."""

from __future__ import annotations

import math
from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Value = Tensor | torch.Tensor
_COMPARISONS_LIMIT = 2**26  # elements of the intermediate that compares every value with every edge


def _topk_supports(self: Any, k: int, dim: int, largest: bool, sorted: bool) -> str:
    return Network.why_unsortable(self.shape, self.dtype, dim, k, stable=False)


@converter(aten.topk.default, supports=_topk_supports)
def topk(net: Network, self: Tensor, k: int, dim: int, largest: bool, sorted: bool) -> tuple[Tensor, Tensor]:
    """topk(Tensor self, SymInt k, int dim=-1, bool largest=True, bool sorted=True) -> (Tensor values, Tensor indices)

    Sorted in any case. Which of equal elements comes first, and where NaN goes, TensorRT does not document.
    """
    return net.sorted(self, dim, k, largest, stable=False)


def _size(x: Any, dim: int) -> int:
    return int(x.shape[dim]) if len(x.shape) else 1


def _sort_supports(self: Any, dim: int, descending: bool, stable: bool | None = False) -> str:
    return Network.why_unsortable(self.shape, self.dtype, dim, _size(self, dim), bool(stable))


@converter(aten.sort.default, supports=_sort_supports)
def sort(net: Network, self: Tensor, dim: int, descending: bool) -> tuple[Tensor, Tensor]:
    """sort(Tensor self, int dim=-1, bool descending=False) -> (Tensor values, Tensor indices)

    Equal floats come in no documented order, NaN too; ``stable=True`` gives PyTorch's.
    """
    return net.sorted(self, dim, _size(self, dim), descending, stable=False)


@converter(aten.sort.stable, supports=_sort_supports)
def sort_stable(net: Network, self: Tensor, stable: bool | None, dim: int, descending: bool) -> tuple[Tensor, Tensor]:
    """sort.stable(Tensor self, *, bool? stable, int dim=-1, bool descending=False) -> (Tensor values, Tensor indices)"""
    return net.sorted(self, dim, _size(self, dim), descending, bool(stable))


def _kth_supports(self: Any, k: int, dim: int, keepdim: bool) -> str:
    return Network.why_unsortable(self.shape, self.dtype, dim, k, stable=False)


@converter(aten.kthvalue.default, supports=_kth_supports)
def kthvalue(net: Network, self: Tensor, k: int, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """kthvalue(Tensor self, SymInt k, int dim=-1, bool keepdim=False) -> (Tensor values, Tensor indices)"""
    values, indices = net.sorted(self, dim, k, descending=False, stable=False)
    if self.ndim == 0:
        return values, indices
    last = (net.slice(t, dim, k - 1, 1) for t in (values, indices))
    value, index = (net.reshape(t, net.out.shape) for t in last)
    return value, index


def _median_dim_supports(self: Any, dim: int, keepdim: bool) -> str:
    return Network.why_unsortable(self.shape, self.dtype, dim, _size(self, dim), stable=True)


def _median(net: Network, x: Tensor, dim: int, ignore_nan: bool) -> tuple[Tensor, Tensor]:
    """The lower of the middle elements, with its position; ``dim`` stays as size 1.

    By stable ranks, NaN last. Its place is the last one where there is a NaN, or is counted from the numbers only.
    """
    values, indices = net.sorted(x, dim, _size(x, dim), descending=False, stable=True)
    if x.ndim == 0:
        return values, indices
    count = x.shape[dim]
    if not x.dtype.is_floating_point:
        return net.slice(values, dim, (count - 1) // 2, 1), net.slice(indices, dim, (count - 1) // 2, 1)
    nans = net.reduce(net.cast(net.is_nan(x), torch.int32), "SUM", [dim], keepdim=True)
    numbers = net.elementwise("SUB", count, nans)
    place: Value = torch.full(nans.shape, (count - 1) // 2, dtype=torch.int32)
    if ignore_nan:  # of no numbers at all PyTorch gives the first NaN
        place = net.elementwise("DIV", net.elementwise("MAX", net.elementwise("SUB", numbers, 1), 0), 2)
    else:  # the first NaN comes after all numbers
        place = net.select(net.elementwise("EQUAL", nans, 0), place, numbers)
    return net.gather(values, place, dim, "ELEMENT"), net.gather(indices, place, dim, "ELEMENT")


def _flat(net: Network, x: Tensor) -> Tensor:
    return net.reshape(x, (-1,)) if x.ndim else x


def _all_median_supports(self: Any) -> str:
    count = math.prod(self.shape)
    return Network.why_unsortable((count,), self.dtype, 0, count, stable=True)


@converter(aten.median.default, supports=_all_median_supports)
def median(net: Network, self: Tensor) -> Tensor:
    """median(Tensor self) -> Tensor"""
    return net.reshape(_median(net, _flat(net, self), 0, ignore_nan=False)[0], ())


@converter(aten.nanmedian.default, supports=_all_median_supports)
def nanmedian(net: Network, self: Tensor) -> Tensor:
    """nanmedian(Tensor self) -> Tensor"""
    return net.reshape(_median(net, _flat(net, self), 0, ignore_nan=True)[0], ())


@converter(aten.median.dim, supports=_median_dim_supports)
def median_dim(net: Network, self: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """median.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)

    Of equal elements PyTorch gives the position of any; here it is the one that a stable sort puts in the middle.
    """
    values, indices = _median(net, self, dim, ignore_nan=False)
    return net.reshape(values, net.out.shape), net.reshape(indices, net.out.shape)


@converter(aten.nanmedian.dim, supports=_median_dim_supports)
def nanmedian_dim(net: Network, self: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """nanmedian.dim(Tensor self, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)

    Of equal elements PyTorch gives the position of any; here it is the one that a stable sort puts in the middle.
    """
    values, indices = _median(net, self, dim, ignore_nan=True)
    return net.reshape(values, net.out.shape), net.reshape(indices, net.out.shape)


# ---- searches --------------------------------------------------------------------------------------------------------


def _comparisons(edges: Any, values: Any) -> str:
    count = math.prod(getattr(values, "shape", ())) * edges.shape[-1]
    if count <= _COMPARISONS_LIMIT:
        return ""
    return f"TensorRT has no binary search, and comparing every value with every edge takes {count} elements"


def _search_supports(sorted_sequence: Any, self: Any, out_int32: bool, right: bool, side: str | None, sorter: Any) -> str:
    return _comparisons(sorted_sequence, self)


@converter(aten.searchsorted.Tensor, aten.searchsorted.Scalar, supports=_search_supports)
def searchsorted(
    net: Network, sorted_sequence: Value, self: Value | float, out_int32: bool, right: bool, side: str | None,
    sorter: Value | None,
) -> Tensor:  # fmt: skip
    """searchsorted.Tensor(Tensor sorted_sequence, Tensor self, *, bool out_int32=False, bool right=False, str? side=None,
    Tensor? sorter=None) -> Tensor

    The number of edges below (or at) each value: no search, but a comparison with all of them.
    """
    edges = sorted_sequence
    if sorter is not None:
        edges = net.gather(edges, sorter, -1, "ELEMENT")
    values = self if isinstance(self, (Tensor, torch.Tensor)) else torch.tensor(self, dtype=edges.dtype)
    counts = net.count_before(edges, values, right or side == "right")
    return net.reshape(net.cast(counts, net.out.dtype), net.out.shape)


def _bucketize_supports(self: Any, boundaries: Any, out_int32: bool, right: bool) -> str:
    return _comparisons(boundaries, self)


@converter(aten.bucketize.Tensor, supports=_bucketize_supports)
def bucketize(net: Network, self: Value, boundaries: Value, out_int32: bool, right: bool) -> Tensor:
    """bucketize.Tensor(Tensor self, Tensor boundaries, *, bool out_int32=False, bool right=False) -> Tensor"""
    return net.reshape(net.cast(net.count_before(boundaries, self, right), net.out.dtype), net.out.shape)
