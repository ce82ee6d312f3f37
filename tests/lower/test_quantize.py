"""Names of what is calibrated: one per value, whatever is to be INT8."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from support.calibrations import Traced
from torch import nn

from torch2edge.graph import Graph, Op, Value
from torch2edge.lower import registry
from torch2edge.lower.fold import fold_batch_norms
from torch2edge.lower.quantize import _unused, every_float, points_of

aten = torch.ops.aten


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.side = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.norm(self.conv(x)).relu() + self.side(x)).relu()


class Net(nn.Module):
    """One block that runs twice, outputs that are lists, whole numbers, products of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Block(), nn.Linear(4, 6)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        x = self.block(self.block(x)) * scale
        left, right = self.head(x.flatten(2).mT).chunk(2, -1)
        return (left @ right.mT).softmax(-1).argmax(-1) + left.sum()


def traced() -> Graph:
    return Traced(Net(), [torch.randn(2, 4, 5, 5), torch.rand(1)]).graph


def test_every_float_value_has_one_name() -> None:
    graph = traced()
    found = every_float(graph)
    floats = [v for v in [*graph.inputs, *(v for op in graph.ops for v in op.outputs)] if v and v.dtype == torch.float32]
    assert [v.index for v in found.values()] == [v.index for v in floats]
    assert list(found)[:2] == ["args[0]", "args[1]"]
    assert {"block.conv/convolution", "block.conv/convolution#2", "head/linear", "/chunk", "/chunk#2"} <= found.keys()
    assert not any("argmax" in name for name in found)
    assert every_float(traced()).keys() == found.keys()


@pytest.mark.parametrize("seed", range(6))
def test_a_point_has_the_name_of_its_value(seed: int) -> None:
    """Whatever is to be INT8, and after batch norms became part of convolutions."""
    graph = traced()
    names = {v.index: name for name, v in every_float(graph).items()}
    paths = sorted({op.module for op in graph.ops})
    chosen = {p for p in paths if torch.rand((), generator=torch.Generator().manual_seed(seed * 100 + paths.index(p))) < 0.6}
    chosen = set(paths) if seed == 0 else chosen
    ops, folded = fold_batch_norms(graph, registry())
    assert folded == ["block.norm", "block.norm"]
    changed = Graph(
        graph.inputs, ops, graph.outputs, graph.input_names, graph.output_names, graph.input_structure,
        graph.output_structure,
    )  # fmt: skip
    for given in (graph, changed):
        points = points_of(given, chosen.__contains__, names)
        assert {v.index: name for name, v in points.values.items()} == {
            v.index: names[v.index] for v in points.values.values()
        }
    if seed == 0:
        wanted = {"args[0]", "block/relu", "/transpose", "/chunk", "/transpose#2"}
        assert wanted <= points.values.keys()


def test_a_value_that_a_change_of_the_graph_made_has_a_name_of_its_own() -> None:
    graph = Traced(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), [torch.randn(2, 3)]).graph
    first, second = graph.ops
    made = Value(77, (2, 3), torch.float32)
    scaled = Op(aten.mul.Tensor, (first.outputs[0], 2.0), {}, [made], "0", "")
    second.args = (made, *second.args[1:])
    graph.ops = [first, scaled, second]
    # names of the graph as traced, with one in the way
    names = {graph.inputs[0].index: "args[0]", first.outputs[0].index: "1/linear/input"}  # type: ignore[union-attr]
    points = points_of(graph, lambda path: True, names)
    assert {name: v.index for name, v in points.values.items()} == {"args[0]": 0, "1/linear/input#2": 77}


def test_numbered_names_do_not_meet_names_that_have_numbers() -> None:
    taken: dict[str, Any] = {}
    counts = Counter[str]()
    for name in ("a#2", "a", "a", "a", "a#2", "b"):
        taken[_unused(name, taken, counts)] = None
    assert list(taken) == ["a#2", "a", "a#3", "a#4", "a#2#2", "b"]
