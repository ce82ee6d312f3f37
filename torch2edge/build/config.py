"""The builder's options: from ``Options`` to TensorRT's IBuilderConfig, each read back, so that none is lost in silence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .._trt import capabilities, clear_errors, dla_cores, last_errors, members, trt, why_not_executable
from ..builder_options import BuilderOptions
from ..errors import ConfigError
from ..options import Options

__all__ = ["compute_capabilities", "configure", "set_flag"]

DEFAULT_COMPUTE_CAPABILITY = "8.6"


def configure(config: Any, options: Options, gpus: Sequence[str]) -> None:
    """Tell an IBuilderConfig the options that hold for any network.

    Args:
        gpus: what ``compute_capabilities`` gives.

    Raises:
        ConfigError: TensorRT does not take one, or keeps another value.
    """
    clear_errors()
    set_flag(config, "TF32", options.tf32)
    if options.sparse:
        set_flag(config, "SPARSE_WEIGHTS", True)
    if options.refittable and not why_not_executable():
        set_flag(config, "REFIT", True)
    for name in options.builder_flags:
        flag = members("BuilderFlag")[name]
        config.set_flag(flag)
        _held(f"builder_flags: {name}", True, config.get_flag(flag))
    _allow_precisions(config, options)
    _search(config, options)
    _sources(config, options)
    _limit_memory(config, options)
    _name_gpus(config, gpus)
    _widen(config, options)
    _place(config, options)


def compute_capabilities(options: BuilderOptions) -> tuple[str, ...]:
    """The GPUs to build for, where they can be named: those asked for, or the one that is here, or 8.6."""
    if not capabilities().compute_capabilities:
        return ()
    if options.compute_capabilities:
        return options.compute_capabilities
    if torch.cuda.is_available():
        return (".".join(map(str, torch.cuda.get_device_capability())),)
    return (DEFAULT_COMPUTE_CAPABILITY,)


def set_flag(config: Any, name: str, on: bool) -> None:
    """Set or clear a trt.BuilderFlag.

    Raises:
        ConfigError: TensorRT does not take it.
    """
    flag = getattr(trt.BuilderFlag, name)
    (config.set_flag if on else config.clear_flag)(flag)
    _held(f"the builder flag {name}", on, config.get_flag(flag))


def _held(option: str, asked: Any, kept: Any) -> None:
    if kept == asked:
        return
    said = "; ".join(last_errors(2))
    raise ConfigError(
        f"{option}: {capabilities().title} was told {asked!r}, but keeps {kept!r}{': ' if said else ''}{said}. Leave it out"
    )


def _allow_precisions(config: Any, options: Options) -> None:
    """A weakly typed TensorRT may take kernels of these precisions."""
    if capabilities().strongly_typed:
        return
    if options.strong:
        return
    if options.uses("fp16"):
        set_flag(config, "FP16", True)
    if options.uses("int8"):
        set_flag(config, "INT8", True)
    if capabilities().bf16 and options.uses("bf16"):
        set_flag(config, "BF16", True)


def _search(config: Any, options: Options) -> None:
    """How long the builder looks, and what it writes down."""
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
        _held("optimization_level", options.optimization_level, config.builder_optimization_level)
    if options.avg_timing_iterations is not None:
        config.avg_timing_iterations = options.avg_timing_iterations
        _held("avg_timing_iterations", options.avg_timing_iterations, config.avg_timing_iterations)
    if capabilities().max_num_tactics and options.max_num_tactics is not None:
        config.max_num_tactics = options.max_num_tactics
        _held("max_num_tactics", options.max_num_tactics, config.max_num_tactics)
    if options.max_aux_streams is not None:
        config.max_aux_streams = options.max_aux_streams
        _held("max_aux_streams", options.max_aux_streams, config.max_aux_streams)
    if capabilities().tiling and options.tiling_optimization_level is not None:
        level = members("TilingOptimizationLevel")[options.tiling_optimization_level.upper()]
        config.tiling_optimization_level = level
        _held("tiling_optimization_level", level, config.tiling_optimization_level)
    if options.profiling_verbosity is not None:
        verbosity = members("ProfilingVerbosity")[options.profiling_verbosity.upper()]
        config.profiling_verbosity = verbosity
        _held("profiling_verbosity", verbosity, config.profiling_verbosity)
    if options.engine_capability is not None:
        config.engine_capability = trt.EngineCapability.STANDARD
        _held("engine_capability", trt.EngineCapability.STANDARD, config.engine_capability)


def _sources(config: Any, options: Options) -> None:
    """Libraries that tactics come from, and features in preview: signed names change what TensorRT has by itself."""
    sources = options.tactic_sources
    if sources is not None:
        mask = sources if isinstance(sources, int) else config.get_tactic_sources()
        for signed in () if isinstance(sources, int) else sources:
            bit = 1 << int(members("TacticSource")[signed[1:]])
            mask = mask | bit if signed[0] == "+" else mask & ~bit
        config.set_tactic_sources(mask)
        _held("tactic_sources", mask, config.get_tactic_sources())
    for signed in options.preview_features:
        feature = members("PreviewFeature")[signed[1:]]
        config.set_preview_feature(feature, signed[0] == "+")
        _held(f"preview_features: {signed[1:]}", signed[0] == "+", config.get_preview_feature(feature))


def _limit_memory(config: Any, options: Options) -> None:
    limits = dict(options.memory_pools)
    if options.workspace is not None:
        limits["WORKSPACE"] = options.workspace
    for name, size in limits.items():
        pool = members("MemoryPoolType")[name]
        config.set_memory_pool_limit(pool, size)
        _held(f"the memory pool {name}", size, config.get_memory_pool_limit(pool))
    if capabilities().tiling and options.l2_limit_for_tiling is not None:
        config.l2_limit_for_tiling = options.l2_limit_for_tiling
        _held("l2_limit_for_tiling", options.l2_limit_for_tiling, config.l2_limit_for_tiling)


def _name_gpus(config: Any, gpus: Sequence[str]) -> None:
    if not gpus:
        return
    config.num_compute_capabilities = len(gpus)
    for i, version in enumerate(gpus):
        config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + version.replace(".", "")), i)


def _widen(config: Any, options: Options) -> None:
    """Let the engine run on other GPUs, and in other versions of TensorRT."""
    if options.hardware_compatibility is not None:
        level = members("HardwareCompatibilityLevel")[options.hardware_compatibility.upper()]
        config.hardware_compatibility_level = level
        _held("hardware_compatibility", level, config.hardware_compatibility_level)
    if options.version_compatible:
        set_flag(config, "VERSION_COMPATIBLE", True)  # before the next one, which TensorRT refuses without it
    if options.exclude_lean_runtime:
        set_flag(config, "EXCLUDE_LEAN_RUNTIME", True)


def _place(config: Any, options: Options) -> None:
    if options.default_device_type is not None:
        config.default_device_type = options.default_device_type
    if options.dla_core is not None and dla_cores():
        config.DLA_core = options.dla_core
    if options.gpu_fallback and (options.device_types or options.default_device_type is not None):
        set_flag(config, "GPU_FALLBACK", True)
