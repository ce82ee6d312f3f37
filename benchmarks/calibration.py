"""How much a calibration costs: calibrate() against the plain forward over the same DataLoader.

ResNet-18 at 3x224x224, batch 8, random weights and images; points are the inputs of convolutions and linear layers and the
operands of additions. Each pair times one pass of the forward and one of calibrate() with each algorithm, in turn; the ratio
of throughputs (forward's time / calibration's time; 1 = it costs nothing) is taken pair by pair, and its median is told. The
time of calibrate() is that of the whole call, with the search for the scales. The result goes to a JSON file that is named
after its conditions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch.utils.data import DataLoader, TensorDataset

from torch2edge.build.calibration import Calibration, calibrate
from torch2edge.graph import Graph, Value
from torch2edge.lower import registry
from torch2edge.trace import trace

BATCH, SIDE = 8, 224
ALGORITHMS = ("minmax", "entropy")
OPS = ("conv2d", "convolution", "linear", "addmm", "add")


def points_of(graph: Graph) -> dict[str, Value]:
    """What INT8 layers take: the inputs of convolutions and linear layers, and both operands of additions."""
    taken = [(op, value) for op in graph.ops if op.short_name.rstrip("_") in OPS for value in op.inputs()]
    return {f"{op.module}/{op.short_name}/%{value.index}": value for op, value in taken}


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(device: torch.device, batches: int, pairs: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval().to(device)
    example = torch.randn(BATCH, 3, SIDE, SIDE, device=device)
    known = registry()
    graph = trace(model, [example], is_leaf=known.is_leaf, module_classes=known.module_classes(), functions=known.functions())
    points = points_of(graph)
    loader = DataLoader(TensorDataset(torch.randn(BATCH * batches, 3, SIDE, SIDE), torch.arange(BATCH * batches)), BATCH)

    def forward() -> None:
        with torch.inference_mode():
            for image, _ in loader:
                model(image.to(device))

    def observed(algorithm: str) -> Callable[[], Any]:
        settings = Calibration(loader, algorithm, batches=batches, progress=False)
        return lambda: calibrate(
            graph, points, settings, args=[example], kwargs={}, device=device, tell=lambda text: None
        )  # fmt: skip

    runs = {"forward": forward, **{name: observed(name) for name in ALGORITHMS}}
    for run in runs.values():
        timed(run, device)
    rows = [{name: timed(run, device) for name, run in runs.items()} for _ in range(pairs)]
    result: dict[str, Any] = {
        "points": len(points),
        "values": len(set(map(id, points.values()))),
        "batches": batches,
        "batch": BATCH,
        "pairs": pairs,
    }
    result["forward_images_per_s"] = round(BATCH * batches / statistics.median(r["forward"] for r in rows), 1)
    for name in ALGORITHMS:
        ratios = [row["forward"] / row[name] for row in rows]
        result[name] = {"ratio_median": round(statistics.median(ratios), 4), "ratio_min": round(min(ratios), 4)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, default=48)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    device = torch.device(args.device)
    on_gpu = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if on_gpu else f"cpu{os.cpu_count()}"
    result = {
        "date": time.strftime("%Y-%m-%d"), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "device": where, "threads": torch.get_num_threads(), "python": platform.python_version(),
        "torch": torch.__version__, "torchvision": torchvision.__version__, "model": "torchvision:resnet18",
        "calibration": measure(device, args.batches, args.pairs),
    }  # fmt: skip
    torch_version = torch.__version__.partition("+")[0]
    path = args.out / f"calibration-{where.lower().replace(' ', '-')}-torch{torch_version}.json"
    args.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["calibration"]))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
