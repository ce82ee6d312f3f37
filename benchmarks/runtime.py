"""What a call of an EdgeModule costs over its engine, and what its engine costs over the ONNX road's, on a real GPU.

    python benchmarks/runtime.py [--models resnet18 ...] [--roads resnet18 ...] [--level 3] [--torch2trt FOLDER]

All in fp16, batch 1, 3x224x224, random weights; microseconds, medians over rounds of twenty calls each in a drawn order.
``host``: until a call returns, in a row of twenty that nothing waits for; ``host_idle``: the same where the GPU was waited for
before each call, which leaves the processor's caches cold; ``latency``: in those, until the call's work is done.

bare enqueue          ``execute_async_v3`` on the stream's handle, addresses set once
torch2edge            the module: a fresh output
torch2edge reuse      ``outputs = "reuse"``
bare replay           the engine as a CUDA graph, replayed by PyTorch
torch2edge graph      ``enable_cuda_graph()``: input copied in, fresh output
torch2edge zero-copy  the same with its own ``input_buffers`` and ``outputs = "reuse"``
torch2trt             its TRTModule around the same engine, from a checkout in --torch2trt
PyTorch, its graph    the model in half, eager and as a torch.cuda.CUDAGraph with the input copied in and the output cloned

``steps``: where the time of a call goes, each step right after a bare enqueue.
``streams``: batches a second over 1, 2 and 4 streams, ``module.streams(n)`` beside n contexts that are enqueued bare in turn.
``roads``: the time on the GPU (CUDA events) of the bare engines of both roads, in rounds, each replayed as a CUDA graph so
that the host is out of it; geometric mean of torch2edge / ONNX. Both use one timing cache, so that a layer that both have is
timed once, and are built first in turn. --cache-dir keeps engines and timings, --build only fills it, --merge joins results of
several GPUs of one kind into --out.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from gpu_models import model_of
from torch import nn

import torch2edge
from torch2edge._trt import capabilities, logger, trt
from torch2edge.build.timing_cache import TimingCache, timing_cache

CALLS, ROUND, WARM_UP = 1000, 20, 100
TABLE = ("resnet18", "mobilenet_v2", "resnet50", "vit_b_16")
ROADS = (
    "resnet18", "resnet34", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "squeezenet1_1",
    "shufflenet_v2_x1_0", "vit_b_16", "swin_t",
)  # fmt: skip
Call = Callable[[], Any]
KEPT: list[Any] = []  # what TensorRT and CUDA were told addresses of


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()).eval().cuda()


def options(level: int, cache: Path | None = None) -> dict[str, Any]:
    """Of every build; the errors of these random weights are not the point here."""
    sources = {"tactic_sources": 0} if capabilities().tactic_sources else {}
    return {"fp16": True, "optimization_level": level, "tolerance": 1.0, "cache_dir": cache, **sources}


# ---- calls ----------------------------------------------------------------------------------------------------------


def bare(engine: Any, x: torch.Tensor, stream: torch.cuda.Stream | None = None) -> Call:
    """An enqueue of an ICudaEngine alone."""
    context, held = engine.create_execution_context(), []
    for i in range(engine.num_io_tensors):
        name = engine.get_tensor_name(i)
        given = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        half = engine.get_tensor_dtype(name) == trt.DataType.HALF
        shape, dtype = tuple(engine.get_tensor_shape(name)), torch.float16 if half else torch.float32
        held.append(x if given else torch.empty(shape, dtype=dtype, device="cuda"))
        context.set_tensor_address(name, held[-1].data_ptr())
    handle, enqueue = (stream or torch.cuda.current_stream()).cuda_stream, context.execute_async_v3
    KEPT.append(held)
    return lambda: enqueue(handle)


def replay(engine: Any, x: torch.Tensor) -> Call:
    """The engine captured by PyTorch: nothing is copied."""
    stream = torch.cuda.Stream()
    call = bare(engine, x, stream)
    with torch.cuda.stream(stream):
        call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call()
    KEPT.append((graph, call))
    return graph.replay


def pytorch_graph(model: nn.Module, x: torch.Tensor) -> Call:
    """The model as a graph, used as a module is."""
    own = x.clone()
    for _ in range(3):
        model(own)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = model(own)

    def call() -> torch.Tensor:
        own.copy_(x)
        graph.replay()
        return result.clone()  # type: ignore[no-any-return]

    return call


def others(name: str, engine: Any, x: torch.Tensor, torch2trt: Path | None) -> dict[str, Call]:
    """PyTorch, and torch2trt's module around the same engine."""
    found: dict[str, Call] = {}
    if torch2trt is not None:
        sys.path.insert(0, str(torch2trt))
        from torch2trt.trt_module import TRTModule  # type: ignore[import-not-found]

        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        given = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        module = TRTModule(engine, given, [n for n in names if n not in given])
        found["torch2trt"] = lambda: module(x)
    if name != "conv+relu":
        half, in_half = model_of(name).half(), x.half()
        found |= {"pytorch": lambda: half(in_half), "pytorch graph": pytorch_graph(half, in_half)}
    return found


