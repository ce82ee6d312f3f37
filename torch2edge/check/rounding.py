"""A graph in low precision as a graph in float32 that rounds: PyTorch then computes what the network does, on any device.

The reference executor's arithmetic: an op is computed in float32 whatever its dtypes are, and its result rounded once.
PyTorch's own half ops sum in other ways, and some do not exist on the CPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..graph import Constant, Graph, Op, Value, map_tensors

__all__ = ["rounding"]

LOW = (torch.float16, torch.bfloat16)
FLOAT = torch.float32
cast = torch.ops.aten._to_copy.default


def rounding(graph: Graph) -> Graph:
    """``graph`` for ``replay``: every half and bfloat16 value is a float32 value that was rounded, outputs too."""
    pass_ = _Pass(graph)
    for value in graph.inputs:
        pass_.widen(value, "", "")
    for op in graph.ops:
        pass_.take(op)
    outputs = [pass_.wide.get(id(o), o) if isinstance(o, Value) else o for o in graph.outputs]
    return replace(graph, ops=pass_.ops, outputs=outputs)


class _Pass:
    """The ops so far."""

    def __init__(self, graph: Graph) -> None:
        self.ops: list[Op] = []
        self.wide: dict[int, Value] = {}  # id of a low value -> the float32 value that is the same
        self._next = graph.next_index()

    def take(self, op: Op) -> None:
        """Append ``op``, computed in float32, and what rounds its results."""
        if op.nesting is not None:  # a submodule as a whole has weights of its own dtype
            self.ops.append(op)
            for value in op.outputs:
                self.widen(value, op.module, op.source)
            return
        args, kwargs = map_tensors((op.args, op.kwargs), self._given)
        outputs = [v if v is None or v.dtype not in LOW else self._new(v, FLOAT) for v in op.outputs]
        self.ops.append(replace(op, args=args, kwargs=kwargs, outputs=outputs))
        for low, computed in zip(op.outputs, outputs):
            if low is not None and computed is not None and low is not computed:
                self.ops.append(Op(cast, (computed,), {"dtype": low.dtype}, [low], op.module, op.source))
                self.widen(low, op.module, op.source)

    def widen(self, value: Value | None, module: str, source: str) -> None:
        """Append the cast of a low value to float32."""
        if value is not None and value.dtype in LOW:
            self.wide[id(value)] = self._new(value, FLOAT)
            self.ops.append(Op(cast, (value,), {"dtype": FLOAT}, [self.wide[id(value)]], module, source))

    def _new(self, like: Value, dtype: torch.dtype) -> Value:
        self._next += 1
        return Value(self._next, like.shape, dtype)

    def _given(self, tensor: Any) -> Any:
        if isinstance(tensor, Value):
            return self.wide.get(id(tensor), tensor)
        low = isinstance(tensor, Constant) and tensor.dtype in LOW
        return Constant(tensor.tensor.detach().float(), tensor.name) if low else tensor
