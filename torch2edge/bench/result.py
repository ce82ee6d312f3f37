"""What a benchmark found."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_whole
from ..report import table
from .contender import WarmUp
from .figures import Figure
from .lanes import Query
from .layers import LayerProfile
from .watching import MonitorReport

__all__ = ["Benchmark", "Rival", "figures_of"]

TITLES = {
    "latency": "latency", "enqueue": "enqueue time", "h2d": "H2D latency", "compute": "GPU compute time", "d2h": "D2H latency",
}  # fmt: skip
HEAD = ["ms", "min", "mean", "median", "p90", "p95", "p99", "max", "cv %"]


def figures_of(queries: Sequence[Query]) -> dict[str, Figure]:
    """The figures of what was measured, by the names of ``TITLES``."""
    columns = {name: [value for value in (getattr(query, name) for query in queries) if value is not None] for name in TITLES}
    return {name: Figure.of(values) for name, values in columns.items() if values}


@dataclass
class Rival:
    """Another form of the model, measured in the same rounds."""

    name: str
    figures: dict[str, Figure] = field(default_factory=dict)
    throughput: float = 0.0  # calls per second
    ratio: float = 0.0  # its median latency by that of the benchmarked module; the median over the rounds
    lowest: float = 0.0  # of the rounds
    highest: float = 0.0
    why_not: str = ""  # why it could not be measured


@dataclass
class Benchmark:
    """Printable result of ``torch2edge.benchmark``; ``to_dict()`` is the same as JSON.

    All figures are in milliseconds and of single calls, in the meanings that trtexec gives them:

    - latency: H2D + GPU compute + D2H of a call (of the CPU: the time of the call)
    - enqueue: the host's time until the call returned
    - compute: GPU time of a call, by CUDA events around it
    - h2d, d2h: copying its inputs from, and its outputs to, pinned host memory
    - throughput: calls by the host's time from the first enqueue to the last end

    Attributes:
        times: the times of every call (``Query``), in order on each stream; not in ``to_dict()`` but with ``times=True``.
    """

    name: str
    device: str
    clock: str  # "CUDA events" or "the host's clock"
    versions: dict[str, str]
    inputs: list[str]
    settings: dict[str, Any]
    warmup: WarmUp
    queries: int
    walltime: float  # seconds
    figures: dict[str, Figure]
    warnings: list[str] = field(default_factory=list)
    rivals: list[Rival] = field(default_factory=list)
    rounds: int = 1
    layers: LayerProfile | None = None
    monitor: MonitorReport | None = None
    times: list[Query] = field(default_factory=list, repr=False)

    @property
    def throughput(self) -> float:
        """Calls per second."""
        return self.queries / self.walltime

    @property
    def total_compute(self) -> float:
        """Seconds of the GPU in all calls; 0 where nothing was timed on one."""
        return self.figures["compute"].mean * self.queries / 1e3 if "compute" in self.figures else 0.0

    def to_dict(self, times: bool = False) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers; with ``times`` every call's too."""
        data = asdict(self)
        calls = data.pop("times")
        data = {**data, "throughput": self.throughput, "total_compute": self.total_compute}
        return {**data, "times": [Query(*call)._asdict() for call in calls]} if times else data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Benchmark:
        """The inverse of ``to_dict``.

        Raises:
            InputError: it is no benchmark.
        """
        try:
            given = {key: value for key, value in data.items() if key not in ("throughput", "total_compute")}
            given["warmup"] = WarmUp(**data["warmup"])
            given["figures"] = _figures(data["figures"])
            given["rivals"] = [Rival(**{**row, "figures": _figures(row["figures"])}) for row in data["rivals"]]
            given["layers"] = LayerProfile.from_dict(data["layers"]) if data["layers"] else None
            given["monitor"] = MonitorReport.from_dict(data["monitor"]) if data["monitor"] else None
            given["times"] = [Query(**row) for row in data.get("times", [])]
            return cls(**given)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"this is no result of torch2edge.benchmark: {type(error).__name__}: {error}") from error

    def save(self, path: str | os.PathLike[str], times: bool = False) -> None:
        """Write ``to_dict(times)`` as JSON; an existing file is replaced only by a whole one.

        Raises:
            OSError: it cannot be written.
        """
        write_whole(Path(path), (json.dumps(self.to_dict(times), indent=2) + "\n").encode())

    def __str__(self) -> str:
        """The table of figures, and what else there is to know."""
        parts = [self._head(), self._figures_text()]
        if self.rivals:
            parts.append(self._rivals_text())
        parts += [str(part) for part in (self.layers, self.monitor) if part is not None]
        return "\n\n".join([*parts, *(["\n".join(f"* {line}" for line in self.warnings)] if self.warnings else [])])

    def _head(self) -> str:
        rule = {True: "until stable", False: "not stable", None: "of a fixed length"}[self.warmup.stable]
        how = [f"{self.settings['streams']} stream{'s' if self.settings['streams'] > 1 else ''}"]
        how += [text for key, text in (("threads", "a thread each"), ("cuda_graph", "CUDA graph"), ("spin_wait", "spin wait"))
                if self.settings[key]]  # fmt: skip
        if "compute" in self.figures and not self.settings["data_transfers"]:
            how.append("no data transfers")
        return "\n".join([
            f"{self.name} on {self.device}, {', '.join(f'{k} {v}' for k, v in self.versions.items())}",
            f"inputs {', '.join(self.inputs) or 'none'}; {', '.join(how)}; timed by {self.clock}",
            f"{self.queries} calls in {self.walltime:.2f} s after a warm-up of {self.warmup.calls} calls, "
            f"{self.warmup.seconds:.2f} s ({rule})",
        ])  # fmt: skip

    def _figures_text(self) -> str:
        rows = [[TITLES[name], *_cells(figure)] for name, figure in self.figures.items()]
        lines = [f"throughput {self.throughput:.2f} calls/s", table(HEAD, rows)]
        if self.total_compute:
            lines.append(f"GPU compute time of all calls {self.total_compute:.2f} s of {self.walltime:.2f} s")
        return "\n".join(lines)

    def _rivals_text(self) -> str:
        mine = [self.name, *_latency(self.figures), f"{self.throughput:.1f}", "1", ""]
        rows = [mine, *(_rival_row(rival) for rival in self.rivals)]
        title = f"compared in {self.rounds} rounds, in each round one after the other"
        lines = [title, table(["", "latency ms", "p99 ms", "calls/s", "x latency", "in the rounds"], rows)]
        return "\n".join(lines + [f"{rival.name}: not measured: {rival.why_not}" for rival in self.rivals if rival.why_not])


def _rival_row(rival: Rival) -> list[str]:
    if rival.why_not:
        return [rival.name, "-", "-", "-", "-", ""]
    spread = f"{rival.lowest:.2f} to {rival.highest:.2f}"
    return [rival.name, *_latency(rival.figures), f"{rival.throughput:.1f}", f"{rival.ratio:.2f}", spread]


def _latency(figures: dict[str, Figure]) -> list[str]:
    return [f"{figures['latency'].median:.3f}", f"{figures['latency'].p99:.3f}"]


def _cells(f: Figure) -> list[str]:
    return [*(f"{value:.4f}" for value in (f.min, f.mean, f.median, f.p90, f.p95, f.p99, f.max)), f"{f.cv:.1f}"]


def _figures(data: dict[str, Any]) -> dict[str, Figure]:
    return {name: Figure(**row) for name, row in data.items()}
