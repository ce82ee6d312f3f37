"""convert() and load(): the stages in order. Nothing else lives here."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from . import _trt
from ._trt import capabilities, trt
from .account import metadata, report_of
from .account import precision as precision_of
from .build import BuildSession
from .check.drift import first_drift, parsed_drift
from .check.onnx_model import OnnxModel
from .check.reference import ReferenceExecutor
from .check.sizes import check_size_one, sizes_to_check
from .check.tf32 import tf32 as tf32_switched
from .check.verify import TOLERANCE, draw, verify_sizes
from .errors import (
    ConfigError,
    InputError,
    ReferenceExecutionError,
    Torch2EdgeError,
    UnsupportedLayerError,
    VerificationError,
)
from .graph import Graph
from .inputs import device_of, fixed_inputs, positional, read_inputs
from .lower import Lowered, OnnxFile, registry
from .options import FALLBACKS, Options
from .partition import MIN_OPS, part_converter, partition, plan
from .report import Report
from .roads import network, opened
from .run import EdgeModule, PartitionedModule, read
from .run.engine_file import FORMAT, check_built_for_here
from .shapes import Dynamic
from .structure import flatten, flatten_call, same, text, unflatten
from .trace import torch_versions, trace, unchanged
from .trace.compiled import eager_only

__all__ = ["convert", "load", "plan"]


def convert(
    model: nn.Module | torch.export.ExportedProgram | str | os.PathLike[str],
    inputs: Sequence[Any] | torch.Tensor,
    kwargs: Mapping[str, Any] | None = None,
    *,
    fp16: bool = False,
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
    converters: Mapping[Any, Callable[..., Any]] | None = None,
    optimization_level: int | None = None,
    workspace: int | None = None,
    tactic_sources: int | None = None,
    compute_capabilities: Sequence[str] = (),
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    keep_network: bool = False,
    fallback: str = "error",
    min_ops: int = MIN_OPS,
    onnx_exporter: str = "torchscript",
    onnx_opset: int | None = None,
    verify: bool = True,
    tolerance: float | None = None,
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
        fp16: allow half precision (TensorRT 8.6 and 10; a strongly typed TensorRT refuses: convert ``model.half()``).
        tf32: allow TF32 for float32 matrix products and convolutions (10 bits of mantissa).
        device_types: submodule or its path -> ``trt.DeviceType``; it holds for what is inside too, the innermost wins.
        default_device_type: DeviceType of all other layers.
        dla_core: which DLA core to build for and to run on.
        gpu_fallback: layers that the DLA cannot take run on the GPU; False makes that an error.
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
        fallback: what to do with a model that does not convert as a whole: ``"error"`` names every op in the way;
            ``"onnx"`` takes the model through torch.onnx.export and TensorRT's parser; ``"torch"`` makes engines of the
            largest submodules that convert and leaves the rest in PyTorch, in a copy.
        min_ops: for ``fallback="torch"``: submodules with fewer ops do not become engines.
        onnx_exporter: for ``fallback="onnx"``: ``"torchscript"`` (dynamo=False) or ``"dynamo"`` (dynamo=True).
        onnx_opset: version of ONNX's operators; by default one that TensorRT's parser knows.
        verify: compare with the model on fresh random inputs after the build.
        tolerance: largest relative L2 error of an output; by default that of the precision (``check.verify.TOLERANCE``).
        progress: called with the name of each stage as it begins: trace, lower, build, check.

    Returns:
        An ``EdgeModule``, or with ``fallback="torch"`` a ``PartitionedModule``; its ``report`` tells what happened and how
        exact it is.

    Raises:
        Torch2EdgeError: one of its kinds, see ``torch2edge.errors``.
    """
    model, file = opened(model)
    assert isinstance(model, nn.Module)
    if isinstance(compute_capabilities, str):
        compute_capabilities = (compute_capabilities,)
    _check_fallback(fallback, file, onnx_exporter)
    placed = _paths_of(model, device_types, file)
    options = Options(
        fp16=fp16, tf32=tf32, optimization_level=optimization_level, workspace=workspace,
        default_device_type=default_device_type, device_types=placed, dla_core=dla_core,
        gpu_fallback=gpu_fallback, tactic_sources=tactic_sources, compute_capabilities=tuple(compute_capabilities),
        fallback=fallback, onnx_exporter=onnx_exporter, onnx_opset=onnx_opset, tolerance=tolerance,
    )  # fmt: skip
    names = {"input_names": input_names, "output_names": output_names}
    shapes = {
        "dynamic": dynamic, "dims": dims, "min_shapes": min_shapes, "opt_shapes": opt_shapes, "max_shapes": max_shapes,
    }  # fmt: skip
    if fallback == "torch":
        settings = {
            "fp16": fp16, "tf32": tf32, "default_device_type": default_device_type, "dla_core": dla_core,
            "gpu_fallback": gpu_fallback, "converters": converters, "optimization_level": optimization_level,
            "workspace": workspace, "tactic_sources": tactic_sources, "compute_capabilities": compute_capabilities,
            "keep_network": keep_network, "verify": verify, "tolerance": tolerance, "progress": progress,
        }  # fmt: skip
        args, kwargs = fixed_inputs(model, inputs, kwargs, **shapes)
        return partition(
            model, args, kwargs, convert_one=part_converter(convert, placed, settings, names), converters=converters,
            min_ops=min_ops, verify=verify, tolerance=tolerance,
        )  # fmt: skip
    clock = _Clock(progress)
    args, kwargs, given_names, declared = read_inputs(positional(inputs), kwargs or {}, device_of(model), **shapes)
    _refuse_dynamic(options, declared, file)
    converting = registry().extended(converters)
    with clock("trace"):
        traced = None if file else trace(
            model, args, kwargs, is_leaf=converting.is_leaf, module_classes=converting.module_classes(),
            functions=converting.functions(), dynamic=declared,
        )  # fmt: skip
    if traced is not None:
        traced.input_names = given_names
    if declared and traced is not None:
        with clock("sizes"):
            _check_size_one(model, args, kwargs, traced, options, tolerance)
    with clock("lower"):
        road = network(model, file, traced, args, kwargs, options, converting, names)
    graph, lowered, session = road.graph, road.lowered, road.session
    session.place(lowered.network.layers)
    session.add_profiles(lowered.input_names, graph.profiles())
    precision = precision_of(graph, options)
    note = ""
    if "fp16" in precision and not fp16:
        note = session.follow_dtypes(lowered.network.layers, lowered.network.constants(torch.float32))
    with clock("build"):
        plan = session.build()
    limit = tolerance if tolerance is not None else max(TOLERANCE[p] for p in precision.split("+"))
    report = report_of(graph, lowered, session, precision, len(plan))
    report.tolerance, report.timings = limit, clock.seconds
    report.notes[:0] = road.notes
    report.notes += [note] if note else []
    if isinstance(model, OnnxModel):
        report.original = model.evaluator()
    module = EdgeModule(plan, metadata(model, graph, lowered, session, report, FORMAT), fallback=_reference(session, lowered))
    if keep_network:
        module.network, module._kept = session.network, (session, lowered.network)
    if verify:
        with clock("check"):
            _verify(model, args, kwargs, module, graph, lowered, session, report)
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


