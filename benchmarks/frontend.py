"""How long it takes to get a filled TensorRT network, against the ONNX road; and memory, and import time.

    python benchmarks/frontend.py [--pairs 5] [--models torchvision:resnet50 ...] [--out benchmarks/results]

Per model, in turn A B A B ...: A is trace + lower (a PyTorch module -> a filled INetworkDefinition), B is
torch.onnx.export(dynamo=False) + TensorRT's ONNX parser (the same module -> a filled INetworkDefinition; of the result no
part is checked or simplified). Each with fixed shapes and with axes that vary. The ratio A/B is taken pair by pair; times are
medians. Memory is the growth of this process's peak resident set while trace + lower run, in units of the model's weights,
with TensorRT's libraries loaded before. Import time is that of fresh processes, in pairs. The result goes to a JSON file that
is named after its conditions.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import frontend_models
import torch
import torchvision
from catalogue import Example

from torch2edge._trt import capabilities, logger, trt
from torch2edge.build import BuildSession
from torch2edge.inputs import read_inputs
from torch2edge.lower import lower, registry
from torch2edge.options import Options
from torch2edge.structure import call_names, flatten_call
from torch2edge.trace import trace

Axes = Mapping[int, Mapping[int, str]]  # tensor -> axis -> name of its size
IN_MEMORY = ("torchvision:resnet50", "torchvision:vit_b_16", "torchvision:swin_t")


def ours(example: Example, dynamic: Axes) -> Any:
    """trace + lower; returns what must stay alive."""
    converting = registry()
    args, kwargs, names, declared = read_inputs(
        example.inputs, example.kwargs, torch.device("cpu"), dynamic=dynamic, dims=_dims(dynamic)
    )
    graph = trace(
        example.model, args, kwargs, is_leaf=converting.is_leaf, module_classes=converting.module_classes(),
        functions=converting.functions(), dynamic=declared,
    )  # fmt: skip
    graph.input_names = names
    session = BuildSession(Options())
    lowered = lower(graph, session.network, converting)
    session.add_profiles(lowered.input_names, graph.profiles())
    return session, lowered


def onnx_road(example: Example, dynamic: Axes) -> Any:
    """Export and parse; returns what must stay alive."""
    file = io.BytesIO()
    tensors, _ = flatten_call(example.inputs, example.kwargs)
    names = [f"input{i}" for i in range(len(tensors))]
    axes = {names[i]: dict(per_axis) for i, per_axis in dynamic.items()}
    arguments = (*example.inputs, example.kwargs) if example.kwargs else tuple(example.inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            example.model, arguments, file, dynamo=False, opset_version=17, input_names=names, dynamic_axes=axes or None
        )
    session = BuildSession(Options())
    parser = trt.OnnxParser(session.network, logger())
    if not parser.parse(file.getvalue()):
        raise RuntimeError("\n".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
    return session, parser


def seconds(road: Callable[..., Any], example: Example, dynamic: Axes) -> tuple[float, int]:
    """Time of one run, and the number of layers that it made."""
    gc.collect()
    start = time.perf_counter()
    session, _kept = road(example, dynamic)
    return time.perf_counter() - start, session.network.num_layers


def compare(name: str, example: Example, dynamic: Axes, pairs: int) -> dict[str, Any]:
    """One model: both roads in turn."""
    row: dict[str, Any] = {"model": name, "shapes": _shapes_text(example, dynamic)}
    for road in (ours, onnx_road):
        try:
            seconds(road, example, dynamic)  # the first use loads libraries
        except Exception as error:
            return row | {"failed": f"{road.__name__}: {type(error).__name__}: {str(error)[:300]}"}
    measured = [(seconds(ours, example, dynamic), seconds(onnx_road, example, dynamic)) for _ in range(pairs)]
    ratios = [a[0] / b[0] for a, b in measured]
    return row | {
        "ours_s": round(statistics.median(a[0] for a, _ in measured), 4),
        "onnx_s": round(statistics.median(b[0] for _, b in measured), 4),
        "ratio_median": round(statistics.median(ratios), 4),
        "ratio_max": round(max(ratios), 4),
        "layers_ours": measured[0][0][1],
        "layers_onnx": measured[0][1][1],
    }


def _shapes_text(example: Example, dynamic: Axes) -> str:
    tensors, structure = flatten_call(example.inputs, example.kwargs)
    told = []
    for i, (name, tensor) in enumerate(zip(call_names(structure), tensors)):
        sizes = [dynamic.get(i, {}).get(axis, str(size)) for axis, size in enumerate(tensor.shape)]
        told.append(f"{name} {'x'.join(sizes)}")
    return ", ".join([*told, *(f"{name} {low} to {high}" for name, (low, _, high) in _dims(dynamic).items())])


def _dims(dynamic: Axes) -> dict[str, tuple[int, int, int]]:
    used = [name for per_axis in dynamic.values() for name in per_axis.values()]
    return {name: dims for name, dims in frontend_models.DIMS.items() if name in used}


def peak_memory(name: str) -> dict[str, Any]:
    """Growth of the peak resident set over trace + lower, in a process of its own."""
    code = f"""
