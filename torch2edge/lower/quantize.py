"""Where quantizers go: a float graph with fake quantization in front of what TensorRT computes in INT8.

As TensorRT's guide places them ("Explicit Quantization", "Q/DQ Placement Recommendations"): on all inputs of convolutions,
linear layers and matrix products, weights per output channel, activations per tensor; and on the branch that is added to what
a convolution gave, so that the addition joins the convolution. What stands between, max pooling and relu, TensorRT moves
quantizers across by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..graph import Constant, Graph, Op, Value, is_quantizer
from .check import bind

__all__ = ["Points", "every_float", "has_quantizers", "points_of", "with_quantizers"]

aten = torch.ops.aten
LEVELS = 127  # the largest integer: symmetric, -128 is not used for weights
# op -> the arguments that hold the data, and of the weights the axis of output channels
_COMPUTES: dict[Any, tuple[str, str, int]] = {
    aten.convolution.default: ("input", "weight", 0),
    **dict.fromkeys((aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding), ("input", "weight", 0)),
    aten.linear.default: ("input", "weight", 0),
    aten.addmm.default: ("mat1", "mat2", 1),
    aten.mm.default: ("self", "mat2", 1),
}
_PRODUCTS = {aten.matmul.default: ("self", "other"), aten.bmm.default: ("self", "mat2")}
_ADDITIONS = {aten.add.Tensor: ("self", "other")}


@dataclass
class Points:
    """What is to be quantized.

    Attributes:
        values: name of a point -> the value.
        places: position of an op -> its arguments that take the quantized value.
        weights: position of an op -> the argument that holds its weights, and their axis of output channels.
    """

    values: dict[str, Value] = field(default_factory=dict)
    places: dict[int, list[str]] = field(default_factory=dict)
    weights: dict[int, tuple[str, int]] = field(default_factory=dict)


def has_quantizers(graph: Graph) -> bool:
    """Whether the graph quantizes, as that of a model does after quantization-aware training."""
    return any(is_quantizer(op.target) for op in graph.ops)


def every_float(graph: Graph) -> dict[str, Value]:
    """Every float32 value by a name of its own: an input by its own, others by module path and op, ``#2`` for the second.

    Of a graph as traced the names hang on neither precisions nor TensorRT, so that a calibration can be kept by them.
    """
    found: dict[str, Value] = {}
    named = list(zip(graph.input_names, graph.inputs))
    named += [(f"{op.module}/{op.short_name}", v) for op in graph.ops for v in op.outputs if v is not None]
    counts = Counter[str]()
    for name, value in named:
        if value.dtype == torch.float32 and not value.hidden:
            found[_unused(name, found, counts)] = value
    return found


def _unused(name: str, taken: Container[str], counts: Counter[str]) -> str:
    """``name``, or with the first number that makes it another than all in ``taken``; ``counts`` remembers how far it is."""
    counts[name] += 1
    numbered = name if counts[name] == 1 else f"{name}#{counts[name]}"
    return _unused(name, taken, counts) if numbered in taken else numbered


def points_of(graph: Graph, in_int8: Callable[[str], bool], names: Mapping[int, str] | None = None) -> Points:
    """The values to quantize in the modules of which ``in_int8`` holds.

    Args:
        names: index of a value -> its name, of the graph as traced; by default those of ``every_float``. A value that is not
            in it, which a change of the graph made, is called after what reads it first: module path, op and argument.
    """
    if names is None:
        names = {value.index: name for name, value in every_float(graph).items()}
    points, taken, counts = Points(), set(names.values()), Counter[str]()
    seen: set[int] = set()
    computed: dict[int, int] = {}  # index of what an INT8 convolution or product gave -> how often it is used
    uses = Counter(v.index for op in graph.ops for v in op.inputs())

    def add(position: int, op: Op, argument: str, value: Any) -> None:
        if not isinstance(value, Value) or value.dtype != torch.float32:
            return
        points.places.setdefault(position, []).append(argument)
        if value.index not in seen:
            seen.add(value.index)
            name = names.get(value.index) or _unused(f"{op.module}/{op.short_name}/{argument}", taken, counts)
            points.values[name] = value

    for position, op in enumerate(graph.ops):
        if op.nesting is not None or not in_int8(op.module):
            continue
        if op.target in _COMPUTES:
            given = bind(op)
            data, weight, axis = _COMPUTES[op.target]
            held = given[weight]
            constant = isinstance(held, Constant) and held.dtype == torch.float32 and held.tensor.numel() > 0
            # of a transposed convolution in groups no axis of the weights is that of the output channels
            if constant and not (given.get("transposed") and given["groups"] > 1):
                add(position, op, data, given[data])
                points.weights[position] = (weight, 1 if given.get("transposed") else axis)
                computed.update({v.index: uses[v.index] for v in op.outputs if v is not None})
        elif op.target in _PRODUCTS:
            given = bind(op)
            for argument in _PRODUCTS[op.target]:
                add(position, op, argument, given[argument])
        elif op.target in _ADDITIONS:
            argument = _other_branch(bind(op), computed)
            if argument:
                add(position, op, argument, bind(op)[argument])
    return points


def _other_branch(given: Mapping[str, Any], computed: Mapping[int, int]) -> str:
    """The argument of an addition to quantize: that which joins the result of a convolution; "" where there is none."""
    a, b = given["self"], given["other"]
    if not (isinstance(a, Value) and isinstance(b, Value) and a.dtype == b.dtype == torch.float32):
        return ""
    if len(a.shape) != len(b.shape):
        return ""
    if computed.get(a.index) == 1:
        return "other"
    return "self" if computed.get(b.index) == 1 else ""


def with_quantizers(graph: Graph, points: Points, largest: Mapping[str, float]) -> Graph:
    """``graph`` with fake quantization at the points, whose scale is ``largest / 127``."""
    scales = {value.index: largest[name] / LEVELS for name, value in points.values.items()}
    count = graph.next_index()
    made: dict[int, Value] = {}
    ops: list[Op] = []
    for position, op in enumerate(graph.ops):
        arguments = dict(bind(op)) if position in points.places or position in points.weights else {}
        for name in points.places.get(position, ()):
            value = arguments[name]
            if value.index not in made:
                made[value.index] = Value(count, value.shape, value.dtype)
                count += 1
                ops.append(_of_tensor(value, scales[value.index], made[value.index], op))
            arguments[name] = made[value.index]
        if position in points.weights:
            name, axis = points.weights[position]
            held = Value(count, arguments[name].shape, torch.float32)
            count += 1
            ops.append(_of_weights(arguments[name], axis, held, op))
            arguments[name] = held
        ops.append(replace(op, args=(), kwargs=arguments) if arguments else op)
    return replace(graph, ops=ops)


def _of_tensor(value: Value, scale: float, result: Value, reader: Op) -> Op:
    target = aten.fake_quantize_per_tensor_affine.default
    return Op(target, (value, scale, 0, -LEVELS - 1, LEVELS), {}, [result], reader.module, reader.source)


def _of_weights(weight: Constant, axis: int, result: Value, reader: Op) -> Op:
    """Per output channel; a channel of zeros gets the scale 1 / 127."""
    tensor = weight.tensor.detach()
    others = [d for d in range(tensor.dim()) if d != axis]
    largest = tensor.abs().amax(others).float()
    scale = torch.where(largest > 0, largest, torch.ones_like(largest)) / LEVELS
    target = aten.fake_quantize_per_channel_affine.default
    args = (weight, Constant(scale), Constant(torch.zeros_like(scale, dtype=torch.int32)), axis, -LEVELS - 1, LEVELS)
    return Op(target, args, {}, [result], reader.module, reader.source)
