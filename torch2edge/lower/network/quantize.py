"""Quantize and dequantize: TensorRT's explicit quantization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..._trt import to_trt_dtype, trt
from ...errors import ConversionError
from .core import Tensor, Value
from .pointwise import Pointwise

__all__ = ["Quantize"]


@dataclass(eq=False, slots=True)
class Codes:
    """A constant that goes through quantize, and perhaps dequantize, layers."""

    constant: torch.Tensor
    scale: torch.Tensor
    axis: int | None
    back: torch.Tensor | None = None  # the scale of the dequantize layer


class Quantize(Pointwise):
    """Layers between floats and INT8.

    Scales are float32 and positive: a number (a tensor of one element) for the whole tensor, or a tensor of
    ``x.shape[axis]`` elements for the indices of ``axis``. Halves go in and come out as they are where TensorRT takes them
    beside a float32 scale, else they are cast before and behind.
    """

    def quantize(self, x: Value, scale: torch.Tensor, axis: int | None = None) -> Tensor:
        """IQuantizeLayer: ``clamp(round(x / scale), -128, 127)`` as int8, ties to even (NvInfer.h, IQuantizeLayer).

        Raises:
            ConversionError: a scale that is not positive, or a number of scales that does not fit the axis.
        """
        t = self.tensor(x)
        t = t if self._quantized_as_it_is(t.dtype) else self.cast(t, torch.float32)
        if isinstance(x, torch.Tensor) and t.ndim == 2 and axis in (1, -1) and not self.capabilities.quantizes_elementwise:
            raise ConversionError(
                "a matrix that is quantized along its second axis: this TensorRT computes something else with it; quantize "
                "weights per output channel, their first axis"
            )
        if t.ndim == 0:  # which TensorRT does not quantize
            return self.reshape(self.quantize(self.reshape(t, (1,)), scale), ())
        steps = self._scale(scale, t, axis)
        if self.capabilities.quantize_output_type:
            layer = self.layer(self.raw.add_quantize(t.raw, steps.raw, trt.DataType.INT8))
        else:
            layer = self.layer(self.raw.add_quantize(t.raw, steps.raw))
        result = self._along(layer, axis, torch.int8, t)
        if isinstance(x, torch.Tensor):
            self.codes[result.raw.name] = Codes(x, scale, axis)
        return result

    def dequantize(
        self, x: Tensor, scale: torch.Tensor, axis: int | None = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """IDequantizeLayer: the int8 tensor ``x`` times ``scale`` (NvInfer.h, IDequantizeLayer), in ``dtype``.

        Raises:
            ConversionError: as ``quantize``.
        """
        if x.ndim == 0:
            return self.reshape(self.dequantize(self.reshape(x, (1,)), scale, None, dtype), ())
        steps = self._scale(scale, x, axis)
        given = dtype if self._quantized_as_it_is(dtype) else torch.float32
        if self.capabilities.quantize_output_type:
            layer = self.layer(self.raw.add_dequantize(x.raw, steps.raw, to_trt_dtype(given)))
        else:
            layer = self.layer(self.raw.add_dequantize(x.raw, steps.raw))
        result = self.cast(self._along(layer, axis, given, x), dtype)
        codes = self.codes.get(x.raw.name)
        if codes is not None and codes.axis == axis:
            self.codes[result.raw.name] = Codes(codes.constant, codes.scale, axis, scale)
        return result

    def _quantized_as_it_is(self, dtype: torch.dtype) -> bool:
        """Whether the layers take and give a float type without a cast."""
        return dtype == torch.float32 or (self.capabilities.quantizes_half and dtype.is_floating_point and dtype.itemsize == 2)

    def requantized(self, t: Tensor, change: Callable[[torch.Tensor], torch.Tensor], shift: int = 0) -> Tensor | None:
        """``change(t)`` of a constant that was quantized and dequantized: the constant is changed, not what comes of it.

        A convolution or a matrix product takes INT8 weights only where they come straight out of a dequantize layer.

        Args:
            change: moves no element from one index of the quantized axis to another.
            shift: by how many places that axis moves.

        Returns:
            None where ``t`` is something else.
        """
        codes = self.codes.get(t.raw.name)
        if codes is None or codes.back is None:
            return None
        axis = None if codes.axis is None else codes.axis + shift
        changed = self.stand_in(change(codes.constant), codes.constant)
        return self.dequantize(self.quantize(changed, codes.scale, axis), codes.back, axis, t.dtype)

    def _scale(self, scale: torch.Tensor, x: Tensor, axis: int | None) -> Tensor:
        """``scale`` as a constant, held against ``x``."""
        wanted = 1 if axis is None else x.shape[axis]
        if scale.numel() != wanted or not bool((scale > 0).all()) or not bool(scale.isfinite().all()):
            raise ConversionError(
                f"quantization of the shape {list(x.shape)} along "
                f"{'no axis' if axis is None else f'axis {axis}'} needs {wanted} positive finite scale{'s' * (wanted != 1)}, "
                f"but has {scale.numel()}, the smallest is {float(scale.min()):g}"
            )
        return self.constant(scale, torch.float32) if axis is not None or scale.ndim == 0 else self._number(scale)

    def _number(self, scale: torch.Tensor) -> Tensor:
        """A scale of one element without axes; one layer for all that use the same tensor."""
        key = (id(scale), "scale")
        if key not in self._constants:
            self._constants[key] = (scale, self.constant(scale.reshape(())))
        return self._constants[key][1]

    def _along(self, layer: Any, axis: int | None, dtype: torch.dtype, x: Tensor) -> Tensor:
        if axis is not None:
            layer.axis = axis % x.ndim
        return self.result(layer, dtype, x.shape)
