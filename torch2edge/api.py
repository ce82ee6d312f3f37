"""convert(): the stages in order. Nothing else lives here; load() is in ``loading``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .arguments import check_fallback, check_flags, read_device_type, read_device_types, read_precisions, refuse_dynamic
from .engine_cache import EngineCache
from .errors import ConfigError
from .inputs import device_of, fixed_inputs, positional, read_inputs
from .loading import load
from .lower import registry
from .making import Clock, Todo, engine
from .options import DLAWarning, Options
from .partition import MIN_OPS, part_converter, partition, plan
from .partition_data import whole_data
from .prepare import Call, calibration_of
from .roads import graph_of, opened
from .run import EdgeModule, PartitionedModule
from .search import goal_of, search
from .verification import verify_size_one

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
    dla_pools: Mapping[str, int | str] | None = None,
    converters: Mapping[Any, Callable[..., Any]] | None = None,
    optimization_level: int | None = None,
    workspace: int | str | None = None,
    memory_pools: Mapping[str, int | str] | None = None,
    avg_timing_iterations: int | None = None,
    max_num_tactics: int | None = None,
    tactic_sources: int | str | Sequence[str] | None = None,
    max_aux_streams: int | None = None,
    tiling_optimization_level: str | None = None,
    l2_limit_for_tiling: int | str | None = None,
    hardware_compatibility: str | None = None,
    version_compatible: bool = False,
    exclude_lean_runtime: bool = False,
    profiling_verbosity: str | None = None,
    preview_features: str | Sequence[str] = (),
    engine_capability: str | None = None,
    builder_flags: Sequence[str] = (),
    offload: bool = False,
    compute_capabilities: Sequence[str] = (),
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    keep_network: bool = False,
    refittable: bool = False,
    fallback: str = "error",
    min_ops: int = MIN_OPS,
    onnx_exporter: str = "torchscript",
    onnx_opset: int | None = None,
    cuda_graph: bool = False,
    verify: bool = True,
    tolerance: float | None = None,
    max_error: float | None = None,
    metric: Callable[[Callable[..., Any]], float] | None = None,
    max_drop: float | None = None,
    progress: Callable[[str], None] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
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
        dla_pools: limits of the memory of a DLA, in bytes or as "256M", powers of two: "DLA_MANAGED_SRAM", "DLA_LOCAL_DRAM"
            (for each loadable's tensors) or "DLA_GLOBAL_DRAM" (for its weights). By default TensorRT's own, or what the plan
            needs if that is more.
        converters: ATen overload or module class -> converter, for this call; they come before the registered ones.
        optimization_level: 0 (fast build) to 5 (fast engine); TensorRT's default is 3.
        workspace: most memory for the scratch of any one layer, in the build and in the engine: bytes, or "512M", "2G". The
            default is TensorRT's, all of the GPU. docs/options.md tells more of this and of what follows.
        memory_pools: the other pools of ``trt.MemoryPoolType``, e.g. ``{"TACTIC_DRAM": "4G"}``.
        avg_timing_iterations: how often each tactic is timed; more makes builds slower and their choices steadier.
        max_num_tactics: most tactics that are timed per layer (TensorRT from 10.4 on).
        tactic_sources: ``"+CUBLAS,-CUDNN"``, as in trtexec: what to add to TensorRT's own and to take away; or a bit mask of
            ``trt.TacticSource``: 0 leaves all out.
        max_aux_streams: most streams besides yours on which the engine may run layers in parallel; 0 for none.
        tiling_optimization_level: "none", "fast", "moderate" or "full": how long the builder looks for tilings (from 10.8).
        l2_limit_for_tiling: most L2 cache for these, in bytes or as "16M".
        hardware_compatibility: "ampere+": for every GPU from Ampere on; "same_compute_capability" (from 10.9); "none".
        version_compatible: for other versions of TensorRT of the same major version too. The engine then has a lean runtime
            in it, code of the host, which ``load`` refuses to run unless it is told to.
        exclude_lean_runtime: leave it out of a version-compatible engine.
        profiling_verbosity: "layer_names_only" (TensorRT's own), "detailed" or "none": what an engine tells of its layers.
        preview_features: ``"+NAME,-NAME"`` of ``trt.PreviewFeature``.
        engine_capability: "standard"; what convert cannot do is refused by name.
        builder_flags: others of ``trt.BuilderFlag`` by name, e.g. ``["STRICT_NANS"]``.
        offload: move the model's parameters and buffers from the GPU to host memory during the build, and put them back.
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
        cuda_graph: make calls replays of CUDA graphs (``EdgeModule.enable_cuda_graph``), those of the check too.
        verify: compare with the model on fresh random inputs after the build.
        tolerance: largest relative L2 error of an output; by default that of the precision (``check.verify.TOLERANCE``).
        max_error: begin with the precisions that are asked for, and move the modules that hurt most back, from INT8 to the
            float precision, from there to float32, until no output's relative L2 error in the check is larger. The choice
            stands in the report, as ``precisions={...}`` for the next time.
        metric: the same until ``metric(module)``, higher is better, is at most ``max_drop`` below ``metric(model)``.
        max_drop: in the unit of the metric.
        progress: called with the name of each stage as it begins: trace, lower, build, check; with cache_dir prepare and
            cache before lower, and with a line when it waits for another process.
        cache_dir: a folder of finished engines, and of what TensorRT measured: an engine that was built before of the same
            model, options, torch2edge, TensorRT and GPU is taken from there. The report says so, and why not;
            docs/cold_start.md has the rest.

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
    check_fallback(fallback, file, onnx_exporter)
    check_flags(best=best, keep_network=keep_network, cuda_graph=cuda_graph, verify=verify)
    placed = read_device_types(model, device_types, file)
    if default_device_type is not None:
        default_device_type = read_device_type(default_device_type, "default_device_type")
    chosen = read_precisions(model, precisions, file)
    builder: dict[str, Any] = {
        "optimization_level": optimization_level, "workspace": workspace, "memory_pools": memory_pools or {},
        "avg_timing_iterations": avg_timing_iterations, "max_num_tactics": max_num_tactics, "tactic_sources": tactic_sources,
        "max_aux_streams": max_aux_streams, "tiling_optimization_level": tiling_optimization_level,
        "l2_limit_for_tiling": l2_limit_for_tiling, "hardware_compatibility": hardware_compatibility,
        "version_compatible": version_compatible, "exclude_lean_runtime": exclude_lean_runtime,
        "profiling_verbosity": profiling_verbosity, "preview_features": preview_features,
        "engine_capability": engine_capability, "builder_flags": builder_flags, "offload": offload,
        "compute_capabilities": compute_capabilities,
    }  # fmt: skip
    options = Options(
        fp16=fp16, bf16=bf16, int8=int8, precisions=chosen, strongly_typed=strongly_typed,
        io_dtype=io_dtype, calibrator=calibrator, sparse=sparse, tf32=tf32, default_device_type=default_device_type,
        device_types=placed, dla_core=dla_core, gpu_fallback=gpu_fallback, dla_rewrites=dla_rewrites,
        dla_pools=dict(dla_pools or {}), fallback=fallback, onnx_exporter=onnx_exporter,
        onnx_opset=onnx_opset, tolerance=tolerance, refittable=refittable, **builder,
    )  # fmt: skip
    if without := options.without_dla():
        warnings.warn(without, DLAWarning, stacklevel=2)
    goal = goal_of(options, max_error, metric, max_drop, verify, file)
    names = {"input_names": input_names, "output_names": output_names}
    shapes = {
        "dynamic": dynamic, "dims": dims, "min_shapes": min_shapes, "opt_shapes": opt_shapes, "max_shapes": max_shapes,
    }  # fmt: skip
    cache = None if cache_dir is None else EngineCache(cache_dir)
    if fallback == "torch":
        settings = {
            "fp16": fp16, "bf16": bf16, "int8": int8, "calibrator": calibrator, "strongly_typed": strongly_typed,
            "best": best, "sparse": sparse, "tf32": tf32,
            "default_device_type": default_device_type, "dla_core": dla_core, "gpu_fallback": gpu_fallback,
            "dla_rewrites": dla_rewrites, "dla_pools": dla_pools, "converters": converters, "keep_network": keep_network,
            "cuda_graph": cuda_graph, "refittable": refittable, "verify": verify, "tolerance": tolerance, "progress": progress,
            "cache_dir": cache_dir,
            **{name: getattr(options, name) for name in builder},
        }  # fmt: skip
        args, kwargs = fixed_inputs(model, inputs, kwargs, **shapes)
        shared = whole_data(model, args, kwargs, calibration_of(calibration), best or options.uses("int8"))
        return partition(
            model, args, kwargs, convert_one=part_converter(convert, placed, chosen, settings, names, shared),
            converters=converters, min_ops=min_ops, verify=verify, tolerance=tolerance, data=shared,
        )  # fmt: skip
    clock = Clock(progress)
    data = calibration_of(calibration)
    options = options.with_best(data is not None) if best else options
    args, kwargs, given_names, declared = read_inputs(positional(inputs), kwargs or {}, device_of(model), **shapes)
    refuse_dynamic(options, declared, file)
    converting = registry().extended(converters)
    with clock("trace"):
        traced = None if file else graph_of(model, args, kwargs, converting, declared)
    if traced is not None:
        traced.input_names = given_names
    if declared and traced is not None:
        with clock("sizes"):
            verify_size_one(model, args, kwargs, traced, options, tolerance)
    call = Call(model, args, kwargs, data, line=progress, own=keep_network)
    todo = Todo(call, file, traced, converting, names, keep_network, cuda_graph, verify, clock, cache, declared)
    if goal is None:
        return engine(options, todo)
    assert traced is not None
    return search(options, goal, call, traced, converting, lambda tried: engine(tried, todo))
