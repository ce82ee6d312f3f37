"""How a module runs: what needs no GPU to be said or refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import torch2edge
from torch2edge import ConfigError, EdgeModule, ExecutionError, InputError
from torch2edge._trt import why_not_executable

pytestmark = [
    pytest.mark.skipif(not why_not_executable(), reason="here TensorRT executes: tests/run/test_runtime_gpu.py has its tests"),
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
]


class Net(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": x + 1, "max": x.amax(1)}


class WithOut(nn.Module):
    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return x - out


@pytest.fixture(scope="module")
def module() -> EdgeModule:
    return torch2edge.convert(Net().eval(), [torch.randn(2, 3)])


def test_out_is_written_and_returned(module: EdgeModule) -> None:
    x, out = torch.randn(2, 3), {"sum": torch.empty(2, 3), "max": torch.empty(2)}
    given = module(x, out=out)
    assert given["sum"] is out["sum"]
    torch.testing.assert_close(out, Net()(x))
    for wrong, told in [
        (torch.empty(2, 3), r"out= is tensor, but the module gives \{'sum': tensor, 'max': tensor\}"),
        ({"sum": torch.empty(1, 3), "max": torch.empty(2)}, r"out\[0\] is torch.float32 \(1, 3\) on cpu"),
        ({"sum": torch.empty(2, 3), "max": torch.empty(2).double()}, r"out\[1\] is torch.float64"),
        ({"sum": x, "max": torch.empty(2)}, "share their memory"),
    ]:
        with pytest.raises(InputError, match=told):
            module(x, out=wrong)


def test_a_models_own_parameter_out_stays_its_own() -> None:
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    module = torch2edge.convert(WithOut().eval(), [x, y])
    torch.testing.assert_close(module(x, out=y), x - y)


def test_inputs_are_cast_on_request_only(module: EdgeModule) -> None:
    other = copy.deepcopy(module)
    x = torch.randn(2, 3, dtype=torch.float64)
    with pytest.raises(InputError, match=r"set cast_inputs = True"):
        other(x)
    other.cast_inputs = True
    torch.testing.assert_close(other(x)["sum"], x.float() + 1)
    assert copy.deepcopy(other).cast_inputs
    assert not module.cast_inputs


@pytest.mark.parametrize("mode", ["new", None, True])
def test_unknown_output_modes(module: EdgeModule, mode: Any) -> None:
    with pytest.raises(ConfigError, match="must be 'fresh' or 'reuse'"):
        module.outputs = mode
    assert module.outputs == "fresh"


@pytest.mark.parametrize("number", [0, -1, True, 2.0, "4"])
def test_wrong_numbers(module: EdgeModule, number: Any) -> None:
    with pytest.raises(ConfigError, match="most is the number of graphs to keep, from 1 on"):
        module.enable_cuda_graph(number)
    with pytest.raises(ConfigError, match="n is the number of streams, from 1 on"):
        module.streams(number)


def test_what_needs_a_gpu_says_so(module: EdgeModule) -> None:
    with pytest.raises(ExecutionError, match="no NVIDIA GPU"):
        module.warmup()
    with pytest.raises(ExecutionError, match="no NVIDIA GPU"):
        _ = module.input_buffers
    with pytest.raises(ExecutionError, match="no NVIDIA GPU"):
        module.streams(2)([torch.randn(2, 3)])


def test_memory_is_shared_by_edge_modules(module: EdgeModule) -> None:
    other = copy.deepcopy(module)
    assert copy.deepcopy(module).share_memory_with(other)._memory is other._memory is not None
    with pytest.raises(ConfigError, match="takes EdgeModules, but is given a Linear"):
        module.share_memory_with(nn.Linear(2, 2))  # type: ignore[arg-type]


def test_graphs_where_nothing_executes_change_nothing() -> None:
    x = torch.randn(2, 3)
    graphed = torch2edge.convert(Net().eval(), [x], cuda_graph=True)
    torch.testing.assert_close(graphed(x), Net()(x))


def test_loops_are_known_before_a_graph_is_tried() -> None:
    looped = torch2edge.convert(nn.LSTM(4, 8).eval(), [torch.randn(40, 2, 4)], verify=False)
    assert "TRIP_LIMIT" in looped.metadata["host_decides"]
    unrolled = torch2edge.convert(nn.LSTM(4, 8).eval(), [torch.randn(4, 2, 4)], verify=False)
    assert unrolled.metadata["host_decides"] == ""


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # which is deprecated
def test_a_trace_that_would_hold_constants_is_refused(module: EdgeModule) -> None:
    with pytest.raises(InputError, match="its outputs would become constants"):
        torch.jit.trace(lambda x: module(x)["sum"], (torch.randn(2, 3),))
