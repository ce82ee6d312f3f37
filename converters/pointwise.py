"""Pointwise arithmetic: PyTorch's torch page, "Pointwise Ops"."""

from __future__ import annotations

import math
from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Value = Tensor | torch.Tensor | float | int
Number = float | int


@converter(aten.add.Tensor, aten.add.Scalar)
def add(net: Network, self: Value, other: Value, alpha: Number) -> Tensor:
    """add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor"""
    scaled = other if alpha == 1 else net.elementwise("PROD", other, alpha, net.out.dtype)
    return net.elementwise("SUM", self, scaled, net.out.dtype)


@converter(aten.sub.Tensor, aten.sub.Scalar)
def sub(net: Network, self: Value, other: Value, alpha: Number) -> Tensor:
    """sub.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor"""
    scaled = other if alpha == 1 else net.elementwise("PROD", other, alpha, net.out.dtype)
    return net.elementwise("SUB", self, scaled, net.out.dtype)


@converter(aten.mul.Tensor, aten.mul.Scalar)
def mul(net: Network, self: Value, other: Value) -> Tensor:
    """mul.Tensor(Tensor self, Tensor other) -> Tensor"""
    return net.elementwise("PROD", self, other, net.out.dtype)


@converter(aten.div.Tensor, aten.div.Scalar)
def div(net: Network, self: Value, other: Value) -> Tensor:
    """div.Tensor(Tensor self, Tensor other) -> Tensor

    A division by a power of two is a multiplication: the same result, and DLA has no division before TensorRT 8.6.12.
    """
    if isinstance(other, (int, float)) and other and abs(math.frexp(other)[0]) == 0.5:
        return net.elementwise("PROD", self, 1 / other, net.out.dtype)
    return net.elementwise("DIV", self, other, net.out.dtype)


@converter(aten.div.Tensor_mode, aten.div.Scalar_mode)
def div_mode(net: Network, self: Value, other: Value, rounding_mode: str | None) -> Tensor:
    """div.Tensor_mode(Tensor self, Tensor other, *, str? rounding_mode) -> Tensor

    The floor of floats is that of the rounded quotient: 1.0 // 0.1 is 10, which PyTorch's exact remainder makes 9.
    """
    if rounding_mode is None:
        return net.elementwise("DIV", self, other, net.out.dtype)
    return net.rounded_quotient(self, other, rounding_mode, net.out.dtype)


@converter(aten.remainder.Tensor, aten.remainder.Scalar, aten.remainder.Scalar_Tensor)
def remainder(net: Network, self: Value, other: Value) -> Tensor:
    """remainder.Tensor(Tensor self, Tensor other) -> Tensor"""
    return net.modulo(self, other, net.out.dtype)


@converter(aten.fmod.Tensor, aten.fmod.Scalar)
def fmod(net: Network, self: Value, other: Value) -> Tensor:
    """fmod.Tensor(Tensor self, Tensor other) -> Tensor

    The remainder of the magnitudes, with the sign of self.
    """
    dtype = net.out.dtype
    rest = net.modulo(net.unary(self, "ABS", dtype), net.unary(other, "ABS", dtype), dtype)
    return net.select(net.elementwise("LESS", self, 0), net.unary(rest, "NEG"), rest, dtype)


@converter(aten.reciprocal.default)
def reciprocal(net: Network, self: Tensor) -> Tensor:
    """reciprocal(Tensor self) -> Tensor"""
    return net.unary(self, "RECIP", net.out.dtype)


@converter(aten.rsqrt.default)
def rsqrt(net: Network, self: Tensor) -> Tensor:
    """rsqrt(Tensor self) -> Tensor"""
    return net.unary(net.unary(self, "SQRT", net.out.dtype), "RECIP")


# ---- powers and logarithms ----------------------------------------------------------------------------------------------


def pow_supports(self: Any, exponent: Any) -> str:
    """Integer tensors as exponents are refused: TensorRT 8.6 has no POW of integers, and floats are not exact."""
    dtypes = [v.dtype if hasattr(v, "dtype") else torch.tensor(v).dtype for v in (self, exponent)]
    if hasattr(exponent, "dtype") and not any(d.is_floating_point for d in dtypes):
        return "an integer power with a tensor of exponents; cast to float first (.float())"
    return ""


@converter(aten.pow.Tensor_Scalar)
def pow_tensor_scalar(net: Network, self: Tensor, exponent: Number) -> Tensor:
    """pow.Tensor_Scalar(Tensor self, Scalar exponent) -> Tensor"""
    return net.power(self, exponent, net.out.dtype)


