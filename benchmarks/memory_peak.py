"""The host's memory that a conversion takes at its peak, beside what TensorRT's builder takes alone for the same network.

    python benchmarks/memory_peak.py [--models mlp-400 ...] [--precisions fp32 fp16] [--level 3] [--out benchmarks/results]

Three processes a row, each with TensorRT's libraries loaded by a small conversion first: ``convert`` is the peak of resident
memory during ``torch2edge.convert(model, [x], verify=False)``, ``checked`` that with the check (by the reference executor if
there is no GPU); ``tensorrt`` is the peak while TensorRT alone builds the network that torch2edge made, over what was there
before the build. All from VmHWM, which is set back before (Linux). ``beyond`` is the difference of the first and the last in
multiples of ``weights``, the model's parameters in float32. ``reported`` is what ``report.memory.host`` says. MiB. Without a
GPU the network reads the model's own memory; with the model on a GPU it holds a copy of the weights on the host, which is then
in ``beyond``.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

import torch2edge
from torch2edge._trt import capabilities, gpu_name
from torch2edge.account import precision as precision_of
from torch2edge.lower import registry
from torch2edge.options import Options
from torch2edge.prepare import Call
from torch2edge.roads import configure, graph_of, network

STATUS = Path("/proc/self/status")
PRECISIONS = {"fp32": {}, "fp16": {"fp16": True}}


def _options(precision: str, level: int) -> dict[str, Any]:
    """Of a conversion; cuBLAS and cuDNN are left out where they can be, for the GPU machine of CI has stubs of them."""
    sources = {"tactic_sources": 0} if capabilities().tactic_sources else {}
    return {**PRECISIONS[precision], "optimization_level": level, **sources}


def model_of(name: str) -> tuple[nn.Module, torch.Tensor]:
    """``mlp-400``: linear layers of 4096 x 4096, about so many MB of weights; or a classifier of torchvision. And an input."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("mlp-"):
        wide = 1024 if int(name[4:]) < 200 else 4096
        count = round(int(name[4:]) * 1e6 / (4 * wide * wide))
        layers = [layer for _ in range(count) for layer in (nn.Linear(wide, wide, bias=False), nn.ReLU())]
        return nn.Sequential(*layers).eval().to(device), torch.randn(1, wide, device=device)
    import torchvision

    return getattr(torchvision.models, name)().eval().to(device), torch.randn(1, 3, 224, 224, device=device)


def _mib(field: str) -> float:
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found, field
    return int(found[1]) / 1024


def _start() -> float:
    """Set the peak back; what is resident now, in MiB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return _mib("VmRSS")


def _prepared(name: str) -> tuple[nn.Module, torch.Tensor]:
    warnings.simplefilter("ignore")
    torch2edge.convert(nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), [torch.randn(1, 8)], **_options("fp32", 0))
    return model_of(name)


def convert_peak(name: str, precision: str, level: int, verify: bool) -> dict[str, float]:
    """Peak of a conversion over what was there before, MiB."""
    model, x = _prepared(name)
    before = _start()
    module = torch2edge.convert(model, [x], verify=verify, **_options(precision, level))
    peak = _mib("VmHWM") - before
    assert module.report is not None
    host = module.report.memory.host or 0
    weights = sum(p.numel() * 4 for p in model.parameters()) / 2**20
    return {"peak": peak, "reported": host / 2**20, "weights": weights, "engine": module.report.engine_bytes / 2**20}


def builder_peak(name: str, precision: str, level: int) -> dict[str, float]:
    """Peak of TensorRT's build_serialized_network alone, over what was there before it, MiB."""
    model, x = _prepared(name)
    options = Options(**_options(precision, level))
    graph = graph_of(model, [x], {}, registry())
    road = network(Call(model, [x], {}), None, graph, options, registry(), {})
    configure(road, precision_of(road.network_graph, options))
    before = _start()
    plan = road.session.builder.build_serialized_network(road.session.network, road.session.config)
    peak = _mib("VmHWM") - before
    assert plan is not None
    return {"peak": peak}


def _child(call: str) -> dict[str, float]:
    """A function of this file in a process of its own."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport json, memory_peak\n"
    code += f"print(json.dumps(memory_peak.{call}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return dict(json.loads(result.stdout.splitlines()[-1]))


def measured(name: str, precision: str, level: int = 3) -> dict[str, Any]:
    """A row."""
    convert = _child(f"convert_peak({name!r}, {precision!r}, {level}, False)")
    checked = _child(f"convert_peak({name!r}, {precision!r}, {level}, True)")
    alone = _child(f"builder_peak({name!r}, {precision!r}, {level})")
    beyond = (convert["peak"] - alone["peak"]) / convert["weights"]
    row = {
        "weights": convert["weights"], "engine": convert["engine"], "convert": convert["peak"],
        "reported": convert["reported"], "checked": checked["peak"], "tensorrt": alone["peak"], "beyond": beyond,
    }  # fmt: skip
    return {"model": name, "precision": precision, **{k: round(v, 2) for k, v in row.items()}}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["mlp-400", "vit_b_16", "resnet50"])
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--level", type=int, default=3, choices=range(6), help="the builder's optimization level")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    rows = [measured(name, precision, args.level) for name in args.models for precision in args.precisions]
    head = ["model", "precision", "weights", "engine", "convert", "checked", "tensorrt", "beyond"]
    print("  ".join(f"{h:>10}" for h in head))
    for row in rows:
        print("  ".join(f"{row[h]:>10}" for h in head))
    title = capabilities().name + capabilities().version
    where = gpu_name().lower().replace(" ", "-") or "cpu"
    file = args.out / f"memory-peak-{where}-{title}-torch{torch.__version__.partition('+')[0]}.json"
    told = {
        "unit": "MiB; beyond: multiples of the weights",
        "tensorrt": capabilities().title,
        "torch": torch.__version__,
        "rows": rows,
    }
    file.write_text(json.dumps(told, indent=1) + "\n")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
