"""Ops that a DLA does not take, in the words of those that it does: passes over a traced graph that keep its function.

Each rewrite says what it replaces, by what, why that is exact, and which rule it serves. What it leaves alone stays right:
no rewrite is ever needed for the answer, only for the place where it is computed. Exact is meant in real numbers, for finite
inputs: sums are rounded in another order, and an infinity times one of the zeros of a new kernel is NaN.
"""

from __future__ import annotations

from collections.abc import Callable

from ...graph import Graph, Op
from .activations import activation_of_products
from .editor import Editor
from .heads import activation_before_reshape, linear_of_image
from .padding import padding_of_convolution
from .pooling import pooling_chain
from .shuffle import shuffle_as_convolution

__all__ = ["rewritten"]

# In this order: a pooling chain ends in the reshape that a head looks for, and only images have activations to rewrite.
FAMILIES = (
    (pooling_chain,),
    (linear_of_image, activation_before_reshape),
    (shuffle_as_convolution,),
    (padding_of_convolution,),
)
INT8_FAMILIES = (*FAMILIES, (activation_of_products,))


def rewritten(
    graph: Graph, on_dla: Callable[[str], bool], *, int8: bool = False, fixed: Callable[[Op], bool] = lambda op: False
) -> tuple[Graph, list[str]]:
    """``graph`` with what a DLA does not take rewritten where it can be, and a note per rewrite.

    Inputs, outputs and every value that stays keep their indices; new ones get fresh ones, the same for the same graph.
    Ops keep the module and the source line of what they replace. Nothing of dynamic size is touched.

    Args:
        graph: traced; it stays as it is.
        on_dla: whether the ops of a module path are to run on a DLA.
        int8: the DLA may compute in INT8.
        fixed: ops to leave alone, for the caller has a converter of its own for them.

    Returns:
        The new graph, and ``note: <module>: <what became what>`` per rewrite, or why there was none.
    """
    notes: list[str] = []
    for family in INT8_FAMILIES if int8 else FAMILIES:
        editor = Editor(graph, lambda op: on_dla(op.module) and not fixed(op), notes)
        graph = editor.run(family)
    return graph, notes
