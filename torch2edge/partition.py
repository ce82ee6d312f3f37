"""The PyTorch road and its plan: api.py's other half, which knows the stages too."""

from __future__ import annotations

import copy
import functools
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from . import _trt
from .check.nested import compare_nested, floors_of
from .check.tf32 import tf32
from .check.verify import TRIALS, draw
from .cut import Plan, TooSmall, decide
from .errors import ConfigError, ConversionError, InputError, Torch2EdgeError, VerificationError
from .inputs import fixed_inputs
from .lower import Registry, registry
from .lower.check import check
from .modules import inside
from .partition_data import WholeData, on_all_ranks
from .report import CheckRow
from .roads import graph_of, opened
from .run import EdgeModule
from .run.module import ReferenceWarning
from .run.partition import PartitionedModule, PartitionReport, PartitionWarning
from .structure import flatten_call, unflatten
from .trace import Contents, unchanged
from .trace.calls import Seen, observe
from .trace.checks import check_state
from .trace.compiled import eager_only

__all__ = ["MIN_OPS", "part_converter", "partition", "plan"]

MIN_OPS = 3  # fewer are not worth the two boundaries of an engine
_WHOLE = (TRIALS[0], TRIALS[-1])  # each engine has had all of them already

ConvertOne = Callable[[str, nn.Module, Sequence[Any], Mapping[str, Any]], EdgeModule]


def plan(
    model: nn.Module | torch.export.ExportedProgram,
    inputs: Sequence[Any] | torch.Tensor,
    kwargs: Mapping[str, Any] | None = None,
    *,
    converters: Mapping[Any, Callable[..., Any]] | None = None,
    min_ops: int = MIN_OPS,
) -> Plan:
    """What ``convert(..., fallback="torch")`` would make an engine of, without building one.

    The model runs twice: on ``inputs``, and on a shuffled copy of them that tells which shapes hang on the data. Then each
    submodule, from the model itself downwards, is traced and its ops are checked, until one converts. What only shows when
    layers are made or an engine is built (an op's arguments that TensorRT refuses) is not foreseen.

    Args:
        model: in eval mode, on one device. It is left as it was. Also an ``ExportedProgram``.
        inputs: the positional inputs, as for ``convert``; of fixed shapes.
        kwargs: the keyword inputs.
        converters: ATen overload or module class -> converter, as for ``convert``.
        min_ops: submodules with fewer ops do not become engines.

    Returns:
        The plan: print it, or take its ``rows``, ``engines``, ``coverage``, ``unsupported`` or ``to_dict()``.

    Raises:
        ConfigError: the model is an ONNX file, or an input has dynamic shapes.
        InputError: the model does not run on these inputs.
        TrainingModeError: a module is in training mode.
    """
    model, file = opened(model)
    if file is not None:
        raise ConfigError(f"plan: {file.path} is an ONNX file, which has no submodules that could stay in PyTorch")
    assert isinstance(model, nn.Module)
    args, keywords = fixed_inputs(model, inputs, kwargs)
    made, _ = _decide(model, args, keywords, registry().extended(converters), min_ops, lambda *call: None)
    return made


