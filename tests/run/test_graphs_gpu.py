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
from torch2edge import ExecutionError, GraphWarning, Input, InputError
from torch2edge.run.graphs import GraphRunner

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
    return torch2edge.convert(net, drawn(), cuda_graph=True, **FAST)


def graphs_of(module: torch2edge.EdgeModule) -> GraphRunner:
    runner = module._runner(0)
    assert isinstance(runner, GraphRunner)
    assert not runner.refused
    return runner


def same(given: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for key, value in expected.items():
        assert given[key].shape == value.shape
        torch.testing.assert_close(given[key], value, rtol=1e-4, atol=1e-5)


def test_fresh_inputs_and_fresh_outputs(net: Net, engine: torch2edge.EdgeModule) -> None:
    results = []
    with torch.no_grad():
        for _ in range(6):
            inputs = drawn()
            results.append((engine(*inputs), net(*inputs)))
            del inputs
    for given, expected in results:  # none was overwritten by a later call
        same(given, expected)
    assert graphs_of(engine).graphs == 1


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


def test_threads_on_one_stream(net: Net, engine: torch2edge.EdgeModule) -> None:
    """A graph's buffers belong to one call at a time, also where the threads share the default stream."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with torch.no_grad():
                for _ in range(30):
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


def test_nothing_is_copied_in_or_out(net: Net, engine: torch2edge.EdgeModule) -> None:
    module = copy.deepcopy(engine)
    own = module.input_buffers
    assert [tuple(t.shape) for t in own] == [(2, 3, 16, 16), (1,)]
    module.outputs = "reuse"
    addresses = set()
    with torch.no_grad():
        for _ in range(3):
            for buffer, new in zip(own, drawn()):
                buffer.copy_(new)
            given = module(*own)
            same(given, net(*own))
            addresses.add(tuple(t.data_ptr() for t in given.values()))
        assert len(addresses) == 1
        module.outputs = "fresh"
        first = module(*own)
        kept = {k: v.clone() for k, v in first.items()}
        mixed = [own[0], torch.rand(1, device="cuda")]  # one of the graph's own, one that is copied
        same(module(*mixed), net(*mixed))
        same(first, kept)
    assert graphs_of(module).graphs == 1


def test_reuse_overwrites_and_out_is_written(net: Net, engine: torch2edge.EdgeModule) -> None:
    module = copy.deepcopy(engine)
    inputs = drawn()
    out = {"logits": torch.empty(2, 5, device="cuda"), "features": torch.empty(2, 8, 16, 16, device="cuda")}
    with torch.no_grad():
        given = module(*inputs, out=out)
        assert all(given[k].data_ptr() == out[k].data_ptr() for k in out)
        same(out, net(*inputs))
        module.outputs = "reuse"
        first = module(*inputs)
        module(*drawn())
        assert not torch.equal(first["logits"], out["logits"])


def test_a_graph_per_shape_and_the_oldest_goes(net: Net) -> None:
    x = Input(min=(1, 3, 8, 8), opt=(2, 3, 16, 16), max=(4, 3, 32, 32))
    module = torch2edge.convert(net, [x, drawn()[1]], **FAST).enable_cuda_graph(most=3)
    sizes = [(1, 8), (2, 16), (4, 32), (3, 9), (2, 16), (1, 8), (1, 8)]
    with torch.no_grad():
        for n, size in sizes:
            inputs = drawn(n, size)
            same(module(*inputs), net(*inputs))
    assert graphs_of(module).graphs == 3
    assert [tuple(t.shape) for t in module.buffers_for(*drawn(3, 9))] == [(3, 3, 9, 9), (1,)]
    with pytest.raises(InputError, match="axis 0"):
        module.buffers_for(*drawn(5, 9))


def test_integers_come_back_as_such() -> None:
    class Ids(nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return ids + ids

    module = torch2edge.convert(Ids().eval(), [torch.arange(6).cuda()], **FAST).enable_cuda_graph()
    for ids in (torch.tensor([5, -7, 0, 2**29, 1, -1]).cuda(), torch.arange(6).cuda()):
        assert torch.equal(module(ids), ids + ids)
        out = torch.empty_like(ids)
        assert module(ids, out=out) is out
        assert torch.equal(out, ids + ids)


def test_loops_are_refused_with_the_reason_and_run_without() -> None:
    torch.manual_seed(1)
    lstm = nn.LSTM(4, 8).eval().cuda()  # of 40 steps it is a loop
    module = torch2edge.convert(lstm, [torch.randn(40, 2, 4, device="cuda")], **FAST).enable_cuda_graph()
    x = torch.randn(40, 2, 4, device="cuda")
    with pytest.warns(GraphWarning, match=r"the host decides during the call .* TRIP_LIMIT"):
        module(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            x = torch.randn(40, 2, 4, device="cuda")
            with torch.no_grad(), torch.backends.cudnn.flags(enabled=False):  # cuDNN's takes TF32
                (given, _), (expected, _) = module(x), lstm(x)
            torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ExecutionError, match="there is no CUDA graph: the host decides"):
        _ = module.input_buffers


def test_buffers_need_a_graph(engine: torch2edge.EdgeModule) -> None:
    plain = copy.deepcopy(engine).disable_cuda_graph()
    with pytest.raises(ExecutionError, match=r"call enable_cuda_graph\(\) first"):
        _ = plain.input_buffers


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_no_call_waits_for_the_gpu(engine: torch2edge.EdgeModule) -> None:
    inputs = drawn()
    for module in (copy.deepcopy(engine).disable_cuda_graph(), copy.deepcopy(engine)):
        module(*inputs)
        torch.cuda.synchronize()
        start, end = torch.cuda.Event(), torch.cuda.Event()
        try:
            torch.cuda.set_sync_debug_mode("error")
            torch.cuda._sleep(2_000_000_000)  # a second
            start.record()
            for _ in range(5):
                module(*inputs)
            end.record()
            assert not start.query()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()


def capture(module: Any, own: list[torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, Any]:
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        given = module(*own)
    return graph, given


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")  # PyTorch's, of a capture that failed
def test_a_capture_before_the_first_call_is_refused(engine: torch2edge.EdgeModule) -> None:
    with pytest.raises(ExecutionError, match="Call the module"):
        capture(copy.deepcopy(engine).disable_cuda_graph(), drawn())
    torch.cuda.synchronize()


@pytest.mark.parametrize("graphed", [False, True])
def test_inside_of_a_graph_of_the_user(net: Net, engine: torch2edge.EdgeModule, graphed: bool) -> None:
    module = copy.deepcopy(engine) if graphed else copy.deepcopy(engine).disable_cuda_graph()
    module.warmup()
    own = drawn()
    graph, given = capture(module, own)
    module.streams(6)  # makes the module's runners anew: the graph keeps what it captured
    for _ in range(3):
        fresh = drawn()
        for mine, new in zip(own, fresh):
            mine.copy_(new)
        graph.replay()
        other = drawn()
        with torch.no_grad():
            same(module(*other), net(*other))  # while the replay may still run
            torch.cuda.synchronize()
            same(given, net(*fresh))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_twice_in_a_graph_of_the_user_with_sizes_that_vary(net: Net) -> None:
    x = Input(min=(1, 3, 8, 8), opt=(2, 3, 16, 16), max=(4, 3, 32, 32))
    module = torch2edge.convert(net, [x, drawn()[1]], **FAST)
    own, later = drawn(3, 9), drawn(3, 9)
    module(*drawn(1, 8))
    with pytest.raises(ExecutionError, match="inputs of these shapes"):
        capture(module, own)
    torch.cuda.synchronize()
    module(*own)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        first, second = module(*own), module(*later)
    for inputs in (own, later):
        for mine, new in zip(inputs, drawn(3, 9)):
            mine.copy_(new)
    graph.replay()
    torch.cuda.synchronize()
    same(first, net(*own))
    same(second, net(*later))


@torch.no_grad()
def test_own_buffers_in_other_places_and_outputs_fed_back() -> None:
    class Mix(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a.flip(0) + 10 * b

    mix, like = Mix().eval(), [torch.randn(512, device="cuda"), torch.randn(512, device="cuda")]
    for graphed in (False, True):
        module = torch2edge.convert(mix, like, cuda_graph=graphed, **FAST)
        module.outputs = "reuse"
        a, b = torch.randn(512, device="cuda"), torch.randn(512, device="cuda")
        expected = mix(mix(a, b), b)
        torch.testing.assert_close(module(module(a, b), b), expected)  # an output of the last call as an input
        expected = mix(b, mix(a, b))
        torch.testing.assert_close(module(b, module(a, b)), expected)
        if graphed:
            own = module.input_buffers
            for _ in range(2):
                for buffer, new in zip(own, (a, b)):
                    buffer.copy_(new)
                torch.testing.assert_close(module(own[1], own[0]), mix(b, a))
                own[0].copy_(a)
                torch.testing.assert_close(module(b, own[0]), mix(b, a))


@pytest.mark.parametrize("graphed", [False, True])
def test_a_thread_that_does_nothing_else(engine: torch2edge.EdgeModule, net: Net, graphed: bool) -> None:
    """It has no CUDA context yet."""
    module = copy.deepcopy(engine) if graphed else copy.deepcopy(engine).disable_cuda_graph()
    inputs, results = drawn(), []
    with torch.no_grad():
        module(*inputs), module(*inputs)
        expected = net(*inputs)
    thread = threading.Thread(target=lambda: results.append(module(*inputs)))
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    same(results[0], expected)


def test_captured_in_inference_mode_and_with_gradients(net: Net, engine: torch2edge.EdgeModule) -> None:
    module, inputs = copy.deepcopy(engine), [t.requires_grad_() for t in drawn()]
    with torch.inference_mode():
        module(*drawn())
    own = module.input_buffers
    own[0].copy_(drawn()[0])
    module(*inputs)
    given = module(own[0], inputs[1])
    assert not any(t.requires_grad for t in (*own, *given.values()))
    with torch.no_grad():
        same(given, net(own[0], inputs[1]))


def test_captures_have_a_stream_of_their_own(engine: torch2edge.EdgeModule) -> None:
    pool = {torch.cuda.Stream().cuda_stream for _ in range(64)}
    assert graphs_of(copy.deepcopy(engine))._capturing.handle not in pool
