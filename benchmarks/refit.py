"""How long a refit takes beside the build, and how exact the engine is after it. Needs a GPU and a TensorRT that executes.

    python benchmarks/refit.py [--models resnet50 ...] [--level 3] [--fp16] [--out benchmarks/results]

Random weights, batch norms with random statistics; a refit gives the engine those of another such model. Build: TensorRT's
alone, without trace, lowering and check. Refit: the whole call, from a model or from a state dict, without and with the check
on fresh inputs; seconds of wall time to torch.cuda.synchronize(), the first of ROUNDS and their median. Errors: relative L2
against the new model in fp32 (TF32 off) on inputs that nobody has seen, and against the old model before.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from gpu_models import model_of

import torch2edge
from torch2edge._trt import capabilities
from torch2edge.check.tf32 import tf32

ROUNDS = 5
TARGET = 0.02  # of the build


def error(engine: torch.nn.Module, model: torch.nn.Module) -> float:
    x = torch.randn(1, 3, 224, 224, device="cuda")
    with torch.no_grad(), tf32(False):
        given, expected = engine(x).double(), model(x).double()
    return float((given - expected).norm() / expected.norm())


def seconds(engine: torch2edge.EdgeModule, weights: Any, verify: bool) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    engine.refit(weights, verify=verify)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(name: str, level: int, fp16: bool) -> dict[str, Any]:
    first, second = model_of(name, 0), model_of(name, 1)
    sources = {"tactic_sources": 0} if capabilities().tactic_sources else {}
    x = torch.randn(1, 3, 224, 224, device="cuda")
    engine = torch2edge.convert(first, [x], fp16=fp16, optimization_level=level, refittable=True, **sources)
    report = engine.report
    assert report is not None
    build = report.timings["build"]
    row: dict[str, Any] = {
        "model": name, "engine_mib": round(report.engine_bytes / 2**20, 1), "stages_s": report.timings, "build_s": build,
        "rel_l2_before": error(engine, first), "rel_l2_of_the_new_model_before": error(engine, second),
    }  # fmt: skip
    for kind, pair in (("model", (second, first)), ("state_dict", (second.state_dict(), first.state_dict()))):
        for verify in (False, True):
            taken = [seconds(engine, pair[i % 2], verify) for i in range(ROUNDS)]
            row[f"refit_{kind}{'_verified' if verify else ''}_s"] = {
                "first": round(taken[0], 3), "median": round(statistics.median(taken), 3),
            }  # fmt: skip
            row["rel_l2_after"] = max(row.get("rel_l2_after", 0.0), error(engine, second))  # ROUNDS is odd
    worst = max(v["median"] for k, v in row.items() if k.startswith("refit_"))
    row |= {
        "ratio": round(row["refit_model_s"]["median"] / build, 5),
        "ratio_worst": round(worst / build, 5),
        "target": TARGET,
    }
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50"])
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    gpu = torch.cuda.get_device_name().replace(" ", "-").lower()
    version, precision = torch.__version__.partition("+")[0], "fp16" if args.fp16 else "fp32"
    stem = f"refit-{precision}-{gpu}-{capabilities().name}{capabilities().version}-level{args.level}-torch{version}"
    rows = []
    for name in args.models:
        rows.append(measure(name, args.level, args.fp16))
        result = {
            "date": time.strftime("%Y-%m-%d"), "gpu": torch.cuda.get_device_name(), "tensorrt": capabilities().title,
            "torch": torch.__version__, "python": platform.python_version(), "precision": f"{precision}, TF32 off",
            "optimization_level": args.level, "tactic_sources": 0, "rounds": ROUNDS, "rows": rows,
        }  # fmt: skip
        (args.out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
