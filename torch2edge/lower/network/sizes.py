"""Shape tensors: sizes that are known only when the engine runs, as layers.

A symbol is a dynamic axis of an input; TensorRT's IShapeLayer reads it. What PyTorch computed of it (a sympy expression of
integers) becomes elementwise layers on tensors of one element, once per expression.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..._trt import trt
from ...errors import ConfigError, ConversionError
from ...sizes import bounds, sympy_of, text
from ...sizes import expression as readable
from .core import Core, Tensor
from .symbols import is_symbolic

__all__ = ["Sizes"]

_LIMIT = 2**16  # values of a symbol that an expression is computed for in advance
_POSITIONS = 2**24  # elements of the constant that positions are cut from
_FOLDS = {"Add": "SUM", "Mul": "PROD", "Max": "MAX", "Min": "MIN"}
_INTEGER = {*_FOLDS, "FloorDiv", "CleanDiv", "Mod", "PythonMod", "ModularIndexing"}  # sympy's and PyTorch's functions


class Sizes(Core):
    """Layers that compute sizes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._axes: dict[Any, tuple[Any, int]] = {}  # symbol -> input and axis
        self._shapes: dict[str, Tensor] = {}  # input -> its shape
        self._sizes: dict[Any, Tensor] = {}  # expressions -> the tensor that holds them
        self._ranges: dict[int, torch.Tensor] = {}
        self.dim_names: Mapping[str, str] = {}  # PyTorch's symbols -> the user's names of them

    def constant(self, value: Any, dtype: torch.dtype | None = None, rank: int = 0) -> Tensor:
        """A constant layer, see Core; a symbolic number is computed."""
        if is_symbolic(value):
            own = torch.int64 if isinstance(value, torch.SymInt) else torch.float32
            return self.number(value, dtype or own, rank)
        return super().constant(value, dtype, rank)

    def note_axes(self, raw: Any, shape: Sequence[Any]) -> None:
        """Remember which axis of which input each symbol stands for; the first one that has it."""
        for axis, size in enumerate(shape):
            if is_symbolic(size) and sympy_of(size).is_Symbol:
                self._axes.setdefault(sympy_of(size), (raw, axis))

    def size_tensor(self, sizes: Sequence[Any]) -> Tensor:
        """The sizes as a 1-D tensor of int64."""
        key = tuple(map(sympy_of, sizes))
        if key not in self._sizes:
            self._sizes[key] = self._joined(sizes)
        return self._sizes[key]

    def _joined(self, sizes: Sequence[Any]) -> Tensor:
        runs: list[Any] = []
        for n in sizes:
            if is_symbolic(n):
                runs.append(self._computed(sympy_of(n), n))
            elif runs and isinstance(runs[-1], list):
                runs[-1].append(n)
            else:
                runs.append([n])
        parts = [self._integers(run) if isinstance(run, list) else run for run in runs]
        if len(parts) == 1:
            return parts[0]
        with self.scope("", "sizes", []):
            layer = self.layer(self.raw.add_concatenation([part.raw for part in parts]))
            layer.axis = 0
            return self.result(layer, torch.int64)

    def number(self, value: Any, dtype: torch.dtype, rank: int = 0) -> Tensor:
        """A symbolic number (torch.SymInt or SymFloat) as a tensor of one element, of ``dtype`` and ``rank``."""
        if isinstance(value, torch.SymInt):
            tensor = self.cast(self.size_tensor([value]), dtype)
        else:
            tensor = self.cast(self._tabulated(value), dtype)
        if rank == 1:
            return tensor
        layer = self.layer(self.raw.add_shuffle(tensor.raw))
        layer.reshape_dims = (1,) * rank
        return self.result(layer, dtype)

    def _integers(self, numbers: list[int]) -> Tensor:
        return self.constant(numbers, torch.int64)

    # ---- expressions ------------------------------------------------------------------------------------------------

    def _computed(self, expr: Any, size: Any) -> Tensor:
        """``expr`` as a tensor of one element; ``size`` is the number it belongs to."""
        if expr.is_Integer:
            return self._integers([int(expr)])
        if (expr,) not in self._sizes:
            with self.scope("", "sizes", []):
                self._sizes[(expr,)] = self._symbol(expr) if expr.is_Symbol else self._operation(expr, size)
        return self._sizes[(expr,)]

    def _symbol(self, symbol: Any) -> Tensor:
        if symbol not in self._axes:
            raise ConversionError(f"the size {self.told(symbol)} belongs to no axis of an input, so an engine cannot know it")
        raw, axis = self._axes[symbol]
        if raw.name not in self._shapes:
            self._shapes[raw.name] = self.result(self.layer(self.raw.add_shape(raw)), torch.int64)
        picked = self.raw.add_gather(self._shapes[raw.name].raw, self._integers([axis]).raw, 0)
        return self.result(self.layer(picked), torch.int64)

    def _operation(self, expr: Any, size: Any) -> Tensor:
        kind, args = type(expr).__name__, expr.args
        if kind in ("Pow", "PowByNatural") and args[1].is_Integer and 0 < int(args[1]) < 8:
            kind, args = "Mul", [args[0]] * int(args[1])
        if kind not in _INTEGER or not all(arg.is_integer for arg in args):
            return self._staircase(expr, size)
        parts = [self._computed(arg, size) for arg in args]
        if kind in _FOLDS:
            return functools.reduce(functools.partial(self._of_two, _FOLDS[kind]), parts)
        if kind in ("Mod", "PythonMod"):
            return self._rest(*parts)
        quotient = self._of_two("FLOOR_DIV", parts[0], parts[1])
        return quotient if kind != "ModularIndexing" else self._rest(quotient, parts[2])

    def _of_two(
        self, kind: str, a: Tensor, b: Tensor, shape: Sequence[Any] = (1,), dtype: torch.dtype = torch.int64
    ) -> Tensor:
        layer = self.layer(self.raw.add_elementwise(a.raw, b.raw, getattr(trt.ElementWiseOperation, kind)))
        return self.result(layer, dtype, shape)

    def _rest(self, a: Tensor, b: Tensor) -> Tensor:
        return self._of_two("SUB", a, self._of_two("PROD", self._of_two("FLOOR_DIV", a, b), b))

    def _staircase(self, expr: Any, size: Any) -> Tensor:
        """An expression with floats in it, as ``floor((p * symbol + r) / q)`` where that is right for every value of the
        symbol; else (0.7 * 90 is 62.99... for Python) from a table."""
        symbol, values = self._every_value(expr, size)
        whole = {n: int(v) for n, v in values.items()}
        index, fitted = self._computed(symbol, size), _fit_staircase(whole)
        if fitted is None:
            table = [whole.get(n, 0) for n in range(max(whole) + 1)]
            return self.result(self.layer(self.raw.add_gather(self._integers(table).raw, index.raw, 0)), torch.int64)
        p, q, r = fitted
        product = self._of_two("PROD", index, self._integers([p]))
        return self._of_two("FLOOR_DIV", self._of_two("SUM", product, self._integers([r])), self._integers([q]))

    def _every_value(self, expr: Any, size: Any) -> tuple[Any, dict[int, float]]:
        """The only symbol of ``expr``, and the expression's value for each of its values.

        Raises:
            ConversionError: there are several symbols, or too many values.
        """
        from torch.utils._sympy.interp import sympy_interp
        from torch.utils._sympy.reference import PythonReferenceAnalysis

        found = sorted(expr.free_symbols, key=str)
        if len(found) > 1:
            raise ConversionError(
                f"the number {self.told(expr)} is computed with floats from several sizes; round each of them first"
            )
        low, high = self.range_of(found[0], size)
        return found[0], {n: sympy_interp(PythonReferenceAnalysis, {found[0]: n}, expr) for n in range(low, high + 1)}

    def range_of(self, symbol: Any, size: Any) -> tuple[int, int]:
        """The least and the greatest value of ``symbol``.

        Raises:
            ConversionError: it has no end, or too many values.
        """
        found = size.node.shape_env.var_to_range[symbol]
        if not found.upper.is_finite or found.upper > _LIMIT:
            told = self.told(symbol)
            raise ConversionError(f"the size {told} has no upper end below {_LIMIT}; give its dynamic axis a smaller max")
        return (1 if found.lower == 2 else int(found.lower)), int(found.upper)

    def _tabulated(self, value: Any) -> Tensor:
        """A float that depends on one size, from a table of all its values."""
        symbol, values = self._every_value(sympy_of(value), value)
        table = torch.zeros(max(values) + 1)
        for n, v in values.items():
            table[n] = v
        index = self._computed(symbol, value)
        return self.result(self.layer(self.raw.add_gather(self.constant(table).raw, index.raw, 0)), torch.float32)

    def told(self, size: Any) -> str:
        """A size in the user's names of the dynamic axes."""
        try:
            return text(readable(size, self.dim_names))
        except (ConfigError, KeyError):
            return str(size)

    # ---- what needs the sizes ---------------------------------------------------------------------------------------

    def concrete(self, size: Any, what: str) -> int:
        """``size`` as a number.

        Raises:
            ConversionError: it depends on the size of an input; ``what`` says what would need it.
        """
        if is_symbolic(size):
            raise ConversionError(
                f"{what} must be known when the engine is built, but it is {self.told(size)}, which depends on a "
                "dynamic axis: give that axis one size, or convert an engine for each size"
            )
        return int(size)

    def positions(self, count: Any) -> torch.Tensor | Tensor:
        """0, 1, ... below ``count`` (int64): a constant, or cut from one that holds the most there can be."""
        if not is_symbolic(count):
            return torch.arange(count)
        _, most = bounds(count)
        if most is None or most > _POSITIONS:
            raise ConversionError(
                f"positions up to {self.told(count)}, which has no upper end below {_POSITIONS}; give a smaller max"
            )
        layer = self.layer(self.raw.add_slice(self._all_positions(most).raw, (0,), (1,), (1,)))
        layer.set_input(2, self.size_tensor([count]).raw)
        return self.result(layer, torch.int64, shape=(count,))

    def _all_positions(self, most: int) -> Tensor:
        if most not in self._ranges:
            self._ranges[most] = torch.arange(most)
        return self.constant(self._ranges[most])


def _fit_staircase(values: dict[int, int]) -> tuple[int, int, int] | None:
    """p, q, r with ``values[n] == (p * n + r) // q`` for every n, of the smallest q up to 256; None where there are none."""
    n = torch.tensor(list(values), dtype=torch.int64)
    v = torch.tensor(list(values.values()), dtype=torch.int64)
    slope = float(v[-1] - v[0]) / max(float(n[-1] - n[0]), 1.0)
    for q in range(1, 257):
        for p in {int(slope * q), int(slope * q) + 1}:
            least, greatest = int((q * v - p * n).max()), int((q * v + q - 1 - p * n).min())
            if least <= greatest:
                return p, q, 0 if least <= 0 <= greatest else least
    return None
