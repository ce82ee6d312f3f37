"""Layers over images and volumes: convolution, pooling, normalization, resize, padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..._trt import trt
from .core import Tensor, Value
from .matrix import Matrix

__all__ = ["Spatial"]


class Spatial(Matrix):
    """Layers over (N, C, spatial axes)."""

    def convolution(
        self, x: Value, weight: Value, bias: torch.Tensor | None, stride: Sequence[int], padding: Sequence[int],
        dilation: Sequence[int], groups: int,
    ) -> Tensor:  # fmt: skip
        """IConvolutionLayer over 2 or 3 spatial axes; ``weight`` is (out, in / groups, *kernel)."""
        t = self.tensor(x)
        constant = isinstance(weight, torch.Tensor)
        shape = tuple(weight.shape)  # type: ignore[union-attr]
        kernel = self.weights(weight if constant else None, t.dtype)  # type: ignore[arg-type]
        layer = self.layer(
            self.raw.add_convolution_nd(t.raw, shape[0], shape[2:], kernel, self.weights(bias, t.dtype))
        )
        layer.stride_nd, layer.padding_nd, layer.dilation_nd = tuple(stride), tuple(padding), tuple(dilation)
        layer.num_groups = groups
        if constant:
            self.note_weights(weight, layer)  # type: ignore[arg-type]
        else:
            layer.set_input(1, self.tensor(weight, t.dtype).raw)
        self.note_weights(bias, layer)
        return self.result(layer, t.dtype)

    def pooling(
        self, x: Value, kind: str, window: Sequence[int], stride: Sequence[int], padding: Sequence[int],
        ceil_mode: bool = False, count_include_pad: bool = True,
    ) -> Tensor:  # fmt: skip
        """IPoolingLayer of ``kind`` (a name of trt.PoolingType) over 2 or 3 spatial axes."""
        t = self.tensor(x)
        layer = self.layer(self.raw.add_pooling_nd(t.raw, getattr(trt.PoolingType, kind), tuple(window)))
        layer.stride_nd, layer.padding_nd = tuple(stride), tuple(padding)
        layer.padding_mode = trt.PaddingMode.EXPLICIT_ROUND_UP if ceil_mode else trt.PaddingMode.EXPLICIT_ROUND_DOWN
        if kind == "AVERAGE":
            layer.average_count_excludes_padding = not count_include_pad
        return self.result(layer, t.dtype)

    def scale(self, x: Value, shift: torch.Tensor, scale: torch.Tensor) -> Tensor:
        """IScaleLayer per channel: ``x * scale + shift`` with (C,) constants, x of rank 4 or 5."""
        t = self.tensor(x)
        layer = self.layer(
            self.raw.add_scale_nd(
                t.raw, trt.ScaleMode.CHANNEL, self.weights(shift, t.dtype), self.weights(scale, t.dtype),
                self.weights(torch.ones_like(scale), t.dtype), 1,
            )
        )  # fmt: skip
        return self.result(layer, t.dtype)
