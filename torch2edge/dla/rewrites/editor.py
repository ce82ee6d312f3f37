"""What rewrites write to: the ops of the new graph so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...graph import Constant, Graph, Op, Value

__all__ = ["CHANNELS", "Editor", "Rewrite", "is_image", "is_parameter"]

aten = torch.ops.aten
RESHAPES = {
    aten.flatten.using_ints, aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.squeeze.default,
    aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default,
}  # fmt: skip
CHANNELS = 8192  # the largest C, H and W of a tensor, and number of output maps (facts.md 3.1, 3.2)


class Editor:
    """One pass over a graph.

    Args:
        graph: the graph; it stays as it is.
        free: whether an op may be rewritten.
        notes: to which notes are added.
    """

    def __init__(self, graph: Graph, free: Callable[[Op], bool], notes: list[str]) -> None:
        self._graph, self._free, self._notes = graph, free, notes
        self._ops: list[Op] = []
        self._makers: dict[int, Op] = {}
        self._next = graph.next_index()

    def run(self, rewrites: Sequence[Rewrite]) -> Graph:
        """The graph with each op as the first of ``rewrites`` that takes it wrote it, without what nothing reads any more."""
        for op in self._graph.ops:
            if not (self.may_change(op) and any(rewrite(op, self) for rewrite in rewrites)):
                self._append(op)
        graph = replace(self._graph, ops=self._ops)
        graph.drop_unused()
        return graph

    def may_change(self, op: Op) -> bool:
        """Whether ``op`` may be rewritten: an ATen op between floats of fixed sizes, with one result."""
        values = [*op.inputs(), *op.outputs]
        return (
            isinstance(op.target, torch._ops.OpOverload)
            and len(op.outputs) == 1
            and all(v is not None and v.dtype.is_floating_point and _is_static(v) for v in values)
            and self._free(op)
        )

    def maker(self, value: Any) -> Op | None:
        """The op of the new graph that made ``value``; None of an input or a constant."""
        return self._makers.get(value.index) if isinstance(value, Value) else None

    def image_behind(self, value: Any) -> Value | None:
        """The image of which ``value`` is another shape, with the same elements in the same order."""
        while not is_image(value):
            op = self.maker(value)
            if op is None or not _only_reshapes(op):
                return None
            value = op.args[0]
        return value  # type: ignore[no-any-return]

    def add(self, old: Op, target: Any, args: tuple[Any, ...], result: Value | tuple[int, ...]) -> Value:
        """Append an op in the place of ``old``.

        Args:
            result: the value that it makes, or the shape of a new one, in the dtype of ``old``'s.
        """
        if not isinstance(result, Value):
            before = old.outputs[0]
            assert before is not None
            result = Value(self._next, result, before.dtype)
            self._next += 1
        self._append(Op(target, args, {}, [result], old.module, old.source))
        return result

    def note(self, op: Op, text: str) -> None:
        """Say what became of ``op``."""
        self._notes.append(f"note: {op.module or 'the model itself'}: {text}")

    def _append(self, op: Op) -> None:
        self._ops.append(op)
        self._makers.update({value.index: op for value in op.outputs if value is not None})


Rewrite = Callable[[Op, Editor], bool]  # whether it appended something in the place of the op


def is_image(tensor: Any) -> bool:
    """Whether a value has batch, channels, height and width, as all data on a DLA."""
    return isinstance(tensor, Value) and len(tensor.shape) == 4


def is_parameter(tensor: Any, *ranks: int) -> bool:
    """Whether a tensor depends on no input, and is of one of these ranks."""
    return isinstance(tensor, Constant) and tensor.tensor.dim() in ranks


def _only_reshapes(op: Op) -> bool:
    if op.target is aten.select.int:
        return isinstance(op.args[0], Value) and op.args[0].shape[op.args[1]] == 1
    return op.target in RESHAPES


def _is_static(value: Value) -> bool:
    return all(isinstance(size, int) for size in value.shape)