import torch, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import frontend
from catalogue import Example, catalogue
small = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
frontend.ours(Example(small, [torch.randn(1, 3, 8, 8)]), {{}})
example = catalogue("torchvision")[{name!r}].make()
open("/proc/self/clear_refs", "w").write("5")  # reset the peak
def status(key): return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key)) * 1024
before = status("VmRSS")
kept = frontend.ours(example, {{}})
weights = sum(t.nbytes for t in (*example.model.parameters(), *example.model.buffers()))
print(before, status("VmHWM"), weights)
"""
    before, peak, weights = map(int, _python(code).split())
    return {"model": name, "added_mib": round((peak - before) / 2**20, 1), "weights_mib": round(weights / 2**20, 1),
            "ratio": round((peak - before) / weights, 3)}  # fmt: skip


def import_time(pairs: int) -> dict[str, float]:
    """Seconds that ``import torch2edge`` adds to ``import torch``."""
    code = "import torch, time; t = time.perf_counter(); import torch2edge; print(time.perf_counter() - t)"
    added = [float(_python(code)) for _ in range(pairs)]
    return {"added_s_median": round(statistics.median(added), 4), "added_s_max": round(max(added), 4)}


def _python(code: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    return subprocess.run([sys.executable, "-c", code], check=True, text=True, stdout=subprocess.PIPE, env=env).stdout


def rows(names: list[str], pairs: int) -> list[dict[str, Any]]:
    """Each model with fixed shapes, then with those that vary."""
    result = []
    for name in names:
        make, axes = frontend_models.MODELS[name]
        example = make()
        for dynamic in ({}, axes):
            result.append(compare(name, example, dynamic, pairs))
            print(json.dumps(result[-1]), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=list(frontend_models.MODELS), choices=list(frontend_models.MODELS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU used",
        "python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__,
        **frontend_models.versions(), "tensorrt": capabilities().title, "pairs": args.pairs,
        "import": import_time(args.pairs),
        "memory": [peak_memory(name) for name in IN_MEMORY],
        "frontend": rows(args.models, args.pairs),
    }  # fmt: skip
    torch_version = torch.__version__.partition("+")[0]
    path = args.out / f"frontend-cpu{os.cpu_count()}-{capabilities().name}{capabilities().version}-torch{torch_version}.json"
    args.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    measured = [row for row in result["frontend"] if "failed" not in row]
    worst = max(row["ratio_median"] for row in measured)
    print(f"trace + lower takes at most {worst:.2f} of export + parse ({len(measured)} rows); written to {path}")
    sys.exit(len(measured) < len(result["frontend"]))


if __name__ == "__main__":
    main()
