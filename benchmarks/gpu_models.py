"""ResNet-18, ResNet-50 and ViT-B/16 in fp32 on a real GPU: error and time against PyTorch eager.

    python benchmarks/gpu_models.py [--models resnet18 ...] [--level 3] [--out benchmarks/results]

Random weights, batch norms with random statistics, TF32 off on both sides. Errors: the engine against the model in fp32 on
the same GPU, on inputs that the conversion has not seen. Times: CUDA events around one call each, after warm-up; PyTorch and
the engine in rounds; median and 99th percentile; host time is the wall time to enqueue one call.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision

import torch2edge
from torch2edge._trt import capabilities

WARM_UP, CALLS, ROUNDS = 50, 300, 30


def model_of(name: str, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = getattr(torchvision.models, name)(weights=None)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.02)  # torchvision zeroes ViT's head
    return model.eval().cuda()


def timed(calls: dict[str, Callable[[], Any]]) -> dict[str, dict[str, float]]:
    """Milliseconds per call by name: median and p99 on the GPU, median on the host.

    In rounds: each comes CALLS / ROUNDS times in a row after one call that does not count, in an order that is drawn anew.
    What follows a call of PyTorch finds the processor's caches full of PyTorch.
    """
    draw = random.Random(0)
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    gpu: dict[str, list[float]] = {name: [] for name in calls}
    host: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name in draw.sample(list(calls), len(calls)):
            calls[name]()
            for _ in range(CALLS // ROUNDS):
                on_gpu, on_host = _one(calls[name])
                gpu[name].append(on_gpu)
                host[name].append(on_host)
    return {
        name: {
            "gpu_ms_median": round(statistics.median(gpu[name]), 4),
            "gpu_ms_p99": round(sorted(gpu[name])[int(0.99 * CALLS) - 1], 4),
            "host_ms_median": round(statistics.median(host[name]), 4),
        }
        for name in calls
    }


def _one(call: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds of one call by CUDA events, and on the host until it returns."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    before = time.perf_counter()
    call()
    host = (time.perf_counter() - before) * 1e3
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end), host


def measure(name: str, batch: int, level: int) -> dict[str, Any]:
    model = model_of(name)
    x = torch.randn(batch, 3, 224, 224, device="cuda")
    sources = {"tactic_sources": 0} if capabilities().tactic_sources else {}
    engine = torch2edge.convert(model, [x], optimization_level=level, **sources)
    report = engine.report
    assert report is not None
    fresh = torch.randn(batch, 3, 224, 224, device="cuda")
    with torch.no_grad():
        expected, given = model(fresh).double(), engine(fresh).double()
        times = timed({"pytorch": lambda: model(fresh), "torch2edge": lambda: engine(fresh)})
    error = (given - expected).abs()
    row = {
        "model": name, "batch": batch, "stages_s": report.timings,
        "engine_mib": round(report.engine_bytes / 2**20, 1),
        "max_abs": float(error.max()), "rel_l2": float(error.norm() / expected.norm()),
        "ref_max": float(expected.abs().max()), "check": report.to_dict()["check"], **times,
        "speedup": round(times["pytorch"]["gpu_ms_median"] / times["torch2edge"]["gpu_ms_median"], 2),
    }  # fmt: skip
    print(json.dumps({k: v for k, v in row.items() if k != "check"}), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "vit_b_16"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    rows = []
    gpu = torch.cuda.get_device_name().replace(" ", "-").lower()
    torch_version = torch.__version__.partition("+")[0]
    stem = f"models-fp32-{gpu}-{capabilities().name}{capabilities().version}-level{args.level}-torch{torch_version}"
    for name in args.models:
        rows.append(measure(name, args.batch, args.level))
        result = {
            "date": time.strftime("%Y-%m-%d"), "gpu": torch.cuda.get_device_name(), "tensorrt": capabilities().title,
            "torch": torch.__version__, "python": platform.python_version(), "precision": "fp32, TF32 off",
            "optimization_level": args.level, "tactic_sources": 0, "calls": CALLS, "rows": rows,
        }  # fmt: skip
        (args.out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
