"""Calls as CUDA graphs."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import Any

import pytest
import torch
from support.gpu import FAST, needs_gpu
from torch import nn

import torch2edge
from torch2edge import ConfigError, GraphWarning, Input

pytestmark = [pytest.mark.gpu, needs_gpu]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.conv(x).relu() * scale
        return {"logits": self.fc(features.mean((2, 3))), "features": features}


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval().cuda()


def drawn(n: int = 2, size: int = 16) -> list[torch.Tensor]:
    return [torch.randn(n, 3, size, size, device="cuda"), torch.rand(1, device="cuda")]


@pytest.fixture(scope="module")
def engine(net: Net) -> torch2edge.EdgeModule:
    return torch2edge.convert(net, drawn(), **FAST).enable_cuda_graph()


def same(given: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for key, value in expected.items():
        assert given[key].shape == value.shape
        torch.testing.assert_close(given[key], value, rtol=1e-4, atol=1e-5)


def test_fresh_inputs_and_fresh_outputs(net: Net, engine: torch2edge.EdgeModule) -> None:
    results = []
    with torch.no_grad():
        for _ in range(4):
            inputs = drawn()
            results.append((engine(*inputs), net(*inputs)))
            del inputs
    for given, expected in results:  # none was overwritten by a later call
        same(given, expected)
    assert engine._runner.graphs == 1


def test_strided_misaligned_and_cpu_inputs(net: Net, engine: torch2edge.EdgeModule) -> None:
    scale = torch.rand(1, device="cuda")
    strided = torch.randn(2, 16, 16, 3, device="cuda").permute(0, 3, 1, 2)
    misaligned = torch.randn(2 * 3 * 16 * 16 + 1, device="cuda")[1:].view(2, 3, 16, 16)
    with torch.no_grad():
        for x in (strided, misaligned):
            same(engine(x, scale), net(x, scale))
        x = torch.randn(2, 3, 16, 16)
        same(engine(x, scale.cpu()), {k: v.cpu() for k, v in net(x.cuda(), scale).items()})


def test_streams_in_turn(net: Net, engine: torch2edge.EdgeModule) -> None:
    streams, results = [torch.cuda.Stream(), torch.cuda.Stream()], []
    for i in range(40):
        with torch.cuda.stream(streams[i % 2]), torch.no_grad():
            inputs = drawn()
            results.append((engine(*inputs), net(*inputs)))
            del inputs
    torch.cuda.synchronize()
    for given, expected in results:
        same(given, expected)


def test_threads(net: Net, engine: torch2edge.EdgeModule) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()), torch.no_grad():
                for _ in range(20):
                    inputs = drawn()
                    given, expected = engine(*inputs), net(*inputs)
                    torch.cuda.current_stream().synchronize()
                    same(given, expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def test_a_graph_per_shape_and_the_oldest_goes(net: Net) -> None:
    x = Input(min=(1, 3, 8, 8), opt=(2, 3, 16, 16), max=(4, 3, 32, 32))
    module = torch2edge.convert(net, [x, drawn()[1]], **FAST).enable_cuda_graph(most=3)
    sizes = [(1, 8), (2, 16), (4, 32), (3, 9), (2, 16), (1, 8), (1, 8)]
    with torch.no_grad():
        for n, size in sizes:
            inputs = drawn(n, size)
            same(module(*inputs), net(*inputs))
    assert module._runner.graphs == 3


def test_integers_come_back_as_such() -> None:
    class Ids(nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return ids + ids

    module = torch2edge.convert(Ids().eval(), [torch.arange(6).cuda()], **FAST).enable_cuda_graph()
    for ids in (torch.tensor([5, -7, 0, 2**29, 1, -1]).cuda(), torch.arange(6).cuda()):
        assert torch.equal(module(ids), ids + ids)


def test_what_cannot_be_captured_runs_without() -> None:
    torch.manual_seed(1)
    lstm = nn.LSTM(4, 8).eval().cuda()  # of 40 steps it is a loop
    module = torch2edge.convert(lstm, [torch.randn(40, 2, 4, device="cuda")], **FAST).enable_cuda_graph()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            x = torch.randn(40, 2, 4, device="cuda")
            with torch.no_grad():
                (given, _), (expected, _) = module(x), lstm(x)
            torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    graphs = [w for w in told if issubclass(w.category, GraphWarning)]
    assert len(graphs) == (0 if module._runner.graphs else 1)  # one warning, and no graph


def test_inside_of_a_graph_of_the_user(net: Net, engine: torch2edge.EdgeModule) -> None:
    own = drawn()
    engine(*own)
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    plain = copy.deepcopy(engine)  # a copy has no graphs of its own
    with torch.cuda.stream(stream):
        plain(*own)
    stream.synchronize()
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        given = plain(*own)
    fresh = drawn()
    for mine, new in zip(own, fresh):
        mine.copy_(new)
    graph.replay()
    torch.cuda.synchronize()
    with torch.no_grad():
        same(given, net(*fresh))


@pytest.mark.parametrize("most", [0, -1, True, 2.0])
def test_wrong_numbers_of_graphs(engine: torch2edge.EdgeModule, most: Any) -> None:
    with pytest.raises(ConfigError, match="most is the number of graphs to keep, from 1 on"):
        copy.deepcopy(engine).enable_cuda_graph(most)
