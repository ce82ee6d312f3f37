"""The catalogue of real models: each converted, built, checked; a line per model.

    python benchmarks/zoo.py [--collections torchvision timm transformers audio] [--models timm:vit_tiny_patch16_224 ...]

Each model in a process of its own, with random weights in which every part counts, through torch2edge.convert(): a real
engine is built, and the network is compared with PyTorch on fresh inputs. A model that does not convert as a whole is then
taken with fallback="torch", and its line says why and how many engines it became. One whose float32 is off from float64 in
PyTorch itself is checked to twice that, and its line says so. A run over whole collections is written
to benchmarks/results, as JSON and as a table to read. The exit status is 1 when a model neither converts nor falls back.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import zoo_table
from catalogue import COLLECTIONS, Entry, Example, catalogue

import torch2edge
from torch2edge.check.verify import TOLERANCE, TRIALS, draw
from torch2edge.run import PartitionedModule
from torch2edge.structure import flatten, flatten_call, unflatten

__all__ = ["convert_one", "rounding_of"]

LIMIT_S = 1800  # for one model
LOOSEST = 0.05  # a check to more than this says nothing
TOUCHY = "With these random weights the {} in PyTorch's float32 is off from float64 by {:.1e}; checked to twice that."


def convert_one(entry: Entry, fallback: bool = True) -> dict[str, Any]:
    """Convert and check one model; a row of the table. ``error`` is empty when all is well.

    Args:
        fallback: take ``fallback="torch"`` where the whole model does not convert; ``road`` and ``reason`` then say so.
    """
    start = time.perf_counter()
    row: dict[str, Any] = {"model": entry.name, "task": entry.task, "road": "direct", "reason": "", "error": ""}
    example = entry.make()
    try:
        row |= _figures(torch2edge.convert(example.model, example.inputs, example.kwargs))
    except torch2edge.VerificationError as error:
        row |= _touchy(example, f"{type(error).__name__}: {error}")
    except torch2edge.Torch2EdgeError as error:
        row |= {"road": "none", "error": f"{type(error).__name__}: {error}"}
        if fallback:
            row |= _in_parts(example, row["error"])
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def _touchy(example: Example, error: str) -> dict[str, Any]:
    """A model that did not pass: once more, with twice the error that PyTorch's own float32 has, where that is the cause."""
    rounding = rounding_of(example)
    if not _explains(rounding):
        return {"road": "none", "error": f"{error}\n(PyTorch's float32 is off from its float64 by {rounding:.1e})"}
    try:
        module = torch2edge.convert(example.model, example.inputs, example.kwargs, tolerance=2 * rounding)
    except torch2edge.Torch2EdgeError as again:
        return {"road": "none", "error": f"{type(again).__name__}: {again}"}
    return {"reason": TOUCHY.format("model", rounding), **_figures(module)}


def _explains(rounding: float) -> bool:
    """Whether it can be the cause of a check that failed, and twice as much would still say something."""
    return TOLERANCE["fp32"] / 2 < rounding < LOOSEST / 2


def rounding_of(example: Example) -> float:
    """Relative L2 error of PyTorch in float32 against float64, on the inputs of the check; the worst output and trial."""
    tensors, structure = flatten_call(example.inputs, example.kwargs)
    exact = copy.deepcopy(example.model).double()
    worst = 0.0
    for trial in TRIALS:
        results = []
        for model, dtype in ((example.model, torch.float32), (exact, torch.float64)):
            drawn = [t.to(dtype) if t.is_floating_point() else t for t in draw(tensors, trial)]
            call = unflatten(structure, drawn)
            with torch.no_grad():
                results.append(flatten(model(*call["args"], **call["kwargs"]))[0])
        errors = [float((a - b).norm() / b.norm()) for a, b in zip(*results) if b.is_floating_point()]
        worst = max(worst, *errors)
    return worst


def _in_parts(example: Example, reason: str, tolerance: float | None = None) -> dict[str, Any]:
    """The largest submodules that convert, the rest in PyTorch."""
    try:
        module = torch2edge.convert(example.model, example.inputs, example.kwargs, fallback="torch", tolerance=tolerance)
    except torch2edge.Torch2EdgeError as error:
        backbone = getattr(example.model, "backbone", None)
        if tolerance is None and isinstance(error, torch2edge.VerificationError) and backbone is not None:
            rounding = rounding_of(Example(backbone, [torch.stack(example.inputs[0])]))
            if _explains(rounding):
                return _in_parts(example, f"{reason} {TOUCHY.format('backbone', rounding)}", 2 * rounding)
        return {"error": f"{reason}\nand with fallback='torch': {type(error).__name__}: {error}"}
    return {"road": "torch", "reason": reason, "error": "", **_figures(module)}


def _figures(module: torch.nn.Module) -> dict[str, Any]:
    """What the report says."""
    report: Any = module.report
    reports = list(report.engines.values()) if isinstance(module, PartitionedModule) else [report]
    worst = max(report.check, key=lambda c: c.rel_l2)
    return {
        "engines": len(reports), "ops": sum(m.ops for r in reports for m in r.modules),
        "layers": sum(m.layers for r in reports for m in r.modules),
        "engine_mib": round(sum(r.engine_bytes for r in reports) / 2**20, 1),
        **{f"{k}_s": v for k, v in report.timings.items()},
        "rel_l2": worst.rel_l2, "cosine": worst.cosine, "max_abs": worst.max_abs, "ref_max": worst.ref_max,
    }  # fmt: skip


def in_own_process(name: str, threads: int) -> dict[str, Any]:
    """``convert_one`` in a fresh process, so that one model's memory is gone before the next."""
    root = str(Path(__file__).resolve().parent.parent)
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--one", name], text=True, capture_output=True, env=env, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return {"model": name, "road": "none", "error": f"not done after {LIMIT_S} s"}
    if done.returncode:
        return {"model": name, "road": "none", "error": f"the process ended with {done.returncode}: {done.stderr[-400:]}"}
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collections", nargs="*", choices=list(COLLECTIONS), default=list(COLLECTIONS))
    parser.add_argument("--models", nargs="*", default=None, help="names, as in the table")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time; each takes some GB of memory")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(convert_one(catalogue()[arguments.one])))
        return
    threads = max(1, (os.cpu_count() or 1) // arguments.jobs)
    rows = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        names = arguments.models or list(catalogue(*arguments.collections))
        for row in pool.map(in_own_process, names, [threads] * len(names)):
            rows.append(row)
            print(zoo_table.line(row), flush=True)
    print(zoo_table.summary(rows))
    if not arguments.models:
        print(f"written to {zoo_table.write(rows, arguments.collections, arguments.out)}")
    sys.exit(1 if any(row["error"] for row in rows) else 0)


if __name__ == "__main__":
    main()
