"""convert() and load(): the stages in order. Nothing else lives here."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from . import _trt
from ._trt import trt
from .account import metadata, report_of
from .account import precision as precision_of
from .check.onnx_model import OnnxModel
from .check.verify import TOLERANCE
from .errors import (
    ConfigError,
)
from .graph import Graph
from .inputs import device_of, fixed_inputs, positional, read_inputs
from .lower import OnnxFile, Registry, registry
from .modules import by_path
from .options import FALLBACKS, DLAWarning, Options
from .partition import MIN_OPS, part_converter, partition, plan
from .partition_data import whole_data
from .placement import prepare_dla, truth
from .prepare import Call, calibration_of
from .refitting import make_refittable
from .roads import Kept, configure, graph_of, network, opened
from .run import EdgeModule, PartitionedModule, read
from .run.engine_file import FORMAT, check_built_for_here
from .search import goal_of, search
from .shapes import Dynamic
from .sparsity import sparsity_note
from .trace import torch_versions
from .verification import by_reference, verify_module, verify_size_one

__all__ = ["convert", "load", "plan"]


def convert(
    model: nn.Module | torch.export.ExportedProgram | str | os.PathLike[str],
    inputs: Sequence[Any] | torch.Tensor,
    kwargs: Mapping[str, Any] | None = None,
    *,
    fp16: bool = False,
    bf16: bool = False,
    int8: bool = False,
    calibration: Any = None,
    calibrator: str = "pytorch",
    precisions: Mapping[nn.Module | str, str] | None = None,
    strongly_typed: bool | None = None,
    io_dtype: torch.dtype | None = None,
    best: bool = False,
    sparse: bool = False,
    tf32: bool = False,
    dynamic: Mapping[int | str, Mapping[int, Any]] | None = None,
    dims: Mapping[str, Any] | None = None,
    min_shapes: Any = None,
    opt_shapes: Any = None,
    max_shapes: Any = None,
    device_types: Mapping[nn.Module | str, Any] | None = None,
    default_device_type: Any = None,
    dla_core: int | None = None,
    gpu_fallback: bool = True,
    dla_rewrites: bool = False,
    dla_pools: Mapping[str, int] | None = None,
    converters: Mapping[Any, Callable[..., Any]] | None = None,
    optimization_level: int | None = None,
    workspace: int | None = None,
    tactic_sources: int | None = None,
    compute_capabilities: Sequence[str] = (),
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    keep_network: bool = False,
    refittable: bool = False,
    fallback: str = "error",
    min_ops: int = MIN_OPS,
    onnx_exporter: str = "torchscript",
    onnx_opset: int | None = None,
    verify: bool = True,
    tolerance: float | None = None,
    max_error: float | None = None,
    metric: Callable[[Callable[..., Any]], float] | None = None,
    max_drop: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> EdgeModule | PartitionedModule:
    """Turn a module into a TensorRT engine that is a module again.

    Args:
        model: in eval mode, on one device. It is left as it was. Also an ``ExportedProgram``, or the path of an .onnx file,
            whose inputs are then given in the file's order or by name.
        inputs: the positional inputs, e.g. ``[x]``: tensors (float32, float16, bfloat16, int32, int64, bool, uint8),
            numbers and None, nested in tuples, lists, dicts and dataclasses. Their shapes are the engine's, except for axes
            that are declared dynamic: by an ``Input`` in the place of a tensor, or by one of the next five arguments.
        kwargs: the keyword inputs.
        dynamic: the axes that vary: input -> axis -> (min, opt, max), or the name of a dim, e.g. ``{0: {0: (1, 8, 16)}}``. The
            input is its position among the tensors, its name in the report, or its keyword. A list of (min, opt, max) makes
            one optimization profile per item; an engine call takes the first profile that fits.
        dims: name of a dim -> (min, opt, max); axes of one name have one size.
        min_shapes: the smallest shapes, nested like ``inputs`` (or a list of them per input, one per profile).
        opt_shapes: the shapes to make fastest; by default those of the inputs.
        max_shapes: the largest shapes.
        fp16: compute in half precision. Strongly typed (TensorRT 10, 11, RTX): every op does, but those that need float32
            (``lower/float32_ops.py``) and what leaves half's range; weakly typed (8.6, DLA): TensorRT chooses per layer.
            Inputs and outputs keep their dtypes but for ``io_dtype``.
        bf16: the same in bfloat16, from TensorRT 10 on.
        int8: quantize convolutions, linear layers and matrix products; what stays in floats is fp16, bf16 or float32 as asked
            for beside it. Needs ``calibration``, or a model with fake quantization in it.
        calibration: data for INT8: a DataLoader, a Dataset, batches, a folder of images, or a ``Calibration`` with more to
            say.
        calibrator: who finds the ranges of INT8: ``"pytorch"``, once for every TensorRT, or ``"tensorrt"``: TensorRT's own
            IInt8EntropyCalibrator2 or IInt8MinMaxCalibrator during the build, fed from the same data (weakly typed only).
        precisions: submodule, its path, or a pattern of paths (``"backbone.*"``) -> "fp32", "fp16", "bf16" or "int8"; it
            holds for what is inside too, the innermost wins. An op that needs float32 stays in float32.
        strongly_typed: for TensorRT 10, which has both kinds of networks: False for the weak kind. By default strong, but
            where a DLA is asked for.
        io_dtype: ``torch.float16``, ``torch.bfloat16`` or ``torch.float32``: what the engine takes and gives in the place of
            the model's float inputs and outputs, so that nobody has to cast before and behind it.
        best: allow half, TF32 and, with a calibration, INT8, and let a weakly typed TensorRT take the fastest of each layer.
        sparse: allow kernels for weights in the 2:4 pattern (``torch2edge.sparsify_2to4``); the report says which have it.
        tf32: allow TF32 for float32 matrix products and convolutions (10 bits of mantissa).
        device_types: submodule, its path, or a pattern of paths -> ``trt.DeviceType``, or "dla" or "gpu"; it holds for what is
            inside too, the innermost wins.
        default_device_type: DeviceType of all other layers.
        dla_core: which DLA core to build for and to run on.
        gpu_fallback: layers that the DLA cannot take run on the GPU, all of them where there is no DLA, with a
            ``DLAWarning``; False makes that an error.
        dla_rewrites: in the modules that are for the DLA, put what it takes in the place of what it does not, where the
            function stays the same: chains of poolings for large averages, convolutions for the linear layers of a head and
            for pixel shuffles, for INT8 products for hardswish, hardsigmoid and SiLU, a convolution's own padding. The notes
            of the report name each.
        dla_pools: limits of the memory of a DLA, in bytes, powers of two: "DLA_MANAGED_SRAM", "DLA_LOCAL_DRAM" (for each
            loadable's tensors) or "DLA_GLOBAL_DRAM" (for its weights). By default TensorRT's own, or what the plan needs if
            that is more.
        converters: ATen overload or module class -> converter, for this call; they come before the registered ones.
        optimization_level: 0 (fast build) to 5 (fast engine); TensorRT's default is 3.
        workspace: most memory for the builder's tactics, in bytes.
        tactic_sources: bit mask of ``trt.TacticSource``; 0 leaves cuBLAS, cuBLASLt and cuDNN out.
        compute_capabilities: TensorRT-RTX: the GPUs to build for, e.g. ``["8.6", "8.9"]``; by default the one that is
            here, or 8.6 where there is none.
        input_names: of the engine's inputs, one per tensor in the order of ``inputs`` and ``kwargs``; by default input_0,
            input_1, ... An input that no output needs has no place in the engine.
        output_names: the same for its outputs.
        keep_network: keep TensorRT's INetworkDefinition, and with it the weights, as the result's ``network``.
        refittable: the result takes other weights later, without a build: ``model_trt.refit(model_or_state_dict)``.
        fallback: what to do with a model that does not convert as a whole: ``"error"`` names every op in the way;
            ``"onnx"`` takes the model through torch.onnx.export and TensorRT's parser; ``"torch"`` makes engines of the
            largest submodules that convert and leaves the rest in PyTorch, in a copy. For INT8 each of them is calibrated on
            what the whole model calls it with, in a pass of its own over the data; its cache is ``calib.<path>.json``.
        min_ops: for ``fallback="torch"``: submodules with fewer ops do not become engines.
        onnx_exporter: for ``fallback="onnx"``: ``"torchscript"`` (dynamo=False) or ``"dynamo"`` (dynamo=True).
        onnx_opset: version of ONNX's operators; by default one that TensorRT's parser knows.
        verify: compare with the model on fresh random inputs after the build.
        tolerance: largest relative L2 error of an output; by default that of the precision (``check.verify.TOLERANCE``).
        max_error: begin with the precisions that are asked for, and move the modules that hurt most back, from INT8 to the
            float precision, from there to float32, until no output's relative L2 error in the check is larger. The choice
            stands in the report, as ``precisions={...}`` for the next time.
        metric: the same until ``metric(module)``, higher is better, is at most ``max_drop`` below ``metric(model)``.
        max_drop: in the unit of the metric.
        progress: called with the name of each stage as it begins: trace, lower, build, check.

    Returns:
        An ``EdgeModule``, or with ``fallback="torch"`` a ``PartitionedModule``; its ``report`` tells what happened and how
        exact it is.

    Raises:
        Torch2EdgeError: one of its kinds, see ``torch2edge.errors``.
    """
    model, file = opened(model)
    assert isinstance(model, nn.Module)
    if not isinstance(dla_pools, (Mapping, type(None))):
        raise ConfigError(f"dla_pools is a {type(dla_pools).__name__}; write {{'DLA_LOCAL_DRAM': 2**28}}")
    if isinstance(compute_capabilities, str):
        compute_capabilities = (compute_capabilities,)
    _check_fallback(fallback, file, onnx_exporter)
    placed = _device_types(model, device_types, file)
    if default_device_type is not None:
        default_device_type = _device_type(default_device_type, "default_device_type")
    chosen = _precisions(model, precisions, file)
    options = Options(
        fp16=fp16, bf16=bf16, int8=int8, precisions=chosen, strongly_typed=strongly_typed,
        io_dtype=io_dtype, calibrator=calibrator, sparse=sparse, tf32=tf32,
        optimization_level=optimization_level, workspace=workspace, default_device_type=default_device_type,
        device_types=placed, dla_core=dla_core, gpu_fallback=gpu_fallback, dla_rewrites=dla_rewrites,
        dla_pools=dict(dla_pools or {}), tactic_sources=tactic_sources,
        compute_capabilities=tuple(compute_capabilities), fallback=fallback, onnx_exporter=onnx_exporter,
        onnx_opset=onnx_opset, tolerance=tolerance, refittable=refittable,
    )  # fmt: skip
    if without := options.without_dla():
        warnings.warn(without, DLAWarning, stacklevel=2)
    goal = goal_of(options, max_error, metric, max_drop, verify, file)
    names = {"input_names": input_names, "output_names": output_names}
    shapes = {
        "dynamic": dynamic, "dims": dims, "min_shapes": min_shapes, "opt_shapes": opt_shapes, "max_shapes": max_shapes,
    }  # fmt: skip
    if fallback == "torch":
        settings = {
            "fp16": fp16, "bf16": bf16, "int8": int8, "calibrator": calibrator, "strongly_typed": strongly_typed,
            "best": best, "sparse": sparse, "tf32": tf32,
            "default_device_type": default_device_type, "dla_core": dla_core, "gpu_fallback": gpu_fallback,
            "dla_rewrites": dla_rewrites, "dla_pools": dla_pools,
            "converters": converters, "optimization_level": optimization_level, "workspace": workspace,
            "tactic_sources": tactic_sources, "compute_capabilities": compute_capabilities, "keep_network": keep_network,
            "refittable": refittable, "verify": verify, "tolerance": tolerance, "progress": progress,
        }  # fmt: skip
        args, kwargs = fixed_inputs(model, inputs, kwargs, **shapes)
        shared = whole_data(model, args, kwargs, calibration_of(calibration), best or options.uses("int8"))
        return partition(
            model, args, kwargs, convert_one=part_converter(convert, placed, chosen, settings, names, shared),
            converters=converters, min_ops=min_ops, verify=verify, tolerance=tolerance, data=shared,
        )  # fmt: skip
    clock = _Clock(progress)
    data = calibration_of(calibration)
    options = options.with_best(data is not None) if best else options
    args, kwargs, given_names, declared = read_inputs(positional(inputs), kwargs or {}, device_of(model), **shapes)
    _refuse_dynamic(options, declared, file)
    converting = registry().extended(converters)
    with clock("trace"):
        traced = None if file else graph_of(model, args, kwargs, converting, declared)
    if traced is not None:
        traced.input_names = given_names
    if declared and traced is not None:
        with clock("sizes"):
            verify_size_one(model, args, kwargs, traced, options, tolerance)
    call = Call(model, args, kwargs, data, line=progress)
    todo = _Todo(call, file, traced, converting, names, keep_network, verify, clock, declared)
    if goal is None:
        return _engine(options, todo)
    assert traced is not None
    return search(options, goal, call, traced, converting, lambda tried: _engine(tried, todo))


@dataclass(frozen=True)
class _Todo:
    """What every engine of one conversion is made of."""

    call: Call
    file: OnnxFile | None
    traced: Graph | None
    converting: Registry
    names: Mapping[str, Sequence[str] | None]
    keep_network: bool
    verify: bool
    clock: _Clock
    declared: Dynamic


def _engine(options: Options, todo: _Todo) -> EdgeModule:
    """From the traced model to a checked engine."""
    call, clock = todo.call, todo.clock
    with clock("lower"):
        road = network(call, todo.file, todo.traced, options, todo.converting, todo.names)
    graph, lowered, session = road.graph, road.lowered, road.session
    precision = precision_of(road.network_graph, options)
    note, on_dla = configure(road, precision), prepare_dla(road)
    with clock("build"):
        plan = session.build()
    limit = options.tolerance if options.tolerance is not None else max(TOLERANCE[p] for p in precision.split("+"))
    report = report_of(graph, road.network_graph, lowered, session, precision, len(plan))
    report.tolerance, report.timings = limit, clock.seconds
    report.placements, surprises = truth(road, on_dla)
    report.notes[:0] = road.notes
    report.notes += [
        n for n in (*surprises, note, sparsity_note(call.model, bool(options.wants_dla())) if options.sparse else "") if n
    ]
    if isinstance(call.model, OnnxModel):
        report.original = call.model.evaluator()
    module = EdgeModule(
        plan,
        metadata(call.model, graph, road.network_graph, lowered, session, report, FORMAT),
        fallback=by_reference(session, lowered),
    )
    if todo.keep_network:
        module.network, module._kept = session.network, Kept(call, road, options, todo.converting, todo.names)
    if options.refittable:
        make_refittable(module, report, call, road, todo.converting, todo.names, todo.declared)
    if todo.verify:
        with clock("check"):
            verify_module(
                call.model,
                list(call.args),
                dict(call.kwargs),
                module,
                graph,
                lowered,
                session,
                report,
                call.seen,
                call.seen_are,
            )
    if not _trt.why_not_executable():
        module._fallback = None  # it holds the network and the weights
    module.metadata["report"] = report.to_dict()
    return module


def _refuse_dynamic(options: Options, declared: Dynamic, file: OnnxFile | None) -> None:
    if declared and file:
        raise ConfigError(f"dynamic shapes of an ONNX file are not there yet: give fixed shapes for {file.path}")
    if declared and options.fallback == "onnx":
        raise ConfigError("dynamic shapes by way of ONNX are not there yet: leave fallback at 'error', or give fixed shapes")
    if declared and options.wants_dla():
        names = ", ".join(map(str, declared.dims.values()))
        raise ConfigError(f"the DLA takes no dynamic shapes, but {names}. Convert with fixed shapes, or for the GPU.")


def load(path: str | os.PathLike[str], *, dla_core: int | None = None) -> EdgeModule:
    """The module saved by ``EdgeModule.save``.

    Args:
        dla_core: the DLA core to run on, in the place of the one that it was built for.

    Raises:
        ConfigError: a core for an engine that was not built for a DLA.
        EngineFileError: no such file, foreign or damaged bytes, or built for another TensorRT or GPU.
    """
    metadata, plan = read(path)
    check_built_for_here(metadata, os.fspath(path))
    if dla_core is not None:
        if metadata["dla_core"] is None:
            raise ConfigError(f"dla_core={dla_core!r}: {os.fspath(path)} was not built for a DLA core")
        metadata["dla_core"] = dla_core
    return EdgeModule(plan, metadata)


class _Clock:
    """Seconds by stage."""

    def __init__(self, progress: Callable[[str], None] | None) -> None:
        if progress is not None and not callable(progress):
            raise ConfigError(f"progress is {progress!r}; it must be a function that takes the name of a stage, e.g. print")
        self.seconds: dict[str, float] = {}
        self._progress = progress or (lambda stage: None)

    @contextmanager
    def __call__(self, stage: str) -> Any:
        self._progress(stage)
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)


def _check_fallback(fallback: str, file: OnnxFile | None, exporter: str) -> None:
    if fallback not in FALLBACKS:
        raise ConfigError(f"fallback is {fallback!r}; it must be one of {', '.join(map(repr, FALLBACKS))}")
    if fallback == "torch" and file is not None:
        raise ConfigError(f"fallback='torch': {file.path} is an ONNX file, of which nothing can stay in PyTorch")
    if fallback == "onnx" and exporter == "dynamo" and not torch_versions.exports_dynamo():
        raise ConfigError(
            f"onnx_exporter='dynamo': torch.onnx.export(dynamo=True) of torch {torch.__version__} is another exporter, which "
            "current versions of onnxscript do not support. Use onnx_exporter='torchscript', or a newer torch."
        )


def _device_types(model: nn.Module, given: Any, file: OnnxFile | None) -> dict[str, Any]:
    """``device_types`` by module path."""
    placed = by_path(
        model, given, "device_types", "{submodule: trt.DeviceType.DLA}", known=file.modules() if file else None, patterns=True
    )  # fmt: skip
    return placed.map(lambda path, device: _device_type(device, f"device_types[{path!r}]"))


def _device_type(given: Any, option: str) -> Any:
    """TensorRT's DeviceType for itself, or for its name."""
    if isinstance(given, str) and given.upper() in ("GPU", "DLA"):
        return getattr(trt.DeviceType, given.upper())
    if not isinstance(given, trt.DeviceType):
        raise ConfigError(f'{option} is {given!r}; it must be trt.DeviceType.GPU or trt.DeviceType.DLA, or "gpu" or "dla"')
    return given


def _precisions(model: nn.Module, given: Any, file: OnnxFile | None) -> dict[str, Any]:
    """``precisions`` by module path."""
    return by_path(
        model, given, "precisions", "{submodule: 'fp32'}", known=file.modules() if file else None, patterns=True
    )  # fmt: skip