def timed(calls: dict[str, Call]) -> dict[str, dict[str, float]]:
    """Microseconds by name, on the host and until all is done."""
    draw = random.Random(0)
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    figures = ("host", "host_idle", "latency")
    took: dict[str, dict[str, list[float]]] = {name: {figure: [] for figure in figures} for name in calls}
    for _ in range(CALLS // ROUND):
        for name in draw.sample(list(calls), len(calls)):
            for figure, time_of in zip(figures, one_round(calls[name])):
                took[name][figure] += time_of
    return {name: {f: round(statistics.median(times), 1) for f, times in by.items()} for name, by in took.items()}


def one_round(call: Call) -> tuple[list[float], list[float], list[float]]:
    """Microseconds: per call of a row, and of each call by itself until it returns and until its work is done."""
    call()
    torch.cuda.synchronize()
    before = time.perf_counter()
    for _ in range(ROUND):
        call()
    row = (time.perf_counter() - before) * 1e6 / ROUND
    host, latency = [], []
    for _ in range(ROUND):
        torch.cuda.synchronize()
        before = time.perf_counter()
        result = call()
        between = time.perf_counter()
        torch.cuda.synchronize()
        latency.append((time.perf_counter() - before) * 1e6)
        host.append((between - before) * 1e6)
        del result
    return [row], host, latency


def built(name: str, level: int, cache: Path | None) -> tuple[torch2edge.EdgeModule, torch.Tensor]:
    """The engine of a model, and an input."""
    model = small() if name == "conv+relu" else model_of(name)
    x = torch.randn(1, 3, *((32, 32) if name == "conv+relu" else (224, 224)), device="cuda")
    return torch2edge.convert(model, [x], **options(level, cache)), x  # type: ignore[return-value]


def measure(name: str, level: int, torch2trt: Path | None, cache: Path | None) -> dict[str, Any]:
    """A row of the table."""
    module, x = built(name, level, cache)
    report = module.report
    assert report is not None
    engine = module._runner(0).engine
    reusing, graphed = copy.deepcopy(module), copy.deepcopy(module).enable_cuda_graph()
    reusing.outputs = "reuse"
    direct = copy.deepcopy(graphed)
    own, direct.outputs = direct.input_buffers, "reuse"
    with torch.no_grad():
        calls = {
            "bare enqueue": bare(engine, x), "torch2edge": lambda: module(x), "torch2edge reuse": lambda: reusing(x),
            "bare replay": replay(engine, x), "torch2edge graph": lambda: graphed(x),
            "torch2edge zero-copy": lambda: direct(*own), **others(name, engine, x, torch2trt),
        }  # fmt: skip
        times = timed(calls)
        profile, streams = steps(module, engine, x), throughput(module, engine, x)
    over = {
        f"{row} over {than}": {k: round(times[row][k] - times[than][k], 1) for k in times[row]}
        for row, than in (
            ("torch2edge", "bare enqueue"), ("torch2edge reuse", "bare enqueue"), ("torch2edge graph", "bare replay"),
            ("torch2edge zero-copy", "bare replay"),
        )
    }  # fmt: skip
    return {"model": name, "stages_s": report.timings, "us": times, "over_us": over, "steps_us": profile, "streams": streams}


def steps(module: Any, engine: Any, x: torch.Tensor) -> dict[str, float]:
    """Where a call's time goes: microseconds on the host of each step, right after an enqueue that filled the caches."""

    class Identity(nn.Module):
        def forward(self, *args: Any) -> Any:
            return args

    runner, enqueue, identity, stream = module._runner(0), bare(engine, x), Identity(), torch.cuda.current_stream()
    context, name = engine.create_execution_context(), engine.get_tensor_name(0)
    KEPT.append(context)
    sizes = runner.sizes((), None)
    ways: dict[str, Call] = {
        "the timer": lambda: None, "nn.Module.__call__": lambda: identity(x), "checks": lambda: module._quick.ready((x,)),
        "a fresh output, freed": lambda: runner.empty(sizes), "record_stream": lambda: x.record_stream(stream),
        "set_tensor_address": lambda: context.set_tensor_address(name, 256), "bare enqueue": enqueue,
        "the module": lambda: module(x),
    }  # fmt: skip
    took: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(400):
        if i % ROUND == 0:
            torch.cuda.synchronize()
        for way, call in ways.items():
            enqueue()
            before = time.perf_counter_ns()
            call()
            took[way].append((time.perf_counter_ns() - before) / 1e3)
        torch.cuda.synchronize()
    return {way: round(statistics.median(times), 2) for way, times in took.items()}


def throughput(module: Any, engine: Any, x: torch.Tensor, calls: int = 600) -> dict[str, dict[str, float]]:
    """Batches a second over streams: the module's, and bare contexts enqueued in turn, as trtexec's --infStreams does."""
    found = {}
    for n in (1, 2, 4):
        streams = [torch.cuda.Stream() for _ in range(n)]
        each = [bare(engine, x.clone(), s) for s in streams]
        run, threaded = module.streams(n), module.streams(n, threads=True)
        batches = [x] * calls

        def in_turn(each: list[Call] = each) -> None:
            for i in range(calls):
                each[i % len(each)]()

        ways: dict[str, Call] = {
            "bare": in_turn, "module": partial(run, batches), "threads": partial(threaded, batches),
        }  # fmt: skip
        took: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(6):
            for way, call in ways.items():
                torch.cuda.synchronize()
                before = time.perf_counter()
                call()
                torch.cuda.synchronize()
                if turn:
                    took[way].append(time.perf_counter() - before)
        found[str(n)] = {way: round(calls / statistics.median(took[way]), 1) for way in ways}
    return found


# ---- roads ----------------------------------------------------------------------------------------------------------


def roads(name: str, level: int, cache: Path) -> dict[str, Any]:
    """Microseconds on the GPU of the engines of both roads, and the ratio."""
    model = model_of(name)
    x = torch.randn(1, 3, 224, 224, device="cuda")
    timings = timing_cache(cache)
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.onnx"
        torch.onnx.export(model, (x,), file, dynamo=False, opset_version=17)
        ways: dict[str, Call] = {
            "torch2edge": lambda: torch2edge.convert(model, [x], **options(level, cache), verify=False)._runner(0).engine,
            "onnx": lambda: parsed(file, level, timings),
        }
        took, engines = {}, {}
        for road in list(ways)[:: 1 if ROADS.index(name) % 2 else -1]:
            start = time.perf_counter()
            engines[road] = ways[road]()
            took[road] = round(time.perf_counter() - start, 1)
    times = on_gpu({road: replay(engine, x) for road, engine in engines.items()})
    return {"model": name, "build_s": took, "gpu_us": times, "ratio": round(times["torch2edge"] / times["onnx"], 4)}


def parsed(file: str, level: int, timings: TimingCache | None) -> Any:
    """What trtexec --onnx --fp16 --timingCacheFile does, with nothing of torch2edge's in it but the logger and the file."""
    builder = trt.Builder(logger())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    parser = trt.OnnxParser(network, logger())
    assert parser.parse_from_file(file), [parser.get_error(i) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.FP16)
    config.clear_flag(trt.BuilderFlag.TF32)
    config.builder_optimization_level = level
    config.set_tactic_sources(0)
    held = timings and timings.give(config)
    plan = builder.build_serialized_network(network, config)
    if timings and held is not None:
        timings.take(config)
    return trt.Runtime(logger()).deserialize_cuda_engine(plan)


def on_gpu(calls: dict[str, Call]) -> dict[str, float]:
    """Medians by CUDA events around twenty replays in a row, in a drawn order."""
    draw = random.Random(0)
    took: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(60):
        for name in draw.sample(list(calls), len(calls)):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            calls[name]()
            start.record()
            for _ in range(ROUND):
                calls[name]()
            end.record()
            torch.cuda.synchronize()
            if turn >= 10:
                took[name].append(start.elapsed_time(end) * 1e3 / ROUND)
    return {name: round(statistics.median(times), 2) for name, times in took.items()}


# ---- results --------------------------------------------------------------------------------------------------------


def conditions(level: int, roads_level: int) -> dict[str, Any]:
    return {
        "gpu": torch.cuda.get_device_name(), "tensorrt": capabilities().title, "torch": torch.__version__,
        "torchvision": torchvision.__version__, "python": sys.version.split()[0], "optimization_level": level,
        "optimization_level_of_roads": roads_level,
        "tactic_sources": 0 if capabilities().tactic_sources else "default", "precision": "fp16", "batch": 1, "calls": CALLS,
    }  # fmt: skip


def joined(result: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """``other`` with the rows of ``result`` that it has not; the geometric mean anew."""
    told = {key: value for key, value in other.items() if key not in ("rows", "roads", "date", "geometric_mean_ratio")}
    if any(result.get(key, value) != value for key, value in told.items()):
        raise SystemExit(f"results of different conditions cannot be joined: {told}")
    merged: dict[str, Any] = {"date": other["date"], **told}
    for part, order in (("rows", ("conv+relu", *TABLE)), ("roads", ROADS)):
        rows = {row["model"]: row for row in [*result.get(part, []), *other.get(part, [])]}
        merged[part] = [rows[name] for name in order if name in rows]
    ratios = [math.log(row["ratio"]) for row in merged["roads"]]
    merged["geometric_mean_ratio"] = round(math.exp(sum(ratios) / len(ratios)), 4) if ratios else None
    return merged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["conv+relu", *TABLE], choices=("conv+relu", *TABLE))
    parser.add_argument("--roads", nargs="*", default=list(ROADS), choices=ROADS)
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--roads-level", type=int, default=3)
    parser.add_argument("--torch2trt", type=Path)
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--merge", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "runtime.json")
    args = parser.parse_args()
    if args.merge:
        result: dict[str, Any] = {}
        for file in args.merge:
            result = joined(result, json.loads(file.read_text()))
        args.out.write_text(json.dumps(result, indent=1) + "\n")
        return
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if args.build:
        for name in args.models:
            print(name, built(name, args.level, args.cache_dir)[0].report.timings, flush=True)  # type: ignore[union-attr]
        return
    shared = args.cache_dir or Path(tempfile.mkdtemp())
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    for part, names in (("rows", args.models), ("roads", args.roads)):
        for name in names:
            if part == "rows":
                row = measure(name, args.level, args.torch2trt, args.cache_dir)
            else:
                row = roads(name, args.roads_level, shared)
            print(json.dumps(row), flush=True)
            made = {"date": time.strftime("%Y-%m-%d"), **conditions(args.level, args.roads_level), part: [row]}
            result = joined(result, made)
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
