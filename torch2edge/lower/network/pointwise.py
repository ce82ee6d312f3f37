"""Pointwise layers: activation, unary, elementwise, comparison, select, scale by a number, powers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ..._trt import trt
from ...errors import ConversionError
from .core import Tensor, Value
from .shapes import Shapes
from .symbols import broadcast, is_symbolic

__all__ = ["Pointwise"]

_COMPARISONS = ("EQUAL", "GREATER", "LESS")
_LOGIC = ("AND", "OR", "XOR")
_AFFINE: dict[str, Callable[[float], tuple[float, float]]] = {  # the scale and shift of an operation with a number
    "SUM": lambda c: (1.0, c),
    "SUB": lambda c: (1.0, -c),
    "PROD": lambda c: (c, 0.0),
}
_OF_BOOLS = {"SUM": "OR", "MAX": "OR", "PROD": "AND", "MIN": "AND", "AND": "AND", "OR": "OR", "XOR": "XOR", "EQUAL": "XOR"}


def rank_of(value: Value) -> int:
    """Number of dimensions; a number has none."""
    return value.ndim if isinstance(value, (Tensor, torch.Tensor)) else 0


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type in which PyTorch computes inside an op: float32 for float16 and bfloat16."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


class Pointwise(Shapes):
    """Layers that work element by element."""

    def aligned(self, *values: Value, dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
        """The values in one dtype (``dtype``, or torch.result_type of all) and of one rank, the largest."""
        dtype = dtype or self.result_type(*values)
        rank = max(rank_of(v) for v in values)
        return tuple(
            self.reshape(self.cast(v, dtype), (1,) * (rank - v.ndim) + v.shape) if isinstance(v, Tensor)
            else self.constant(v, dtype, rank)
            for v in values
        )  # fmt: skip

    def cast(self, x: Value, dtype: torch.dtype) -> Tensor:
        """``x`` in ``dtype``; no layer where it has it already. Float to int truncates, as in PyTorch.

        To bool it is a comparison: all but zero, NaN too, is true, which no documentation promises of TensorRT's cast.
        """
        if not isinstance(x, Tensor) or x.dtype == dtype:
            return super().cast(x, dtype)
        if dtype == torch.bool:
            return self.compare("NOT_EQUAL", x, 0)
        if dtype == torch.uint8 and x.dtype != torch.bool and not x.dtype.is_floating_point:
            return self._wrapped(x, x.dtype)
        return super().cast(x, dtype)

    def activation(self, x: Value, kind: str, alpha: float | None = None, beta: float | None = None) -> Tensor:
        """IActivationLayer of ``kind`` (a name of trt.ActivationType)."""
        t = self.tensor(x)
        if kind == "CLIP" and self.quantizes and not self.capabilities.quantizes_elementwise:
            # TensorRT 8.6.0 is wrong by the whole value where it fuses a CLIP with a quantize layer; with these it is right
            return self.elementwise("MIN", self.elementwise("MAX", t, alpha or 0.0, t.dtype), beta or 0.0, t.dtype)
        layer = self.layer(self.raw.add_activation(t.raw, getattr(trt.ActivationType, kind)))
        if alpha is not None:
            layer.alpha = alpha
        if beta is not None:
            layer.beta = beta
        return self.result(layer, t.dtype, t.shape)

    def unary(self, x: Value, kind: str, dtype: torch.dtype | None = None) -> Tensor:
        """IUnaryLayer of ``kind`` (a name of trt.UnaryOperation); ``dtype`` casts the input first.

        Integers: NEG and ABS are made of elementwise layers (TensorRT 8.6 has them for floats only), the roundings
        change nothing.
        """
        t = self.tensor(x, dtype)
        if not t.dtype.is_floating_point:
            if kind in ("CEIL", "FLOOR", "ROUND") or (kind == "ABS" and t.dtype in (torch.bool, torch.uint8)):
                return t
            if kind in ("NEG", "ABS"):
                negative = self.elementwise("SUB", 0, t, t.dtype)
                return negative if kind == "NEG" else self.elementwise("MAX", t, negative)
        layer = self.layer(self.raw.add_unary(t.raw, getattr(trt.UnaryOperation, kind)))
        return self.result(layer, torch.bool if kind in ("NOT", "ISINF", "ISNAN") else t.dtype, t.shape)

    def elementwise(self, kind: str, a: Value, b: Value, dtype: torch.dtype | None = None) -> Tensor:
        """IElementWiseLayer of ``kind`` (a name of trt.ElementWiseOperation) with PyTorch's broadcast and promotion.

        Both sides are cast to ``dtype``, or to torch.result_type of the two. Comparisons and logic give bool.

        Raises:
            ConversionError: arithmetic on int8, which wraps around in PyTorch.
        """
        dtype = torch.bool if kind in _LOGIC else dtype or self.result_type(a, b)
        if dtype == torch.bool:
            return self._of_bools(kind, a, b)
        if dtype == torch.int8:  # TensorRT's INT8 layers are for quantized floats
            if kind not in (*_COMPARISONS, "MAX", "MIN"):
                raise ConversionError(f"{kind} on int8: TensorRT computes with int32, int64 and floats; cast first (.int())")
            result = self.elementwise(kind, a, b, torch.int32)
            return result if kind in _COMPARISONS else self.cast(result, dtype)
        if kind not in _COMPARISONS and dtype == torch.float16 and any(_outside_half(v) for v in (a, b)):
            return self.cast(self.elementwise(kind, a, b, torch.float32), dtype)  # as PyTorch, which rounds the result only
        if kind in _AFFINE and dtype.is_floating_point:
            if _number(b) and rank_of(a) == 4:
                return self.affine(self.cast(a, dtype), *_AFFINE[kind](float(b)))  # type: ignore[arg-type]
            if _number(a) and rank_of(b) == 4 and kind != "SUB":
                return self.affine(self.cast(b, dtype), *_AFFINE[kind](float(a)))  # type: ignore[arg-type]
        x, y = self.aligned(a, b, dtype=dtype)
        layer = self.layer(self.raw.add_elementwise(x.raw, y.raw, getattr(trt.ElementWiseOperation, kind)))
        result = self.result(layer, torch.bool if kind in _COMPARISONS else x.dtype, broadcast(x.shape, y.shape))
        return self._wrapped(result, torch.int32) if result.dtype == torch.uint8 and kind in _AFFINE else result

    def _wrapped(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """``x``, integers that travel as ``dtype``, as uint8: 256 is 0."""
        rest = self.modulo(Tensor(x.raw, x.shape, dtype), 256, dtype)
        return super().cast(rest, torch.uint8)

    def _of_bools(self, kind: str, a: Value, b: Value) -> Tensor:
        """``kind`` on bools: TensorRT has AND, OR and XOR for them, PyTorch's + is or, its * is and."""
        x, y = self.aligned(a, b, dtype=torch.bool)
        if kind in ("GREATER", "LESS"):
            x, y = (x, self.unary(y, "NOT")) if kind == "GREATER" else (self.unary(x, "NOT"), y)
        elif kind not in _OF_BOOLS:
            raise ConversionError(f"{kind} on bools; cast first (.int() or .float())")
        op = getattr(trt.ElementWiseOperation, _OF_BOOLS.get(kind, "AND"))
        layer = self.layer(self.raw.add_elementwise(x.raw, y.raw, op))
        result = self.result(layer, torch.bool, broadcast(x.shape, y.shape))
        return self.unary(result, "NOT") if kind == "EQUAL" else result

    def add(self, a: Value, b: Value) -> Tensor:
        """a + b"""
        return self.elementwise("SUM", a, b)

    def sub(self, a: Value, b: Value) -> Tensor:
        """a - b"""
        return self.elementwise("SUB", a, b)

    def mul(self, a: Value, b: Value) -> Tensor:
        """a * b"""
        return self.elementwise("PROD", a, b)

    def div(self, a: Value, b: Value) -> Tensor:
        """a / b of floats"""
        return self.elementwise("DIV", a, b)

    def affine(self, x: Tensor, scale: float, shift: float) -> Tensor:
        """``x * scale + shift`` with numbers, x a float image (rank 4): one IScaleLayer, which DLA takes too."""
        weights = [self.weights(torch.tensor(v, dtype=torch.float64), x.dtype) for v in (shift, scale, 1.0)]
        return self.result(self.layer(self.raw.add_scale_nd(x.raw, trt.ScaleMode.UNIFORM, *weights, 1)), x.dtype, x.shape)

    def compare(self, kind: str, a: Value, b: Value) -> Tensor:
        """EQUAL, GREATER, LESS, and NOT_EQUAL, GREATER_EQUAL, LESS_EQUAL; NaN is unequal to all, as in PyTorch."""
        if kind in _COMPARISONS:
            return self.elementwise(kind, a, b)
        if kind == "NOT_EQUAL":
            if self.result_type(a, b) == torch.bool:
                return self.elementwise("XOR", a, b)
            return self.unary(self.elementwise("EQUAL", a, b), "NOT")
        strict, opposite = ("GREATER", "LESS") if kind == "GREATER_EQUAL" else ("LESS", "GREATER")
        if self.result_type(a, b).is_floating_point:  # not (a < b) would be true of NaN
            return self.elementwise("OR", self.elementwise(strict, a, b), self.elementwise("EQUAL", a, b))
        return self.unary(self.elementwise(opposite, a, b), "NOT")

    def select(self, condition: Value, a: Value, b: Value, dtype: torch.dtype | None = None) -> Tensor:
        """``a`` where ``condition`` is true, else ``b``, with broadcast; in ``dtype`` or torch.result_type of the two."""
        dtype = dtype or self.result_type(a, b)
        if dtype == torch.int8:
            return self.cast(self.select(condition, a, b, torch.int32), dtype)
        rank = max(rank_of(v) for v in (condition, a, b))
        values = ((condition, torch.bool), (a, dtype), (b, dtype))
        mask, x, y = (
            self.reshape(self.cast(v, d), (1,) * (rank - v.ndim) + v.shape) if isinstance(v, Tensor)
            else self.constant(v, d, rank)
            for v, d in values
        )  # fmt: skip
        layer = self.layer(self.raw.add_select(mask.raw, x.raw, y.raw))
        return self.result(layer, dtype, broadcast(mask.shape, x.shape, y.shape))

    def is_nan(self, x: Tensor) -> Tensor:
        """Where ``x`` is NaN. ``x != x`` is no way to ask: TensorRT may simplify it."""
        if self.capabilities.is_nan:
            return self.unary(x, "ISNAN")
        number = self.elementwise("OR", self.elementwise("GREATER", x, -1.0), self.elementwise("LESS", x, 1.0))
        return self.unary(number, "NOT")

    def trunc(self, x: Value) -> Tensor:
        """``x`` without its fraction."""
        t = self.tensor(x)
        if not t.dtype.is_floating_point:
            return t
        return self.select(self.elementwise("LESS", t, 0.0), self.unary(t, "CEIL"), self.unary(t, "FLOOR"))

    def rounded_quotient(self, a: Value, b: Value, mode: str, dtype: torch.dtype) -> Tensor:
        """``a / b`` rounded down (mode "floor") or towards zero ("trunc"); of floats, the rounded quotient is rounded.

        TensorRT's integer division truncates.
        """
        if wide(dtype) != dtype:
            return self.cast(self.rounded_quotient(*self._widened(dtype, a, b), mode, wide(dtype)), dtype)
        if mode == "floor":
            return self.elementwise("FLOOR_DIV", a, b, dtype)
        return self.trunc(self.elementwise("DIV", a, b, dtype))

    def _widened(self, dtype: torch.dtype, a: Value, b: Value) -> tuple[Value, Value]:
        """Float16 or bfloat16 operands as float32, rounded to ``dtype`` first where they are tensors."""
        x, y = (v if _number(v) else self.cast(self.tensor(v, dtype), wide(dtype)) for v in (a, b))
        return x, y

    def modulo(self, a: Value, b: Value, dtype: torch.dtype) -> Tensor:
        """``a - floor(a / b) * b``, which has the sign of ``b``.

        Floats: where rounding takes a quotient up to the next integer, the remainder has the wrong sign and gets one
        ``b`` more. A remainder is as exact as the product ``floor(a / b) * b``; PyTorch's is exact.
        """
        if wide(dtype) != dtype:
            return self.cast(self.modulo(*self._widened(dtype, a, b), wide(dtype)), dtype)
        quotient = self.elementwise("FLOOR_DIV", a, b, dtype)
        rest = self.elementwise("SUB", a, self.elementwise("PROD", quotient, b, dtype), dtype)
        if not dtype.is_floating_point:
            return rest
        wrong = self.elementwise("LESS", self.elementwise("PROD", rest, b, dtype), 0.0)
        return self.select(wrong, self.elementwise("SUM", rest, b, dtype), rest)

    # ---- powers -----------------------------------------------------------------------------------------------------

    def power(self, x: Value, exponent: Value, dtype: torch.dtype) -> Tensor:
        """``x ** exponent`` in ``dtype``: products for whole exponents up to 64, exact for negative bases."""
        if dtype == torch.bool:
            raise ConversionError("a power of bools; cast first (.int() or .float())")
        if wide(dtype) != dtype and not (_number(exponent) and exponent in (0, 1, 2, 0.5)):
            return self.cast(self.power(*self._widened(dtype, x, exponent), wide(dtype)), dtype)
        if isinstance(exponent, (int, float)):
            return self._power_of_number(self.tensor(x, dtype), exponent)
        if not isinstance(x, Tensor) and bool((torch.as_tensor(x) > 0).all()):
            return self.elementwise("POW", x, exponent, dtype)
        base, power = self.aligned(x, exponent, dtype=dtype)
        return self._signed(base, self.elementwise("POW", self.unary(base, "ABS"), power), power)

    def _signed(self, base: Tensor, result: Tensor, power: Tensor) -> Tensor:
        """``|base| ** power`` with the sign of ``base ** power``. The base of TensorRT's POW had better be positive."""
        half = self.elementwise("PROD", power, 0.5)
        even = self.elementwise("EQUAL", self.unary(half, "FLOOR"), half)
        whole = self.elementwise("EQUAL", self.unary(power, "FLOOR"), power)
        odd = self.select(whole, self.unary(result, "NEG"), math.nan)
        return self.select(self.elementwise("LESS", base, 0.0), self.select(even, result, odd), result)

    def _power_of_number(self, x: Tensor, exponent: float) -> Tensor:
        whole = float(exponent).is_integer()
        if exponent == 0:
            return self.filled(1, x.shape, x.dtype)
        if whole and (abs(exponent) <= 64 or not x.dtype.is_floating_point):
            result = self._product(x, abs(int(exponent)))
            return result if exponent > 0 else self.unary(result, "RECIP")
        if abs(exponent) == 0.5:
            root = self.unary(x, "SQRT")
            return root if exponent > 0 else self.unary(root, "RECIP")
        if not whole:  # NaN for a negative base, whether TensorRT takes a logarithm or not
            return self.elementwise("POW", x, exponent)
        result = self.elementwise("POW", self.unary(x, "ABS"), exponent)
        if exponent % 2 == 0:
            return result
        return self.select(self.elementwise("LESS", x, 0.0), self.unary(result, "NEG"), result)

    def _product(self, x: Tensor, count: int) -> Tensor:
        """``x`` to the power of ``count`` > 0 by squaring."""
        if count == 1:
            return x
        half = self._product(x, count // 2)
        square = self.elementwise("PROD", half, half)
        return self.elementwise("PROD", square, x) if count % 2 else square


def _number(value: Value) -> bool:
    return isinstance(value, (int, float))


def _outside_half(value: Value) -> bool:
    """Whether a number overflows, or loses digits, as float16; one that depends on a size may."""
    if is_symbolic(value):
        return True
    return isinstance(value, (int, float)) and math.isfinite(value) and value != 0 and not 6.2e-5 < abs(value) < 65504