@converter(aten.pow.Tensor_Tensor, aten.pow.Scalar, supports=pow_supports)
def pow_tensor(net: Network, self: Value, exponent: Value) -> Tensor:
    """pow.Tensor_Tensor(Tensor self, Tensor exponent) -> Tensor"""
    return net.power(self, exponent, net.out.dtype)


@converter(aten.exp2.default)
def exp2(net: Network, self: Tensor) -> Tensor:
    """exp2(Tensor self) -> Tensor"""
    return net.power(2.0, self, net.out.dtype)


@converter(aten.expm1.default)
def expm1(net: Network, self: Tensor) -> Tensor:
    """expm1(Tensor self) -> Tensor

    Near zero ``2 exp(x / 2) sinh(x / 2)``, which is the same and keeps its digits.
    """
    x = net.cast(self, torch.float32)
    half = net.mul(x, 0.5)
    near = net.mul(net.mul(net.unary(half, "EXP"), net.unary(half, "SINH")), 2.0)
    far = net.sub(net.unary(x, "EXP"), 1.0)
    is_near = net.elementwise("LESS", net.unary(x, "ABS"), 0.5)
    return net.cast(net.select(is_near, near, far), net.out.dtype)


@converter(aten.log1p.default)
def log1p(net: Network, self: Tensor) -> Tensor:
    """log1p(Tensor self) -> Tensor

    Near zero ``2 atanh(x / (2 + x))``, which is the same and keeps its digits.
    """
    x = net.cast(self, torch.float32)
    near = net.mul(net.unary(net.div(x, net.add(x, 2.0)), "ATANH"), 2.0)
    far = net.unary(net.add(x, 1.0), "LOG")
    is_near = net.elementwise("LESS", net.unary(x, "ABS"), 0.5)
    return net.cast(net.select(is_near, near, far), net.out.dtype)


@converter(aten.log2.default)
def log2(net: Network, self: Tensor) -> Tensor:
    """log2(Tensor self) -> Tensor"""
    return net.mul(net.unary(self, "LOG", net.out.dtype), 1 / math.log(2))


@converter(aten.log10.default)
def log10(net: Network, self: Tensor) -> Tensor:
    """log10(Tensor self) -> Tensor"""
    return net.mul(net.unary(self, "LOG", net.out.dtype), 1 / math.log(10))


# ---- rounding and sign --------------------------------------------------------------------------------------------------


@converter(aten.abs.default)
def abs_(net: Network, self: Tensor) -> Tensor:
    """abs(Tensor self) -> Tensor"""
    return net.unary(self, "ABS")


@converter(aten.neg.default)
def neg(net: Network, self: Tensor) -> Tensor:
    """neg(Tensor self) -> Tensor"""
    return net.unary(self, "NEG")


@converter(aten.sign.default)
def sign(net: Network, self: Tensor) -> Tensor:
    """sign(Tensor self) -> Tensor"""
    return net.unary(self, "SIGN") if self.dtype != torch.bool else self


@converter(aten.ceil.default)
def ceil(net: Network, self: Tensor) -> Tensor:
    """ceil(Tensor self) -> Tensor"""
    return net.unary(self, "CEIL")


@converter(aten.floor.default)
def floor(net: Network, self: Tensor) -> Tensor:
    """floor(Tensor self) -> Tensor"""
    return net.unary(self, "FLOOR")


@converter(aten.trunc.default)
def trunc(net: Network, self: Tensor) -> Tensor:
    """trunc(Tensor self) -> Tensor"""
    return net.trunc(self)


@converter(aten.round.default)
def round_(net: Network, self: Tensor) -> Tensor:
    """round(Tensor self) -> Tensor

    Both round halves to even.
    """
    return net.unary(self, "ROUND")


@converter(aten.round.decimals)
def round_decimals(net: Network, self: Tensor, decimals: int) -> Tensor:
    """round.decimals(Tensor self, *, int decimals) -> Tensor"""
    power = 10.0 ** abs(decimals)
    up, down = ("PROD", "DIV") if decimals >= 0 else ("DIV", "PROD")
    return net.elementwise(down, net.unary(net.elementwise(up, self, power), "ROUND"), power)


# ---- TensorRT's unary functions -----------------------------------------------------------------------------------------


def _unary(target: Any, kind: str) -> None:
    def convert(net: Network, self: Tensor) -> Tensor:
        return net.unary(self, kind, net.out.dtype)

    convert.__name__ = kind.lower()
    convert.__doc__ = f"{target._schema.name.split('::')[1]}(Tensor self) -> Tensor"
    converter(target)(convert)


