"""Matrix products, softmax, reductions, top-k, attention."""

from __future__ import annotations

from collections.abc import Sequence

from ..._trt import trt
from .core import Tensor, Value
from .pointwise import Pointwise

__all__ = ["Matrix"]


def axes_mask(dims: Sequence[int], ndim: int) -> int:
    """TensorRT's bit mask of axes."""
    mask = 0
    for dim in dims:
        mask |= 1 << (dim % ndim)
    return mask


class Matrix(Pointwise):
    """Layers that combine elements along axes."""

    def matmul(self, a: Value, b: Value, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
        """Matrix product of the last two axes with broadcast of the others; both at least 2-D."""
        x, y = self.broadcast_ranks(*self.promote(a, b))
        op = trt.MatrixOperation
        layer = self.layer(
            self.raw.add_matrix_multiply(
                x.raw, op.TRANSPOSE if transpose_a else op.NONE, y.raw, op.TRANSPOSE if transpose_b else op.NONE
            )
        )
        return self.result(layer, x.dtype)

    def reduce(self, x: Value, kind: str, dims: Sequence[int], keepdim: bool) -> Tensor:
        """IReduceLayer of ``kind`` (a name of trt.ReduceOperation) over ``dims``; all axes where ``dims`` is empty."""
        t = self.tensor(x)
        mask = axes_mask(dims or range(t.ndim), t.ndim)
        layer = self.layer(self.raw.add_reduce(t.raw, getattr(trt.ReduceOperation, kind), mask, keepdim))
        return self.result(layer, t.dtype)

    def softmax(self, x: Value, dim: int) -> Tensor:
        """Softmax along ``dim``."""
        t = self.tensor(x)
        layer = self.layer(self.raw.add_softmax(t.raw))
        layer.axes = axes_mask([dim], t.ndim)
        return self.result(layer, t.dtype)
