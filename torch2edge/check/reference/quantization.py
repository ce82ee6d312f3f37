"""Quantize and dequantize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torch2edge.check.reference.layer import Layer, handles, wide

#: NvInfer.h, IQuantizeLayer: the range that values are clamped to.
RANGES = {"INT8": (-128, 127), "INT4": (-8, 7), "FP8": (-448, 448)}


@handles("QUANTIZE")
def quantize(layer: Layer, inputs: Sequence[Any]) -> Tensor:
    """clamp(round(x / scale) + zero point), ties to even (NvInfer.h, IQuantizeLayer)."""
    data, kind = wide(inputs[0]), layer.outputs[0].kind
    if kind in ("FLOAT", "HALF"):  # before TensorRT 10 a network says so until it is built; INT8 is all that there was
        kind = "INT8"
    if kind not in RANGES:
        raise layer.unsupported(f"quantization to {kind}")
    value = data / _spread(layer, inputs[1], data.shape)
    value = value if kind == "FP8" else value.round()  # the cast to FP8 is the rounding
    if layer.has_input(2):
        value = value + _spread(layer, inputs[2], data.shape)
    return value.clamp(*RANGES[kind])


@handles("DEQUANTIZE")
def dequantize(layer: Layer, inputs: Sequence[Any]) -> Tensor:
    """(x - zero point) * scale (NvInfer.h, IDequantizeLayer)."""
    data: Tensor = inputs[0].float()
    if layer.has_input(2):
        data = data - _spread(layer, inputs[2], data.shape)
    return data * _spread(layer, inputs[1], data.shape)


def _spread(layer: Layer, scale: Tensor, shape: Sequence[int]) -> Tensor:
    """A scale for every element: one for all, one for each index of `axis`, or one for each block."""
    scale = scale.float()
    axis = int(layer.api.axis)
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.dim() == 1:
        if not 0 <= axis < len(shape) or len(scale) != shape[axis]:
            raise layer.wrong(f"{len(scale)} scales for axis {axis} of the shape {list(shape)}")
        return scale.reshape(-1, *[1] * (len(shape) - axis - 1))
    if scale.dim() != len(shape):
        raise layer.wrong(f"a scale of the shape {list(scale.shape)} for the shape {list(shape)}")
    for place, size in enumerate(shape):
        if size % scale.shape[place]:
            raise layer.wrong(f"a scale of the shape {list(scale.shape)} for the shape {list(shape)}")
        scale = scale.repeat_interleave(size // scale.shape[place], dim=place)
    return scale
