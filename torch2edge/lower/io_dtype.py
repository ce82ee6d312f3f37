"""A graph whose float inputs and outputs have another dtype than the model's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..graph import Constant, Graph, Op, Value, map_tensors

__all__ = ["with_io_dtype"]

aten = torch.ops.aten


def with_io_dtype(graph: Graph, dtype: torch.dtype) -> Graph:
    """``graph`` with floats of ``dtype`` at its inputs and outputs, and casts behind and before them.

    Where the graph casts an input or for an output to that very dtype, the two casts are none.
    """
    pass_ = _Pass(graph, dtype)
    for op in graph.ops:
        pass_.take(op)
    return pass_.finish()


class _Pass:
    """The ops so far."""

    def __init__(self, graph: Graph, dtype: torch.dtype) -> None:
        self._graph, self._dtype = graph, dtype
        # id of a value of the old graph -> that of the new one; inputs that are already of this dtype stay
        self._inputs = {id(v): replace(v, dtype=dtype) for v in graph.inputs if self._changes(v)}
        self._made: dict[int, Value] = {}
        self._ops: list[Op] = []
        self._next = graph.next_index()

    def _changes(self, value: Any) -> bool:
        return bool(value.dtype.is_floating_point and value.dtype != self._dtype)

    def take(self, op: Op) -> None:
        """Append ``op``, or nothing where it casts an input to what it is now."""
        if _is_cast(op, self._dtype) and id(op.args[0]) in self._inputs:
            assert op.outputs[0] is not None
            self._made[id(op.outputs[0])] = self._inputs[id(op.args[0])]
            return
        args, kwargs = map_tensors((op.args, op.kwargs), lambda t: self._given(t, op))
        self._ops.append(replace(op, args=args, kwargs=kwargs))

    def _given(self, tensor: Any, op: Op) -> Any:
        """What ``op`` takes for a tensor: of an input a copy in the dtype that it had, made for the first that asks."""
        key = id(tensor)
        if key in self._inputs and key not in self._made:
            self._made[key] = self._cast(self._inputs[key], tensor.dtype, op.module, op.source)
        return self._made.get(key, tensor)

    def _cast(self, value: Value, dtype: torch.dtype, module: str, source: str) -> Value:
        result = Value(self._next, value.shape, dtype)
        self._next += 1
        self._ops.append(Op(aten._to_copy.default, (value,), {"dtype": dtype}, [result], module, source))
        return result

    def finish(self) -> Graph:
        """The graph."""
        casts = {id(op.outputs[0]): op for op in self._ops if op.target == aten._to_copy.default}
        outputs = [self._output(o, casts) for o in self._graph.outputs]
        inputs = [self._inputs.get(id(v), v) for v in self._graph.inputs]
        graph = replace(self._graph, inputs=inputs, ops=self._ops, outputs=outputs)
        graph.drop_unused()  # casts before outputs that are taken from before the cast now
        return graph

    def _output(self, output: Any, casts: dict[int, Op]) -> Any:
        if isinstance(output, Constant):
            return Constant(output.tensor.to(self._dtype), output.name) if output.dtype.is_floating_point else output
        if id(output) in self._inputs:
            return self._inputs[id(output)]
        value = self._made.get(id(output), output)
        if not self._changes(value):
            return value
        before = casts.get(id(value))
        if before is not None and getattr(before.args[0], "dtype", None) == self._dtype:
            return before.args[0]
        return self._cast(value, self._dtype, "", "")


def _is_cast(op: Op, dtype: torch.dtype) -> bool:
    """Whether an op is one of ``in_precision``'s casts to ``dtype``."""
    return op.target == aten._to_copy.default and op.kwargs == {"dtype": dtype} and len(op.args) == 1
