"""Pointwise layers: activation, unary, elementwise, comparison, select, scale."""

from __future__ import annotations

import torch

from ..._trt import trt
from .core import Tensor, Value
from .shapes import Shapes

__all__ = ["Pointwise"]

_COMPARISONS = ("EQUAL", "GREATER", "LESS")
_LOGIC = ("AND", "OR", "XOR")


class Pointwise(Shapes):
    """Layers that work element by element."""

    def activation(self, x: Value, kind: str, alpha: float | None = None, beta: float | None = None) -> Tensor:
        """IActivationLayer of ``kind`` (a name of trt.ActivationType)."""
        t = self.tensor(x)
        layer = self.layer(self.raw.add_activation(t.raw, getattr(trt.ActivationType, kind)))
        if alpha is not None:
            layer.alpha = alpha
        if beta is not None:
            layer.beta = beta
        return self.result(layer, t.dtype)

    def unary(self, x: Value, kind: str, dtype: torch.dtype | None = None) -> Tensor:
        """IUnaryLayer of ``kind`` (a name of trt.UnaryOperation); ``dtype`` casts the input first."""
        t = self.tensor(x, dtype)
        layer = self.layer(self.raw.add_unary(t.raw, getattr(trt.UnaryOperation, kind)))
        return self.result(layer, torch.bool if kind in ("NOT", "ISINF", "ISNAN") else t.dtype)

    def elementwise(self, kind: str, a: Value, b: Value, dtype: torch.dtype | None = None) -> Tensor:
        """IElementWiseLayer of ``kind`` (a name of trt.ElementWiseOperation) with PyTorch's broadcast and promotion.

        Both sides are cast to ``dtype``, or to torch.result_type of the two. Comparisons and logic give bool.
        """
        x, y = self.broadcast_ranks(*self.promote(a, b, dtype=dtype))
        layer = self.layer(self.raw.add_elementwise(x.raw, y.raw, getattr(trt.ElementWiseOperation, kind)))
        return self.result(layer, torch.bool if kind in _COMPARISONS + _LOGIC else x.dtype)

    def add(self, a: Value, b: Value) -> Tensor:
        """a + b"""
        return self.elementwise("SUM", a, b)

    def sub(self, a: Value, b: Value) -> Tensor:
        """a - b"""
        return self.elementwise("SUB", a, b)

    def mul(self, a: Value, b: Value) -> Tensor:
        """a * b"""
        return self.elementwise("PROD", a, b)

    def div(self, a: Value, b: Value) -> Tensor:
        """a / b of floats"""
        return self.elementwise("DIV", a, b)

    def select(self, condition: Value, a: Value, b: Value) -> Tensor:
        """``a`` where ``condition`` is true, else ``b``, with broadcast and promotion."""
        x, y = self.promote(a, b)
        mask, x, y = self.broadcast_ranks(self.tensor(condition, torch.bool), x, y)
        return self.result(self.layer(self.raw.add_select(mask.raw, x.raw, y.raw)), x.dtype)
