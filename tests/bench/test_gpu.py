"""benchmark() where there is a GPU: events, transfers, streams, threads, CUDA graphs, engines."""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu import FAST, needs_gpu
from torch import nn

import torch2edge
from torch2edge import ConfigError, InputError, benchmark
from torch2edge.bench import Settings, contender_of, time_cuda
from torch2edge.bench.lanes import DeviceLane

pytestmark = [pytest.mark.gpu, needs_gpu]

ROOT = Path(__file__).parent.parent.parent
SHORT: dict[str, Any] = {"iterations": 20, "duration": 0, "warmup": 20}


class Product(nn.Module):
    """A call that takes the GPU milliseconds and the host microseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()
        self.weight = nn.Parameter(torch.randn(6000, 6000))
        self.seen: list[int] = []  # appended to, for that is safe from several threads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        return (x @ self.weight)[:8]


def chain(length: int = 40) -> nn.Module:
    """A call that takes the host longer than the GPU."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(16, 16) for _ in range(length))).eval().cuda()


class Timed(Product):
    """A product with events of its own around it, in each call: other work on the GPU is in their time and the benchmark's."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        result = super().forward(x)
        end.record()
        self.events.append((start, end))
        return result

    def last(self, count: int) -> list[float]:
        """The milliseconds of the last calls."""
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in self.events[-count:]]


@pytest.fixture(scope="module")
def product() -> Product:
    return Product().cuda()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()).eval()


@pytest.fixture(scope="module")
def engine(model: nn.Module) -> torch2edge.EdgeModule:
    return torch2edge.convert(model, [torch.randn(2, 3, 64, 64)], **FAST)


def test_every_figure_of_an_engine(engine: torch2edge.EdgeModule) -> None:
    result = benchmark(engine, [torch.randn(2, 3, 64, 64)], **SHORT)
    assert list(result.figures) == ["latency", "enqueue", "h2d", "compute", "d2h"]
    assert (result.clock, result.device) == ("CUDA events", torch.cuda.get_device_name())
    assert result.queries == len(result.times) == 20
    for query in result.times:
        assert query.enqueue is not None
        assert query.h2d is not None
        assert query.compute is not None
        assert query.d2h is not None
        assert query.latency == pytest.approx(query.h2d + query.compute + query.d2h)
        assert min(query.enqueue, query.h2d, query.compute, query.d2h) > 0
    assert 0 < result.total_compute <= result.walltime * 1.01
    assert result.name == "Sequential, engine"
    assert "GPU compute time" in str(result)


def test_the_compute_time_is_that_of_events_in_the_call() -> None:
    """Call by call, so that both see the same load of the GPU."""
    timed = Timed().cuda()
    x = torch.randn(6000, 6000, device="cuda")
    result = benchmark(timed, [x], iterations=50, duration=0.5, warmup=200, data_transfers=False)
    inside = timed.last(result.queries)
    compute = [query.compute for query in result.times if query.compute is not None]
    assert len(compute) == len(inside) == result.queries >= 50
    ratios = [outer / inner for outer, inner in zip(compute, inside)]
    assert min(ratios) > 0.999, "the call's events lie between the benchmark's"
    assert statistics.median(ratios) < 1.05
    assert result.figures["enqueue"].median < result.figures["compute"].median / 2
    assert result.total_compute <= 1.01 * result.walltime, "calls on one stream do not overlap"
    assert result.figures["latency"] == result.figures["compute"]
    with torch.no_grad():
        timing = time_cuda(lambda: timed(x), warmup=3, calls=20)
    ratios = [outer / inner for outer, inner in zip(timing.milliseconds, timed.last(20), strict=True)]
    assert min(ratios) > 0.999
    assert statistics.median(ratios) < 1.05


def test_calls_follow_each_other_without_gaps(product: Product) -> None:
    """The best of several runs: a GPU that works for others too lies between the calls as well."""
    x = torch.randn(6000, 6000, device="cuda")
    runs = [benchmark(product, [x], iterations=20, duration=0, warmup=20, data_transfers=False) for _ in range(5)]
    gaps = [run.walltime / run.queries * 1e3 / run.figures["compute"].mean for run in runs]
    assert min(gaps) == pytest.approx(1, rel=0.3)


def test_transfers_take_what_they_carry(product: Product) -> None:
    result = benchmark(product, [torch.randn(6000, 6000)], **SHORT)
    assert result.figures["h2d"].min > 5 * result.figures["d2h"].min, "144 MB in, 192 kB out; the fastest, for others copy too"
    assert result.figures["h2d"].median > 1.0, "no bus carries 144 MB in a millisecond"
    without = benchmark(product, [torch.randn(6000, 6000)], **SHORT, data_transfers=False)
    assert list(without.figures) == ["latency", "enqueue", "compute"]
    assert "no data transfers" in str(without)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_what_is_timed_is_the_modules_own_result(model: nn.Module, cuda_graph: bool) -> None:
    """The host's copy of the outputs, of each of the two calls in flight on each stream."""
    here, x = copy.deepcopy(model).cuda(), torch.randn(2, 3, 64, 64)
    settings = Settings(streams=2, cuda_graph=cuda_graph)
    contender = contender_of("it", here, [x], {}, torch.device("cuda", 0), settings, capture=cuda_graph)
    assert len(contender.run(5, 0).queries) == 10
    with torch.no_grad():
        expected = here(x.cuda()).cpu()
    for lane in contender._lanes:
        assert isinstance(lane, DeviceLane)
        for slot in lane._slots:
            (fetched,) = slot.fetched
            assert fetched.is_pinned()
            torch.testing.assert_close(fetched, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("threads", [False, True])
def test_streams_each_have_their_calls(product: Product, threads: bool) -> None:
    product.seen.clear()
    result = benchmark(product, [torch.randn(64, 6000)], iterations=12, duration=0, warmup=0, streams=3, threads=threads)
    assert result.queries == 36
    assert len(product.seen) == 1 + 3 + 36, "one call tries the inputs, one on each stream is the warm-up"
    assert any("3 streams" in line for line in result.warnings)


@pytest.mark.parametrize("threads", [False, True])
def test_streams_of_an_engine(engine: torch2edge.EdgeModule, model: nn.Module, threads: bool) -> None:
    result = benchmark(engine, [torch.randn(2, 3, 64, 64)], **SHORT, streams=2, threads=threads, spin_wait=True)
    assert result.queries == 40
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(engine(x), model(x), rtol=1e-3, atol=1e-4)


def test_the_current_stream_is_put_back() -> None:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        benchmark(chain(2), [torch.randn(1, 16)], **SHORT)
        assert torch.cuda.current_stream() == side
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_what_the_host_bounds_is_said_and_a_cuda_graph_helps() -> None:
    """In rounds, of which the best counts: other work on the GPU can hide what the host takes."""
    module, x = chain(), torch.randn(1, 16, device="cuda")
    short: dict[str, Any] = {"iterations": 100, "duration": 0, "warmup": 20, "data_transfers": False}
    rounds = [(benchmark(module, [x], **short), benchmark(module, [x], **short, cuda_graph=True)) for _ in range(7)]
    assert any("bound by the enqueue time" in line for eager, _ in rounds for line in eager.warnings)
    assert all(graph.name == "Sequential, PyTorch CUDA graph" for _, graph in rounds)
    assert min(g.figures["enqueue"].median for _, g in rounds) < min(e.figures["enqueue"].median for e, _ in rounds) / 3
    assert max(graph.throughput for _, graph in rounds) > max(eager.throughput for eager, _ in rounds)


def test_a_cuda_graph_of_an_engine(engine: torch2edge.EdgeModule) -> None:
    inputs = [torch.randn(2, 3, 64, 64)]
    if not hasattr(engine, "enable_cuda_graph"):
        with pytest.raises(ConfigError, match="no enable_cuda_graph"):
            benchmark(engine, inputs, cuda_graph=True)
        return
    result = benchmark(engine, inputs, **SHORT, cuda_graph=True)
    assert result.queries == 20
    assert result.name == "Sequential, engine, CUDA graph"
    assert benchmark(engine, inputs, **SHORT).name == "Sequential, engine", "the graphs were left on"


def test_a_module_that_cannot_be_captured_is_refused() -> None:
    """In a process of its own: a capture that fails leaves CUDA's state to the process."""
    code = """
        import torch, torch2edge
        class Waits(torch.nn.Module):
            def forward(self, x):
                return x * x.sum().item()
        try:
            torch2edge.benchmark(Waits().eval(), [torch.randn(3, device="cuda")], cuda_graph=True, duration=0)
        except torch2edge.ConfigError as error:
            print(error)
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert "Waits, PyTorch CUDA graph cannot be captured as a CUDA graph" in result.stdout, result.stdout + result.stderr


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch itself, when its compiler is imported
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
def test_compared_with_pytorch_in_the_same_run(engine: torch2edge.EdgeModule, model: nn.Module) -> None:
    assert next(model.parameters()).device.type == "cpu"
    result = benchmark(engine, [torch.randn(2, 3, 64, 64)], iterations=50, duration=0, warmup=20, compare=model)
    rivals = {rival.name: rival for rival in result.rivals}
    assert list(rivals) == ["PyTorch float32, eager", "PyTorch float32, torch.compile", "PyTorch float32, CUDA graph"]
    for name in ("PyTorch float32, eager", "PyTorch float32, CUDA graph"):
        assert not rivals[name].why_not, rivals[name]
        assert 0 < rivals[name].lowest <= rivals[name].ratio <= rivals[name].highest
        assert set(rivals[name].figures) == {"latency", "enqueue", "h2d", "compute", "d2h"}
    compiled = rivals["PyTorch float32, torch.compile"]
    assert compiled.why_not or compiled.ratio > 0  # it needs a compiler, which may not be there
    assert next(model.parameters()).device.type == "cpu", "the model was moved"


def test_layers_and_monitor_come_with_the_result(engine: torch2edge.EdgeModule) -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed (extra monitor)")
    result = benchmark(engine, [torch.randn(2, 3, 64, 64)], duration=0.5, layers=True, monitor=True)
    assert result.layers is not None
    assert result.monitor is not None
    assert {"0", "2"} <= {path for row in result.layers.layers for path in row.modules}
    assert result.monitor.samples >= 1
    assert torch2edge.Benchmark.from_dict(result.to_dict()).layers == result.layers


def test_inputs_of_another_shape(engine: torch2edge.EdgeModule) -> None:
    with pytest.raises(InputError, match="was built for"):
        benchmark(engine, [torch.randn(3, 3, 64, 64)])
    with pytest.raises(InputError, match="the module fails on these inputs"):
        benchmark(chain(2), [torch.randn(1, 17)])


def test_an_engine_inside_of_a_module(engine: torch2edge.EdgeModule) -> None:
    outer = nn.Sequential(engine, nn.ReLU()).eval()
    with pytest.raises(ConfigError, match="parts of it are on the CPU"):
        benchmark(nn.Sequential(engine, nn.Conv2d(16, 4, 1)).eval(), [torch.randn(2, 3, 64, 64)])
    assert benchmark(outer, [torch.randn(2, 3, 64, 64)], **SHORT).clock == "CUDA events"
    with pytest.raises(ConfigError, match="engines inside"):
        benchmark(outer, [torch.randn(2, 3, 64, 64)], cuda_graph=True)
