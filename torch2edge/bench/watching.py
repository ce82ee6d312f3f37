"""Power, clocks, temperatures, memory and load while something runs."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import ConfigError
from ..report import table
from .nvml import Nvml
from .samples import UNITS, Sample, Source
from .tegrastats import Tegrastats
from .throttling import can_tell, throttling

__all__ = ["Monitor", "MonitorReport", "MonitorRow", "monitor", "source_here"]

JETSON = Path("/etc/nv_tegra_release")
FIRST = 5.0  # seconds to wait for the first sample


@dataclass
class MonitorRow:
    """One thing that was read, over all samples."""

    name: str
    unit: str
    min: float
    mean: float
    max: float


@dataclass
class MonitorReport:
    """Printable account of what a monitor saw; ``to_dict()`` is the same as JSON."""

    source: str
    seconds: float
    samples: int
    rows: list[MonitorRow]
    throttling: list[str]  # a sentence for each sign of it
    can_tell: bool  # whether it would have been seen
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, source: str, seconds: float, samples: Sequence[Sample], notes: Sequence[str] = ()) -> MonitorReport:
        """The account of these samples."""
        names = dict.fromkeys(name for sample in samples for name in sample.readings)
        rows = [_row(name, [s.readings[name] for s in samples if name in s.readings]) for name in sorted(names)]
        return cls(source, seconds, len(samples), rows, throttling(samples), can_tell(samples), list(notes))

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> MonitorReport:
        """The inverse of ``to_dict``."""
        return cls(**{**data, "rows": [MonitorRow(**row) for row in data["rows"]]})

    def __str__(self) -> str:
        """A row per reading, then the throttling."""
        head = f"monitor: {self.source}, {self.samples} samples in {self.seconds:.1f} s"
        rows = [[r.name, r.unit, f"{r.min:.1f}", f"{r.mean:.1f}", f"{r.max:.1f}"] for r in self.rows]
        none = "No throttling was seen." if self.can_tell else (
            "Whether the clocks were held down is not known: the hardware does not say, and too few samples were under load."
        )  # fmt: skip
        told = self.throttling or [none]
        return "\n".join([head, table(["", "", "min", "mean", "max"], rows), *told, *self.notes])


class Monitor:
    """A context manager that reads a ``Source`` from a thread of its own; ``report`` is there afterwards.

    Raises:
        ConfigError: nothing can be read here, or nothing was within five seconds.
    """

    def __init__(self, source: Source, interval: float) -> None:
        self._source, self._interval = source, interval
        self._stop, self._first = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, name="torch2edge monitor", daemon=True)
        self._start = 0.0
        self.samples: list[Sample] = []
        self.report: MonitorReport | None = None

    def __enter__(self) -> Monitor:
        self._start = time.perf_counter()
        self._thread.start()
        if not self._first.wait(FIRST) or not self.samples:
            self._end()
            raise ConfigError(
                f"the monitor got nothing from {self._source.title}"
                + (f": {self._error}" if self._error else f" within {FIRST:g} s")
            ) from self._error
        return self

    def __exit__(self, *error: object) -> None:
        seconds = time.perf_counter() - self._start
        self._end()
        notes = [f"The monitor ended early: {type(self._error).__name__}: {self._error}"] if self._error else []
        self.report = MonitorReport.of(self._source.title, seconds, self.samples, notes)

    def _watch(self) -> None:
        try:
            for sample in self._source.samples(self._interval, self._stop):
                self.samples.append(sample)
                self._first.set()
        except Exception as error:
            self._error = error
        finally:
            self._first.set()

    def _end(self) -> None:
        self._stop.set()
        self._source.close()
        self._thread.join()


def monitor(interval: float = 0.1, device: int | None = None) -> Monitor:
    """Watch the device while something runs.

        with torch2edge.monitor() as watched:
            ...
        print(watched.report)

    Args:
        interval: seconds between samples.
        device: torch's number of the GPU; by default the current one. A Jetson has one.

    Raises:
        ConfigError: neither tegrastats (a Jetson) nor an NVIDIA driver with nvidia-ml-py is here; or a wrong option.
    """
    if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not math.isfinite(interval) or interval <= 0:
        raise ConfigError(f"monitor: interval is {interval!r}; it must be a number of seconds above 0")
    if device is not None and (isinstance(device, bool) or not isinstance(device, int) or device < 0):
        raise ConfigError(f"monitor: device is {device!r}; it must be the number of a GPU, 0 or more")
    return Monitor(source_here(device), interval)


def source_here(device: int | None = None) -> Source:
    """What can be read on this machine: tegrastats on a Jetson, NVML elsewhere.

    Raises:
        ConfigError: neither.
    """
    if JETSON.exists() and shutil.which("tegrastats"):
        return Tegrastats()
    if device is None:
        device = torch.cuda.current_device() if torch.cuda.is_available() else 0
    return Nvml(device)


def _row(name: str, values: Sequence[float]) -> MonitorRow:
    unit = UNITS[name.partition(" ")[0]]
    return MonitorRow(name, unit, min(values), math.fsum(values) / len(values), max(values))
