"""A float32 graph in half or bfloat16: which ops change, and casts where precisions meet.

The result is a graph as a model with half parts would have left it, so that the same converters serve it. It is for strongly
typed networks, where the dtypes of tensors decide; a weakly typed one takes flags instead (build/session.py).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..graph import Constant, Graph, Op, Value, is_quantizer, map_tensors
from ..sizes import is_symbolic
from .float32_ops import FLOAT32_OPS, MOVES

__all__ = ["Lowering", "in_precision"]

aten = torch.ops.aten
FLOAT = torch.float32
LOW = (torch.float16, torch.bfloat16)


@dataclass
class Lowering:
    """What ``in_precision`` made.

    Attributes:
        graph: the new graph; a value keeps its index whatever its dtype is now.
        names: id of each parameter in its new dtype -> its name.
        kept: path of a module -> why ops in it stayed in float32 although the module is to be low, beyond FLOAT32_OPS.
        wide: positions of these ops in the graph that was given.
    """

    graph: Graph
    names: dict[int, str] = field(default_factory=dict)
    kept: dict[str, list[str]] = field(default_factory=dict)
    wide: set[int] = field(default_factory=set)


def in_precision(
    graph: Graph, precision_of: Callable[[str], torch.dtype], largest: Mapping[int, float] | None = None,
    wide: Container[int] = (),
) -> Lowering:  # fmt: skip
    """``graph`` with each float32 op in the precision of its module; inputs and outputs keep their dtypes.

    Where a module's precision is low, an op stays in float32 that is in FLOAT32_OPS, is told a dtype, has a number or weights
    beyond the precision's range, or took or gave values beyond it, on either end. Ops that move elements or work one by one
    stay in float32 where what they are given comes in float32 from such an op: they would round it without need.

    Args:
        precision_of: module path -> float32, float16 or bfloat16.
        largest: index of a value -> largest magnitude seen.
        wide: positions of ops that stay in float32 whatever their numbers are now: an engine has them so.
    """
    pass_ = _Pass(graph, precision_of, largest or {})
    for position, op in enumerate(graph.ops):
        pass_.take(op, position, position in wide)
    return pass_.finish()


class _Pass:
    """The ops so far, and in which dtypes their results are there."""

    def __init__(self, graph: Graph, precision_of: Callable[[str], torch.dtype], largest: Mapping[int, float]) -> None:
        self._graph, self._precision_of, self._largest = graph, precision_of, largest
        self._made: dict[int, Value] = {}  # id of a value of the old graph -> that of the new one
        self._casts: dict[tuple[int, torch.dtype], Value] = {}
        self._constants: dict[tuple[int, torch.dtype], Constant] = {}
        # id of what a quantizer gave -> what it took
        self._quantizers = {id(op.outputs[0]): op.args[0] for op in graph.ops if is_quantizer(op.target) and op.args}
        self._wide: set[int] = set()  # ids of new values that an op gave in float32 for a reason
        self._ops: list[Op] = []
        self._next = graph.next_index()
        self._result = Lowering(graph)

    # ---- one op -----------------------------------------------------------------------------------------------------

    def take(self, op: Op, position: int, wide: bool) -> None:
        """Append ``op`` in its precision, or ``wide`` in float32."""
        wanted = FLOAT if wide else self._choice(op, position)
        if is_quantizer(op.target):  # the rest is its scale
            args, kwargs = (self._given(op.args[0], wanted, op), *op.args[1:]), op.kwargs
        else:
            args, kwargs = map_tensors((op.args, op.kwargs), lambda t: self._given(t, wanted, op))
        outputs = [v if v is None else self._output(v, wanted) for v in op.outputs]
        if wanted == FLOAT:
            self._wide.update(id(v) for v in outputs if v is not None and v.dtype == FLOAT)
        self._ops.append(replace(op, args=args, kwargs=kwargs, outputs=outputs))

    def _choice(self, op: Op, position: int) -> torch.dtype:
        wanted = self._precision_of(op.module)
        if wanted == FLOAT or op.nesting is not None or not _floats(op):
            return FLOAT
        name = op.short_name
        if name in FLOAT32_OPS or _told_a_dtype(op):
            return FLOAT
        follows = name in MOVES or torch.Tag.pointwise in op.target.tags
        if follows and any(id(self._made.get(id(v), v)) in self._wide for v in op.inputs()):
            return FLOAT
        if why := self._beyond(op, wanted):
            self._result.kept.setdefault(op.module, []).append(why)
            self._result.wide.add(position)
            return FLOAT
        return wanted

    def _beyond(self, op: Op, dtype: torch.dtype) -> str:
        """Why the range of ``dtype`` is too small for an op, or ""."""
        limit, tiny = torch.finfo(dtype).max, torch.finfo(dtype).tiny
        for number in _numbers((op.args, op.kwargs)):
            if limit < abs(number) < float("inf"):
                return f"{op.name} takes the number {number:g}"
        largest: list[tuple[float, str]] = []
        for constant in self._weights(op):
            magnitude = _largest_finite(constant.tensor)
            if limit < magnitude < float("inf"):
                return f"{constant.name or 'a constant'} of {op.name} reaches {magnitude:g}"
            largest.append((magnitude, f"{constant.name or 'a constant'} of {op.name} reaches {magnitude:g} only"))
        if largest and 0 < max(largest)[0] < tiny and torch.Tag.pointwise not in op.target.tags:
            return max(largest)[1]  # fewer digits the smaller they are; a small bias beside weights does not matter
        for told, values in (("takes", map(self._quantized, op.inputs())), ("gave", op.outputs)):
            for value in values:
                magnitude = 0.0 if value is None else self._largest.get(value.index, 0.0)
                if magnitude > limit or 0 < magnitude < tiny:
                    return f"{op.name} {told} {magnitude:g}{'' if magnitude > limit else ' at most'} for the example"
        return ""

    def _quantized(self, value: Value) -> Value:
        """What a quantizer made ``value`` of; its codes have the range, though their value is new."""
        source = self._quantizers.get(id(value))
        return source if isinstance(source, Value) else value

    def _weights(self, op: Op) -> list[Constant]:
        """Of an op, those behind quantizers too."""
        sources = [self._quantizers.get(id(value)) for value in op.inputs()]
        return [*_constants(op), *(s for s in sources if isinstance(s, Constant))]

    # ---- tensors ----------------------------------------------------------------------------------------------------

    def _given(self, tensor: Any, wanted: torch.dtype, op: Op) -> Any:
        if isinstance(tensor, Value):
            value = self._made.get(id(tensor), tensor)
            return self._cast(value, wanted, op) if tensor.dtype == FLOAT else value
        return self._constant(tensor, wanted) if tensor.dtype == FLOAT else tensor

    def _constant(self, constant: Constant, wanted: torch.dtype) -> Constant:
        if wanted == FLOAT:
            return constant
        key = (id(constant.tensor), wanted)
        if key not in self._constants:
            low = Constant(constant.tensor.detach().to(wanted), constant.name)
            self._constants[key] = low
            if constant.name:
                self._result.names[id(low.tensor)] = constant.name
        return self._constants[key]

    def _cast(self, value: Value, wanted: torch.dtype, op: Op) -> Value:
        """``value`` in another dtype, by an op that belongs to who asked first."""
        if value.dtype == wanted:
            return value
        key = (id(value), wanted)
        if key not in self._casts:
            self._casts[key] = Value(self._next, value.shape, wanted)
            self._next += 1
            self._ops.append(Op(aten._to_copy.default, (value,), {"dtype": wanted}, [self._casts[key]], op.module, op.source))
        return self._casts[key]

    def _output(self, value: Value, wanted: torch.dtype) -> Value:
        if value.dtype != FLOAT or wanted == FLOAT:
            return value
        self._made[id(value)] = replace(value, dtype=wanted)
        return self._made[id(value)]

    # ---- the end ----------------------------------------------------------------------------------------------------

    def finish(self) -> Lowering:
        """The graph; outputs in the model's dtypes."""
        end = Op(aten.alias.default, (), {}, [], "", "")
        outputs = [self._given(o, FLOAT, end) if isinstance(o, Value) else o for o in self._graph.outputs]
        self._result.graph = replace(self._graph, ops=self._ops, outputs=outputs)
        return self._result


def _floats(op: Op) -> bool:
    """Whether a float32 tensor goes in or comes out."""
    return any(v is not None and v.dtype == FLOAT for v in (*op.inputs(), *op.outputs))


def _told_a_dtype(op: Op) -> bool:
    """Whether the model says in which dtype: a cast, ``softmax(..., dtype=torch.float32)``."""
    return any(isinstance(a, torch.dtype) for a in (*op.args, *op.kwargs.values()))


def _numbers(tree: Any) -> Iterable[float]:
    if isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _numbers(item)
    elif isinstance(tree, dict):
        yield from _numbers(list(tree.values()))
    elif isinstance(tree, float) and not is_symbolic(tree):
        yield tree


def _largest_finite(tensor: torch.Tensor) -> float:
    """The largest magnitude but for infinities, which every float type has."""
    finite = tensor.detach().abs()
    finite = finite[finite.isfinite()]
    return float(finite.amax()) if finite.numel() else 0.0


def _constants(op: Op) -> list[Constant]:
    found: list[Constant] = []
    map_tensors(
        (op.args, op.kwargs),
        lambda t: found.append(t) if isinstance(t, Constant) and t.tensor.is_floating_point() else None,
    )
    return found
