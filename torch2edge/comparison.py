"""compare(): what drifts, and whether the conversion or the precision is at fault. Part of api.py, knows the stages too."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

from ._trt import trt
from .account import precision as precision_of
from .build.calibration import Calibration
from .build.calibration.data import open_data
from .build.calibration.distributed import Ranks
from .build.calibration.intake import Intake
from .check.figures import Figures, Measured, measure
from .check.reference import ReferenceExecutor
from .check.verify import TOLERANCE, TRIALS, draw
from .errors import ConfigError, InputError
from .graph import Graph, Op, Value
from .inputs import device_of
from .prepare import Call
from .report import table
from .roads import Kept, Road, network
from .run import EdgeModule
from .verification import original_of

__all__ = ["Comparison", "DriftRow", "compare"]

BATCHES = 4
NAMED = 3  # modules that a verdict names


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

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain dicts, lists, strings and numbers."""
        return asdict(self)

    def worst(self, count: int = NAMED) -> list[DriftRow]:
        """The rows that add most to the error, the largest first."""
        return sorted((row for row in self.rows if row.adds > 0), key=lambda row: -row.adds)[:count]

    def __str__(self) -> str:
        """The verdict, and tables."""
        said = f"{self.precision} against PyTorch by {self.compared_by}, {self.batches} batch{'es' * (self.batches != 1)}"
        head = ["precision", "max abs", "rel L2", "cosine", "SNR dB"]
        modules = [[r.name or "(model)", r.kind, *_cells(r), f"{r.adds:.2g}"] for r in self.rows]
        parts = [self.verdict, said, table(["module", "gives", *head, "adds"], modules)]
        for name, rows in (("output", self.outputs), ("output in float32", self.float32)):
            parts += [table([name, *head], [[r.name, *_cells(r)] for r in rows])] if rows else []
        return "\n\n".join(parts)


def _cells(row: DriftRow) -> list[str]:
    return [row.precision, f"{row.max_abs:.3g}", f"{row.rel_l2:.3g}", f"{row.cosine:.6f}", f"{row.snr_db:.1f}"]


def compare(
    model: nn.Module, model_trt: EdgeModule, data: Any = None, *, batches: int = BATCHES, ops: bool = False,
    tolerance: float | None = None,
) -> Comparison:  # fmt: skip
    """Hold what each module of ``model`` gives against what the converted network gives in its place.

    The network is computed layer by layer by the reference executor, in the precisions that TensorRT was told: half and INT8
    are in it, the choices of TensorRT's kernels are not. It needs no GPU. Where the network is not all in float32, the model
    is converted once more in float32 (without a build), which tells the conversion's errors from those of the precision.

    Args:
        model: the original.
        model_trt: what ``convert(model, ..., keep_network=True)`` gave.
        data: as ``convert(calibration=)`` takes it: batches, a DataLoader, a folder, a ``Calibration``. By default the batches
            of the conversion's own calibration, or random inputs as in its check.
        batches: take no more than these.
        ops: a row per op in place of one per module.
        tolerance: largest relative L2 error of an output with which nothing is at fault; by default that of the conversion.

    Raises:
        ConfigError: ``model_trt`` is no EdgeModule or has no network, or came by way of ONNX.
        InputError: data that the model cannot take.
        UnsupportedLayerError: a layer that the reference executor does not know.
    """
    kept = _kept(model_trt)
    if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
        raise ConfigError(f"compare: batches is {batches!r}; it must be a whole number from 1 on")
    report = model_trt.report
    assert report is not None
    given = _batches(model, kept, data, batches)
    graph, limit = kept.road.graph, report.tolerance if tolerance is None else tolerance
    homes = _homes(graph, kept.road)
    measured = _measured(kept.road, given, _wanted(graph, kept.road, homes, ops))
    precisions = {row.path: row.precision for row in report.modules}
    rows = (_op_rows if ops else _module_rows)(graph, homes, measured, precisions)
    outputs = _output_rows(graph, measured.outputs, report.precision)
    result = Comparison(
        "", "", report.precision, limit, len(given), "the reference executor", rows, outputs
    )  # fmt: skip
    _judge(result, model, kept, given, measured)
    return result


