"""Equations of einsum: letters and ellipses as labels."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Term", "explicit"]

Term = list[str]
"""The labels of one operand's axes: a letter, or "...n" for the n-th axis from the end of what an ellipsis stands for."""


def explicit(equation: str, ranks: Sequence[int]) -> tuple[list[Term], Term]:
    """The labels of every operand and of the result.

    Without an arrow the result has the ellipsis' axes, then the letters that stand once, in order of their codes.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = [_labels(term, rank) for term, rank in zip(left.split(","), ranks)]
    every = [label for term in terms for label in term]
    width = max((int(label[3:]) for label in every if label.startswith("...")), default=0)
    if arrow:
        return terms, _labels(right, len(right.replace("...", "")) + (width if "..." in right else 0))
    once = sorted(label for label in every if every.count(label) == 1 and not label.startswith("..."))
    return terms, [*_ellipsis(width), *once]


def _labels(term: str, rank: int) -> Term:
    before, dots, after = term.partition("...")
    return [*before, *(_ellipsis(rank - len(before) - len(after)) if dots else []), *after]


def _ellipsis(width: int) -> Term:
    return [f"...{n}" for n in range(width, 0, -1)]
