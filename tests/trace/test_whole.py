"""Submodules and functions that become one op each: what they return, what they share, what they write to."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from support.rows import Function as AsModule
from torch import nn
from torch.nn import functional as F

from torch2edge.errors import ConfigError, InplaceError
from torch2edge.graph import Function
from torch2edge.trace import trace

RELU = Function(F, "relu", F.relu)


def agree(function, *inputs, functions=(), classes=(), held=()):
    """Trace with every op as a leaf, and replay on fresh inputs."""
    model = AsModule(function, *held).eval()
    graph = trace(model, inputs, is_leaf=lambda op: True, functions=functions, module_classes=classes)
    fresh = [torch.randn_like(x) for x in inputs]
    wanted = model(*[x.clone() for x in fresh])
    given = graph.replay(fresh)
    for a, b in zip(wanted if isinstance(wanted, (tuple, list)) else [wanted], given):
        assert torch.allclose(a, b)
    return graph


def targets(graph):
    return [op.name for op in graph.ops]


def test_a_function_is_one_op_with_its_arguments():
    graph = agree(lambda x: F.relu(F.relu(x), inplace=False), torch.randn(3), functions=[RELU])
    assert targets(graph) == ["torch.nn.functional.relu"] * 2
    assert graph.ops[1].kwargs == {"inplace": False}
    assert (graph.ops[0].short_name, graph.ops[0].nesting) == ("relu", {"kind": "tensor"})
    assert graph.ops[0].source.startswith(__file__)


def test_it_is_found_under_other_names_too():
    other = types.ModuleType("whole_other")
    other.activation = F.relu
    sys.modules["whole_other"] = other
    try:
        assert targets(agree(lambda x: other.activation(x), torch.randn(3), functions=[RELU])) == [RELU.name]
        assert other.activation is F.relu
    finally:
        del sys.modules["whole_other"]


def test_constants_are_computed_for_real():
    weight = torch.randn(3)
    graph = agree(lambda x: x * F.relu(weight), torch.randn(3), functions=[RELU])
    assert targets(graph) == ["aten.mul.Tensor"]


def test_everything_is_put_back_after_an_error():
    before = F.relu

    def fails(x):
        F.relu(x)
        raise KeyError("no")

    with pytest.raises(Exception, match="no"):
        trace(AsModule(fails).eval(), [torch.randn(2)], is_leaf=lambda op: False, functions=[RELU])
    assert F.relu is before


def test_an_inherited_method_is_taken_off_again():
    method = Function(torch.Tensor, "mul", torch.Tensor.mul)
    graph = agree(lambda x: torch.mul(x.mul(2), 3), torch.randn(3), functions=[method])
    assert targets(graph) == ["Tensor.mul", "aten.mul.Tensor"]
    assert "mul" not in vars(torch.Tensor)


def test_a_builtin_class_cannot_be_changed():
    with pytest.raises(ConfigError, match="does not let it be replaced"):
        agree(lambda x: x, torch.randn(3), functions=[Function(int, "bit_length", int.bit_length)])


def test_writes_to_what_is_returned_hold():
    def function(x):
        x = x * 1
        view = x[0]
        y = F.relu(x, inplace=True)
        return x + 1, y, view

    assert RELU.name in targets(agree(function, torch.randn(2, 3), functions=[RELU]))
    relu = nn.ReLU(inplace=True)
    agree(lambda x: relu(x * 1) + 1, torch.randn(2, 3), classes=(nn.ReLU,), held=(relu,))


def test_writes_to_parts_and_to_inputs_are_refused():
    with pytest.raises(InplaceError, match="writes to a part of a tensor from outside"):
        agree(lambda x: F.relu((x * 1)[0], inplace=True), torch.randn(2, 3), functions=[RELU])
    with pytest.raises(InplaceError, match="writes to the input"):
        agree(lambda x: F.relu(x, inplace=True), torch.randn(2, 3), functions=[RELU])


def test_a_view_that_a_whole_module_returns_stays_a_view():
    flatten = nn.Flatten(0)

    def function(x):
        x = x * 2
        flat = flatten(x)
        x[0].add_(1)
        later = flat * 1
        flat.mul_(3)
        return x, flat, later

    agree(function, torch.randn(2, 3), classes=(nn.Flatten,), held=(flatten,))


class Shares(nn.Module):
    def forward(self, x):
        y = x + 1
        return y, y.view(-1)


def test_results_that_share_memory_are_not_written_to():
    shares = Shares()
    agree(lambda x: shares(x), torch.randn(2, 3), classes=(Shares,), held=(shares,))
    with pytest.raises(InplaceError, match="several results that share memory"):
        agree(lambda x: shares(x)[0].add_(1), torch.randn(2, 3), classes=(Shares,), held=(shares,))


class Named(nn.Module):
    def forward(self, x):
        return {"b": x + 1, "a": (x * 2, 3)}


def test_the_results_of_a_whole_module_may_be_nested():
    named = Named()
    graph = agree(lambda x: named(x)["b"] * named(x)["a"][0], torch.randn(3), classes=(Named,), held=(named,))
    assert [len(op.outputs) for op in graph.ops] == [2, 2, 1]
