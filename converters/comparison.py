"""Comparisons and logic: PyTorch's torch page, "Comparison Ops" and the logical ones of "Pointwise Ops"."""

from __future__ import annotations

import math
from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Value = Tensor | torch.Tensor | float | int


@converter(aten.eq.Tensor, aten.eq.Scalar)
def eq(net: Network, self: Value, other: Value) -> Tensor:
    """eq.Tensor(Tensor self, Tensor other) -> Tensor"""
    return net.compare("EQUAL", self, other)


@converter(aten.ne.Tensor, aten.ne.Scalar)
def ne(net: Network, self: Value, other: Value) -> Tensor:
    """ne.Tensor(Tensor self, Tensor other) -> Tensor"""
    return net.compare("NOT_EQUAL", self, other)


@converter(aten.lt.Tensor, aten.lt.Scalar)
def lt(net: Network, self: Value, other: Value) -> Tensor:
    """lt.Tensor(Tensor self, Tensor other) -> Tensor"""
    return net.compare("LESS", self, other)


@converter(aten.le.Tensor, aten.le.Scalar)
def le(net: Network, self: Value, other: Value) -> Tensor:
    """le.Tensor(Tensor self, Tensor other) -> Tensor"""
    return net.compare("LESS_EQUAL", self, other)


@converter(aten.gt.Tensor, aten.gt.Scalar)
def gt(net: Network, self: Value, other: Value) -> Tensor:
    """gt.Tensor(Tensor self, Tensor other) -> Tensor"""
    return net.compare("GREATER", self, other)


@converter(aten.ge.Tensor, aten.ge.Scalar)
def ge(net: Network, self: Value, other: Value) -> Tensor:
    """ge.Tensor(Tensor self, Tensor other) -> Tensor"""
    return net.compare("GREATER_EQUAL", self, other)


# ---- floats that are no numbers -----------------------------------------------------------------------------------------


@converter(aten.isnan.default)
def isnan(net: Network, self: Tensor) -> Tensor:
    """isnan(Tensor self) -> Tensor"""
    if not self.dtype.is_floating_point:
        return net.filled(False, self.shape, torch.bool)
    return net.is_nan(self)


@converter(aten.isinf.default)
def isinf(net: Network, self: Tensor) -> Tensor:
    """isinf(Tensor self) -> Tensor"""
    if not self.dtype.is_floating_point:
        return net.filled(False, self.shape, torch.bool)
    return net.unary(self, "ISINF")


@converter(aten.isfinite.default)
def isfinite(net: Network, self: Tensor) -> Tensor:
    """isfinite(Tensor self) -> Tensor

    PyTorch's decomposition asks ``x == x``, which TensorRT may simplify.
    """
    if not self.dtype.is_floating_point:
        return net.filled(True, self.shape, torch.bool)
    return net.compare("LESS", net.unary(self, "ABS"), math.inf)


# ---- logic --------------------------------------------------------------------------------------------------------------


def bitwise_supports(self: Any, other: Any) -> str:
    """On bools they are logic; TensorRT has no layer that works on the bits of integers."""
    dtypes = [v.dtype for v in (self, other) if hasattr(v, "dtype")] + [
        torch.tensor(v).dtype for v in (self, other) if isinstance(v, (int, bool))
    ]
    if all(d == torch.bool for d in dtypes):
        return ""
    return "TensorRT has no bitwise layers for integers; compute with bools, or with //, % and * of powers of two"


@converter(aten.logical_and.default)
def logical_and(net: Network, self: Value, other: Value) -> Tensor:
    """logical_and(Tensor self, Tensor other) -> Tensor"""
    return net.elementwise("AND", self, other)


@converter(aten.logical_or.default)
def logical_or(net: Network, self: Value, other: Value) -> Tensor:
    """logical_or(Tensor self, Tensor other) -> Tensor"""
    return net.elementwise("OR", self, other)


@converter(aten.logical_xor.default)
def logical_xor(net: Network, self: Value, other: Value) -> Tensor:
    """logical_xor(Tensor self, Tensor other) -> Tensor"""
    return net.elementwise("XOR", self, other)


@converter(aten.logical_not.default)
def logical_not(net: Network, self: Tensor) -> Tensor:
    """logical_not(Tensor self) -> Tensor"""
    return net.unary(self, "NOT") if self.dtype == torch.bool else net.compare("EQUAL", self, 0)


@converter(aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, supports=bitwise_supports)
def bitwise_and(net: Network, self: Value, other: Value) -> Tensor:
    """bitwise_and.Tensor(Tensor self, Tensor other) -> Tensor"""
    return net.elementwise("AND", self, other)


@converter(aten.bitwise_or.Tensor, aten.bitwise_or.Scalar, supports=bitwise_supports)
def bitwise_or(net: Network, self: Value, other: Value) -> Tensor:
    """bitwise_or.Tensor(Tensor self, Tensor other) -> Tensor"""
    return net.elementwise("OR", self, other)


@converter(aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar, supports=bitwise_supports)
def bitwise_xor(net: Network, self: Value, other: Value) -> Tensor:
    """bitwise_xor.Tensor(Tensor self, Tensor other) -> Tensor"""
    return net.elementwise("XOR", self, other)


@converter(aten.bitwise_not.default)
def bitwise_not(net: Network, self: Tensor) -> Tensor:
    """bitwise_not(Tensor self) -> Tensor

    Of an integer it is -1 - x.
    """
    return net.unary(self, "NOT") if self.dtype == torch.bool else net.elementwise("SUB", -1, self, self.dtype)


# ---- choice -------------------------------------------------------------------------------------------------------------


@converter(aten.where.self)
def where(net: Network, condition: Value, self: Value, other: Value) -> Tensor:
    """where.self(Tensor condition, Tensor self, Tensor other) -> Tensor

    ``masked_fill`` and the forms of ``where`` with numbers come down to this one.
    """
    return net.select(condition, self, other, net.out.dtype)
