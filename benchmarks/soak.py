"""Does memory stay over a million calls? On a real GPU.

    python benchmarks/soak.py [--calls 1000000] [--out benchmarks/results]

A convolution and a ReLU, fp32; each call with the output of the last one still alive, on two streams in turn: plain, as a
CUDA graph, and with sizes that vary. KiB after every tenth: resident memory, what PyTorch's allocator holds, the GPU in use.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import torch2edge
from torch2edge import Input
from torch2edge._trt import capabilities, gpu_name


def held() -> dict[str, int]:
    """KiB."""
    torch.cuda.synchronize()
    resident = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    free, whole = torch.cuda.mem_get_info()
    allocated = torch.cuda.memory_allocated()
    return {"resident": int(resident.split()[1]), "allocated": allocated // 1024, "gpu": (whole - free) // 1024}


def ways() -> dict[str, Callable[[int], torch.Tensor]]:
    """From the number of a call to its output."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()).eval().cuda()
    options: dict[str, Any] = {"optimization_level": 0, "tactic_sources": 0}
    x = torch.randn(1, 3, 32, 32, device="cuda")
    plain = torch2edge.convert(model, [x], **options)
    graphed = torch2edge.convert(model, [x], cuda_graph=True, **options)
    varying = torch2edge.convert(model, [Input(min=(1, 3, 8, 8), opt=(2, 3, 16, 16), max=(4, 3, 32, 32))], **options)
    some = [torch.randn(n, 3, size, size, device="cuda") for n in (1, 3, 4) for size in (8, 17, 32)]
    return {"plain": lambda i: plain(x), "graph": lambda i: graphed(x), "sizes": lambda i: varying(some[i % len(some)])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    told: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"), "gpu": gpu_name(), "tensorrt": capabilities().title, "torch": torch.__version__,
        "calls": args.calls, "unit": "KiB",
    }  # fmt: skip
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    with torch.no_grad():
        for name, call in ways().items():
            rows, kept, start = [], None, time.perf_counter()
            for tenth in range(11):
                with torch.cuda.stream(streams[tenth % 2]):
                    for i in range(args.calls // 10 if tenth else 2000):
                        kept = call(i)
                rows.append(held())
            del kept
            told[name] = {"seconds": round(time.perf_counter() - start, 1), "after_each_tenth": rows}
            print(name, json.dumps(told[name]), flush=True)
    where = gpu_name().lower().replace(" ", "-")
    file = (
        args.out
        / f"soak-{where}-{capabilities().name}{capabilities().version}-torch{torch.__version__.partition('+')[0]}.json"
    )
    file.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
