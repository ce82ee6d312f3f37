"""The roads to a network: the converters, ONNX where they do not do, an ONNX file. Part of api.py, knows the stages too."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ._trt import why_not_executable
from .build import BuildSession
from .build.calibration import calibrator
from .check.onnx_model import OnnxModel
from .errors import ConfigError, ConversionError, InputError, TraceError, UnsupportedOpError
from .graph import Graph
from .lower import Lowered, OnnxFile, Registry, lower, lower_by_onnx
from .lower.check import check
from .lower.quantize import has_quantizers
from .options import Options
from .prepare import Call, Prepared, check_data, prepare
from .run import EdgeModule
from .shapes import Dynamic
from .structure import flatten_call
from .trace import names_of, trace, unchanged
from .trace.compiled import eager_only, unwrap

__all__ = ["Kept", "Road", "configure", "graph_of", "network", "opened"]


@dataclass
class Road:
    """A filled network, and how it came about."""

    graph: Graph  # as traced
    lowered: Lowered
    session: BuildSession
    notes: list[str] = field(default_factory=list)
    computed: Graph | None = None  # what the network computes, where precisions made another graph of it
    wide: frozenset[int] = frozenset()  # see ``Call.wide``
    configured: bool = False  # the builder was told

    @property
    def network_graph(self) -> Graph:
        """The graph whose dtypes the network has."""
        return self.computed or self.graph


@dataclass
class Kept:
    """What ``convert(keep_network=True)`` leaves in an EdgeModule, to compute its network and to make others like it."""

    call: Call
    road: Road
    options: Options
    converting: Registry
    names: Mapping[str, Sequence[str] | None]


def opened(model: Any) -> tuple[Any, OnnxFile | None]:
    """What ``convert`` was given as a module, and the ONNX file if it was one.

    Raises:
        ConfigError, InputError: see ``OnnxFile``; or it is no module, or holds an engine.
        TraceError: an ExportedProgram does not give its module.
    """
    if isinstance(model, (str, os.PathLike)):
        file = OnnxFile(model)
        return OnnxModel(file.path, [i.name for i in file.inputs]), file
    if isinstance(model, torch.export.ExportedProgram):
        return _module_of(model), None
    model = unwrap(model)
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be a torch.nn.Module, but is {_instead(model)}")
    for path, submodule in model.named_modules():
        if isinstance(submodule, EdgeModule):
            raise InputError(
                f"{path or 'the model'} is an EdgeModule: an engine cannot become layers again. Convert the original module, "
                "or the modules around this one"
            )
    return model, None


def _instead(model: Any) -> str:
    """What came in a module's place, and what to do."""
    if isinstance(model, type):
        return f"the class {model.__name__}: make an instance of it, e.g. {model.__name__}().eval()"
    if isinstance(model, Mapping):
        return f"a {type(model).__name__}: a state dict is the weights alone; load it into the module"
    return f"a {type(model).__name__}: wrap a function in a module whose forward calls it"


def _module_of(program: torch.export.ExportedProgram) -> nn.Module:
    """It has no eval(): what training mode did to its ops is in its graph, and refused there."""
    try:
        module: nn.Module = program.module()
    except Exception as error:
        raise TraceError(f"the ExportedProgram gives no module: {type(error).__name__}: {error}") from error
    for submodule in module.modules():
        submodule.training = False
    return module


def graph_of(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], converting: Registry, dynamic: Dynamic | None = None
) -> Graph:  # fmt: skip
    """The model as ops, with those whole that ``converting`` converts as a whole."""
    return trace(
        model, args, kwargs, is_leaf=converting.is_leaf, module_classes=converting.module_classes(),
        functions=converting.functions(), dynamic=dynamic,
    )  # fmt: skip


