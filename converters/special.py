"""Error functions, signs of floats and other rarer functions: PyTorch's torch.special and "Pointwise Ops"."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Value = Tensor | torch.Tensor | float | int

# Polynomials, lowest power first: least-squares fits (Chebyshev nodes, relative weights) to PyTorch's float64 functions.
_ERFCX = (  # exp(x * x) * erfc(x) / t in t = 1 / (1 + x / 2), for x > 0.5; relative error 1.6e-7
    0.282091329, 0.282195463, 0.24559424, 0.184700501, 0.0498840852, 0.0762169497, -0.153277717, -0.0523084694,
    0.130317748, -0.0454635902,
)  # fmt: skip
_ERFINV = (  # erfinv(x) / x in w - 2.5, w = -log(1 - x * x) < 4.33
    1.50140938, 0.246640224, -0.00417765074, -0.00125261213, 0.000218765693, -4.98812593e-06, -3.676885e-06,
    4.35527365e-07, 5.71281049e-08,
)  # fmt: skip
_ERFINV_TAIL = (  # erfinv(x) / x in sqrt(w) - 3, for the rest of float32
    2.83297681, 1.00167188, 0.00944449609, -0.00759171824, 0.00569256702, -0.00377567464, 0.00147556865, 0.000195859401,
    -0.000306652307,
)  # fmt: skip


def _polynomial(net: Network, x: Tensor, coefficients: Sequence[float]) -> Tensor:
    *rest, result = (net.constant(c) for c in coefficients)
    for coefficient in reversed(rest):
        result = net.add(net.mul(result, x), coefficient)
    return result


@converter(aten.erfc.default, aten.special_erfc.default)
def erfc(net: Network, self: Tensor) -> Tensor:
    """erfc(Tensor self) -> Tensor

    1 - erf(x) would lose every digit of the upper tail: there it is exp(-x * x) times a polynomial.
    """
    x = net.cast(self, torch.float32)
    t = net.unary(net.add(net.mul(net.elementwise("MAX", x, 0.5), 0.5), 1.0), "RECIP")
    bell = net.unary(net.unary(net.mul(x, x), "NEG"), "EXP")
    tail = net.mul(net.mul(bell, t), _polynomial(net, t, _ERFCX))
    body = net.sub(1.0, net.unary(x, "ERF"))
    return net.cast(net.select(net.elementwise("GREATER", x, 0.5), tail, body), net.out.dtype)


@converter(aten.erfinv.default, aten.special_erfinv.default)
def erfinv(net: Network, self: Tensor) -> Tensor:
    """erfinv(Tensor self) -> Tensor

    Two polynomials in the logarithm of 1 - x * x; infinite at -1 and 1, NaN beyond.
    """
    x = net.cast(self, torch.float32)
    w = net.unary(net.unary(net.mul(net.sub(1.0, x), net.add(x, 1.0)), "LOG"), "NEG")
    body = _polynomial(net, net.sub(w, 2.5), _ERFINV)
    tail = _polynomial(net, net.sub(net.unary(w, "SQRT"), 3.0), _ERFINV_TAIL)
    result = net.mul(x, net.select(net.elementwise("LESS", w, 4.33), body, tail))
    edge = net.elementwise("EQUAL", net.unary(x, "ABS"), 1.0)
    return net.cast(net.select(edge, net.mul(x, math.inf), result), net.out.dtype)


# ---- signs --------------------------------------------------------------------------------------------------------------


def _negative(net: Network, x: Value) -> Value:
    """Where the sign bit is set. The reciprocal of minus zero is minus infinity; a NaN counts as positive."""
    if isinstance(x, (int, float)):
        return torch.tensor(math.copysign(1, x) < 0)
    if isinstance(x, torch.Tensor):
        return torch.signbit(x)
    below = net.elementwise("LESS", x, 0)
    if not x.dtype.is_floating_point:
        return below
    return net.elementwise("OR", below, net.elementwise("LESS", net.unary(x, "RECIP"), 0.0))


@converter(aten.signbit.default)
def signbit(net: Network, self: Tensor) -> Tensor:
    """signbit(Tensor self) -> Tensor

    A NaN has no sign here.
    """
    return net.tensor(_negative(net, self))


@converter(aten.copysign.Tensor, aten.copysign.Scalar)
def copysign(net: Network, self: Value, other: Value) -> Tensor:
    """copysign.Tensor(Tensor self, Tensor other) -> Tensor

    A NaN has no sign here.
    """
    size = net.unary(self, "ABS", net.out.dtype)
    return net.expand(net.select(_negative(net, other), net.unary(size, "NEG"), size), net.out.shape)


# ---- two tensors --------------------------------------------------------------------------------------------------------


def _other_than_nan(net: Network, kind: str, a: Value, b: Value) -> Tensor:
    """The extreme of two, of which one may be NaN and does not count then."""
    dtype = net.out.dtype
    result = net.elementwise(kind, a, b, dtype)
    if not dtype.is_floating_point:
        return result
    x, y = net.aligned(a, b, dtype=dtype)
    return net.select(net.is_nan(x), y, net.select(net.is_nan(y), x, result))


@converter(aten.fmax.default)
def fmax(net: Network, self: Value, other: Value) -> Tensor:
    """fmax(Tensor self, Tensor other) -> Tensor"""
    return _other_than_nan(net, "MAX", self, other)


@converter(aten.fmin.default)
def fmin(net: Network, self: Value, other: Value) -> Tensor:
    """fmin(Tensor self, Tensor other) -> Tensor"""
    return _other_than_nan(net, "MIN", self, other)


@converter(aten.ldexp.Tensor)
def ldexp(net: Network, self: Value, other: Value) -> Tensor:
    """ldexp.Tensor(Tensor self, Tensor other) -> Tensor

    ``self * 2 ** other``, as PyTorch does it.
    """
    return net.elementwise("PROD", self, net.power(2.0, other, torch.float32), net.out.dtype)
