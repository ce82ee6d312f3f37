"""A model rewritten for the DLA: proven, and read back from TensorRT's network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from torch2edge._trt import trt
from torch2edge.build import BuildSession
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.dla.rewrites import rewritten
from torch2edge.graph import Constant, Graph, Op, leaves, map_tensors
from torch2edge.lower import lower, registry
from torch2edge.options import Options
from torch2edge.trace import trace

from .rows import RTOL, assert_close

ACTIVATIONS = ("RELU", "SIGMOID", "TANH", "CLIP", "LEAKY_RELU")
EXACT = 1e-12  # relative error, in float64
WITHOUT_OPTIONS = ("SCALE", "CONSTANT", "CONCATENATION")


@dataclass
class Rewritten:
    """What became of a model."""

    before: Graph
    after: Graph
    notes: list[str]
    network: Any

    def ops(self) -> list[str]:
        """The short names of the ops."""
        return [op.short_name for op in self.after.ops]

    def refused(self) -> list[str]:
        """The layers that no DLA takes, with TensorRT's name of their type, by the rules of this file."""
        return [f"{layer.name}: {type_of(layer)}" for layer in layers(self.network) if not taken(layer)]


def traced(model: nn.Module, inputs: Sequence[torch.Tensor], **options: Any) -> Graph:
    """A graph as ``convert`` has it."""
    ours = registry()
    return trace(model.eval(), list(inputs), is_leaf=ours.is_leaf, module_classes=ours.module_classes(), **options)


def proven(
    model: nn.Module, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32,
    on_dla: Callable[[str], bool] = lambda path: True, fixed: Callable[[Op], bool] = lambda op: False,
) -> Rewritten:  # fmt: skip
    """Rewrite, then hold two things against the model on fresh inputs: PyTorch's replay of the new graph, both in float64, to
    1e-12, and the network that it becomes, in the reference executor, to 1e-5 (in half to 4e-3). TensorRT builds it, too.
    """
    model = model.eval().to(dtype)
    before = traced(model, [torch.randn(shape, dtype=dtype) for shape in shapes])
    kept = [(op.target, op.args, list(op.outputs)) for op in before.ops]
    after, notes = rewritten(before, on_dla, fixed=fixed)
    assert kept == [(op.target, op.args, list(op.outputs)) for op in before.ops], "the traced graph has changed"
    _check_values(before, after)
    inputs = [torch.randn(shape, dtype=dtype) for shape in shapes]
    with torch.no_grad():
        expected = model(*inputs)
    expected = leaves(expected)
    _check_exact(model, after, [x.double() for x in inputs])
    session = BuildSession(Options())
    lowered = lower(after, session.network, registry())
    assert len(session.build()) > 0
    given = ReferenceExecutor(session.network, trt).run(dict(zip(lowered.input_names, inputs)))
    for name, wanted in zip(lowered.output_names, expected, strict=True):
        assert_close(given[name], wanted, RTOL[dtype])
    return Rewritten(before, after, notes, session.network)


def _check_exact(model: nn.Module, graph: Graph, inputs: list[torch.Tensor]) -> None:
    """PyTorch's sums are too coarse in float32 to show more than five digits of a mean that is nearly 0."""

    def wide(tensor: Any) -> Any:
        return Constant(tensor.tensor.double()) if isinstance(tensor, Constant) else tensor

    ops = [replace(op, args=map_tensors(op.args, wide), kwargs=map_tensors(op.kwargs, wide)) for op in graph.ops]
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(*inputs)
    for given, wanted in zip(replace(graph, ops=ops).replay(inputs), leaves(expected), strict=True):
        assert_close(given, wanted, EXACT)


def _check_values(before: Graph, after: Graph) -> None:
    """Inputs and outputs stay, no index is used twice, and every value is made before it is read."""
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    old = {v.index: v for op in before.ops for v in op.outputs if v is not None} | {v.index: v for v in before.inputs}
    made = {v.index: v for v in after.inputs}
    for op in after.ops:
        assert all(made.get(v.index) is v for v in op.inputs()), f"{op.name} reads what nothing made"
        for value in op.outputs:
            if value is not None:
                assert value.index not in made
                assert old.get(value.index, value) is value
                made[value.index] = value


CLASSES = {
    "ACTIVATION": "IActivationLayer", "CONVOLUTION": "IConvolutionLayer", "DECONVOLUTION": "IDeconvolutionLayer",
    "POOLING": "IPoolingLayer", "ELEMENTWISE": "IElementWiseLayer",
}  # fmt: skip


def layers(network: Any) -> list[Any]:
    """TensorRT's layers, of their own classes."""
    found = [network.get_layer(i) for i in range(network.num_layers)]
    for layer in found:
        layer.__class__ = getattr(trt, CLASSES.get(type_of(layer), "ILayer"))
    return found


def type_of(layer: Any) -> str:
    """CONVOLUTION, POOLING, ..., also where a subclass has a ``type`` of its own."""
    return str(trt.ILayer.type.__get__(layer).name)


def taken(layer: Any) -> bool:
    """Whether a DLA takes a layer, by facts.md 3.2; a reshape to no image counts as taken, for it ends the DLA's part."""
    kind, image = type_of(layer), len(layer.get_output(0).shape) == 4
    if kind == "SHUFFLE":
        return len(layer.get_output(0).shape) < 4
    if not image:
        return False
    if kind == "ACTIVATION":
        clip = layer.type.name != "CLIP" or (layer.alpha == 0 and 1 <= layer.beta <= 127)
        return clip and layer.type.name in ACTIVATIONS
    if kind == "CONVOLUTION":
        return _convolution(layer)
    if kind == "DECONVOLUTION":
        steps = [*layer.kernel_size_nd, *layer.stride_nd, layer.num_output_maps]
        return max(steps) <= 8192 and not any(layer.padding_nd) and layer.num_groups == 1 and max(steps[:4]) <= 22
    if kind == "POOLING":
        return max(layer.window_size_nd) <= 8 and max(layer.pre_padding) <= 7 and max(layer.stride_nd) <= 16
    return kind in WITHOUT_OPTIONS or (kind == "ELEMENTWISE" and layer.op.name in ("SUM", "SUB", "PROD", "MAX", "MIN"))


def _convolution(layer: Any) -> bool:
    kernel, padding = list(layer.kernel_size_nd), [max(p) for p in zip(layer.pre_padding, layer.post_padding)]
    return (
        max(kernel) <= 32 and all(p < k and p <= 31 for p, k in zip(padding, kernel))
        and max(layer.stride_nd) <= 8 and max(layer.dilation_nd) <= 32 and layer.num_output_maps <= 8192
    )  # fmt: skip