def network(
    call: Call, file: OnnxFile | None, graph: Graph | None, options: Options, converting: Registry,
    names: Mapping[str, Sequence[str] | None], prepared: Prepared | None = None,
) -> Road:  # fmt: skip
    """Fill a network.

    Args:
        call: the model, and the example.
        graph: the traced model; None where it is a file.
        names: ``input_names`` and ``output_names`` of ``lower``.
        prepared: what ``prepare`` made of the graph, where that was done before.

    Raises:
        UnsupportedOpError, ConversionError: no road leads there; with all reasons.
    """
    session, model = BuildSession(options), call.model
    args, kwargs = list(call.args), call.kwargs
    if file is not None:
        _check_parsed(options, call, f"{file.path} is an ONNX file")
        made, lowered, note = file.lower(args, kwargs, session.network, device_of=options.device_of, **names)
        return Road(made, lowered, session, [note, *_calibrator(made, lowered, session, call)])
    assert graph is not None
    try:
        check(graph.ops, converting)
        prepared = prepared or prepare(graph, options, converting, call)
        lowered = lower(
            prepared.graph, session.network, converting, names=names_of(model) | prepared.names, device_of=options.device_of,
            may_fold=call.may_fold, own=call.own or bool(why_not_executable()), **names,
        )  # fmt: skip
        lowered.folded = [*prepared.folded, *lowered.folded]
        session.quantize(lowered.network, lowered.tensor_names, prepared.ranges, has_quantizers(prepared.graph))
        notes = [*prepared.notes, *_calibrator(graph, lowered, session, call)]
        return Road(graph, lowered, session, notes, prepared.graph, prepared.wide)
    except (UnsupportedOpError, ConversionError) as refused:
        if options.fallback != "onnx":
            raise
        reason = refused
    _check_parsed(options, call, f"fallback='onnx' ({reason.args[0].splitlines()[0]})")
    session = BuildSession(options)  # the network of the first may be half filled
    with unchanged(model), eager_only(), torch.no_grad():
        lowered, note = lower_by_onnx(
            model, flatten_call(args, kwargs)[0], graph, session.network, reason, exporter=options.onnx_exporter,
            opset=options.onnx_opset, device_of=options.device_of, **names,
        )  # fmt: skip
    return Road(graph, lowered, session, [note, *_calibrator(graph, lowered, session, call)])


def _calibrator(graph: Graph, lowered: Lowered, session: BuildSession, call: Call) -> list[str]:
    """Give TensorRT a calibrator where one is asked for; what to say of it in the report."""
    if session.options.calibrator != "tensorrt" or call.calibration is None:
        return []
    made = calibrator(
        graph, session.network, lowered.input_names, call.calibration, args=call.args, kwargs=call.kwargs,
        parameters=list(inspect.signature(call.model.forward).parameters), line=call.line,
        keep=None if call.seen else call.seen,
    )  # fmt: skip
    session.calibrate_with(made)
    kept = call.calibration.cache
    held = f"; its cache {kept} does not say of which weights it is" if kept is not None and os.path.exists(kept) else ""
    return [f"note: TensorRT's own calibrator ({call.calibration.algorithm}) finds the ranges of INT8{held}"]


def _check_parsed(options: Options, call: Call, road: str) -> None:
    """Refuse precisions that a network of TensorRT's ONNX parser would not have.

    Raises:
        ConfigError: with ``road``, what led to the parser.
    """
    options.check_parsed(road)
    if call.calibration and not options.uses("int8"):
        raise ConfigError(f"{road}: calibration is given, but nothing is to be INT8: add int8=True")
    check_data(options, call, False)
    if options.uses("int8") and options.calibrator != "tensorrt":
        raise ConfigError(
            f"{road}: the ranges of a network that TensorRT's parser made are found by TensorRT's own calibrators: add "
            "calibrator='tensorrt'"
        )


def configure(road: Road, precision: str) -> str:
    """Tell the builder the devices, sizes and precisions of a filled network, once.

    Args:
        precision: what ``account.precision`` says of the network.

    Returns:
        A note for the report, or "".
    """
    if road.configured:
        return ""
    road.configured = True
    session, layers = road.session, road.lowered.network.layers
    session.weight_bytes = road.lowered.network.weight_bytes
    session.place(layers)
    session.add_profiles(road.lowered.input_names, road.graph.profiles())
    session.follow_precisions(layers)
    if "fp16" in precision and not session.options.uses("fp16"):
        return session.follow_dtypes(layers, road.lowered.network.constants(torch.float32))
    return ""
