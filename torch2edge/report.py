"""What a conversion tells: a row per module, a row per checked output, timings, notes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = [
    "CheckRow", "DimRow", "Memory", "ModuleRow", "PlacementRow", "Report", "bytes_text", "check_table", "table",
]  # fmt: skip


@dataclass
class ModuleRow:
    """A submodule in which ops ran."""

    path: str
    kind: str  # name of its class
    ops: int
    layers: int
    device: str
    precision: str  # the floating dtypes of what it computes, "integer" where there are none


@dataclass
class CheckRow:
    """The worst trial of one output against PyTorch.

    ``max_abs`` is the largest absolute error, ``rel_l2`` the L2 norm of the error over that of the reference (or over a tenth
    of the reference's norm in its largest trial, if that is more; for integer and bool outputs the share of elements that
    differ), ``cosine`` the cosine similarity, ``ref_max`` the largest
    magnitude in the reference. ``trial`` says how the inputs were drawn. NaN and infinities must be in the same places.
    """

    output: str
    max_abs: float
    rel_l2: float
    cosine: float
    ref_max: float
    trial: str
    passed: bool
    finite: int = 0  # elements of the reference that are no NaN and no infinity, over all trials


@dataclass
class DimRow:
    """A size that varies."""

    name: str
    axes: str  # "axis 0 of args[0]"
    ranges: list[list[int]]  # (min, opt, max) per optimization profile


@dataclass
class PlacementRow:
    """A layer of a network that was to run on a DLA: where the rules have it, and where the build log has it."""

    layer: str
    module: str
    planned: str  # "DLA" or "GPU"
    actual: str  # the same, or "" for a layer that the log does not name
    reason: str  # the log's, for a layer on the GPU


@dataclass
class Memory:
    """What the engine and its conversion take, all in bytes; None where it is not known.

    ``engine`` is the serialized engine; ``weights`` the constants of the network; ``activations`` what each execution context
    takes on the GPU for activations and scratch (known once the engine ran: with the check, on a GPU); ``workspace`` the
    most that a layer's scratch may take; ``host`` how far the process's resident memory rose at the peak of the conversion,
    TensorRT's libraries included where this was the first to load them.
    """

    engine: int = 0
    weights: int | None = None
    activations: int | None = None
    workspace: int | None = None
    host: int | None = None

    def __str__(self) -> str:
        """One line, ``memory: engine 44.8 MiB, weights 44.7 MiB, ...``, without what is not known."""
        parts = [
            f"engine {bytes_text(self.engine)}",
            *(f"{name} {bytes_text(size)}" for name, size in (("weights", self.weights), ("activations", self.activations))
              if size is not None),
            *([] if self.workspace is None else [f"workspace at most {bytes_text(self.workspace)}"]),
            *([] if self.host is None else [f"host {bytes_text(self.host)} more at the peak"]),
        ]  # fmt: skip
        return f"memory: {', '.join(parts)}"


@dataclass
class Report:
    """Printable account of a conversion; ``to_dict()`` is the same as JSON."""

    tensorrt: str
    target: str  # the GPU, or the compute capabilities that it was built for
    precision: str
    checked_by: str = ""  # "TensorRT on NVIDIA H200", "the reference executor", or "" when verify=False
    tolerance: float = 0.0
    engine_bytes: int = 0
    dims: list[DimRow] = field(default_factory=list)  # none where all shapes are fixed
    constraints: list[str] = field(default_factory=list)  # what the model itself demands of them
    modules: list[ModuleRow] = field(default_factory=list)
    check: list[CheckRow] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage
    notes: list[str] = field(default_factory=list)
    original: str = "PyTorch"  # what the engine was compared with
    precisions: dict[str, str] = field(default_factory=dict)  # what max_error= or metric= found, for precisions=
    placements: list[PlacementRow] = field(default_factory=list)  # where a DLA took part
    built_by: str = ""  # who, where it was not torch2edge
    memory: Memory = field(default_factory=Memory)
    cache: str = ""  # with cache_dir=: whether the engine was in it, and why not

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Report:
        """The inverse of ``to_dict``."""
        modules = [ModuleRow(**row) for row in data["modules"]]
        dims = [DimRow(**row) for row in data.get("dims", [])]
        check = [CheckRow(**row) for row in data["check"]]
        placements = [PlacementRow(**row) for row in data.get("placements", [])]
        memory = Memory(**data.get("memory", {"engine": data.get("engine_bytes", 0)}))
        return cls(
            **{**data, "dims": dims, "modules": modules, "check": check, "placements": placements, "memory": memory}
        )  # fmt: skip

    def __str__(self) -> str:
        """Two tables and what else there is to know."""
        size = bytes_text(self.engine_bytes)
        stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in self.timings.items())
        head = f"{self.tensorrt}, for {self.target}, {self.precision}, {size}\n{stages}\n{self.memory}".rstrip()
        head += f"\ncache: {self.cache}" if self.cache else ""
        modules = [] if self.built_by else [self.modules_text()]
        dims = [self.dims_text()] if self.dims else []
        placed = [self.placements_text()] if self.placements else []
        return "\n\n".join(
            [head, *dims, *modules, *placed, self.check_text(), *([] if not self.notes else ["\n".join(self.notes)])]
        )

    def modules_text(self) -> str:
        """A row per module."""
        rows = [[m.path or "(model)", m.kind, m.ops, m.layers, m.device, m.precision] for m in self.modules]
        return table(["module", "class", "ops", "layers", "device", "precision"], rows)

    def dims_text(self) -> str:
        """The sizes that vary: a row per dim and optimization profile, then what the model demands of them."""
        rows = [[d.name if not p else "", d.axes if not p else "", *r] for d in self.dims for p, r in enumerate(d.ranges)]
        lines = [table(["dynamic", "", "min", "opt", "max"], rows)]
        return "\n".join([*lines, *(f"the model demands {c}" for c in self.constraints)])

    def placements_text(self) -> str:
        """Plan and engine, layer by layer."""
        rows = [[row.layer, row.planned, row.actual or "joined", row.reason] for row in self.placements]
        return table(["layer", "planned", "runs on", "reason in the log"], rows)

    def check_text(self) -> str:
        """The check alone: a row per output."""
        if self.built_by:
            return f"not checked: built by {self.built_by}"
        return check_table(self.check, self.checked_by, self.tolerance, self.original)


def check_table(check: Sequence[CheckRow], checked_by: str, tolerance: float, original: str = "PyTorch") -> str:
    """The rows of a check, and by what it was made."""
    if not checked_by:
        return "not checked (verify=False)"
    rows = [
        [c.output, f"{c.max_abs:.3g}", f"{c.rel_l2:.3g}", f"{c.cosine:.6f}", f"{c.ref_max:.3g}", c.trial,
         "ok" if c.passed else "FAILED"] for c in check
    ]  # fmt: skip
    title = f"check against {original} by {checked_by}, tolerance {tolerance:g}; the worst trial of each output"
    return title + "\n" + table(["output", "max abs", "rel L2", "cosine", "ref max", "inputs", ""], rows)


def bytes_text(size: int) -> str:
    """A number of bytes for people: ``44.8 MiB``."""
    return f"{size / 2**20:.1f} MiB" if size < 10 * 2**30 else f"{size / 2**30:.1f} GiB"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns as wide as their widest cell; numbers to the right."""
    cells = [[str(c) for c in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    right = [all(isinstance(row[i], (int, float)) for row in rows) and bool(rows) for i in range(len(head))]
    lines = ["  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right)).rstrip() for row in cells]
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]])
