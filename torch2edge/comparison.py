"""compare(): what drifts, and whether the conversion or the precision is at fault. Part of api.py, knows the stages too."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ._trt import capabilities, gpu_name, trt, why_not_executable
from .account import precision as precision_of
from .build.calibration import Calibration
from .build.calibration.data import open_data
from .build.calibration.distributed import Ranks
from .build.calibration.intake import Intake
from .check.comparison import Comparison, DriftRow, homes_of, module_rows, op_rows, output_rows, values_to_hold
from .check.figures import Compute, Figures, Measured, measure
from .check.reference import ReferenceExecutor
from .check.verify import TOLERANCE, TRIALS, draw
from .contribution import Contribution
from .errors import ConfigError, InputError
from .inputs import device_of
from .marked import engine_with
from .prepare import Call, for_dla
from .roads import Kept, Road, network
from .run import EdgeModule
from .verification import original_of

__all__ = ["Comparison", "DriftRow", "compare"]

BATCHES = 4
NAMED = 3  # modules that a verdict names
SHARE = 0.1
BY = ("auto", "engine", "reference")


def compare(
    model: nn.Module, model_trt: EdgeModule, data: Any = None, *, batches: int = BATCHES, ops: bool = False,
    tolerance: float | None = None, by: str = "auto",
) -> Comparison:  # fmt: skip
    """Hold what each module of ``model`` gives against what the converted network gives in its place.

    Where TensorRT executes, a second engine is built that gives these values too; that keeps TensorRT from fusing across
    them, so it may round at more places than ``model_trt``, whose own outputs are compared. Elsewhere the reference executor
    computes the network layer by layer, in the precisions that TensorRT was told. Where the network is not all in float32,
    the model is converted once more in float32 (without a build, by the reference executor), which tells the conversion's
    errors from those of the precision.

    Args:
        model: the original.
        model_trt: what ``convert(model, ..., keep_network=True)`` gave.
        data: as ``convert(calibration=)`` takes it: batches, a DataLoader, a folder, a ``Calibration``. By default the batches
            of the conversion's own calibration, or random inputs as in its check.
        batches: take no more than these.
        ops: a row per op in place of one per module.
        tolerance: largest relative L2 error of an output with which nothing is at fault; by default that of the conversion.
        by: what computes the network: "engine", "reference", or "auto": the engine where there is a GPU for it.

    Raises:
        ConfigError: ``model_trt`` is no EdgeModule or has no network, or came by way of ONNX.
        InputError: data that the model cannot take.
        UnsupportedLayerError: a layer that the reference executor does not know.
    """
    kept = _kept(model_trt)
    if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
        raise ConfigError(f"compare: batches is {batches!r}; it must be a whole number from 1 on")
    if by not in BY:
        raise ConfigError(f"compare: by is {by!r}; it must be one of {', '.join(map(repr, BY))}")
    if by == "engine" and why_not_executable():
        raise ConfigError(f"compare: by='engine', but {why_not_executable()}; use by='reference'")
    if by == "auto":
        by = "reference" if why_not_executable() else "engine"
    report = model_trt.report
    assert report is not None
    given = _batches(model, kept, data, batches)
    graph, limit = kept.road.graph, report.tolerance if tolerance is None else tolerance
    homes, wanted = _looked_at(kept.road, ops)
    if by == "engine":
        compute, told = engine_with(wanted, kept, model_trt), f"{capabilities().title} on {gpu_name()}"
    else:
        compute, told = _by_reference(kept.road, wanted), "the reference executor"
    measured = _measured(kept.road, compute, given, wanted)
    precisions = {row.path: row.precision for row in report.modules}
    rows = (op_rows if ops else module_rows)(graph, homes, measured, precisions)
    outputs = output_rows(graph, measured.outputs, report.precision)
    result = Comparison(
        "", "", report.precision, limit, len(given), told, rows, outputs
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


def _looked_at(road: Road, every: bool) -> tuple[dict[int, str], set[int]]:
    """In whose row each result stands, and the results to hold against PyTorch's."""
    names = road.lowered.tensor_names
    homes = homes_of(road.graph, set(road.lowered.folded), names)
    return homes, values_to_hold(road.graph, names, homes, every)


