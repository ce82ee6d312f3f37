"""How long it takes to get a filled TensorRT network, against the ONNX road; and memory, and import time.

    python benchmarks/frontend.py [--pairs 5] [--out benchmarks/results]

Per model, in turn A B A B ...: A is trace + lower (a PyTorch module -> a filled INetworkDefinition), B is
torch.onnx.export(dynamo=False) + TensorRT's ONNX parser (the same module -> a filled INetworkDefinition). The ratio A/B is
taken pair by pair; times are medians. Memory is the growth of this process's peak resident set while trace + lower run, in
units of the model's weights, with TensorRT's libraries loaded before. Import time is that of fresh processes, in pairs.
The result goes to a JSON file that is named after its conditions.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision

from torch2edge._trt import capabilities, logger, trt
from torch2edge.build import BuildSession
from torch2edge.lower import lower, registry
from torch2edge.options import Options
from torch2edge.trace import trace

MODELS = ("resnet50", "vit_b_16", "swin_t")


def ours(model: torch.nn.Module, x: torch.Tensor) -> Any:
    """trace + lower; returns what must stay alive."""
    graph = trace(model, [x], is_leaf=registry().is_leaf, module_classes=registry().module_classes())
    session = BuildSession(Options())
    return session, lower(graph, session.network, registry())


def onnx_road(model: torch.nn.Module, x: torch.Tensor) -> Any:
    """Export and parse; returns what must stay alive."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), file, dynamo=False, opset_version=17)
    session = BuildSession(Options())
    parser = trt.OnnxParser(session.network, logger())
    if not parser.parse(file.getvalue()):
        raise RuntimeError("\n".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
    return session, parser


def seconds(road: Callable[..., Any], model: torch.nn.Module, x: torch.Tensor) -> tuple[float, int]:
    """Time of one run, and the number of layers that it made."""
    start = time.perf_counter()
    session, _kept = road(model, x)
    return time.perf_counter() - start, session.network.num_layers


def compare(name: str, pairs: int) -> dict[str, Any]:
    """One model: both roads in turn."""
    model, x = getattr(torchvision.models, name)(weights=None).eval(), torch.randn(1, 3, 224, 224)
    for road in (ours, onnx_road):
        seconds(road, model, x)  # the first use loads libraries
    measured = [(seconds(ours, model, x), seconds(onnx_road, model, x)) for _ in range(pairs)]
    ratios = [a[0] / b[0] for a, b in measured]
    return {
        "model": name,
        "ours_s": round(statistics.median(a[0] for a, _ in measured), 4),
        "onnx_s": round(statistics.median(b[0] for _, b in measured), 4),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_max": round(max(ratios), 4),
        "layers_ours": measured[0][0][1],
        "layers_onnx": measured[0][1][1],
    }


def peak_memory(name: str) -> dict[str, Any]:
    """Growth of the peak resident set over trace + lower, in a process of its own."""
    code = f"""
import torch, torchvision, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import frontend
frontend.ours(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval(), torch.randn(1, 3, 8, 8))
model = torchvision.models.{name}(weights=None).eval()
x = torch.randn(1, 3, 224, 224)
open("/proc/self/clear_refs", "w").write("5")  # reset the peak
def status(key): return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key)) * 1024
before = status("VmRSS")
kept = frontend.ours(model, x)
weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
print(before, status("VmHWM"), weights)
"""
    before, peak, weights = map(int, _python(code).split())
    return {"model": name, "added_mib": round((peak - before) / 2**20, 1), "weights_mib": round(weights / 2**20, 1),
            "ratio": round((peak - before) / weights, 3)}  # fmt: skip


def import_time(pairs: int) -> dict[str, float]:
    """Seconds that ``import torch2edge`` adds to ``import torch``."""
    code = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    added = []
    for _ in range(pairs):
        both = float(_python("import torch; " + code.format("torch2edge")))
        added.append(both)
    return {"added_s_median": round(statistics.median(added), 4), "added_s_max": round(max(added), 4)}


def _python(code: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    return subprocess.run([sys.executable, "-c", code], check=True, text=True, stdout=subprocess.PIPE, env=env).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU used",
        "python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__,
        "tensorrt": capabilities().title, "pairs": args.pairs,
        "import": import_time(args.pairs),
        "memory": [peak_memory(name) for name in MODELS],
        "frontend": [compare(name, args.pairs) for name in MODELS],
    }  # fmt: skip
    torch_version = torch.__version__.partition("+")[0]
    path = args.out / f"frontend-cpu{os.cpu_count()}-{capabilities().name}{capabilities().version}-torch{torch_version}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    worst = max(row["ratio_median"] for row in result["frontend"])
    print(f"trace + lower takes at most {worst:.2f} of export + parse; written to {path}")


if __name__ == "__main__":
    main()
