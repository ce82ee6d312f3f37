"""What of this machine and this installation an engine hangs on, for the key under which it is kept."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy
import torch

from ._trt import capabilities

__all__ = ["converters_folder", "gpu", "source", "versions"]

_PACKAGE = Path(__file__).resolve().parent
_IMPORTED = time.time()


def converters_folder() -> Path:
    """Where torch2edge's own converters lie: beside the package in a checkout, else inside of it."""
    inside = _PACKAGE / "converters"
    return inside if inside.is_dir() else _PACKAGE.parent / "converters"


def source() -> str:
    """sha256, in hex, of all source files of the installed torch2edge; "" where one was changed since it was imported.

    The version says nothing of a checkout in which somebody edits a converter.
    """
    files = sorted({*_PACKAGE.rglob("*.py"), *converters_folder().rglob("*.py")})
    changed = any(max(status.st_mtime, status.st_ctime) >= _IMPORTED for status in map(os.stat, files))
    return "" if changed or not files else _hash(tuple(files))


@functools.cache
def _hash(files: tuple[Path, ...]) -> str:
    told = hashlib.sha256()
    for path in files:
        told.update(f"{path.relative_to(_PACKAGE.parent)}\0{path.stat().st_size}\0".encode())
        told.update(path.read_bytes())
    return told.hexdigest()


def versions() -> dict[str, str]:
    """Of what computes constants on the way to a network, and of TensorRT; with the process's switches of both."""
    return {
        "tensorrt": f"{capabilities().name} {capabilities().version}", "torch": torch.__version__,
        "numpy": numpy.__version__, "dtype": str(torch.get_default_dtype()),
        "TF32": os.environ.get("NVIDIA_TF32_OVERRIDE", ""),
    }  # fmt: skip


def gpu() -> dict[str, Any]:
    """The current GPU, and the major version of its driver; empty where there is none.

    Of two GPUs of one name a part (MIG) has fewer multiprocessors and less memory.
    """
    if not torch.cuda.is_available():
        return {}
    here = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": here.name, "compute_capability": f"{here.major}.{here.minor}", "memory": here.total_memory,
        "multiprocessors": here.multi_processor_count, "driver": _driver(),
    }  # fmt: skip


@functools.cache
def _driver() -> str:
    """Major version of NVIDIA's driver, and the CUDA version that libcuda tells; what is not there is left out."""
    told = []
    with contextlib.suppress(OSError):
        found = re.search(r"\b(\d{3,})\.\d+", Path("/proc/driver/nvidia/version").read_text())
        told += [found.group(1)] if found else []
    with contextlib.suppress(OSError):
        version = ctypes.c_int()
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) == 0:
            told.append(f"CUDA {version.value}")
    return ", ".join(told)