for _target, _kind in {
    aten.exp.default: "EXP", aten.log.default: "LOG", aten.sqrt.default: "SQRT", aten.erf.default: "ERF",
    aten.sin.default: "SIN", aten.cos.default: "COS", aten.tan.default: "TAN",
    aten.asin.default: "ASIN", aten.acos.default: "ACOS", aten.atan.default: "ATAN",
    aten.sinh.default: "SINH", aten.cosh.default: "COSH",
    aten.asinh.default: "ASINH", aten.acosh.default: "ACOSH", aten.atanh.default: "ATANH",
}.items():  # fmt: skip
    _unary(_target, _kind)


# ---- two tensors --------------------------------------------------------------------------------------------------------


@converter(aten.atan2.default)
def atan2(net: Network, self: Value, other: Value) -> Tensor:
    """atan2(Tensor self, Tensor other) -> Tensor

    The arctangent of the quotient, turned by pi where other is negative; 0 where both are zero. Zeros have no sign here,
    and two infinities give NaN.
    """
    y, x = net.aligned(self, other, dtype=torch.float32)
    angle = net.unary(net.div(y, x), "ATAN")
    turn = net.select(net.elementwise("LESS", y, 0.0), -math.pi, math.pi)
    angle = net.select(net.elementwise("LESS", x, 0.0), net.add(angle, turn), angle)
    origin = net.elementwise("AND", net.elementwise("EQUAL", x, 0.0), net.elementwise("EQUAL", y, 0.0))
    return net.cast(net.select(origin, 0.0, angle), net.out.dtype)


@converter(aten.hypot.default)
def hypot(net: Network, self: Value, other: Value) -> Tensor:
    """hypot(Tensor self, Tensor other) -> Tensor

    The larger times the root of 1 + ratio squared: squares of large numbers would overflow.
    """
    a, b = (net.unary(v, "ABS", torch.float32) for v in (self, other))
    large, small = net.elementwise("MAX", a, b), net.elementwise("MIN", a, b)
    ratio = net.div(small, net.elementwise("MAX", large, torch.finfo(torch.float32).tiny))
    result = net.mul(large, net.unary(net.add(net.mul(ratio, ratio), 1.0), "SQRT"))
    return net.cast(net.select(net.unary(large, "ISINF"), large, result), net.out.dtype)


@converter(aten.lerp.Scalar)
def lerp(net: Network, self: Value, end: Value, weight: float) -> Tensor:
    """lerp.Scalar(Tensor self, Tensor end, Scalar weight) -> Tensor

    From the nearer end, as PyTorch does it.
    """
    near, far, part = (self, end, weight) if abs(weight) < 0.5 else (end, self, 1 - weight)
    return net.add(near, net.mul(net.sub(far, near), part))


# ---- bounds -------------------------------------------------------------------------------------------------------------


@converter(aten.clamp.default)
def clamp(net: Network, self: Tensor, min: Number | None, max: Number | None) -> Tensor:
    """clamp(Tensor self, Scalar? min=None, Scalar? max=None) -> Tensor"""
    low = None if min is None or min == -math.inf else min
    high = None if max is None or max == math.inf else max
    x = net.cast(self, net.out.dtype)
    if x.dtype.is_floating_point and low is not None and high is not None and low <= high:
        return net.activation(x, "CLIP", low, high)
    if x.dtype.is_floating_point and low == 0 and high is None:
        return net.activation(x, "RELU")
    x = x if low is None else net.elementwise("MAX", x, low, x.dtype)
    return x if high is None else net.elementwise("MIN", x, high, x.dtype)


@converter(aten.clamp.Tensor)
def clamp_tensor(net: Network, self: Value, min: Value | None, max: Value | None) -> Tensor:
    """clamp.Tensor(Tensor self, Tensor? min=None, Tensor? max=None) -> Tensor"""
    x = net.tensor(self, net.out.dtype)
    x = x if min is None else net.elementwise("MAX", x, min, x.dtype)
    return x if max is None else net.elementwise("MIN", x, max, x.dtype)


@converter(aten.maximum.default)
def maximum(net: Network, self: Value, other: Value) -> Tensor:
    """maximum(Tensor self, Tensor other) -> Tensor

    Whether NaN wins, as in PyTorch, TensorRT does not document.
    """
    return net.elementwise("MAX", self, other, net.out.dtype)


@converter(aten.minimum.default)
def minimum(net: Network, self: Value, other: Value) -> Tensor:
    """minimum(Tensor self, Tensor other) -> Tensor

    Whether NaN wins, as in PyTorch, TensorRT does not document.
    """
    return net.elementwise("MIN", self, other, net.out.dtype)
