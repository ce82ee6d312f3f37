"""Reductions beyond one IReduceLayer: positions of extremes, variance, norms, running sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..._trt import trt
from ...errors import ConversionError
from ...sizes import bounds
from .core import Tensor, Value
from .loops import Loops
from .matrix import Matrix, axes_mask
from .pointwise import wide
from .symbols import is_symbolic

__all__ = ["Reductions"]


class Reductions(Matrix, Loops):
    """Layers that make one element of many."""

    def extreme_index(self, x: Value, kind: str, dim: int) -> Tensor:
        """Position (int64) of the largest (kind MAX) or smallest (MIN) element along ``dim``, which stays as size 1.

        Floats: ITopKLayer, which takes the last four of at least two axes and does not document which of equal elements
        it gives. Integers: the first of equal elements, as in PyTorch, by comparison with the extreme; TensorRT 8.6 has
        no TopK of integers.
        """
        t = self.tensor(x)
        if t.ndim == 0:
            return self.constant(torch.zeros((), dtype=torch.int64))
        dim %= t.ndim
        if not t.dtype.is_floating_point:
            return self._first_index(t if t.dtype != torch.bool else self.cast(t, torch.int32), kind, dim)
        if t.ndim == 1:
            return self.reshape(self.extreme_index(self.reshape(t, (1, *t.shape)), kind, 1), (1,))
        if dim < t.ndim - 4:
            order = [*(d for d in range(t.ndim) if d != dim), dim]
            back = [order.index(d) for d in range(t.ndim)]
            return self.permute(self.extreme_index(self.permute(t, order), kind, -1), back)
        layer = self.layer(self.raw.add_topk(t.raw, getattr(trt.TopKOperation, kind), 1, axes_mask([dim], t.ndim)))
        return self.cast(self.result(layer, torch.int32, [*t.shape[:dim], 1, *t.shape[dim + 1 :]], 1), torch.int64)

    def _first_index(self, x: Tensor, kind: str, dim: int) -> Tensor:
        count = x.shape[dim]
        places = self.along(self.positions(count), dim, x.ndim)
        hit = self.elementwise("EQUAL", x, self.reduce(x, kind, [dim], keepdim=True))
        positions = self.select(hit, places, count)
        return self.reduce(positions, "MIN", [dim], keepdim=True)

    def variance(self, x: Value, dims: Sequence[int], correction: float, keepdim: bool) -> tuple[Tensor, Tensor]:
        """Variance and mean over ``dims`` (all where empty), computed in float32: the mean of squares about the mean."""
        t = self.tensor(x)
        if t.ndim == 0:
            return self.variance(self.reshape(t, (1,)), [0], correction, keepdim=False)
        dims = [d % t.ndim for d in dims] or list(range(t.ndim))
        data = self.cast(t, wide(t.dtype))
        mean = self.reduce(data, "AVG", dims, keepdim=True)
        centered = self.elementwise("SUB", data, mean)
        result = self.reduce(self.elementwise("PROD", centered, centered), "AVG", dims, keepdim)
        count = math.prod(t.shape[d] for d in dims)
        if correction and is_symbolic(count):
            result = self._corrected(result, count, correction)
        elif correction:
            result = self.elementwise("PROD", result, count / (count - correction) if count > correction else math.inf)
        return self.cast(result, t.dtype), self.cast(self.reshape(mean, result.shape), t.dtype)

    def _corrected(self, variance: Tensor, count: int, correction: float) -> Tensor:
        """``variance * count / max(count - correction, 0)`` for a count that is not known before the engine runs."""
        total = self.number(count, variance.dtype)
        divisor = self.elementwise("MAX", self.elementwise("SUB", total, float(correction)), 0.0)
        return self.elementwise("PROD", variance, self.elementwise("DIV", total, divisor))

    def vector_norm(self, x: Value, order: float, dims: Sequence[int], keepdim: bool, dtype: torch.dtype) -> Tensor:
        """The norm of ``order`` (0, inf and -inf too) over ``dims``, all axes where empty; computed in float32."""
        t = self.tensor(x, wide(dtype))
        if order == 2:
            result = self.unary(self.reduce(self.elementwise("PROD", t, t), "SUM", dims, keepdim), "SQRT")
        elif math.isinf(order):
            result = self.reduce(self.unary(t, "ABS"), "MAX" if order > 0 else "MIN", dims, keepdim)
        elif order == 0:
            result = self.reduce(self.cast(self.compare("NOT_EQUAL", t, 0.0), t.dtype), "SUM", dims, keepdim)
        elif order == 1:
            result = self.reduce(self.unary(t, "ABS"), "SUM", dims, keepdim)
        else:
            powers = self.power(self.unary(t, "ABS"), order, t.dtype)
            result = self.power(self.reduce(powers, "SUM", dims, keepdim), 1 / order, t.dtype)
        return self.cast(result, dtype)

    def running_sum(self, x: Value, dim: int) -> Tensor:
        """Sums of the elements up to each, along ``dim``.

        Where TensorRT has no running sums, floats are multiplied by a triangle and integers are added by doubling.
        """
        t = self.tensor(x)
        if t.ndim == 0:
            return t
        dim %= t.ndim
        if self.capabilities.cumulative:
            axis = self.constant(torch.tensor(dim, dtype=torch.int32))
            layer = self.raw.add_cumulative(t.raw, axis.raw, trt.CumulativeOperation.SUM, False, False)
            return self.result(self.layer(layer), t.dtype, t.shape)
        if not t.dtype.is_floating_point:
            return self._summed_by_doubling(t, dim)
        order = [*(d for d in range(t.ndim) if d != dim), dim]
        rows = self.reshape(self.permute(t, order), (-1, t.shape[dim]))
        upper = self.triangle(t.shape[dim], t.shape[dim], 0, upper=True)
        sums = self.matmul(rows, upper.to(t.dtype) if isinstance(upper, torch.Tensor) else self.cast(upper, t.dtype))
        sums = self.reshape(sums, [t.shape[d] for d in order])
        return self.permute(sums, [order.index(d) for d in range(t.ndim)])

    def _summed_by_doubling(self, t: Tensor, dim: int) -> Tensor:
        """Running sums in log2(size) additions of the tensor shifted by 1, 2, 4, ... places, zeros moving in."""
        longest, reach = bounds(t.shape[dim])[1], 1
        if longest is None:
            raise ConversionError("a running sum of integers over an axis that nothing bounds, which this TensorRT lacks")
        while reach < longest:
            shifted = self.pad(t, [n for d in reversed(range(t.ndim)) for n in ((reach, -reach) if d == dim else (0, 0))])
            t = self.add(t, shifted)
            reach *= 2
        return t
