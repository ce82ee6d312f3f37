"""What the options' precisions make of a traced graph before it is lowered. Part of api.py, knows the stages too."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from .build.calibration import Calibration, Derived, calibrate, graph_hash, no_data, weights_hash
from .check.verify import TRIALS, draw
from .dla.rewrites import rewritten
from .errors import ConfigError
from .fitting import SHOWN, check_dla, check_io_range, listed, without_effect
from .graph import Graph, is_quantizer
from .inputs import device_of
from .lower import Registry
from .lower.fold import fold_batch_norms, is_own
from .lower.fold_prepared import fold_prepared
from .lower.io_dtype import with_io_dtype
from .lower.precision import Lowering, in_precision
from .lower.quantize import every_float, has_quantizers, points_of, with_quantizers
from .lower.ranges import equalized
from .modules import check_reached
from .options import Options
from .structure import flatten_call

__all__ = ["Call", "Prepared", "calibration_of", "check_data", "for_dla", "in_half", "in_ranges", "prepare", "typed"]


@dataclass
class Call:
    """The example, and what INT8 is calibrated from.

    Attributes:
        seen: batches of the calibration, kept for the check; random ones in its ranges where there is a cache but no data.
        seen_are: what one of them is.
        ranges: index of a value -> its largest magnitude, of all that were calibrated so far; another network of the same
            graph takes them from here. inf for one that holds infinities.
        notes: on the calibration, for the report.
        wide: ops (positions in the graph that ``in_precision`` is given) that the engine to be refitted has in float32 for
            their numbers, though their modules are low; None where a new engine is to be built.
        may_fold: the modules whose batch norms are part of convolutions in the engine to be refitted; None as for ``wide``.
        own: the network is kept, so it needs weights of its own; where no engine executes it is kept anyhow.
    """

    model: nn.Module
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    calibration: Calibration | None = None
    seen: list[list[torch.Tensor]] = field(default_factory=list)
    seen_are: str = "calibration batch"
    line: Callable[[str], None] | None = None
    ranges: dict[int, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    wide: frozenset[int] | None = None
    may_fold: frozenset[str] | None = None
    own: bool = False
    _largest: tuple[Graph, dict[int, float]] | None = None  # of the graph that was asked about last

    def largest(self, graph: Graph) -> dict[int, float]:
        """The largest finite magnitude of each float input and result of ``graph``, for the example, by index."""
        if self._largest is None or self._largest[0] is not graph:
            self._largest = graph, _largest(graph, self.tensors)
        return self._largest[1]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """The tensors of the example."""
        return flatten_call(self.args, self.kwargs)[0]

    def note(self, text: str) -> None:
        """Say it in the report, once."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass
class Prepared:
    """A graph to lower.

    Attributes:
        names: id of each parameter that has another dtype now -> its name.
        notes: for the report.
        folded: modules whose batch norms became part of a convolution.
        ranges: index of a value -> largest magnitude in INT8, for a weakly typed TensorRT.
        wide: see ``Call.wide``.
    """

    graph: Graph
    names: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    ranges: dict[int, float] = field(default_factory=dict)
    wide: frozenset[int] = frozenset()


def calibration_of(given: Any) -> Calibration | None:
    """``calibration=`` of ``convert``: a Calibration, or its data."""
    return given if given is None or isinstance(given, Calibration) else Calibration(given)


def prepare(graph: Graph, options: Options, converting: Registry, call: Call) -> Prepared:
    """``graph`` in the precisions that the options ask for.

    In a strongly typed network the graph's dtypes and quantizers say them. In a weakly typed one the graph stays, and INT8
    is a range per value.

    Raises:
        ConfigError: a precision is for a module in which nothing ran, or INT8 lacks a calibration.
        CalibrationError: see ``calibrate``.
    """
    paths = [op.module for op in graph.ops]
    check_reached(options.precisions, paths, "precisions")
    check_reached(options.device_types, paths, "device_types")
    check_dla(graph, options)
    _check_calibration(graph, options, call)
    graph, notes = for_dla(graph, options, converting) if options.dla_rewrites else (graph, [])
    made = _in_precisions(graph, options, converting, call)
    made.notes = [*notes, *made.notes]
    if options.io_dtype is None:
        return made
    check_io_range(graph, options.io_dtype, call.largest(graph))
    return replace(made, graph=with_io_dtype(made.graph, options.io_dtype))


