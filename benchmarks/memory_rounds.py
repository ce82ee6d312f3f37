"""Convert a small model and delete the result, again and again: does memory stay?

    python benchmarks/memory_rounds.py [--rounds 1000] [--out benchmarks/results]

Each round converts a new Conv - BatchNorm - ReLU - Linear model with its check, calls the module, drops both and collects
garbage; then the process's resident memory is read (and on a GPU how much of it is in use). KiB. ``growth`` is the mean of the
last tenth of the rounds less the mean of the second tenth.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from memory_peak import _mib
from torch import nn

import torch2edge
from torch2edge._trt import capabilities, gpu_name


class Small(nn.Module):
    """A network of 10 thousand weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8 * 8 * 8, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, 8, 8) -> (N, 20)"""
        return self.fc(torch.relu(self.norm(self.conv(x))).flatten(1))


def _round(device: str, options: dict[str, Any]) -> None:
    x = torch.randn(1, 3, 8, 8, device=device)
    module = torch2edge.convert(Small().eval().to(device), [x], **options)
    module(x)


def rounds(count: int) -> dict[str, Any]:
    """Resident memory after each round, KiB; on a GPU the memory in use too, by all processes."""
    warnings.simplefilter("ignore")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options: dict[str, Any] = {"optimization_level": 0, "tactic_sources": 0}
    resident, gpu, begun = [], [], time.perf_counter()
    for _ in range(count):
        _round(device, options)
        gc.collect()
        resident.append(round(_mib("VmRSS") * 1024))
        if device == "cuda":
            torch.cuda.empty_cache()
            free, total = torch.cuda.mem_get_info()
            gpu.append((total - free) // 1024)
    return {"kib": resident, "gpu_kib": gpu, "seconds": round(time.perf_counter() - begun, 1)}


def growth(kib: list[int]) -> float:
    """Mean of the last tenth less that of the second."""
    tenth = max(len(kib) // 10, 1)
    return sum(kib[-tenth:]) / tenth - sum(kib[tenth : 2 * tenth]) / tenth


def main() -> None:
    """Run, print, and write every hundredth value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    found = rounds(args.rounds)
    step = max(args.rounds // 20, 1)
    told = {
        "unit": "KiB", "rounds": args.rounds, "seconds": found["seconds"], "tensorrt": capabilities().title,
        "torch": torch.__version__, "every": step, "growth": round(growth(found["kib"])), "resident": found["kib"][::step],
        **({"gpu_growth": round(growth(found["gpu_kib"])), "gpu": found["gpu_kib"][::step]} if found["gpu_kib"] else {}),
    }  # fmt: skip
    print(json.dumps(told, indent=1))
    where = gpu_name().lower().replace(" ", "-") or "cpu"
    title = capabilities().name + capabilities().version
    file = args.out / f"memory-rounds-{where}-{title}-torch{torch.__version__.partition('+')[0]}.json"
    file.write_text(json.dumps(told, indent=1) + "\n")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
