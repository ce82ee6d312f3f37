"""Quantization: PyTorch's torch.ao.quantization, "torch (quantization related functions)", and quantized_decomposed.

Symmetric INT8 only, which is all that TensorRT has: ``clamp(round(x / scale), -128, 127) * scale``. A zero point is taken
where the range that it moves lies in there too: quint8 around 128 is int8 around 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Value = Tensor | torch.Tensor

LOWEST, HIGHEST = -128, 127
_ADVICE = (
    "use a symmetric int8 configuration: dtype=torch.qint8, qscheme=torch.per_tensor_symmetric (weights: "
    "torch.per_channel_symmetric), quant_min=-128, quant_max=127, and FakeQuantize, for FusedMovingAvgObsFakeQuantize is not "
    "symmetric where all values have one sign (behind a ReLU, in small kernels), whatever its qscheme"
)


def _held(value: Any) -> torch.Tensor | None:
    """A scale or zero point as a tensor (of a graph's Constant, a tensor or a number), or None where it is computed."""
    value = getattr(value, "tensor", value)
    if isinstance(value, (int, float)):
        return torch.tensor(value)
    return value.detach().cpu() if isinstance(value, torch.Tensor) else None


def _range_supports(scale: Any, zero_point: Any, quant_min: int, quant_max: int, **_: Any) -> str:
    steps, zeros = _held(scale), _held(zero_point)
    if steps is None or zeros is None:
        return "the scale or the zero point depends on an input (dynamic quantization), and TensorRT takes constants"
    if not bool((steps > 0).all() and steps.isfinite().all()):
        return f"a scale of {float(steps.min()):g}; scales must be positive and finite"
    if zeros.numel() > 1 and bool((zeros != zeros.flatten()[0]).any()):
        return f"zero points that differ from channel to channel: {_ADVICE}"
    low, high = _bounds(zeros, quant_min, quant_max)
    if low < LOWEST or high > HIGHEST or low > high:
        return (
            f"its values are {low} to {high} times the scale (zero point {int(zeros.flatten()[0])}), but TensorRT's INT8 is "
            f"{LOWEST} to {HIGHEST} times the scale: {_ADVICE}"
        )
    return ""


def _bounds(zero_point: torch.Tensor, quant_min: int, quant_max: int) -> tuple[int, int]:
    zero = int(zero_point.flatten()[0]) if zero_point.numel() else 0
    return quant_min - zero, quant_max - zero


def _clamped(net: Network, x: Value, scale: torch.Tensor, axis: int | None, low: int, high: int) -> Value:
    """What TensorRT's quantize layer takes: float32 in the range, where that is narrower than the layer's own."""
    if (low, high) == (LOWEST, HIGHEST):
        return x
    t = net.cast(x, torch.float32)
    if axis is None:
        step = float(scale)
        return net.activation(t, "CLIP", alpha=low * step, beta=high * step)
    steps = scale.reshape(-1, *[1] * (t.ndim - axis % t.ndim - 1))
    return net.elementwise("MIN", net.elementwise("MAX", t, steps * low), steps * high)


def _fake(
    net: Network, x: Value, scale: torch.Tensor, zero_point: Any, axis: int | None, quant_min: int, quant_max: int,
    own: Callable[[torch.Tensor], torch.Tensor],
) -> Tensor:  # fmt: skip
    """Quantize and dequantize.

    A constant is rounded here, by PyTorch's own op: it multiplies by ``1 / scale`` where TensorRT divides, and once
    rounded both agree.
    """
    zeros = _held(zero_point)
    assert zeros is not None  # _range_supports has seen to it
    if isinstance(x, torch.Tensor):
        x = net.stand_in(own(x.detach()), x)
        return net.dequantize(net.quantize(x, scale, axis), scale, axis, net.out.dtype)
    low, high = _bounds(zeros, quant_min, quant_max)
    if axis is not None:
        return net.cast(_rounded(net, net.cast(x, torch.float32), scale, axis, low, high), net.out.dtype)
    if net.capabilities.quantizes_elementwise:
        x = _clamped(net, x, scale, axis, low, high)
        return net.dequantize(net.quantize(x, scale, axis), scale, axis, net.out.dtype)
    wide = net.dequantize(net.quantize(x, scale, axis), scale, axis)  # the same values, clamped behind
    return net.cast(_clamped(net, wide, scale, axis, low, high), net.out.dtype)


def _rounded(net: Network, x: Tensor, scale: torch.Tensor, axis: int, low: int, high: int) -> Tensor:
    """The same by arithmetic: TensorRT's INT8 has scales per channel for weights only ("Explicit Quantization").

    Its quantize layer takes them for any tensor all the same, and 8.6.0 on an H200 then gave something else.
    """
    steps = scale.reshape(-1, *[1] * (x.ndim - axis % x.ndim - 1))
    codes = net.unary(net.mul(x, 1 / steps), "ROUND")
    return net.mul(net.elementwise("MIN", net.elementwise("MAX", codes, float(low)), float(high)), steps)


def _steps(scale: float | torch.Tensor) -> torch.Tensor:
    """As float32 on the host."""
    return torch.as_tensor(scale, dtype=torch.float32).detach().cpu()


@converter(aten.fake_quantize_per_tensor_affine.default, supports=_range_supports)
def fake_quantize_per_tensor_affine(
    net: Network, self: Value, scale: float, zero_point: int, quant_min: int, quant_max: int
) -> Tensor:
    """fake_quantize_per_tensor_affine(Tensor self, float scale, int zero_point, int quant_min, int quant_max) -> Tensor"""
    steps = _steps(scale)
    return _fake(
        net, self, steps, zero_point, None, quant_min, quant_max,
        lambda x: torch.fake_quantize_per_tensor_affine(x, scale, zero_point, quant_min, quant_max),
    )  # fmt: skip


@converter(aten.fake_quantize_per_tensor_affine.tensor_qparams, supports=_range_supports)
def fake_quantize_per_tensor_affine_tensor_qparams(
    net: Network, self: Value, scale: torch.Tensor, zero_point: torch.Tensor, quant_min: int, quant_max: int
) -> Tensor:
    """fake_quantize_per_tensor_affine.tensor_qparams(Tensor self, Tensor scale, Tensor zero_point, int quant_min,
    int quant_max) -> Tensor
    """
    return _fake(
        net, self, _steps(scale), zero_point, None, quant_min, quant_max,
        lambda x: torch.fake_quantize_per_tensor_affine(x, scale, zero_point, quant_min, quant_max),
    )  # fmt: skip


@converter(aten.fake_quantize_per_channel_affine.default, supports=_range_supports)
def fake_quantize_per_channel_affine(
    net: Network, self: Value, scale: torch.Tensor, zero_point: torch.Tensor, axis: int, quant_min: int, quant_max: int
) -> Tensor:
    """fake_quantize_per_channel_affine(Tensor self, Tensor scale, Tensor zero_point, int axis, int quant_min,
    int quant_max) -> Tensor
    """
    return _fake(
        net, self, _steps(scale), zero_point, axis, quant_min, quant_max,
        lambda x: torch.fake_quantize_per_channel_affine(x, scale, zero_point, axis, quant_min, quant_max),
    )  # fmt: skip


@converter(aten.fake_quantize_per_tensor_affine_cachemask.default, supports=_range_supports)
def fake_quantize_per_tensor_affine_cachemask(
    net: Network, self: Value, scale: float, zero_point: int, quant_min: int, quant_max: int
) -> tuple[Tensor, None]:
    """fake_quantize_per_tensor_affine_cachemask(Tensor self, float scale, int zero_point, int quant_min, int quant_max)
    -> (Tensor output, Tensor mask)

    The mask is for the gradient.
    """
    return fake_quantize_per_tensor_affine(net, self, scale, zero_point, quant_min, quant_max), None


@converter(aten.fake_quantize_per_channel_affine_cachemask.default, supports=_range_supports)
def fake_quantize_per_channel_affine_cachemask(
    net: Network, self: Value, scale: torch.Tensor, zero_point: torch.Tensor, axis: int, quant_min: int, quant_max: int
) -> tuple[Tensor, None]:
    """fake_quantize_per_channel_affine_cachemask(Tensor self, Tensor scale, Tensor zero_point, int axis, int quant_min,
    int quant_max) -> (Tensor output, Tensor mask)
    """
    return fake_quantize_per_channel_affine(net, self, scale, zero_point, axis, quant_min, quant_max), None


def _switched_supports(
    scale: Any, zero_point: Any, fake_quant_enabled: Any, quant_min: int, quant_max: int, **_: Any
) -> str:  # fmt: skip
    switch = _held(fake_quant_enabled)
    if switch is None:
        return "whether it quantizes depends on an input"
    return _range_supports(scale, zero_point, quant_min, quant_max) if int(switch.flatten()[0]) else ""


@converter(aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default, supports=_switched_supports)
def fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
    net: Network, self: Value, scale: torch.Tensor, zero_point: torch.Tensor, fake_quant_enabled: torch.Tensor,
    quant_min: int, quant_max: int,
) -> tuple[Tensor, None]:  # fmt: skip
    """_fake_quantize_per_tensor_affine_cachemask_tensor_qparams(Tensor self, Tensor scale, Tensor zero_point,
    Tensor fake_quant_enabled, int quant_min, int quant_max) -> (Tensor output, Tensor mask)
    """
    if not int(fake_quant_enabled.flatten()[0]):
        return net.tensor(self), None
    return fake_quantize_per_tensor_affine_tensor_qparams(net, self, scale, zero_point, quant_min, quant_max), None