def load(path: str | os.PathLike[str]) -> EdgeModule:
    """The module saved by ``EdgeModule.save``.

    Raises:
        EngineFileError: no such file, foreign or damaged bytes, or built for another TensorRT or GPU.
    """
    metadata, plan = read(path)
    check_built_for_here(metadata, os.fspath(path))
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


def _paths_of(
    model: nn.Module, device_types: Mapping[nn.Module | str, Any] | None, file: OnnxFile | None = None
) -> dict[str, Any]:  # fmt: skip
    """``device_types`` by module path."""
    paths = {id(m): path for path, m in model.named_modules()}
    known = file.modules() if file else set(paths.values())
    result: dict[str, Any] = {}
    if device_types is not None and not isinstance(device_types, Mapping):
        raise ConfigError(f"device_types is a {type(device_types).__name__}; write {{submodule: trt.DeviceType.DLA}}")
    for key, device in (device_types or {}).items():
        path = key if isinstance(key, str) else paths.get(id(key))
        if path is None or path not in known:
            shown = repr(key) if isinstance(key, str) else f"a {type(key).__name__}"
            near = difflib.get_close_matches(key, known, 3) if isinstance(key, str) else []
            tip = f"; near it: {', '.join(near)}" if near else ""
            raise ConfigError(f"device_types: {shown} is no submodule of the model{tip}")
        if not isinstance(device, trt.DeviceType):
            raise ConfigError(f"device_types[{path!r}] is {device!r}; it must be trt.DeviceType.GPU or trt.DeviceType.DLA")
        result[path] = device
    return result


