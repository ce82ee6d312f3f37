"""Order along an axis: TensorRT's TopK, and ranks by comparison of all pairs where TopK does not do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..._trt import trt
from .core import Tensor, Value
from .reductions import Reductions

__all__ = ["Sorting"]

_TOPK_LIMIT = 3840  # ITopKLayer's k
_PAIRS_LIMIT = 2**26  # elements of the intermediate that compares all pairs


class Sorting(Reductions):
    """Layers that bring elements in order."""

    @staticmethod
    def why_unsortable(shape: Sequence[int], dtype: torch.dtype, dim: int, k: int, stable: bool) -> str:
        """Why ``sorted(...)`` cannot give the first ``k`` elements of axis ``dim``, or an empty string."""
        if not shape or (dtype.is_floating_point and not stable and k <= _TOPK_LIMIT):
            return ""
        pairs = math.prod(shape) * shape[dim]
        if pairs <= _PAIRS_LIMIT:
            return ""
        what = "a stable order" if stable else f"k = {k}" if dtype.is_floating_point else f"an order of {dtype}"
        return (
            f"{what}: TensorRT's TopK sorts floats, {_TOPK_LIMIT} elements at most, in no documented order of equal ones, and "
            f"comparing all pairs takes {pairs} elements"
        )

    def sorted(self, x: Value, dim: int, k: int, descending: bool, stable: bool) -> tuple[Tensor, Tensor]:
        """The first ``k`` elements of axis ``dim`` in order, and where they were (int64).

        Floats, not ``stable``: ITopKLayer, which documents neither the order of equal elements nor that of NaN. Else by
        ranks: equal elements keep their order and NaN is the greatest, as in PyTorch.
        """
        t = self.tensor(x)
        if t.ndim == 0:
            return t, self.constant(torch.zeros((), dtype=torch.int64))
        order = [*(d for d in range(t.ndim) if d != dim % t.ndim), dim % t.ndim]
        moved = self.permute(t, order)
        rows = self.reshape(moved, (math.prod(moved.shape[:-1]), moved.shape[-1]))
        if t.dtype.is_floating_point and not stable and k <= _TOPK_LIMIT:
            values, indices = self._topk(rows, k, descending)
        else:
            values, indices = self._by_rank(rows, k, descending)
        back = [order.index(d) for d in range(t.ndim)]
        shape = (*moved.shape[:-1], k)
        first, second = (self.permute(self.reshape(r, shape), back) for r in (values, indices))
        return first, second

    def _topk(self, rows: Tensor, k: int, descending: bool) -> tuple[Tensor, Tensor]:
        kind = trt.TopKOperation.MAX if descending else trt.TopKOperation.MIN
        layer = self.layer(self.raw.add_topk(rows.raw, kind, k, 2))
        return self.result(layer, rows.dtype), self.cast(self.result(layer, torch.int32, index=1), torch.int64)

    def _by_rank(self, rows: Tensor, k: int, descending: bool) -> tuple[Tensor, Tensor]:
        """An element's rank is the number of elements that come before it; ranks are a permutation, scatter inverts it."""
        data = (
            rows if rows.dtype.is_floating_point else self.cast(rows, torch.int32 if rows.dtype != torch.int64 else rows.dtype)
        )
        before = self.cast(self._before(data, descending), torch.int32)
        ranks = self.reduce(before, "SUM", [2], keepdim=False)
        places = torch.arange(rows.shape[1], dtype=torch.int32).expand(rows.shape)
        order = self.scatter(torch.zeros(rows.shape, dtype=torch.int32), ranks, places, 1)
        order = self.slice(order, 1, 0, k)
        return self.cast(self.gather(data, order, 1, "ELEMENT"), rows.dtype), self.cast(order, torch.int64)

    def _before(self, rows: Tensor, descending: bool) -> Tensor:
        """[row, i, j]: whether element j comes before element i."""
        mine, other = self.unsqueeze(rows, 2), self.unsqueeze(rows, 1)
        count = rows.shape[1]
        earlier = torch.ones(count, count, dtype=torch.bool).tril(-1)
        closer = self.elementwise("GREATER" if descending else "LESS", other, mine)
        tied = self.elementwise("AND", self.elementwise("EQUAL", other, mine), earlier)
        result = self.elementwise("OR", closer, tied)
        if not rows.dtype.is_floating_point:
            return result
        nan = self.is_nan(rows)
        nan_of_mine, nan_of_other = self.unsqueeze(nan, 2), self.unsqueeze(nan, 1)
        last, first = (nan_of_other, nan_of_mine) if descending else (nan_of_mine, nan_of_other)
        number_or_earlier = self.elementwise("OR", self.unary(first, "NOT"), earlier)
        return self.elementwise("OR", result, self.elementwise("AND", last, number_or_earlier))

    def count_before(self, edges: Value, values: Value, inclusive: bool) -> Tensor:
        """How many of the ``edges`` (sorted, last axis) lie below each of ``values``, or at it too if ``inclusive``: int32.

        ``edges`` is 1-D, or has the leading axes of ``values``. NaN lies above all edges, as in PyTorch.
        """
        t = self.tensor(values)
        dtype = self.result_type(edges, t)
        edge = edges if isinstance(edges, torch.Tensor) else self.tensor(edges)
        shape = (*edge.shape[:-1], 1, edge.shape[-1])
        edge = edge.reshape(shape) if isinstance(edge, torch.Tensor) else self.reshape(edge, shape)
        reached = self.elementwise("GREATER", edge, self.unsqueeze(t, -1), dtype)
        if not inclusive:
            equal = self.elementwise("EQUAL", edge, self.unsqueeze(t, -1), dtype)
            reached = self.elementwise("OR", reached, equal)
        return self.reduce(self.cast(self.unary(reached, "NOT"), torch.int32), "SUM", [-1], keepdim=False)
