"""Activations that TensorRT has no layer for, or none that is safe for large inputs."""

from __future__ import annotations

import torch

from .core import Tensor, Value
from .spatial import Spatial

__all__ = ["Activations"]


class Activations(Spatial):
    """Activations of several layers."""

    def parametric_relu(self, x: Value, slopes: Tensor) -> Tensor:
        """IParametricReLULayer: ``x`` where it is positive, else ``x * slopes``; of the same rank and dtype."""
        t = self.tensor(x)
        return self.result(self.layer(self.raw.add_parametric_relu(t.raw, slopes.raw)), t.dtype, t.shape)

    def softplus(self, x: Value, beta: float = 1.0) -> Tensor:
        """``log(1 + exp(beta * x)) / beta`` for any ``x``; with beta = -1 this is the logarithm of the sigmoid.

        It is max(x, 0), or min(x, 0) for a negative beta, plus ``log1p(u) / beta`` with u = exp(-abs(beta * x)), where
        log1p(u) is 2 atanh(u / (2 + u)). TensorRT's SOFTPLUS is documented to overflow where exp does (in FP16 from 11
        on), and 8.6.0 on an H200 gave abs(x) for it where alpha = 1, beta = -1 and x is beyond 20.
        """
        t = self.tensor(x)
        corner = self.elementwise("MAX" if beta > 0 else "MIN", t, 0.0, t.dtype)
        u = self.unary(self.mul(self.unary(t, "ABS", torch.float32), -abs(beta)), "EXP")
        tail = self.unary(self.div(u, self.add(u, 2.0)), "ATANH")
        return self.add(corner, self.cast(self.mul(tail, 2 / beta), t.dtype))

    def hard_sigmoid(self, x: Value) -> Tensor:
        """``clamp(x / 6 + 1 / 2, 0, 1)``; of an image as scale and clip, which the DLA has, other than HARD_SIGMOID."""
        t = self.tensor(x)
        if t.ndim != 4:
            return self.activation(t, "HARD_SIGMOID", alpha=1 / 6, beta=0.5)
        return self.activation(self.affine(t, 1 / 6, 0.5), "CLIP", alpha=0.0, beta=1.0)

    def log_softmax(self, x: Value, dim: int) -> Tensor:
        """``x - max - log(sum(exp(x - max)))``: finite for any finite input. The sum is float32, it may exceed FP16."""
        t = self.tensor(x)
        shifted = self.sub(t, self.reduce(t, "MAX", [dim], keepdim=True))
        total = self.reduce(self.unary(shifted, "EXP", torch.float32), "SUM", [dim], keepdim=True)
        return self.sub(shifted, self.cast(self.unary(total, "LOG"), t.dtype))
