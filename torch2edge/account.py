"""What a conversion has to say: the report, and the header of an engine file. Reads what the stages left, does nothing."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from . import _trt
from ._trt import capabilities, trt
from .graph import Graph, is_quantizer
from .lower.quantize import has_quantizers
from .options import Options
from .report import DimRow, Memory, ModuleRow, Report

__all__ = ["metadata", "precision", "report_of"]


def precision(graph: Graph, options: Options) -> str:
    """The precisions in a graph, and those that a weakly typed TensorRT may choose besides, e.g. ``fp16+fp32``."""
    values = [*graph.inputs, *graph.outputs, *(v for op in graph.ops for v in op.outputs if v is not None)]
    int8 = has_quantizers(graph) or (options.uses("int8") and not options.strong)
    return _precision_of({v.dtype for v in values}, options, int8) or "fp32"


def _precision_of(dtypes: Iterable[torch.dtype], options: Options, int8: bool) -> str:
    short = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    found = {short[d] for d in dtypes if d in short}
    if found and not options.strong:
        found |= {name for name in ("fp16", "bf16") if options.uses(name)}
    return "+".join(sorted(found | {"int8"} if found and int8 else found))


def report_of(graph: Graph, computed: Graph, lowered: Any, session: Any, precision: str, size: int) -> Report:
    """The report of a build, before the check: a row per module, notes, dynamic sizes.

    Args:
        computed: the graph whose dtypes the network has.
        lowered: a ``lower.Lowered``.
        session: the ``build.BuildSession``.
        size: of the engine, in bytes.
    """
    ops: dict[str, int] = {}
    dtypes: dict[str, set[torch.dtype]] = {}
    now = {v.index: v.dtype for op in computed.ops for v in op.outputs if v is not None}
    for op in graph.ops:
        ops[op.module] = ops.get(op.module, 0) + 1
        given = [v.index for v in op.outputs if v is not None]
        dtypes.setdefault(op.module, set()).update(now[index] for index in given if index in now)
    for op in computed.ops:  # of a convolution with a batch norm the result is the batch norm's
        dtypes.setdefault(op.module, set()).update(v.dtype for v in op.outputs if v is not None)
    options = session.options
    int8 = {op.module for op in computed.ops if is_quantizer(op.target)}
    if not options.strong:
        int8 |= {path for path in ops if options.precision_of(path) == "int8"}
    layers: dict[str, int] = {}
    for layer in lowered.network.layers:
        layers[layer.module] = layers.get(layer.module, 0) + 1
    default = options.default_device_type or trt.DeviceType.GPU
    missing = options.without_dla()
    rows = [
        ModuleRow(path, graph.modules.get(path, ""), count, layers.get(path, 0),
                  "GPU" if missing else (options.device_of(path) or default).name,
                  _precision_of(dtypes[path], options, path in int8) or ("integer" if dtypes[path] else "-"))
        for path, count in ops.items()
    ]  # fmt: skip
    notes = [
        f"note: no output depends on the input {graph.input_names[i]}; it is checked at a call, and not used"
        for i, name in enumerate(lowered.input_names)
        if not name
    ]
    if lowered.folded:
        count = len(lowered.folded)
        notes.append(
            f"note: {count} batch norm{'s are' * (count > 1) or ' is'} part of the convolution{'s' * (count > 1)} before"
        )
    if missing:
        notes.append(f"note: {missing}")
    notes += session.notes()
    if any(row.device == "DLA" for row in rows):
        notes.append("note: the device is the one asked for; TensorRT moves layers that the DLA cannot take to the GPU")
    return Report(
        capabilities().title, _target(session), precision, engine_bytes=size, dims=_dim_rows(graph),
        constraints=[str(c) for c in graph.constraints], modules=rows, notes=notes,
        memory=Memory(size, session.weight_bytes, workspace=session.workspace()),
    )  # fmt: skip


def _dim_rows(graph: Graph) -> list[DimRow]:
    places: dict[str, list[str]] = {}
    for i, axes in graph.axes.items():
        for axis, name in axes.items():
            places.setdefault(name, []).append(f"axis {axis} of {graph.input_names[i]}")
    return [DimRow(n, ", ".join(places[n]), [list(r) for r in d.ranges]) for n, d in graph.dims.items()]


def _target(session: Any) -> str:
    if session.compute_capabilities:
        return "compute capability " + ", ".join(session.compute_capabilities)
    return _trt.gpu_name() or "an unknown GPU"


def metadata(
    model: nn.Module, graph: Graph, computed: Graph, lowered: Any, session: Any, report: Report, file_format: int
) -> dict[str, Any]:  # fmt: skip
    """What an engine file says of itself; ``computed`` as for ``report_of``."""

    def row(name: str, binding: str, value: Any, axes: Mapping[int, str] | None = None) -> dict[str, Any]:
        dtype = str(value.dtype).removeprefix("torch.")
        shape = [["dim", axes[a]] if axes and a in axes else graph.symbolic(n) for a, n in enumerate(value.shape)]
        return {"name": name, "binding": binding, "dtype": dtype, "shape": shape}

    here = session.compute_capabilities
    if not here and torch.cuda.is_available():
        here = (".".join(map(str, torch.cuda.get_device_capability())),)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters
    plain = (bool, int, float, str, type(None))
    return {
        "format": file_format,
        "torch2edge": _version(),
        "torch": torch.__version__,
        "tensorrt": capabilities().name,
        "version": capabilities().version,
        "title": capabilities().title,
        "target": report.target,
        "compute_capabilities": list(here),
        "hardware_compatibility": session.options.hardware_compatibility,
        "version_compatible": session.options.version_compatible,
        "precision": report.precision,
        "dla_core": session.options.dla_core if _trt.dla_cores() else None,
        "on_dla": any(row.device == "DLA" for row in report.modules),
        "host_decides": _host_decides(session.network),
        "model": type(model).__qualname__,
        "parameters": [n for n, p in parameters.items() if p.kind in kinds],
        "defaults": {n: p.default for n, p in parameters.items() if isinstance(p.default, plain)},
        "dims": {name: [list(r) for r in dim.ranges] for name, dim in graph.dims.items()},
        "constraints": [{"condition": c.condition, "source": c.source} for c in graph.constraints],
        "inputs": [
            row(n, b, v, graph.axes.get(i))
            for i, (n, b, v) in enumerate(zip(graph.input_names, lowered.input_names, computed.inputs))
        ],
        "outputs": [row(n, b, v) for n, b, v in zip(graph.output_names, lowered.output_names, computed.outputs)],
        "input_structure": graph.input_structure,
        "output_structure": graph.output_structure,
        "report": report.to_dict(),
    }


# Layers whose number of runs, or whose output's size, hangs on values (TensorRT's guide, "CUDA Graphs").
_HOST_DECIDES = ("TRIP_LIMIT", "CONDITION", "NON_ZERO", "NMS")


def _host_decides(network: Any) -> str:
    """The first layer because of which TensorRT's host code decides in a call what runs next, or ""."""
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type.name in _HOST_DECIDES:
            return f"{layer.name}, a layer of the kind {layer.type.name}"
    return ""


def _version() -> str:
    from . import __version__

    return __version__
