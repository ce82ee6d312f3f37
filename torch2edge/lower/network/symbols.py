"""Sizes that are known only when an engine runs: torch.SymInt in the place of int. Nothing here adds a guard.

A size is compared with these functions and never with ``==``: Python would ask PyTorch for a yes or no, which answers for
the traced example and so fixes the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...sizes import sympy_of

__all__ = ["at_least", "broadcast", "is_symbolic", "same", "same_shape", "symbols"]

_SYMBOLIC = (torch.SymInt, torch.SymFloat)


def _known(condition: Any) -> bool:
    """Whether a comparison of symbolic sizes holds whatever they are."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # with it comes sympy, which takes long

    return bool(statically_known_true(condition))


def is_symbolic(value: Any) -> bool:
    """Whether ``value`` is a number that depends on the size of an input."""
    return isinstance(value, _SYMBOLIC)


def same(a: Any, b: Any) -> bool:
    """Whether two sizes are equal whatever the inputs' sizes are."""
    if not is_symbolic(a) and not is_symbolic(b):
        return bool(a == b)
    key = sympy_of(a), sympy_of(b)
    if key[0] == key[1]:
        return True
    # while layers are added no size is learned; what was asked once is kept with what knows the ranges of the sizes
    answers = vars((a if is_symbolic(a) else b).node.shape_env).setdefault("_torch2edge_same", {})
    if key not in answers:
        answers[key] = _known(a == b)
    return bool(answers[key])


def same_shape(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two shapes are equal whatever the inputs' sizes are."""
    return len(a) == len(b) and all(map(same, a, b))


def at_least(size: Any, limit: int) -> bool:
    """Whether ``size`` is at least ``limit`` whatever the inputs' sizes are."""
    return _known(size >= limit) if is_symbolic(size) else bool(size >= limit)


def symbols(tree: Any) -> set[Any]:
    """The sympy symbols of all symbolic numbers in nested tuples, lists and dicts."""
    if isinstance(tree, (tuple, list)):
        return set().union(*map(symbols, tree))
    if isinstance(tree, dict):
        return symbols(list(tree.values()))
    return set(sympy_of(tree).free_symbols) if is_symbolic(tree) else set()


def broadcast(*shapes: Sequence[Any]) -> tuple[Any, ...]:
    """The shape of an elementwise result of shapes of one rank."""
    result = []
    for sizes in zip(*shapes):
        others = [n for n in sizes if not same(n, 1)]
        result.append(next((n for n in others if not is_symbolic(n)), others[0] if others else 1))
    return tuple(result)
