"""Sizes that are not known before a call: PyTorch's symbolic integers as plain, printable, computable expressions.

An expression is an int, a float, a bool, ``["dim", name]`` or ``[function, operand, ...]``; JSON holds it, so it travels in
engine files, and nothing of a file is ever executed.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch

from .errors import ConfigError

__all__ = [
    "Constraint",
    "bounds",
    "compute",
    "expression",
    "has_symbolic",
    "is_symbolic",
    "names_in",
    "settle",
    "shape_text",
    "sympy_of",
    "text",
]

Expression = Any
SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


@dataclass(frozen=True)
class Constraint:
    """What the traced model demands of its sizes, and the line of the model that made it so."""

    condition: Expression
    source: str  # "in layer1.0, model.py:12"

    def holds(self, values: Mapping[str, int]) -> bool:
        """Whether sizes (by the name of their Dim) meet it."""
        return bool(compute(self.condition, values))

    def __str__(self) -> str:
        return f"{text(self.condition)} ({self.source})"


def is_symbolic(size: Any) -> bool:
    """Whether ``size`` is one of PyTorch's symbolic numbers and not a constant in disguise."""
    return isinstance(size, SYMBOLIC) and not sympy_of(size).is_number


def has_symbolic(tree: Any) -> bool:
    """Whether a symbolic number is anywhere in nested tuples, lists and dicts."""
    if isinstance(tree, (tuple, list)):
        return any(has_symbolic(item) for item in tree)
    if isinstance(tree, dict):
        return any(has_symbolic(item) for item in tree.values())
    return is_symbolic(tree)


def settle(tree: Any) -> Any:
    """``tree`` with each symbolic number that is a constant as that constant; a torch.Size becomes a tuple."""
    if isinstance(tree, SYMBOLIC):
        value = sympy_of(tree)
        if isinstance(tree, torch.SymBool):
            return bool(value) if value in (True, False) else tree
        return tree if not _is_number(value) else int(value) if isinstance(tree, torch.SymInt) else float(value)
    if isinstance(tree, (tuple, list)):
        kind = tuple if isinstance(tree, torch.Size) else type(tree)
        return kind([settle(item) for item in tree])
    if isinstance(tree, dict):
        return {key: settle(item) for key, item in tree.items()}
    return tree


@functools.lru_cache(maxsize=4096)  # sympy looks through the whole expression each time
def _is_number(expr: Any) -> bool:
    return bool(expr.is_number)


def sympy_of(size: Any) -> Any:
    """The sympy expression of a symbolic number, with everything in it that a guard has fixed; anything else as it is."""
    return size.node.expr if isinstance(size, SYMBOLIC) else size


def bounds(value: Any) -> tuple[int | None, int | None]:
    """The least and the greatest value that a size can have, by the ranges of the symbols; None where nothing bounds it."""
    if not isinstance(value, SYMBOLIC):
        return value, value
    from torch.utils._sympy.value_ranges import bound_sympy

    found = bound_sympy(sympy_of(value), value.node.shape_env.var_to_range)
    return tuple(int(end) if end.is_finite and end.is_integer else None for end in (found.lower, found.upper))  # type: ignore[return-value]


def expression(size: Any, names: Mapping[str, str]) -> Expression:
    """``size``, or a sympy expression, as an expression over dims.

    Args:
        size: an int, a symbolic number, or a sympy expression.
        names: PyTorch's symbol -> name of the Dim.

    Raises:
        ConfigError: PyTorch computes it by a function that is not known here.
    """
    if isinstance(size, (int, float)):
        return size
    return _convert(sympy_of(size), names)


def _convert(node: Any, names: Mapping[str, str]) -> Expression:
    name = type(node).__name__
    if node.is_Symbol:
        return ["dim", names[node.name]]
    if name in ("BooleanTrue", "BooleanFalse"):
        return bool(node)
    if node.is_Integer:
        return int(node)
    if node.is_Rational:
        return ["TrueDiv", int(node.p), int(node.q)]
    if node.is_number and node.is_Float:
        return float(node)
    if name not in _FUNCTIONS:
        raise ConfigError(f"a size is computed by {name}, as {node}, which torch2edge cannot follow")
    return [name, *(_convert(argument, names) for argument in node.args)]