def partition(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, convert_one: ConvertOne,
    converters: Mapping[Any, Callable[..., Any]] | None, min_ops: int, verify: bool, tolerance: float | None,
    data: WholeData | None = None,
) -> EdgeModule | PartitionedModule:  # fmt: skip
    """``convert(..., fallback="torch")``: engines for the largest submodules that convert.

    Args:
        convert_one: converts the submodule of a path, called as given.
        data: what INT8 is calibrated from; the whole is checked on it too.

    Returns:
        An ``EdgeModule`` where the whole model converts, else a ``PartitionedModule``.

    Raises:
        CalibrationError: the data failed, does not fit, or never reaches a part.
        ConfigError: ``min_ops`` is no number, or all that is to be INT8 stays in PyTorch.
        ConversionError: nothing converts.
        VerificationError: the partitioned model's outputs are not the model's.
    """
    start = time.perf_counter()
    cut, engines = _decide(model, args, kwargs, registry().extended(converters), min_ops, convert_one)
    if not engines:
        raise ConversionError(f"no submodule with at least min_ops={min_ops} ops converts: there would be no engine.\n{cut}")
    if "" in engines:
        whole: EdgeModule = engines[""]
        return whole
    reports = {path: engine.report for path, engine in engines.items()}
    report = PartitionReport(cut, {path: r for path, r in reports.items() if r is not None})
    batches = _of_data(data, report)
    report.timings["convert"] = round(time.perf_counter() - start, 3)
    report.tolerance = tolerance if tolerance is not None else max(r.tolerance for r in report.engines.values())
    module = PartitionedModule(model, engines, report)
    if all(engine._refit is not None for engine in engines.values()):
        tensors, structure = flatten_call(args, kwargs)
        example = [t.detach().clone() for t in tensors], structure
        module._refit = functools.partial(_refitted, example, batches, list(report.notes))
    if verify:
        start = time.perf_counter()
        with Contents(model).put_back(), Contents(module).put_back():
            _verify(model, args, kwargs, module, report, batches)
        report.timings["check"] = round(time.perf_counter() - start, 3)
    return module


def _refitted(
    example: tuple[list[torch.Tensor], Any], batches: Sequence[list[torch.Tensor]], notes: list[str],
    module: PartitionedModule, given: Any, verify: bool,
) -> PartitionedModule:  # fmt: skip
    """A module like ``module`` of another model; ``PartitionedModule.refit`` documents the rest.

    Args:
        example: of the conversion: its tensors, and the structure of the call.
        batches: inputs to check on in the place of random ones.
        notes: of the report, before its check.
    """
    start = time.perf_counter()
    model = _to_refit(module, given, verify)
    engines = {
        path: part.edge_engine.refitted(model.get_submodule(path), verify=verify) for path, part in module._parts.items()
    }
    told = "each engine was compared with its submodule, the whole with the model" if verify else "nothing was compared"
    assert module._report is not None
    report = replace(
        module._report, engines={path: engine.report for path, engine in engines.items() if engine.report is not None},
        check=[], checked_by="", notes=[*notes, f"note: refitted: {told}"], timings=dict(module._report.timings),
    )  # fmt: skip
    model = _where(model, module)
    new = PartitionedModule(model, engines, report)
    new._refit = module._refit
    if verify:
        call = unflatten(example[1], example[0])
        try:
            with Contents(model).put_back(), Contents(new).put_back():
                _verify(model, call["args"], call["kwargs"], new, report, batches)
        except VerificationError as error:
            raise VerificationError(
                f"refit: the module keeps its old weights, for with the new ones {error}", report
            ) from error
        except Torch2EdgeError:
            raise
        except Exception as error:
            raise InputError(
                f"refit: the model does not run on inputs like the example's: {type(error).__name__}: {error}"
            ) from error
    report.timings["refit"] = round(time.perf_counter() - start, 3)
    return new


def _to_refit(module: PartitionedModule, given: Any, verify: bool) -> nn.Module:
    """The model that a refit was given, with the submodules and weights that ``module`` had.

    Raises:
        ConfigError: it has others, or ``verify`` is no bool.
        InputError: it is no model.
        TrainingModeError: a module is in training mode.
    """
    if not isinstance(verify, bool):
        raise ConfigError(f"refit: verify is {verify!r}; it must be True or False")
    if not isinstance(given, (nn.Module, torch.export.ExportedProgram)):
        what = "a state dict" if isinstance(given, Mapping) else f"a {type(given).__name__}"
        raise InputError(
            f"refit: a partitioned module takes a model, but was given {what}. What stays in PyTorch is a copy of the model: "
            "load the weights into one first"
        )
    model, _ = opened(given)
    assert isinstance(model, nn.Module)
    check_state(model)
    own, theirs = _kinds(module._original_state()), _kinds(model.state_dict())
    if other := [name for name in dict.fromkeys([*own, *theirs]) if own.get(name) != theirs.get(name)]:
        raise ConfigError(
            f"refit: the model has other parameters or buffers than the converted one: {', '.join(other[:5])} "
            f"({other[0]} was {own.get(other[0], 'not there')}, now is {theirs.get(other[0], 'not there')})"
        )
    paths = {path for path, _ in model.named_modules(remove_duplicate=False)}
    if gone := [path for path in module._parts if path not in paths]:
        raise ConfigError(f"refit: the model has no {', '.join(gone)}, of which the converted one has engines")
    return model