def for_dla(
    graph: Graph, options: Options, converting: Registry, *, on_dla: Callable[[str], bool] | None = None,
    int8: bool | None = None,
) -> tuple[Graph, list[str]]:  # fmt: skip
    """``graph`` with ``dla_rewrites`` in the modules that are for the DLA, and a note per kind of rewrite.

    Args:
        on_dla: whether a module path is; by default what the options say.
        int8: whether it may compute in INT8; by default what the options say.
    """
    graph, told = rewritten(
        graph, on_dla or options.on_dla, int8=options.uses("int8") if int8 is None else int8,
        fixed=lambda op: not is_own(op, converting),
    )  # fmt: skip
    modules: dict[str, list[str]] = {}
    for note in told:
        module, _, text = note.removeprefix("note: ").partition(": ")
        modules.setdefault(text, []).append(module)
    return graph, [f"note: {listed(paths)}: {text}" for text, paths in modules.items()]


def _in_precisions(graph: Graph, options: Options, converting: Registry, call: Call) -> Prepared:
    if not any(map(options.uses, ("fp16", "bf16", "int8"))):
        return Prepared(graph)
    if not options.strong:
        ours = call.calibration is not None and options.calibrator == "pytorch"
        ranges = _ranges(graph, options, call) if ours else {}
        points = points_of(graph, lambda path: options.precision_of(path) == "int8")
        quantized = [op.module for op in graph.ops if is_quantizer(op.target)]
        idle = without_effect(graph, options, [*quantized, *(graph.ops[i].module for i in points.places)])
        half = in_half(graph, options, call, call.largest(graph)) if options.uses("fp16") else Lowering(graph)
        notes = [*call.notes, *idle, *_at_risk(half.kept)]
        return Prepared(graph, notes=notes, ranges=ranges, wide=frozenset(half.wide))
    return typed(graph, options, converting, call)


def typed(graph: Graph, options: Options, converting: Registry, call: Call) -> Prepared:
    """``graph`` with the precisions as its dtypes and quantizers, whatever the network is to be.

    Raises:
        CalibrationError: see ``calibrate``.
    """
    ops, folded = fold_batch_norms(graph, converting, options.device_of, options.float_of, call.may_fold)
    # before casts come between
    ops, prepared = fold_prepared(ops, graph.outputs, converting, options.device_of, call.may_fold)
    folded = [*folded, *prepared]
    traced, graph = graph, replace(graph, ops=ops)
    quantized = [op.module for op in graph.ops if is_quantizer(op.target)]
    if call.calibration:
        names = {value.index: name for name, value in every_float(traced).items()}
        points = points_of(graph, lambda path: options.precision_of(path) == "int8", names)
        quantized = [graph.ops[position].module for position in points.places]
        graph = with_quantizers(graph, points, _calibrated(traced, points.values, call, folded=graph))
    notes = [*call.notes, *without_effect(traced, options, quantized)]
    if not options.uses("fp16") and not options.uses("bf16"):
        return Prepared(graph, notes=notes, folded=folded)
    lowering = in_half(graph, options, call, call.largest(traced) if options.uses("fp16") else {})
    notes += _notes(lowering.kept)
    return Prepared(lowering.graph, lowering.names, notes, folded, wide=frozenset(lowering.wide))


def _check_calibration(graph: Graph, options: Options, call: Call) -> None:
    own = has_quantizers(graph)
    if call.calibration and not options.uses("int8"):
        raise ConfigError("calibration is given, but nothing is to be INT8: add int8=True, or precisions={module: 'int8'}")
    if call.calibration and own:
        raise ConfigError("calibration is given, but the model quantizes by itself, with scales of its own: leave it out")
    check_data(options, call, own)


def check_data(options: Options, call: Call, quantizes: bool) -> None:
    """Refuse INT8 without ranges, of a model that ``quantizes`` by itself or does not.

    Raises:
        ConfigError
    """
    if options.calibrator == "tensorrt" and not call.calibration:
        raise ConfigError("calibrator='tensorrt' is given, but no data for it: int8=True, calibration=loader")
    if options.uses("int8") and not call.calibration and not quantizes:
        raise ConfigError(
            "int8 needs the range of every tensor: calibration=loader (a DataLoader, a Dataset, batches, or a folder of "
            "images), or a model with fake quantization in it (after quantization-aware training)"
        )


# ---- INT8 ---------------------------------------------------------------------------------------------------------------


def _ranges(graph: Graph, options: Options, call: Call) -> dict[int, float]:
    """The range of every float value but of those that hold infinities: TensorRT computes what reads them in floats."""
    points = every_float(graph)
    largest = _calibrated(graph, points, call, infinite=True)
    ranges = {value.index: largest[name] for name, value in points.items() if largest[name] < math.inf}
    open_ = [name for name in points if largest[name] == math.inf]
    if open_:
        call.note(f"note: not INT8, for they hold infinities in the calibration: {listed(open_)}")
    return equalized(graph, ranges) if options.wants_dla() else ranges