def _floor_divide(a: Any, b: Any) -> Any:
    return a // b


def _round(a: Any, digits: int = 0) -> Any:
    return round(a, digits) if digits else round(a)


def _power(a: Any, b: Any) -> Any:
    return a**b


def _chain(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda *operands: reduce(function, operands)


# By the class names of sympy's and PyTorch's functions: what computes it, and how it reads.
_FUNCTIONS: dict[str, tuple[Callable[..., Any], str]] = {
    "Add": (_chain(operator.add), "+"), "Mul": (_chain(operator.mul), "*"), "Pow": (_power, "**"),
    "PowByNatural": (_power, "**"), "FloatPow": (_power, "**"),
    "Mod": (operator.mod, "%"), "PythonMod": (operator.mod, "%"), "FloorDiv": (_floor_divide, "//"),
    "CleanDiv": (_floor_divide, "//"), "TrueDiv": (operator.truediv, "/"), "IntTrueDiv": (operator.truediv, "/"),
    "FloatTrueDiv": (operator.truediv, "/"),
    "Equality": (operator.eq, "=="), "Unequality": (operator.ne, "!="), "StrictLessThan": (operator.lt, "<"),
    "LessThan": (operator.le, "<="), "StrictGreaterThan": (operator.gt, ">"), "GreaterThan": (operator.ge, ">="),
    "And": (_chain(lambda a, b: a and b), "and"), "Or": (_chain(lambda a, b: a or b), "or"),
    "Not": (operator.not_, "not "),
    "Min": (min, "min"), "Max": (max, "max"), "Abs": (abs, "abs"), "ToFloat": (float, "float"),
    "CeilToInt": (math.ceil, "ceil"), "ceiling": (math.ceil, "ceil"), "FloorToInt": (math.floor, "floor"),
    "floor": (math.floor, "floor"), "TruncToInt": (math.trunc, "int"), "TruncToFloat": (math.trunc, "int"),
    "RoundToInt": (_round, "round"), "RoundDecimal": (_round, "round"), "OpaqueUnaryFn_sqrt": (math.sqrt, "sqrt"),
    "Identity": (lambda a: a, ""),
}  # fmt: skip


def compute(tree: Expression, values: Mapping[str, int]) -> Any:
    """The value of an expression where each dim has the size in ``values``."""
    if not isinstance(tree, list):
        return tree
    if tree[0] == "dim":
        return values[tree[1]]
    return _FUNCTIONS[tree[0]][0](*(compute(operand, values) for operand in tree[1:]))


def names_in(tree: Expression) -> list[str]:
    """The dims of an expression, each once."""
    if not isinstance(tree, list):
        return []
    if tree[0] == "dim":
        return [tree[1]]
    return list(dict.fromkeys(name for operand in tree[1:] for name in names_in(operand)))


def text(tree: Expression) -> str:
    """An expression as Python would have it: ``height % 32 == 0``."""
    if not isinstance(tree, list):
        return str(tree)
    if tree[0] == "dim":
        return str(tree[1])
    sign, operands = _FUNCTIONS[tree[0]][1], tree[1:]
    if len(operands) == 1 or (sign.isalpha() and sign not in ("and", "or")):
        if sign == "not ":
            return f"not ({text(operands[0])})"
        return f"{sign}({', '.join(text(o) for o in operands)})"
    if sign == "+":
        operands = sorted(operands, key=lambda o: not isinstance(o, list))  # batch + 1, not 1 + batch
    parts = [f"({text(o)})" if isinstance(o, list) and o[0] != "dim" else text(o) for o in operands]
    comparison = sign in ("==", "!=", "<", "<=", ">", ">=")
    if comparison:
        parts = [text(o) for o in operands]
    return f" {sign} ".join(parts).replace("+ -", "- ")


def shape_text(shape: Any) -> str:
    """A shape of ints and expressions for people: ``(batch, 3, height // 2)``."""
    inner = ", ".join(text(size) for size in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"