def _reference(session: BuildSession, lowered: Lowered) -> Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]:
    """The network computed by the reference executor, torch dtypes in and out."""
    executor: list[ReferenceExecutor] = []

    def run(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if not executor:
            executor.append(ReferenceExecutor(session.network, trt))
        feed = {n: t.cpu().to(_trt.carried(t.dtype)) for n, t in zip(lowered.input_names, tensors) if n}
        given = executor[0].run(feed)
        # copies: an identity layer's output is its input's memory, which is the user's
        return [given[n].to(d, copy=True) for n, d in zip(lowered.output_names, lowered.output_dtypes)]

    return run


def _original(
    model: nn.Module, args: list[Any], kwargs: dict[str, Any], graph: Graph, report: Report | None = None
) -> tuple[Callable[[list[torch.Tensor]], list[torch.Tensor]], list[torch.Tensor]]:
    """The model from tensors to tensors, and the tensors of the example."""
    examples, structure = flatten_call(args, kwargs)

    def run(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        call = unflatten(structure, tensors)
        with unchanged(model), eager_only(), torch.no_grad(), tf32_switched(False):
            result, given = flatten(model(*call["args"], **call["kwargs"]))
        if not same(given, graph.output_structure):
            raise VerificationError(
                f"the model returned {text(graph.output_structure)} when it was traced, but {text(given)} for fresh inputs: "
                "what it returns hangs on the inputs' values or sizes, and an engine cannot follow that",
                report,
            )
        return result

    return run, examples


def _told(original: Callable[[list[torch.Tensor]], list[torch.Tensor]]) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
    """``original``; an error of the model itself says whose it is."""

    def run(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        try:
            return original(tensors)
        except Torch2EdgeError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or ["no message"])[0]
            raise InputError(
                f"the model does not run on inputs like the example's, without torch2edge either: {type(error).__name__}: "
                f"{reason}. The check draws floats from normal distributions, and integers between the example's smallest and "
                "largest: give an example that the model takes, Input(..., low=, high=) for one, or leave the check out "
                "(verify=False)"
            ) from error

    return run


def _check_size_one(
    model: nn.Module, args: list[Any], kwargs: dict[str, Any], graph: Graph, options: Options, tolerance: float | None
) -> None:
    original, examples = _original(model, args, kwargs, graph)
    precisions = precision_of(graph, options).split("+")
    check_size_one(graph, original, examples, tolerance or max(TOLERANCE[p] for p in precisions))


def _verify(
    model: nn.Module, args: list[Any], kwargs: dict[str, Any], module: EdgeModule, graph: Graph, lowered: Lowered,
    session: BuildSession, report: Report,
) -> None:  # fmt: skip
    unguarded, examples = _original(model, args, kwargs, graph, report)
    original = _told(unguarded)
    here = not _trt.why_not_executable()
    run = module._run if here else _reference(session, lowered)
    report.checked_by = f"{capabilities().title} on {_trt.gpu_name()}" if here else "the reference executor"
    sizes = sizes_to_check(graph, examples)
    report.check, trial = verify_sizes(run, original, examples, graph.output_names, report.tolerance, sizes)
    report.notes += [
        f"note: {row.output} is 0 everywhere in the check, which says little: are weights missing?"
        for row, value in zip(report.check, graph.outputs) if row.ref_max == 0 and row.finite and value.dtype.is_floating_point
    ]  # fmt: skip
    report.notes += [
        f"note: the input {name} is one integer everywhere, and the check draws from the example's range: only that was tried"
        for name, t in zip(graph.input_names, examples)
        if not t.is_floating_point() and t.dtype != torch.bool and t.numel() > 1 and bool((t == t.flatten()[0]).all())
    ]
    report.notes += [
        f"note: {row.output} was never a finite number in the check; only the places of NaN and infinities were compared"
        for row, value in zip(report.check, graph.outputs) if row.finite == 0 and 0 not in value.shape
    ]  # fmt: skip
    bad = [row for row in report.check if not row.passed]
    if not bad:
        return
    inputs = draw(examples, trial)
    try:
        executor = ReferenceExecutor(session.network, trt)
        if lowered.tensor_names:
            where = first_drift(
                graph, executor, lowered.input_names, lowered.tensor_names, inputs, original(inputs), report.tolerance
            )  # fmt: skip
        else:
            feed = dict(zip(lowered.input_names, inputs))
            where = parsed_drift(executor, feed, lowered.output_names, original(inputs), report.tolerance)
    except (UnsupportedLayerError, ReferenceExecutionError) as error:
        where = f"which module drifts first cannot be told, for the reference executor failed: {error}"
    raise VerificationError(
        f"{len(bad)} of {len(report.check)} outputs are not the model's: {where}.\n{report.check_text()}\n"
        "A model whose outputs hang on tiny differences may need tolerance=; verify=False takes the engine as it is.",
        report,
    )
