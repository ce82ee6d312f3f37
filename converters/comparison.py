"""Comparisons and logic: PyTorch's torch page, "Comparison Ops" and the logical ones of "Pointwise Ops"."""

from __future__ import annotations

import math
from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Value = Tensor | torch.Tensor | float | int
_BITS_LIMIT = 2**26  # elements of the intermediate that holds single bits


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
    """On bools they are logic; integers are taken apart into bits, in a tensor as many times as large."""
    if all(v.dtype == torch.bool for v in (self, other) if hasattr(v, "dtype")) and not isinstance(_number(self, other), int):
        return ""
    shape = torch.broadcast_shapes(*(v.shape for v in (self, other) if hasattr(v, "shape")))
    elements = 64 * math.prod(shape)
    if elements > _BITS_LIMIT:
        return f"TensorRT has no bitwise layers for integers, and a tensor of their single bits has {elements} elements"
    return ""


def _number(*values: Any) -> Any:
    """The integer among the operands, if there is one that is no bool."""
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), None)


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


@converter(
    aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, aten.bitwise_and.Scalar_Tensor, supports=bitwise_supports
)  # fmt: skip
def bitwise_and(net: Network, self: Value, other: Value) -> Tensor:
    """bitwise_and.Tensor(Tensor self, Tensor other) -> Tensor"""
    return net.bitwise("AND", self, other, net.out.dtype)


@converter(
    aten.bitwise_or.Tensor, aten.bitwise_or.Scalar, aten.bitwise_or.Scalar_Tensor, supports=bitwise_supports
)  # fmt: skip
def bitwise_or(net: Network, self: Value, other: Value) -> Tensor:
    """bitwise_or.Tensor(Tensor self, Tensor other) -> Tensor"""
    return net.bitwise("OR", self, other, net.out.dtype)


@converter(
    aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar, aten.bitwise_xor.Scalar_Tensor, supports=bitwise_supports
)  # fmt: skip
def bitwise_xor(net: Network, self: Value, other: Value) -> Tensor:
    """bitwise_xor.Tensor(Tensor self, Tensor other) -> Tensor"""
    return net.bitwise("XOR", self, other, net.out.dtype)


@converter(aten.bitwise_not.default)
def bitwise_not(net: Network, self: Tensor) -> Tensor:
    """bitwise_not(Tensor self) -> Tensor

    Of an integer it is -1 - x.
    """
    return net.unary(self, "NOT") if self.dtype == torch.bool else net.elementwise("SUB", -1, self, self.dtype)


def shift_supports(self: Any, other: Any) -> str:
    """Constant counts only: powers of two are then known."""
    counts = [other] if isinstance(other, int) else getattr(getattr(other, "tensor", None), "flatten", list)()
    counts = [int(c) for c in counts]
    if not counts or len(set(counts)) > 1:
        return "a shift by a tensor; multiply by, or divide (//) by, a tensor of powers of two"
    if not 0 <= counts[0] < torch.iinfo(self.dtype).bits - 1:
        return f"a shift by {counts[0]} bits of {self.dtype}"
    return "a shift of int8; cast first (.int())" if self.dtype == torch.int8 else ""


def _shift(net: Network, x: Value, count: Value, sign: int) -> Tensor:
    bits = int(count.flatten()[0]) if isinstance(count, torch.Tensor) else int(count)  # type: ignore[arg-type]
    return net.expand(net.shift(x, sign * bits, net.out.dtype), net.out.shape)


@converter(
    aten.__lshift__.Scalar, aten.__lshift__.Tensor, aten.bitwise_left_shift.Tensor, aten.bitwise_left_shift.Tensor_Scalar,
    supports=shift_supports,
)  # fmt: skip
def left_shift(net: Network, self: Value, other: Value) -> Tensor:
    """bitwise_left_shift.Tensor(Tensor self, Tensor other) -> Tensor"""
    return _shift(net, self, other, 1)


@converter(
    aten.__rshift__.Scalar, aten.__rshift__.Tensor, aten.bitwise_right_shift.Tensor, aten.bitwise_right_shift.Tensor_Scalar,
    supports=shift_supports,
)  # fmt: skip
def right_shift(net: Network, self: Value, other: Value) -> Tensor:
    """bitwise_right_shift.Tensor(Tensor self, Tensor other) -> Tensor"""
    return _shift(net, self, other, -1)


# ---- choice -------------------------------------------------------------------------------------------------------------


@converter(aten.where.self)
def where(net: Network, condition: Value, self: Value, other: Value) -> Tensor:
    """where.self(Tensor condition, Tensor self, Tensor other) -> Tensor

    ``masked_fill`` and the forms of ``where`` with numbers come down to this one.
    """
    return net.select(condition, self, other, net.out.dtype)