def _kept(module: Any) -> Kept:
    if not isinstance(module, EdgeModule):
        raise ConfigError(f"compare: model_trt is a {type(module).__name__}; it must be the EdgeModule that convert() gave")
    if not isinstance(module._kept, Kept):
        raise ConfigError(
            "compare: the module has no network to look into: convert with keep_network=True, and compare that module itself "
            "(a loaded one and a copy have none)"
        )
    if not module._kept.road.lowered.tensor_names:
        raise ConfigError(
            "compare: the network came by way of ONNX, and its tensors are not those of the model's modules. Only "
            "networks that the converters made can be compared module by module"
        )
    return module._kept


# ---- data ---------------------------------------------------------------------------------------------------------------


def _batches(model: nn.Module, kept: Kept, data: Any, count: int) -> list[list[torch.Tensor]]:
    call = kept.call
    if data is None:
        return call.seen[:count] or [draw(call.tensors, trial) for trial in TRIALS[:count]]
    with _called_data():
        told = replace(data if isinstance(data, Calibration) else Calibration(data), batches=count)
        device = device_of(model) or torch.device("cpu")
        parameters = list(inspect.signature(model.forward).parameters)
        graph = kept.road.graph
        intake = Intake(graph, call.args, call.kwargs, told, device, parameters)
        found: list[list[torch.Tensor]] = []
        for number, batch in open_data(told, graph.inputs, intake.examples, Ranks()):
            found += intake.ready(intake.tensors(batch, number), number)
        if not found and intake.left_over():
            found.append(intake.padded())
    if not found:
        raise InputError("data: no batch")
    return found[:count]


@contextmanager
def _called_data() -> Iterator[None]:
    """Errors of what reads calibration batches, in terms of ``data``."""
    try:
        yield
    except (InputError, ConfigError) as error:
        raise type(error)(str(error).replace("calibration", "data")) from error


# ---- figures ------------------------------------------------------------------------------------------------------------


def _measured(road: Road, batches: Sequence[Sequence[torch.Tensor]], wanted: set[int]) -> Measured:
    lowered = road.lowered
    executor = ReferenceExecutor(road.session.network, trt)
    return measure(
        road.graph, executor, lowered.input_names, lowered.output_names, lowered.tensor_names, batches, wanted
    )  # fmt: skip


def _homes(graph: Graph, road: Road) -> dict[int, str]:
    """Index of each result -> the module in whose row it stands."""
    homes: dict[int, str] = {}
    folded = set(road.lowered.folded)
    for op in graph.ops:
        first = next(op.inputs(), None)
        inner = op.module in folded and first is not None and first.index not in road.lowered.tensor_names
        home = homes.get(first.index, op.module) if inner and first is not None else op.module
        homes.update({v.index: home for v in op.outputs if v is not None})
    return homes


def _wanted(graph: Graph, road: Road, homes: Mapping[int, str], every: bool) -> set[int]:
    """Indices of the float values to look at: all, or those that a module gives to another, and the last of each module."""
    made = [v for op in graph.ops for v in op.outputs if v is not None and v.dtype.is_floating_point]
    held = {v.index for v in made} & set(road.lowered.tensor_names)
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