def _kinds(state: Mapping[str, Any]) -> dict[str, str]:
    return {n: f"{list(t.shape)} {t.dtype}" if isinstance(t, torch.Tensor) else type(t).__name__ for n, t in state.items()}


def _where(model: nn.Module, module: PartitionedModule) -> nn.Module:
    """The model, or a copy of it, where the converted one was.

    Raises:
        ConfigError: it is elsewhere, and the converted one was on several devices.
    """
    own, given = (
        {name: t.device for name, t in state.items() if isinstance(t, torch.Tensor)}
        for state in (module._original_state(), model.state_dict())
    )
    if own == given:
        return model
    if len(set(own.values())) > 1:
        raise ConfigError("refit: the model is on other devices than the converted one, which was on several: move it there")
    return copy.deepcopy(model).to(next(iter(own.values())))


def part_converter(
    convert: Callable[..., Any], device_types: Mapping[str, Any], precisions: Mapping[str, str], settings: Mapping[str, Any],
    whole: Mapping[str, Any], data: WholeData | None = None,
) -> ConvertOne:  # fmt: skip
    """``convert`` for a submodule, with the options of the call around it.

    Args:
        device_types: path in the whole model -> DeviceType; what lies around a submodule holds for it.
        precisions: the same for precisions.
        settings: options of ``convert`` for every part.
        whole: those that only make sense for the whole model (names of inputs and outputs).
        data: of the calibration; a part gets what the whole model calls it with, if anything in it is to be INT8.
    """

    def options_of(path: str) -> dict[str, Any]:
        if not path:
            return {**settings, **whole, "device_types": device_types, "precisions": precisions}
        options = {**settings, "device_types": inside(device_types, path), "precisions": inside(precisions, path)}
        devices = (*options["device_types"].values(), options["default_device_type"])
        if not any(device.name == "DLA" for device in devices if device):
            options["dla_core"] = options["dla_pools"] = None
            options["dla_rewrites"] = False
        options["int8"] = options["int8"] and options["precisions"].get("", "int8") == "int8"
        return options

    def convert_one(path: str, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> EdgeModule:
        options = options_of(path)
        if data is None:
            return convert(module, args, kwargs, **options)  # type: ignore[no-any-return]
        if not path:
            options["calibration"] = data.calibration
        elif options["int8"] or options["best"] or "int8" in options["precisions"].values():
            options["calibration"] = data.of_part(path, module, args, kwargs)
        else:
            options["calibrator"] = "pytorch"  # nothing in it is INT8
        with data.named(path):
            return on_all_ranks(lambda: convert(module, args, kwargs, **options))  # type: ignore[no-any-return]

    return convert_one


def _decide(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], converting: Registry, min_ops: int, convert_one: Any
) -> tuple[Plan, dict[str, Any]]:
    if isinstance(min_ops, bool) or not isinstance(min_ops, int) or min_ops < 1:
        raise ConfigError(f"min_ops is the number of ops of the smallest engine, from 1 on, but is {min_ops!r}")
    check_state(model)
    with Contents(model).put_back():
        seen = observe(model, args, kwargs)
        fresh, note = _fresh(model, args, kwargs)

    def attempt(path: str, module: nn.Module, call: Any) -> Any:
        graph = graph_of(module, call.args, call.kwargs, converting)
        check(graph.ops, converting)
        if path and len(graph.ops) < min_ops:
            raise TooSmall(f"it is {len(graph.ops)} op{'s' * (len(graph.ops) != 1)}, fewer than min_ops={min_ops}")
        return convert_one(path, module, list(call.args), call.kwargs)

    cut, made = decide(seen, attempt, fresh)
    cut.notes += [note] if note else []
    return cut, made


