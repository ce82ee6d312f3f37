"""What cache_dir= saves: convert() for the first and for the second time, each in a fresh process.

    python benchmarks/cold_start.py [--models resnet50 ...] [--rounds 3] [--fp16] [--out benchmarks/results]

Seconds of the call of convert() by stage, without the import of torch and without making the model; the second conversion is
the median of several processes. Where engines execute, "ready" is convert() and the first call of the module, synchronised:
what a process waits for at its start. Random weights; no check (verify=False), so that the first time is that of the build.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def one(name: str, folder: str, options: dict[str, Any]) -> dict[str, Any]:
    """One conversion in this process."""
    import torch
    import torchvision

    import torch2edge
    from torch2edge._trt import capabilities, gpu_name

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).eval()
    x = torch.randn(1, 3, 224, 224)
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        model, x = model.cuda(), x.cuda()
        torch.cuda.synchronize()
    start = time.perf_counter()
    module = torch2edge.convert(model, [x], cache_dir=folder, verify=False, **options)
    seconds = time.perf_counter() - start
    if on_gpu:
        module(x)
        torch.cuda.synchronize()
    ready = time.perf_counter() - start
    assert module.report is not None
    return {
        "convert_s": round(seconds, 3), "ready_s": round(ready, 3) if on_gpu else None, "stages_s": module.report.timings,
        "cache": module.report.cache.partition(":")[0], "engine_MB": round(module.report.engine_bytes / 1e6, 1),
        "where": gpu_name() or f"cpu{os.cpu_count()}", "tensorrt": f"{capabilities().name}{capabilities().version}",
        "torch": torch.__version__.partition("+")[0],
    }  # fmt: skip


def in_a_process(name: str, folder: str, options: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", name, folder, json.dumps(options)]
    path = os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).rstrip(os.pathsep)
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path})
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(name: str, rounds: int, options: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        first = in_a_process(name, folder, options)
        again = [in_a_process(name, folder, options) for _ in range(rounds)]
    assert first["cache"] == "miss"
    assert {row["cache"] for row in again} == {"hit"}
    again.sort(key=lambda row: row["convert_s"])
    row = {"model": name, "first": first, "second": again[len(again) // 2]}
    row["second_ready_median_s"] = statistics.median(r["ready_s"] or r["convert_s"] for r in again)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet50", "vit_b_16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--level", type=int, help="optimization_level")
    parser.add_argument("--tactic-sources", type=int)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, folder, options = args.one
        print(json.dumps(one(name, folder, json.loads(options))))
        return
    options = {"fp16": args.fp16, "optimization_level": args.level, "tactic_sources": args.tactic_sources}
    options = {key: value for key, value in options.items() if value}
    if args.tactic_sources is not None:
        options["tactic_sources"] = args.tactic_sources
    rows = [measure(name, args.rounds, options) for name in args.models]
    shared = {key: rows[0]["first"][key] for key in ("where", "tensorrt", "torch")}
    for row in rows:
        for part in (row["first"], row["second"]):
            for key in (*shared, "cache"):
                part.pop(key)
        print(f"{row['model']}: first {row['first']['convert_s']} s, then {row['second']['convert_s']} s")
    result = {"date": time.strftime("%Y-%m-%d"), "machine": f"{platform.machine()}, {os.cpu_count()} cores", **shared,
              "python": platform.python_version(), "load_average": round(os.getloadavg()[0], 2), "options": options,
              "rounds": args.rounds, "rows": rows}  # fmt: skip
    where = shared["where"].lower().replace(" ", "-")
    kind = "-fp16" if args.fp16 else ""
    path = args.out / f"cold-start{kind}-{where}-{shared['tensorrt']}-torch{shared['torch']}.json"
    args.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