def _calibrated(
    traced: Graph, points: Mapping[str, Any], call: Call, *, folded: Graph | None = None, infinite: bool = False
) -> dict[str, float]:
    """The largest magnitude of each point; only those are calibrated that were not before.

    Args:
        folded: replayed in the place of ``traced`` where a point is in it alone. Else ``traced`` is, which gives any network
            the same numbers, and is where the model is: what is folded lies on the CPU.
        infinite: of ``calibrate``.
    """
    from . import __version__

    assert call.calibration is not None
    known = {index: largest for index, largest in call.ranges.items() if infinite or largest < math.inf}
    new = {name: value for name, value in points.items() if value.index not in known}
    if new:
        # a part of a model may have no parameters that say where it is
        device = next((t.device for t in call.tensors), device_of(call.model))
        floats, cached = every_float(traced), call.calibration.cache is not None
        graph = traced if folded is None or new.keys() <= floats.keys() else folded
        found = calibrate(
            graph, new, call.calibration, args=call.args, kwargs=call.kwargs, device=device, infinite=infinite,
            model_hash=weights_hash(_origin(call.model, call.calibration)) if cached else "", version=__version__,
            graph_hash=graph_hash(traced, [n for n, v in floats.items() if v not in traced.inputs]) if cached else "",
            parameters=list(inspect.signature(call.model.forward).parameters), keep=None if call.seen else call.seen,
            line=call.line, notes=call.notes,
        )  # fmt: skip
        call.ranges.update({value.index: found[name] for name, value in new.items()})
        if no_data(call.calibration.data):
            call.seen_are, call.seen = "random batch in the ranges", call.seen or in_ranges(traced, call)
            call.note(
                f"note: the INT8 ranges are those of {call.calibration.cache}; without calibration data the check is on "
                "random inputs as large as those"
            )
    return {name: call.ranges[value.index] for name, value in points.items()}


def in_ranges(graph: Graph, call: Call) -> list[list[torch.Tensor]]:
    """Random inputs, as large as those of the calibration where that is known: INT8 clips what is larger."""

    def fitted(tensor: torch.Tensor, index: int) -> torch.Tensor:
        largest = call.ranges.get(index, math.inf)
        if not tensor.is_floating_point() or largest == math.inf:
            return tensor
        return tensor * (largest / tensor.abs().amax().clamp(min=1e-30))

    batches = [draw(call.tensors, trial) for trial in TRIALS]
    return [[fitted(t, v.index) for t, v in zip(batch, graph.inputs)] for batch in batches]


def _origin(model: nn.Module, calibration: Calibration) -> nn.Module:
    """The model whose weights the ranges hang on: those of a part, on all that runs before it."""
    return calibration.data.origin if isinstance(calibration.data, Derived) else model


# ---- half ---------------------------------------------------------------------------------------------------------------


def _largest(graph: Graph, examples: Sequence[torch.Tensor]) -> dict[int, float]:
    """The largest finite magnitude of each float input and result, for the example."""
    found: dict[int, float] = {}

    def note(value: Any, tensor: torch.Tensor) -> None:
        if value is not None and tensor.is_floating_point() and tensor.numel():
            low, high = tensor.aminmax()
            if not bool(low.isfinite() & high.isfinite()):
                low, high = tensor.where(tensor.isfinite(), tensor.new_zeros(())).aminmax()
            found[value.index] = float(torch.maximum(-low, high))

    def look(op: Any, results: list[Any]) -> None:
        for value, result in zip(op.outputs, results):
            note(value, result)

    for value, tensor in zip(graph.inputs, examples):
        note(value, tensor)
    graph.replay(examples, look)
    return found


def in_half(graph: Graph, options: Options, call: Call, largest: Mapping[int, float]) -> Lowering:
    """``in_precision``, which stays with what an engine that is refitted has in float32.

    Raises:
        ConfigError: new weights want more in float32 than it has.
    """
    lowering = in_precision(graph, options.float_of, largest, call.wide or ())
    if call.wide is not None and lowering.wide:
        raise ConfigError(
            f"refit: with the new weights half, or bfloat16, has no room for {_reasons(lowering.kept)}, and the engine "
            "computes that in it. Convert the model anew, or with precisions={module: 'fp32'} for these"
        )
    lowering.wide |= call.wide or set()
    return lowering


def _at_risk(kept: dict[str, list[str]]) -> list[str]:
    """A note on what half has no room for, where a weakly typed TensorRT may take half for it all the same."""
    if not kept:
        return []
    entries = ", ".join(f"{path!r}: 'fp32'" for path in list(kept)[:SHOWN])
    advice = f"precisions={{{entries}}}, and what stands between, keeps them in float32"
    return [f"note: half has no room for {_reasons(kept)}; {advice}"]


def _notes(kept: dict[str, list[str]]) -> list[str]:
    return [f"note: kept in float32, for half has no room for it: {_reasons(kept)}"] if kept else []


def _reasons(kept: Mapping[str, Sequence[str]]) -> str:
    """The first few modules, each with the first reason."""
    return listed([f"{path or 'the model itself'} ({why[0]})" for path, why in kept.items()])
