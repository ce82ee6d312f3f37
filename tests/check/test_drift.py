"""Which module drifts: the first one that the network computes otherwise than PyTorch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from torch2edge._trt import trt
from torch2edge.build import BuildSession
from torch2edge.check.drift import first_drift
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.lower import lower, registry
from torch2edge.options import Options
from torch2edge.trace import trace

aten = torch.ops.aten


def plus_one(net: Any, self: Any) -> Any:
    """relu(x + 1)"""
    one = net.tensor(torch.ones((1,) * self.ndim, dtype=self.dtype))
    raised = net.result(net.layer(net.raw.add_elementwise(self.raw, one.raw, trt.ElementWiseOperation.SUM)), self.dtype)
    return net.activation(raised, "RELU")


def where(model: nn.Module, converters: dict[Any, Any] | None, other: nn.Module | None, *inputs: torch.Tensor) -> str:
    """first_drift of ``model`` lowered with ``converters``, expecting what ``other`` gives."""
    converting = registry().extended(converters)
    graph = trace(model, inputs, is_leaf=converting.is_leaf)
    session = BuildSession(Options())
    lowered = lower(graph, session.network, converting)
    fresh = [torch.randn_like(t) if t.is_floating_point() else t for t in inputs]
    with torch.no_grad():
        expected = (other or model)(*fresh)
    expected = list(expected) if isinstance(expected, (tuple, list)) else [expected]
    executor = ReferenceExecutor(session.network, trt)
    return first_drift(graph, executor, lowered.input_names, lowered.tensor_names, fresh, expected, 1e-4)


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4)), nn.ReLU()).eval()


def test_the_first_module_is_named(model: nn.Sequential) -> None:
    message = where(model, {aten.relu.default: plus_one}, None, torch.randn(3, 4))
    assert message.startswith("the first to drift is aten.relu.default in 1.0, ")
    assert "max abs error 1" in message
    assert "relative L2 error" in message


def test_nothing_drifts(model: nn.Sequential) -> None:
    assert "the network gives PyTorch's values in every module" in where(model, None, None, torch.randn(3, 4))


def test_a_tracing_that_missed_something_is_told_apart(model: nn.Sequential) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.add_(1)
    assert "tracing missed something" in where(model, None, other, torch.randn(3, 4))
    # also where the network is wrong too: the tracing comes first
    assert "tracing missed something" in where(model, {aten.relu.default: plus_one}, other, torch.randn(3, 4))


def test_a_wrong_result_that_is_only_one_of_several_outputs() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, unused: torch.Tensor) -> Any:
            return x + 1, torch.relu(x)

    message = where(Two().eval(), {aten.relu.default: plus_one}, None, torch.randn(3, 4), torch.ones(2, dtype=torch.int64))
    assert message.startswith("the first to drift is aten.relu.default in the model itself, ")
    assert "test_drift.py:" in message
