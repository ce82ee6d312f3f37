"""What a call of an EdgeModule costs over the bare enqueue of its engine, on a real GPU.

    python benchmarks/runtime.py [--level 0] [--out benchmarks/results]

bare: ``execute_async_v3`` on the current stream's handle, addresses set once. forward: the module on a CUDA tensor of the
right shape, fresh outputs. Host: microseconds until the call returns; latency: until its work is done (with a synchronize).
bare replay: the captured graph alone. graph: the module after enable_cuda_graph(), inputs copied in, fresh outputs. In rounds
of twenty calls each in a drawn order, the GPU idle before each call; medians. fp16, batch 1, random weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import torch2edge
from torch2edge._trt import capabilities

CALLS, ROUND, WARM_UP = 1000, 20, 100


def models() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    torch.manual_seed(0)
    from gpu_models import model_of

    small = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()).eval().cuda()
    image = torch.randn(1, 3, 224, 224, device="cuda")
    found = {"conv+relu": (small, torch.randn(1, 3, 32, 32, device="cuda"))}
    return found | {name: (model_of(name), image) for name in ("resnet18", "mobilenet_v2")}


def bare(module: Any, x: torch.Tensor) -> Callable[[], Any]:
    """The engine alone."""
    module(x)
    context = module._runner.engine.create_execution_context()
    held = [x]
    for row in module.metadata["inputs"]:
        context.set_tensor_address(row["binding"], x.data_ptr())
    for row in module.metadata["outputs"]:
        held.append(torch.empty(row["shape"], dtype=getattr(torch, row["dtype"]), device="cuda"))
        context.set_tensor_address(row["binding"], held[-1].data_ptr())
    handle = torch.cuda.current_stream().cuda_stream

    def call() -> Any:
        context.execute_async_v3(handle)
        return held

    return call


def replayed(module: Any, x: torch.Tensor) -> Callable[[], Any]:
    """The captured graph alone."""
    module(x)
    return next(iter(module._runner._mine().values())).graph.replay  # type: ignore[no-any-return]


def timed(calls: dict[str, Callable[[], Any]]) -> dict[str, dict[str, float]]:
    draw = random.Random(0)
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    host: dict[str, list[float]] = {name: [] for name in calls}
    latency: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(CALLS // ROUND):
        for name in draw.sample(list(calls), len(calls)):
            for _ in range(ROUND):
                torch.cuda.synchronize()
                before = time.perf_counter()
                calls[name]()
                between = time.perf_counter()
                torch.cuda.synchronize()
                host[name].append((between - before) * 1e6)
                latency[name].append((time.perf_counter() - before) * 1e6)
    return {
        name: {"host_us": round(statistics.median(host[name]), 1), "latency_us": round(statistics.median(latency[name]), 1)}
        for name in calls
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    sources = {"tactic_sources": 0} if capabilities().tactic_sources else {}
    rows = []
    for name, (model, x) in models().items():
        module = torch2edge.convert(model, [x], fp16=True, optimization_level=args.level, tolerance=1.0, **sources)
        with torch.no_grad():
            graphed = copy.deepcopy(module).enable_cuda_graph()
            graphed(x)
            calls = {"bare": bare(module, x), "forward": lambda m=module, x=x: m(x)}
            calls |= {"bare replay": replayed(graphed, x), "graph": lambda m=graphed, x=x: m(x)}
            times = timed(calls)
        over = {
            f"{key}_over_{than.replace(' ', '_')}": {k: round(times[key][k] - times[than][k], 1) for k in times[key]}
            for key, than in (("forward", "bare"), ("graph", "bare replay"))
        }
        rows.append({"model": name, **times, **over})
        print(json.dumps(rows[-1]), flush=True)
    gpu = torch.cuda.get_device_name().lower().replace(" ", "-")
    name = f"runtime-{gpu}-{capabilities().name}{capabilities().version}-torch{torch.__version__.partition('+')[0]}.json"
    result = {
        "date": time.strftime("%Y-%m-%d"), "gpu": torch.cuda.get_device_name(), "tensorrt": capabilities().title,
        "torch": torch.__version__, "optimization_level": args.level, "calls": CALLS, "rows": rows,
    }  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / name).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
