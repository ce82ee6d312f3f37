"""The rows of a comparison: what each module, or op, adds to the error."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..graph import Graph, Op, Value
from ..report import table
from .figures import Figures, Measured

__all__ = ["Comparison", "DriftRow", "homes_of", "module_rows", "op_rows", "output_rows", "values_to_hold"]


@dataclass
class DriftRow:
    """How far one value of the network is from PyTorch's, over all batches.

    ``max_abs`` is the largest absolute error, ``rel_l2`` the L2 norm of the error over that of PyTorch's value, ``cosine`` the
    cosine similarity, ``snr_db`` the signal-to-noise ratio in decibels, 10 log10(|value|^2 / |error|^2). ``adds`` is what the
    module's own arithmetic adds to the relative error: sqrt(rel_l2^2 - r^2), where r is the largest relative error of what the
    module reads; it takes errors for independent, and is 0 where a module lessens them.
    """

    name: str  # path of the module, "" for the model itself; with ops=True path/op; name of an output
    module: str  # path of the module; of a batch norm that is part of a convolution, the convolution's
    kind: str  # the op that made the value
    source: str  # "file.py:123"
    precision: str
    max_abs: float
    rel_l2: float
    cosine: float
    snr_db: float
    adds: float = 0.0


@dataclass
class Comparison:
    """What drifts; ``print`` it, or take ``to_dict()``.

    Attributes:
        verdict: a sentence on what is at fault.
        fault: "" (nothing), "precision", "conversion", or "tracing" (the traced ops are not the model).
        rows: a row per module in which ops ran, or per op, in order of execution. A batch norm that is part of the convolution
            before stands in the convolution's row.
        outputs: a row per output of the model.
        alone: module -> the relative L2 error of the outputs if it alone were in its low precision, by PyTorch, the largest
            first; measured where the precision is at fault. An error inside that hardly reaches the outputs is small here.
        float32: the outputs of the same model converted in float32; empty where the network is in float32 itself.
        compared_by: what computed the network.
    """

    verdict: str
    fault: str
    precision: str
    tolerance: float
    batches: int
    compared_by: str
    rows: list[DriftRow] = field(default_factory=list)
    outputs: list[DriftRow] = field(default_factory=list)
    float32: list[DriftRow] = field(default_factory=list)
    alone: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain dicts, lists, strings and numbers."""
        return asdict(self)

    def __str__(self) -> str:
        """The verdict, and tables."""
        said = f"{self.precision} against PyTorch by {self.compared_by}, {self.batches} batch{'es' * (self.batches != 1)}"
        head = ["precision", "max abs", "rel L2", "cosine", "SNR dB"]
        modules = [[r.name or "(model)", r.kind, *_cells(r), f"{r.adds:.2g}"] for r in self.rows]
        parts = [self.verdict, said, table(["module", "gives", *head, "adds"], modules)]
        if self.alone:
            costs = [[path or "(model)", f"{error:.2g}"] for path, error in self.alone.items()]
            parts.append(table(["module", "error of the outputs if it alone were low"], costs))
        for name, rows in (("output", self.outputs), ("output in float32", self.float32)):
            parts += [table([name, *head], [[r.name, *_cells(r)] for r in rows])] if rows else []
        return "\n\n".join(parts)


def _cells(row: DriftRow) -> list[str]:
    return [row.precision, f"{row.max_abs:.3g}", f"{row.rel_l2:.3g}", f"{row.cosine:.6f}", f"{row.snr_db:.1f}"]


def homes_of(graph: Graph, folded: Collection[str], tensor_names: Collection[int]) -> dict[int, str]:
    """Index of each result -> the module in whose row it stands.

    Args:
        folded: modules whose batch norms are part of the convolutions before them.
        tensor_names: indices of the values that are in the network.
    """
    homes: dict[int, str] = {}
    for op in graph.ops:
        first = next(op.inputs(), None)
        inner = op.module in folded and first is not None and first.index not in tensor_names
        home = homes.get(first.index, op.module) if inner and first is not None else op.module
        homes.update({v.index: home for v in op.outputs if v is not None})
    return homes


def values_to_hold(graph: Graph, tensor_names: Collection[int], homes: Mapping[int, str], every: bool) -> set[int]:
    """Indices of the float values to look at: all, or those that a module gives to another, and the last of each module."""
    made = [v for op in graph.ops for v in op.outputs if v is not None and v.dtype.is_floating_point]
    held = {v.index for v in made} & set(tensor_names)
    if every:
        return held
    last = {homes[v.index]: v.index for v in made if v.index in held}
    crossing = {v.index for op in graph.ops for v in op.inputs() if homes.get(v.index, "") != _home(op, homes)}
    return held & (crossing | set(last.values()))


def _home(op: Op, homes: Mapping[int, str]) -> str:
    return next((homes[v.index] for v in op.outputs if v is not None), op.module)


def _row(name: str, module: str, op: Op | None, precision: str, figures: Figures, adds: float = 0.0) -> DriftRow:
    kind, source = (op.name, op.source) if op else ("", "")
    return DriftRow(
        name, module, kind, source, precision, figures.max_abs, figures.rel_l2, figures.cosine, figures.snr_db, adds
    )  # fmt: skip


def _added(figures: Figures, read: Iterable[Value], values: Mapping[int, Figures]) -> float:
    known = max((values[v.index].rel_l2 for v in read if v.index in values), default=0.0)
    if not math.isfinite(figures.rel_l2):
        return 0.0 if math.isinf(known) else math.inf
    return math.sqrt(max(0.0, figures.rel_l2**2 - known**2))


def op_rows(
    graph: Graph, homes: Mapping[int, str], measured: Measured, precisions: Mapping[str, str]
) -> list[DriftRow]:  # fmt: skip
    """A row per float result in the network."""
    rows = []
    for op in graph.ops:
        for value in op.outputs:
            if value is not None and value.index in measured.values:
                figures, home = measured.values[value.index], homes[value.index]
                adds = _added(figures, op.inputs(), measured.values)
                rows.append(_row(f"{home}/{op.short_name}", home, op, precisions.get(home, ""), figures, adds))
    return rows


def module_rows(
    graph: Graph, homes: Mapping[int, str], measured: Measured, precisions: Mapping[str, str]
) -> list[DriftRow]:  # fmt: skip
    """A row per module, in the order of their last results."""
    last: dict[str, tuple[Op, int]] = {}
    read: dict[str, list[Value]] = {}
    for op in graph.ops:
        home = _home(op, homes)
        read.setdefault(home, []).extend(v for v in op.inputs() if homes.get(v.index) != home)
        for value in op.outputs:
            if value is not None and value.index in measured.values:
                last.pop(home, None)
                last[home] = (op, value.index)
    return [
        _row(
            path,
            path,
            op,
            precisions.get(path, ""),
            measured.values[i],
            _added(measured.values[i], read[path], measured.values),
        )
        for path, (op, i) in last.items()
    ]


def output_rows(graph: Graph, figures: Sequence[Figures], precision: str) -> list[DriftRow]:
    """A row per output of the model."""
    return [_row(name, "", None, precision, f) for name, f in zip(graph.output_names, figures)]