def _op_rows(
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


def _module_rows(
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


def _output_rows(graph: Graph, figures: Sequence[Figures], precision: str) -> list[DriftRow]:
    return [_row(name, "", None, precision, f) for name, f in zip(graph.output_names, figures)]


# ---- the verdict --------------------------------------------------------------------------------------------------------


def _judge(
    result: Comparison, model: nn.Module, kept: Kept, batches: Sequence[list[torch.Tensor]], measured: Measured
) -> None:  # fmt: skip
    """Fill in what is at fault."""
    off = _largest(result.outputs)
    plain = kept.road if result.precision == "fp32" else _in_float32(kept)
    exact = max(TOLERANCE[p] for p in precision_of(plain.network_graph, plain.session.options).split("+"))
    if not _traced_right(model, kept, batches[0], measured.replayed, exact):
        result.fault = "tracing"
        result.verdict = (
            "the tracing is at fault: the traced ops, run by PyTorch, do not give the model's outputs. Either the model was "
            "changed after the conversion, or is not the one that was converted, or tracing missed something"
        )
        return
    if plain is not kept.road:
        figures = _measured(plain, batches, set()).outputs
        result.float32 = _output_rows(plain.graph, figures, "fp32")
    in_float = _largest(result.float32) if result.float32 else off
    if in_float > exact:
        result.fault = "conversion"
        result.verdict = _conversion(plain, batches[:1], in_float, exact, bool(result.float32))
    elif off > result.tolerance:
        result.fault = "precision"
        result.verdict = (
            f"the precision is at fault, not the conversion: in float32 the outputs are right (relative L2 error "
            f"{in_float:.2g}), in {result.precision} they are off by {off:.2g}, more than {result.tolerance:g}. "
            + _advice(result.worst())
        )
    else:
        also = f", in float32 {in_float:.2g}" if result.float32 else ""
        result.verdict = (
            f"nothing is at fault: the outputs are off by {off:.2g}{also} (relative L2 error), within the tolerance of "
            f"{result.tolerance:g}"
        )


def _largest(rows: Sequence[DriftRow]) -> float:
    return max((row.rel_l2 for row in rows), default=0.0)


def _advice(rows: Sequence[DriftRow]) -> str:
    if not rows:
        return "No module adds more than others; convert(max_error=) finds which to keep out"
    told = ", ".join(f"{row.name or 'the model itself'} ({row.adds:.2g})" for row in rows)
    entries = ", ".join(f"{module!r}: 'fp32'" for module in dict.fromkeys(row.module for row in rows))
    return (
        f"Most is added in {told}; precisions={{{entries}}} keeps them in float32, and convert(max_error=) finds the fewest "
        "that must be"
    )


def _in_float32(kept: Kept) -> Road:
    """The same graph lowered with no low precision; nothing is built."""
    call = Call(kept.call.model, kept.call.args, kept.call.kwargs)
    options = replace(kept.options, fp16=False, bf16=False, int8=False, precisions={})
    return network(call, None, kept.road.graph, options, kept.converting, kept.names)


def _traced_right(
    model: nn.Module, kept: Kept, inputs: list[torch.Tensor], replayed: Sequence[torch.Tensor], limit: float
) -> bool:  # fmt: skip
    run, _ = original_of(model, list(kept.call.args), dict(kept.call.kwargs), kept.road.graph)
    for expected, result in zip(run([t.clone() for t in inputs]), replayed, strict=True):
        if expected.shape != result.shape:
            return False
        figures = Figures()
        figures.add(result, expected)
        if not figures.rel_l2 <= limit:
            return False
    return True


def _conversion(
    road: Road, batches: Sequence[list[torch.Tensor]], off: float, limit: float, again: bool
) -> str:  # fmt: skip
    """The verdict where the network is wrong in float32: with the first op that drifts."""
    homes = _homes(road.graph, road)
    measured = _measured(road, batches, _wanted(road.graph, road, homes, every=True))
    rows = _op_rows(road.graph, homes, measured, {})
    where = next((row for row in rows if row.rel_l2 > limit), None)
    told = "which module drifts first cannot be told"
    if where is not None:
        told = (
            f"the first to drift is {where.kind} in {where.module or 'the model itself'}, {where.source}: relative L2 error "
            f"{where.rel_l2:.2g}"
        )
    also = "in float32 too " if again else ""
    return (
        f"the conversion is at fault, not the precision: {also}the outputs are off by {off:.2g} (relative L2 error); {told}. "
        "Look at its converter; if it is torch2edge's own, please report it"
    )