# ---- quantized_decomposed: what torch.export's quantization (PT2E) makes of a model -----------------------------------------


def _decomposed_supports(zero_point: Any, dtype: torch.dtype, **arguments: Any) -> str:
    if dtype != torch.int8:
        return f"codes of {dtype}; TensorRT's are int8: {_ADVICE}"
    zeros = _held(zero_point)
    if zeros is not None and bool((zeros != 0).any()):
        return f"a zero point of {int(zeros.flatten()[zeros.flatten().abs().argmax()])}; TensorRT's is 0: {_ADVICE}"
    return _range_supports(zero_point=zero_point, **arguments)


def _channels_supports(scales: Any, zero_points: Any, **arguments: Any) -> str:
    return _decomposed_supports(scale=scales, zero_point=0 if zero_points is None else zero_points, **arguments)


def _codes(
    net: Network, x: Value, scale: torch.Tensor, axis: int | None, quant_min: int, quant_max: int,
    own: Callable[[torch.Tensor], torch.Tensor],
) -> Tensor:  # fmt: skip
    """Floats as int8; constants as in ``_fake``."""
    if isinstance(x, torch.Tensor):
        x = net.stand_in(_values(own(x.detach()), scale, axis), x)
    else:
        if (quant_min, quant_max) != (LOWEST, HIGHEST) and not net.capabilities.quantizes_elementwise:
            raise ValueError(
                f"codes of {quant_min} to {quant_max}: this TensorRT quantizes wrongly what was clamped right before; use "
                f"quant_min={LOWEST}, quant_max={HIGHEST}"
            )
        if axis is not None and not net.capabilities.quantizes_elementwise:
            raise ValueError(
                "codes by a scale per channel of what is no constant: this TensorRT quantizes wrongly along an axis; use one "
                "scale for the tensor"
            )
        x = _clamped(net, x, scale, axis, quant_min, quant_max)
    return net.quantize(x, scale, axis)


