"""``torch2edge doctor``: what is here, what it can do, what to install for more. It never fails."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .. import __version__, _trt
from .._trt import Capabilities, capabilities, trt
from ..errors import Torch2EdgeError

__all__ = ["add_doctor"]

JETSON = Path("/etc/nv_tegra_release")


def add_doctor(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "doctor", parents=[common], help="versions, GPU, DLA; what is possible here, what to install for more",
        description="Say what this environment has, what torch2edge can do in it, and what to install for more.",
    )  # fmt: skip
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    caps, missing = _tensorrt()
    found, possible, more = _found(caps, missing), _possible(caps), _more(caps)
    if arguments.json:
        print(json.dumps({"found": dict(found), "possible": dict(possible), "more": more}, indent=2))
        return 0
    width = max(len(name) for name, _ in found + possible)
    for title, lines in (("found", found), ("possible here", possible)):
        print(title)
        for name, value in lines:
            print(f"  {name.ljust(width)}  {value}")
        print()
    if more:
        print("for more")
        for line in more:
            print(f"  - {line}")
    return 0


def _tensorrt() -> tuple[Capabilities | None, str]:
    try:
        return capabilities(), ""
    except Torch2EdgeError as error:
        return None, str(error).splitlines()[0]
    except Exception as error:  # a broken installation fails in its own ways
        return None, f"{type(error).__name__}: {error}"


def _found(caps: Capabilities | None, missing: str) -> list[tuple[str, str]]:
    others = [name for name in _trt.FLAVOURS if (caps is None or name != caps.name) and _safely(_is_installed, name) is True]
    also = f" ({', '.join(others)} is installed too; TORCH2EDGE_TENSORRT picks one)" if others and caps else ""
    return [
        ("torch2edge", f"{__version__} in {Path(__file__).parent.parent}"),
        ("Python", f"{platform.python_version()} in {sys.prefix}"),
        ("torch", f"{torch.__version__}, {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'no CUDA in this build'}"),
        ("torchvision", str(_safely(importlib.metadata.version, "torchvision", default="not installed"))),
        ("TensorRT", caps.title + f", import name {caps.name}" + also if caps else missing),
        ("GPU", str(_safely(_gpu, default="not readable"))),
        ("driver", str(_safely(_driver, default="none found"))),
        ("DLA cores", str(_safely(_dla_cores, caps, default="not readable"))),
    ]


def _possible(caps: Capabilities | None) -> list[tuple[str, str]]:
    if caps is None:
        return [
            ("build engines", "no: no TensorRT"),
            ("execute engines", "no: no TensorRT"),
            ("inspect engine files", "yes"),
        ]
    why_not = _trt.why_not_executable()
    needs_gpu = not caps.compute_capabilities and not torch.cuda.is_available()
    names = "fp32, fp16, bf16" if caps.bf16 else "fp32, fp16"
    typed = f"{names}, per module too (" + (
        "strongly typed: each op has the one it is given)" if caps.strongly_typed else
        "strongly typed by default)" if caps.typed_networks else "weakly typed: TensorRT may choose more than it is given)"
    )  # fmt: skip
    there = "this TensorRT has it (calibrator='tensorrt')" if caps.calibrators else "not in this TensorRT"
    dla = "no: this TensorRT has no DLA support"
    if caps.dla:
        dla = "device types are passed to TensorRT; see DLA cores above for what this machine has"
    return [
        ("build engines", f"no: {caps.title} builds only on a machine with an NVIDIA GPU" if needs_gpu else "yes"),
        ("execute engines", f"no: {why_not}" if why_not else "yes"),
        ("check the numbers", "by the reference executor (slow, on the CPU)" if why_not else "by executing the engine"),
        ("precision", typed),
        ("INT8 calibrator", there),
        ("DLA", dla),
        ("inspect engine files", "yes"),
    ]


def _more(caps: Capabilities | None) -> list[str]:
    lines = []
    jetson = JETSON.exists()
    if caps is None and jetson:
        lines.append(
            "this is a Jetson: use JetPack's TensorRT (apt install tensorrt python3-libnvinfer) from an environment made "
            "with python3 -m venv --system-site-packages; install none from PyPI"
        )
    elif caps is None:
        lines.append("to build and check without a GPU: pip install tensorrt_rtx_cu13==1.7.1.116")
        lines.append("on a desktop or server GPU: pip install tensorrt")
    elif caps.name == "tensorrt_rtx" and torch.cuda.is_available() and _trt.why_not_executable():
        lines.append("this GPU needs TensorRT itself: pip install tensorrt, and TORCH2EDGE_TENSORRT=tensorrt")
    if not torch.cuda.is_available():
        why = "this torch has no CUDA: install a CUDA build of torch" if not torch.version.cuda else ""
        lines.append(f"to execute engines: an NVIDIA GPU with its driver{'; ' + why if why else ''}")
    if not _safely(_is_installed, "torchvision"):
        lines.append("for --model torchvision:NAME: pip install torchvision")
    return lines


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none visible (torch.cuda.is_available() is False)"
    cards = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        cards.append(f"{card.name}, compute capability {card.major}.{card.minor}, {card.total_memory / 2**30:.0f} GiB")
    return "; ".join(cards)


def _driver() -> str:
    if JETSON.exists():
        return f"Jetson, {JETSON.read_text().splitlines()[0].lstrip('# ')}"
    if not shutil.which("nvidia-smi"):
        return "none found (no nvidia-smi)"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    return told[0] if told else "none found"


def _dla_cores(caps: Capabilities | None) -> str:
    if caps is None:
        return "unknown without TensorRT"
    if not torch.cuda.is_available():
        return "0 (no GPU)"
    return str(trt.Builder(_trt.logger()).num_DLA_cores)


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _safely(probe: Callable[..., Any], *arguments: Any, default: Any = None) -> Any:
    """What ``probe`` finds; ``default`` where it fails."""
    try:
        return probe(*arguments)
    except Exception:
        return default
