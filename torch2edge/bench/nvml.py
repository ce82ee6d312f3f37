"""Readings of an NVIDIA GPU from NVML, by the package nvidia-ml-py (extra "monitor")."""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..errors import ConfigError
from .samples import Sample

__all__ = ["Nvml"]

# NVML's nvmlClocksThrottleReason* (since driver 535 named nvmlClocksEventReason*); idle, and clocks that somebody has set,
# are no throttling
REASONS = {
    "SwPowerCap": "the power limit",
    "HwSlowdown": "a hardware slowdown",
    "SwThermalSlowdown": "the temperature (software limit)",
    "HwThermalSlowdown": "the temperature (hardware limit)",
    "HwPowerBrakeSlowdown": "the power brake",
}


class Nvml:
    """The GPU that torch calls ``index``.

    Raises:
        ConfigError: nvidia-ml-py is not installed, there is no NVIDIA driver, or NVML does not know the GPU.
    """

    def __init__(self, index: int = 0) -> None:
        try:
            self._nvml = importlib.import_module("pynvml")
        except ImportError as error:
            raise ConfigError(
                "the monitor reads an NVIDIA GPU by the package nvidia-ml-py, which is not installed: "
                "pip install nvidia-ml-py (the extra 'monitor' of torch2edge)"
            ) from error
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            raise ConfigError(
                f"the monitor finds no NVIDIA driver here (NVML: {error}), and no tegrastats, which a Jetson has"
            ) from error
        try:
            self._handle = self._find(index)
            name = self._nvml.nvmlDeviceGetName(self._handle)
        except self._nvml.NVMLError as error:
            self._nvml.nvmlShutdown()
            raise ConfigError(f"the monitor: NVML does not know GPU {index} of torch: {error}") from error
        except ConfigError:
            self._nvml.nvmlShutdown()
            raise
        self.title = f"NVML, {name}"

    def _find(self, index: int) -> Any:
        """NVML counts all GPUs of the machine, torch those of CUDA_VISIBLE_DEVICES: the UUID says which is which."""
        if uuid := _uuid(index):
            return self._nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
        if os.environ.get("CUDA_VISIBLE_DEVICES"):
            raise ConfigError(
                f"the monitor cannot tell which GPU of NVML is torch's {index}: CUDA_VISIBLE_DEVICES is set, and torch "
                f"{torch.__version__} does not know the UUIDs of GPUs. Unset it, or use a newer torch."
            )
        return self._nvml.nvmlDeviceGetHandleByIndex(index)

    def samples(self, interval: float, stop: threading.Event) -> Iterator[Sample]:
        """A sample every ``interval`` seconds; ends NVML when it ends."""
        start = time.perf_counter()
        try:
            while not stop.is_set():
                yield Sample(time.perf_counter() - start, self.read(), self.throttled())
                stop.wait(interval)
        finally:
            self._nvml.nvmlShutdown()

    def read(self) -> dict[str, float]:
        """All that this GPU tells."""
        nvml, handle = self._nvml, self._handle
        asked: dict[str, Callable[[], float]] = {
            "power": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            "clock gpu": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "clock memory": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "temperature gpu": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "memory used": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**20,
            "load gpu": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            "load memory": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).memory,
        }
        told = {name: self._ask(read) for name, read in asked.items()}
        return {name: float(value) for name, value in told.items() if value is not None}

    def throttled(self) -> tuple[str, ...] | None:
        """Why the clocks are lower than they could be, in NVML's own account; None if it does not tell."""
        bits = self._ask(lambda: self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
        if bits is None:
            return None
        known = {text: getattr(self._nvml, f"nvmlClocksThrottleReason{name}") for name, text in REASONS.items()}
        return tuple(text for text, bit in known.items() if int(bits) & bit)

    def _ask(self, read: Callable[[], Any]) -> Any:
        """A value, or None where this GPU, or this machine, does not tell it (a container, MIG, a GeForce)."""
        try:
            return read()
        except self._nvml.NVMLError:
            return None

    def close(self) -> None:
        """Nothing to interrupt: ``samples`` ends by itself."""


def _uuid(index: int) -> str:
    """Of a GPU of torch; "" where torch has none, or does not tell."""
    try:
        return str(torch.cuda.get_device_properties(index).uuid) if torch.cuda.is_available() else ""
    except AttributeError:
        return ""