def _values(codes: torch.Tensor, scale: torch.Tensor, axis: int | None) -> torch.Tensor:
    """The floats that constant codes stand for."""
    steps = scale.reshape(()) if axis is None else scale.reshape(-1, *[1] * (codes.ndim - axis % codes.ndim - 1))
    return codes.cpu().float() * steps


def _floats(net: Network, x: Value, scale: torch.Tensor, axis: int | None) -> Tensor:
    """int8 as floats; TensorRT knows quantized weights by a quantize layer, so constant codes get one."""
    if isinstance(x, torch.Tensor):
        x = net.quantize(net.stand_in(_values(x.detach(), scale, axis), x), scale, axis)
    return net.dequantize(x, scale, axis, net.out.dtype)


@converter("quantized_decomposed.quantize_per_tensor.default", supports=_decomposed_supports)
def quantize_per_tensor(
    net: Network, input: Value, scale: float, zero_point: int, quant_min: int, quant_max: int, dtype: torch.dtype
) -> Tensor:
    """quantize_per_tensor(Tensor input, float scale, int zero_point, int quant_min, int quant_max, ScalarType dtype)
    -> Tensor
    """
    own = torch.ops.quantized_decomposed.quantize_per_tensor.default
    return _codes(
        net, input, _steps(scale), None, quant_min, quant_max,
        lambda x: own(x, scale, zero_point, quant_min, quant_max, dtype),
    )  # fmt: skip


@converter("quantized_decomposed.dequantize_per_tensor.default", supports=_decomposed_supports)
def dequantize_per_tensor(
    net: Network, input: Value, scale: float, zero_point: int, quant_min: int, quant_max: int, dtype: torch.dtype,
    out_dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """dequantize_per_tensor(Tensor input, float scale, int zero_point, int quant_min, int quant_max, ScalarType dtype, *,
    ScalarType? out_dtype=None) -> Tensor
    """
    return _floats(net, input, _steps(scale), None)


@converter("quantized_decomposed.quantize_per_channel.default", supports=_channels_supports)
def quantize_per_channel(
    net: Network, input: Value, scales: torch.Tensor, zero_points: torch.Tensor, axis: int, quant_min: int, quant_max: int,
    dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """quantize_per_channel(Tensor input, Tensor scales, Tensor zero_points, int axis, int quant_min, int quant_max,
    ScalarType dtype) -> Tensor
    """
    own = torch.ops.quantized_decomposed.quantize_per_channel.default
    return _codes(
        net, input, _steps(scales), axis, quant_min, quant_max,
        lambda x: own(x, scales, zero_points, axis, quant_min, quant_max, dtype),
    )  # fmt: skip


@converter("quantized_decomposed.dequantize_per_channel.default", supports=_channels_supports)
def dequantize_per_channel(
    net: Network, input: Value, scales: torch.Tensor, zero_points: torch.Tensor | None, axis: int, quant_min: int,
    quant_max: int, dtype: torch.dtype, out_dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """dequantize_per_channel(Tensor input, Tensor scales, Tensor? zero_points, int axis, int quant_min, int quant_max,
    ScalarType dtype, *, ScalarType? out_dtype=None) -> Tensor
    """
    return _floats(net, input, _steps(scales), axis)
