"""benchmark(): real times of small modules on the CPU, its result, and what it refuses. The GPU's part is in test_gpu.py."""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torch2edge
from torch2edge import Benchmark, ConfigError, ExecutionError, InputError, TrainingModeError, benchmark
from torch2edge.bench import Contender, Run
from torch2edge.bench.lanes import HostLane, Query
from torch2edge.bench.rounds import in_rounds, joined, ratios

SHORT: dict[str, Any] = {"duration": 0.05, "warmup": 10}


class Sleeps(nn.Module):
    """A call takes the given milliseconds, in turn; counts its calls."""

    def __init__(self, *milliseconds: float) -> None:
        super().__init__()
        self.eval()
        self.milliseconds, self.calls = milliseconds, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.milliseconds[self.calls % len(self.milliseconds)] / 1e3)
        self.calls += 1
        return x + 1


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()


X = torch.randn(1, 3, 8, 8)


def test_a_module_on_the_cpu_is_timed_by_the_host():
    result = benchmark(Sleeps(5.0), [torch.randn(2, 3)], duration=0.2, warmup=0)
    latency = result.figures["latency"]
    assert set(result.figures) == {"latency"}
    assert 5.0 <= latency.min <= latency.median <= latency.p90 <= latency.p95 <= latency.p99 <= latency.max
    assert 10 <= result.queries <= 40
    assert result.walltime >= 0.2
    assert result.throughput == result.queries / result.walltime
    assert result.throughput <= 200
    assert len(result.times) == result.queries
    assert (result.device, result.clock, result.total_compute) == ("the CPU", "the host's clock", 0.0)
    assert result.inputs == ["2x3 float32"]


@pytest.mark.parametrize(("iterations", "duration", "at_least"), [(25, 0, 25), (1, 0.2, 5), (1, 0, 1)])
def test_iterations_and_duration_are_both_reached(iterations, duration, at_least):
    module = Sleeps(1.0)
    result = benchmark(module, X, iterations=iterations, duration=duration, warmup=0)
    assert result.queries >= at_least if duration else result.queries == iterations
    assert result.walltime >= duration
    assert module.calls == result.queries + result.warmup.calls + 1, "one call tries the inputs"


def test_a_warm_up_of_a_fixed_length():
    result = benchmark(Sleeps(1.0), X, warmup=50, duration=0)
    assert result.warmup.stable is None
    assert 0.05 <= result.warmup.seconds < 1
    assert benchmark(Sleeps(1.0), X, warmup=0, duration=0).warmup.calls == 1