def _by_reference(road: Road, wanted: set[int]) -> Compute:
    lowered = road.lowered
    executor = ReferenceExecutor(road.session.network, trt)
    keep = {lowered.tensor_names[index] for index in wanted}

    def compute(inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        return executor.run(executor.feed(lowered.input_names, inputs), keep=keep)

    return compute


def _measured(road: Road, compute: Compute, batches: Sequence[Sequence[torch.Tensor]], wanted: set[int]) -> Measured:
    return measure(road.graph, compute, road.lowered.output_names, road.lowered.tensor_names, batches, wanted)


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
        figures = _measured(plain, _by_reference(plain, set()), batches, set()).outputs
        result.float32 = output_rows(plain.graph, figures, "fp32")
    in_float = _largest(result.float32) if result.float32 else off
    if in_float > exact:
        result.fault = "conversion"
        result.verdict = _conversion(plain, batches[:1], in_float, exact, bool(result.float32))
    elif off > result.tolerance:
        result.fault = "precision"
        result.alone = Contribution(kept.options, kept.call, kept.road.graph, kept.converting, batches).alone()
        result.verdict = (
            f"the precision is at fault, not the conversion: in float32 the outputs are right (relative L2 error "
            f"{in_float:.2g}), in {result.precision} they are off by {off:.2g}, more than {result.tolerance:g}. "
            + _advice(result.alone, kept.options.io_dtype)
        )
    else:
        also = f", in float32 {in_float:.2g}" if result.float32 else ""
        result.verdict = (
            f"nothing is at fault: the outputs are off by {off:.2g}{also} (relative L2 error), within the tolerance of "
            f"{result.tolerance:g}"
        )


def _largest(rows: Sequence[DriftRow]) -> float:
    return max((row.rel_l2 for row in rows), default=0.0)


def _advice(alone: Mapping[str, float], io_dtype: torch.dtype | None) -> str:
    """Which modules to keep out: those that alone cause more than a share of what the worst does."""
    if io_dtype is not None and not any(alone.values()):
        return f"It comes from io_dtype={io_dtype}, to which inputs and outputs are rounded: leave it out"
    worst = [path for path, error in list(alone.items())[:NAMED] if error > SHARE * max(alone.values())]
    if not worst:
        return "The model has this precision itself: no option of convert() changes it"
    told = ", ".join(f"{path or 'the model itself'} ({alone[path]:.2g} alone)" for path in worst)
    entries = ", ".join(f"{path!r}: 'fp32'" for path in worst)
    return (
        f"Most comes from {told}; precisions={{{entries}}} keeps them in float32, and convert(max_error=) finds the fewest "
        "that must be"
    )


def _in_float32(kept: Kept) -> Road:
    """The same graph lowered with no low precision, so on no DLA, but as rewritten for it; nothing is built."""
    call = Call(kept.call.model, kept.call.args, kept.call.kwargs)
    options = replace(
        kept.options, fp16=False, bf16=False, int8=False, precisions={}, io_dtype=None, calibrator="pytorch",
        default_device_type=None, device_types={}, dla_core=None, dla_rewrites=False, dla_pools={},
    )  # fmt: skip
    graph = kept.road.graph
    if kept.options.dla_rewrites:
        graph, _ = for_dla(graph, kept.options, kept.converting)
    return replace(network(call, None, graph, options, kept.converting, kept.names), graph=kept.road.graph)


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
    homes, wanted = _looked_at(road, every=True)
    measured = _measured(road, _by_reference(road, wanted), batches, wanted)
    rows = op_rows(road.graph, homes, measured, {})
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