def _fresh(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[dict[str, Seen] | None, str]:
    """The same run with the elements of the inputs shuffled, and what to say where it cannot be made."""
    try:
        tensors, structure = flatten_call(args, kwargs)
        call = unflatten(structure, draw(tensors, TRIALS[-1]))
        return observe(model, call["args"], call["kwargs"]), ""
    except Torch2EdgeError as error:
        return None, f"note: which shapes hang on the data is not known, for a run on shuffled inputs failed: {error}"


def _of_data(data: WholeData | None, report: PartitionReport) -> list[list[torch.Tensor]]:
    """The batches on which a model with INT8 in it is to be checked; with notes on its data in the report.

    Raises:
        ConfigError: a calibration is given, but all that is to be INT8 stays in PyTorch.
    """
    if data is None:
        return []
    used = [part for path, part in data.parts.items() if path in report.engines]
    if not used:
        raise ConfigError(
            "calibration is given, but no engine is to be INT8: what int8=True or precisions={module: 'int8'} name stays in "
            f"PyTorch. Leave both out, or name modules in the engines.\n{report.plan}"
        )
    report.notes += [note for note in (part.note() for part in used) if note]
    if data.calibration.data is None:
        report.notes.append(
            f"note: the INT8 ranges are those of the parts' caches beside {data.calibration.cache}; without calibration data "
            "the whole is checked on random inputs, of which INT8 clips what lies beyond the ranges"
        )
    return data.kept if any("int8" in engine.precision for engine in report.engines.values()) else []


def _verify(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], module: PartitionedModule, report: PartitionReport,
    batches: Sequence[list[torch.Tensor]] = (),
) -> None:  # fmt: skip
    """The whole against the original; detections row by row. On ``batches``, for INT8 clips what is unlike them, or else on
    fresh inputs."""
    here = not _trt.why_not_executable()
    report.checked_by = f"{_trt.capabilities().title} on {_trt.gpu_name()}" if here else "the reference executor"
    tensors, structure = flatten_call(args, kwargs)
    trials = [(f"calibration batch {i}", batch) for i, batch in enumerate(batches)]
    both: list[tuple[str, Any, Any]] = []
    for name, fresh in trials or ((str(trial), draw(tensors, trial)) for trial in _WHOLE):
        with unchanged(model), torch.no_grad(), eager_only(), tf32(False), warnings.catch_warnings():
            warnings.simplefilter("ignore", ReferenceWarning)
            warnings.simplefilter("ignore", PartitionWarning)
            # each its own copies: a forward may write to its inputs
            given, expected = (
                run(*call["args"], **call["kwargs"])
                for run in (module, model)
                for call in [unflatten(structure, [t.clone() for t in fresh])]
            )
        both.append((name, given, expected))
    floors = floors_of([expected for _, _, expected in both])
    worst: dict[str, CheckRow] = {}
    for name, given, expected in both:
        for row in compare_nested(given, expected, name, report.tolerance, floors):
            held = worst.setdefault(row.output, row)
            worst[row.output] = max(held, row, key=lambda r: (not r.passed, r.rel_l2))
    report.check = list(worst.values())
    for path, (engine, elsewhere) in module.reset_calls().items():
        if elsewhere:
            report.notes.append(f"note: in the check {elsewhere} of {engine + elsewhere} calls of {path} ran in PyTorch")
    report.notes += [
        f"note: {row.output} was empty or never finite in the check" for row in report.check if row.finite == 0
    ]  # fmt: skip
    bad = [row for row in report.check if not row.passed]
    if bad:
        raise VerificationError(f"{len(bad)} of {len(report.check)} outputs are not the model's.\n{report}", report)