class Steps(Sleeps):
    """Its first calls take longer: caches that fill, clocks that rise."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(max(0.020 - 0.002 * self.calls, 0.005))
        self.calls += 1
        return x


def test_a_warm_up_lasts_until_it_is_stable(monkeypatch):
    monkeypatch.setattr("torch2edge.bench.contender.WITHIN", 0.1)  # for machines that others use
    module = Steps()
    result = benchmark(module, X, iterations=5, duration=0)
    assert result.warmup.stable, result.warmup
    assert result.warmup.calls >= 20, "the first eight calls each take longer than the next, in windows of three"
    assert result.figures["latency"].median < 10


def test_one_that_is_never_stable_is_given_up(monkeypatch):
    monkeypatch.setattr("torch2edge.bench.contender.LIMIT", 0.6)
    calls = iter(range(10**6))

    def work() -> None:
        time.sleep(0.004 * 1.3 ** (next(calls) // 4 % 8))

    warm = Contender("rising and falling", [HostLane(work)]).warm_up(None)
    assert warm.stable is False
    assert 0.6 <= warm.seconds < 2


def test_the_result_prints_and_travels_as_json(tmp_path):
    result = benchmark(small(), [X], **SHORT)
    again = Benchmark.from_dict(json.loads(json.dumps(result.to_dict(times=True))))
    assert again == result
    assert "times" not in result.to_dict()
    assert result.to_dict()["throughput"] == result.throughput
    result.save(tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    text = str(result)
    for part in ("Sequential, PyTorch eager on the CPU", "torch 2", "1x3x8x8 float32", "the host's clock", "throughput",
                 "median", "p99", "cv %", "of a fixed length"):  # fmt: skip
        assert part in text
    assert "compute" not in text
    with pytest.raises(InputError, match=r"no result of torch2edge\.benchmark"):
        Benchmark.from_dict({"name": "x"})


def test_keyword_and_nested_inputs():
    class Nested(nn.Module):
        def forward(self, pair: tuple[torch.Tensor, torch.Tensor], *, scale: torch.Tensor, power: int) -> torch.Tensor:
            return (pair[0] + pair[1]) * scale**power

    result = benchmark(Nested().eval(), [(X, X)], {"scale": torch.tensor(2.0), "power": 2}, **SHORT)
    assert result.inputs == ["1x3x8x8 float32", "1x3x8x8 float32", "scalar float32"]


def test_no_gradients_are_recorded_and_the_module_is_left_as_it_was():
    model, seen = small(), []
    model.register_forward_hook(lambda _m, _i, output: seen.append(output.requires_grad))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    benchmark(model, [X], **SHORT)
    assert seen
    assert not any(seen)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_garbage_collector_leaves_the_heap_alone_meanwhile():
    counts: list[int] = []
    module = small()
    module.register_forward_hook(lambda _m, _i, _o: counts.append(gc.get_freeze_count()))
    benchmark(module, [X], **SHORT)
    assert counts[-1] > 0
    assert gc.get_freeze_count() == 0


# ---- rounds -------------------------------------------------------------------------------------------------------------


def test_contenders_take_turns():
    order: list[str] = []
    contenders = [Contender(name, [HostLane(lambda name=name: order.append(name))]) for name in ("a", "b")]  # type: ignore[misc]
    runs, failed = in_rounds(contenders, 3, 6, 0)
    assert order == list("aabb" * 3)
    assert [len(joined(mine).queries) for mine in runs] == [6, 6]
    assert failed == ["", ""]


def test_a_ratio_for_each_round():
    def run(*latencies: float) -> Run:
        return Run([Query(t) for t in latencies], 1.0)

    assert ratios([run(2, 4, 9), run(3)], [run(1, 2, 3), run(6)]) == [2.0, 0.5]


def test_a_rival_that_fails_leaves_the_others_alone():
    def fails() -> None:
        raise RuntimeError("out of memory")

    def works() -> None:
        pass

    lanes = [[HostLane(works)], [HostLane(fails)], [HostLane(works)]]
    runs, failed = in_rounds([Contender(str(i), lane) for i, lane in enumerate(lanes)], 2, 4, 0)
    assert "out of memory" in failed[1]
    assert len(joined(runs[0]).queries) == len(joined(runs[2]).queries) == 4
    with pytest.raises(RuntimeError, match="out of memory"):
        in_rounds([Contender("first", lanes[1])], 1, 1, 0)


def test_compared_with_the_model_in_its_other_forms(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: model)  # the real one takes half a minute of a C++ compiler
    result = benchmark(Sleeps(10.0), X, iterations=20, duration=0, warmup=0, compare=Sleeps(20.0))
    assert [rival.name for rival in result.rivals] == ["PyTorch float32, eager", "PyTorch float32, torch.compile"]
    assert result.rounds == 10
    for rival in result.rivals:
        assert 1.5 < rival.ratio < 2.5
        assert rival.lowest <= rival.ratio <= rival.highest
    assert Benchmark.from_dict(json.loads(json.dumps(result.to_dict()))).rivals == result.rivals
    text = str(result)
    assert "compared in 10 rounds" in text
    assert "PyTorch float32, eager" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # inductor's own
def test_compared_with_the_really_compiled_model():
    model = small()
    (compiled,) = benchmark(model, [X], **SHORT, compare=model).rivals
    assert compiled.why_not == ""
    assert compiled.lowest > 0


def test_a_form_that_does_not_run_is_told_with_its_reason(monkeypatch):
    def no_compiler(model: nn.Module) -> Any:
        class Broken(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                raise RuntimeError("no working C++ compiler\nand a long trace")

        return Broken()

    monkeypatch.setattr(torch, "compile", no_compiler)
    model = small()
    result = benchmark(model, X, **SHORT, compare=model)
    assert [rival.name for rival in result.rivals] == ["PyTorch float32, torch.compile"], "eager is what is measured"
    assert result.rivals[0].why_not == "RuntimeError: no working C++ compiler"
    assert "torch.compile: not measured: RuntimeError: no working C++ compiler" in str(result)


# ---- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "words"), [
    ({"iterations": 0}, "iterations is 0; it must be a whole number from 1 on"),
    ({"iterations": 2.5}, "iterations is 2.5"),
    ({"iterations": True}, "iterations is True"),
    ({"streams": 0}, "streams is 0; it must be a whole number from 1 on"),
    ({"streams": -1}, "streams is -1"),
    ({"duration": -1}, "duration is -1; it must be a number of seconds, 0 or more"),
    ({"duration": float("nan")}, "duration is nan"),
    ({"duration": float("inf")}, "duration is inf"),
    ({"duration": "3"}, "duration is '3'"),
    ({"warmup": -1}, "warmup is -1"),
    ({"warmup": True}, "warmup is True"),
    ({"threads": 2}, "threads is 2; it must be True or False"),
    ({"cuda_graph": None}, "cuda_graph is None"),
    ({"streams": 2}, "streams: the module is on the CPU, where there are no CUDA streams"),
    ({"cuda_graph": True, "spin_wait": True}, "spin_wait, cuda_graph: the module is on the CPU"),
    ({"layers": True}, "only an EdgeModule has layers"),
    ({"compare": "resnet18"}, "compare is a str; it must be an nn.Module"),
])  # fmt: skip
def test_options_that_are_refused(options, words):
    with pytest.raises(ConfigError) as error:
        benchmark(small(), [X], **options)
    assert words in str(error.value)


def test_an_option_that_does_not_exist():
    with pytest.raises(TypeError, match="iteration"):
        benchmark(small(), [X], iteration=5)  # type: ignore[call-arg]


@pytest.mark.parametrize("inputs", [[torch.randn(1, 4, 8, 8)], [], [X, X], [torch.randn(1, 3, 8, 8, dtype=torch.float64)]])
def test_inputs_that_the_module_does_not_take(inputs):
    with pytest.raises(InputError, match="the module fails on these inputs"):
        benchmark(small(), inputs)
    with pytest.raises(InputError, match="must be a list of the positional inputs"):
        benchmark(small(), {"x": X})  # type: ignore[arg-type]


def test_training_mode():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout())
    with pytest.raises(TrainingModeError, match=r"3 modules of module \(the module itself, 0, 1\) are in training mode"):
        benchmark(model, [X])
    with pytest.raises(TrainingModeError, match="modules of compare"):
        benchmark(small(), [X], compare=model)


@pytest.mark.parametrize("module", [None, "resnet18.engine", lambda x: x, Path("x")])
def test_what_is_no_module(module):
    with pytest.raises(ConfigError, match=r"it must be an nn\.Module"):
        benchmark(module, [X])


def test_an_empty_engine():
    with pytest.raises(ExecutionError, match="the EdgeModule is empty"):
        benchmark(torch2edge.EdgeModule(), [X])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs it")
def test_an_engine_without_a_gpu_is_refused():
    module = torch2edge.convert(nn.Linear(3, 2).eval(), [torch.randn(1, 3)], verify=False)
    for one in (module, nn.Sequential(module).eval()):
        with pytest.raises(
            ExecutionError, match=r"no NVIDIA GPU .* reference executor .* Measure on the machine with the GPU"
        ):
            benchmark(one, [torch.randn(1, 3)])


def test_a_module_on_a_device_that_is_neither():
    with pytest.raises(ConfigError, match="the module is on meta"):
        benchmark(nn.Linear(2, 2, device="meta").eval(), [torch.randn(1, 2)])
