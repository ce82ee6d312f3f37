"""Normalizations: TensorRT's normalization layers, and forms built from reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from .core import Tensor, Value
from .matrix import axes_mask
from .spatial import Spatial
from .symbols import same

__all__ = ["Normalization"]


class Normalization(Spatial):
    """Layers that bring a tensor to mean 0 and variance 1."""

    def parameter(self, value: Value, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """``value`` in ``shape`` and ``dtype``; as a constant one layer, that stays tied to its parameter's name."""
        if isinstance(value, Tensor):
            return self.reshape(self.cast(value, dtype), shape)
        tensor = torch.as_tensor(value)
        layer = self.layer(self.raw.add_constant(tuple(shape), self.weights(tensor, dtype)))
        self.note_weights(tensor, layer)
        return self.result(layer, dtype)

    def weighted(self, x: Value, weight: Value | None, bias: Value | None, shape: Sequence[int]) -> Tensor:
        """``x * weight + bias``, each in ``shape`` and in the dtype of ``x``, or left out where None."""
        t = self.tensor(x)
        if weight is not None:
            t = self.elementwise("PROD", t, self.parameter(weight, shape, t.dtype), t.dtype)
        return t if bias is None else self.elementwise("SUM", t, self.parameter(bias, shape, t.dtype), t.dtype)

    def normalization(
        self, x: Value, dims: Sequence[int], weight: Value | None, bias: Value | None, shape: Sequence[int],
        epsilon: float, groups: int = 1,
    ) -> Tensor:  # fmt: skip
        """INormalizationLayer over ``dims``, then ``weight`` and ``bias``, which spread over ``shape``.

        ``groups`` > 1 (only where ``capabilities.group_normalization``): over the channels of a group too.
        """
        t = self.tensor(x)
        if isinstance(weight, Tensor) or isinstance(bias, Tensor):  # the layer's own are meant to be constants
            return self.weighted(self.normalization(t, dims, None, None, shape, epsilon, groups), weight, bias, shape)
        count = math.prod(t.shape[d] for d in dims) * (t.shape[1] // groups if groups > 1 else 1)
        if same(count, 1):  # TensorRT's layer does not build for statistics of one element
            alone = self.cast(self.standardize(t, dims, epsilon), t.dtype)
            return self.weighted(alone, weight, bias, shape)
        size = math.prod(shape)
        scale = self.parameter(torch.ones(size) if weight is None else weight, shape, t.dtype)
        shift = self.parameter(torch.zeros(size) if bias is None else bias, shape, t.dtype)
        add = self.raw.add_normalization_v2 if groups > 1 else self.raw.add_normalization
        layer = self.layer(add(t.raw, scale.raw, shift.raw, axes_mask(dims, t.ndim)))
        layer.epsilon, layer.num_groups = epsilon, groups
        return self.result(layer, t.dtype, t.shape)

    def standardize(self, x: Value, dims: Sequence[int], epsilon: float) -> Tensor:
        """``(x - mean) / sqrt(variance + epsilon)`` over any ``dims``, from reductions; in float32, as PyTorch does it."""
        t = self.cast(x, torch.float32)
        centered = self.sub(t, self.reduce(t, "AVG", dims, keepdim=True))
        return self.root_mean_square(centered, dims, epsilon)

    def root_mean_square(self, x: Value, dims: Sequence[int], epsilon: float) -> Tensor:
        """``x / sqrt(mean(x * x) + epsilon)``, the mean over ``dims``; the result is float32."""
        t = self.cast(x, torch.float32)
        mean = self.reduce(self.mul(t, t), "AVG", dims, keepdim=True)
        return self.div(t, self.unary(self.add(mean, epsilon), "SQRT"))

    def local_response(self, x: Value, size: int, alpha: float, beta: float, k: float) -> Tensor:
        """``x / (k + alpha / size * sum of x * x over the size channels around) ** beta``; channels are axis 1.

        ILRNLayer where it can (4-D, an odd window up to 15), else an average over a padded axis.
        """
        t = self.tensor(x)
        if t.ndim == 4 and size % 2 and size <= 15 and beta >= 0.01 and k >= 1e-5:
            layer = self.layer(self.raw.add_lrn(t.raw, size, alpha, beta, k))
            return self.result(layer, t.dtype, t.shape)
        squares = self.mul(*[self.cast(t, torch.float32)] * 2)
        rows = self.reshape(squares, (t.shape[0], 1, t.shape[1], -1))
        ends = [size // 2, 0], [(size - 1) // 2, 0]
        around = self.reshape(self.pooling(rows, "AVERAGE", [size, 1], [1, 1], *ends), t.shape)
        base = self.add(self.mul(around, alpha), k)
        return self.cast(self.div(self.cast(t, torch.float32), self.elementwise("POW", base, beta)), t.dtype)
