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
from torch2edge.dla import Setting, plan_network
from torch2edge.dla.rewrites import rewritten
from torch2edge.graph import Constant, Graph, Op, leaves, map_tensors
from torch2edge.lower import lower, registry
from torch2edge.options import Options
from torch2edge.trace import trace

from .rows import RTOL, assert_close

EXACT = 1e-12  # relative error, in float64


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
        """The layers that a DLA of Orin or of Xavier does not take, with TensorRT's name of their type; see ``off_dla``."""
        return off_dla(self.network)


def off_dla(network: Any) -> list[str]:
    """The layers that the planner leaves on the GPU, but for reshapes to what is no image: they end the DLA's part."""
    found = []
    for at in (Setting("orin", "8.6"), Setting("xavier", "8.5")):
        plan = plan_network(network, at)
        ends = {layer.name for layer in layers(network) if len(layer.get_output(0).shape) < 4}
        found += [f"{r.name}: {r.type}" for r in plan.fallbacks if not (r.type == "SHUFFLE" and r.name in ends)]
    return found


def traced(model: nn.Module, inputs: Sequence[torch.Tensor], **options: Any) -> Graph:
    """A graph as ``convert`` has it."""
    ours = registry()
    return trace(model.eval(), list(inputs), is_leaf=ours.is_leaf, module_classes=ours.module_classes(), **options)


def proven(
    model: nn.Module, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32,
    on_dla: Callable[[str], bool] = lambda path: True, int8: bool = False, fixed: Callable[[Op], bool] = lambda op: False,
) -> Rewritten:  # fmt: skip
    """Rewrite, then hold two things against the model on fresh inputs: PyTorch's replay of the new graph, both in float64, to
    1e-12, and the network that it becomes, in the reference executor, to 1e-5 (in half to 4e-3). TensorRT builds it, too.
    """
    model = model.eval().to(dtype)
    before = traced(model, [torch.randn(shape, dtype=dtype) for shape in shapes])
    kept = [(op.target, op.args, list(op.outputs)) for op in before.ops]
    after, notes = rewritten(before, on_dla, int8=int8, fixed=fixed)
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


def layers(network: Any) -> list[Any]:
    """TensorRT's layers; a convolution as an IConvolutionLayer."""
    found = [network.get_layer(i) for i in range(network.num_layers)]
    for layer in found:
        if type_of(layer) == "CONVOLUTION":
            layer.__class__ = trt.IConvolutionLayer
    return found


def type_of(layer: Any) -> str:
    """CONVOLUTION, POOLING, ..., also where a subclass has a ``type`` of its own."""
    return str(trt.ILayer.type.__get__(layer).name)
