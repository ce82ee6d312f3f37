"""The only import of TensorRT: which one is here, and what it can do.

``trt`` stands for the TensorRT module and is resolved on first use, so that every module of torch2edge
imports without it. The search order is ``tensorrt``, then ``tensorrt_rtx``; the environment variable
``TORCH2EDGE_TENSORRT`` (``tensorrt`` or ``tensorrt_rtx``) picks one. No other file compares versions:
they ask ``capabilities()``.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .errors import ConfigError, TensorRTNotFoundError

__all__ = ["Capabilities", "capabilities", "last_errors", "logger", "logging_levels", "trt"]

FLAVOURS = ("tensorrt", "tensorrt_rtx")
_NO_DRIVER = "cudaError 35"  # TensorRT-RTX says so again and again where there is no GPU, and builds all the same
logger_name = "torch2edge.tensorrt"
_log = logging.getLogger(logger_name)
_errors: collections.deque[str] = collections.deque(maxlen=50)
_recorders: list[tuple[list[str], re.Pattern[str] | None]] = []
_recorders_lock = threading.Lock()


@functools.cache
def _module() -> Any:
    wanted = os.environ.get("TORCH2EDGE_TENSORRT")
    if wanted and wanted not in FLAVOURS:
        raise ConfigError(f"TORCH2EDGE_TENSORRT is {wanted!r}; it must be one of {', '.join(FLAVOURS)}")
    tried = []
    for name in (wanted,) if wanted else FLAVOURS:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            tried.append(f"{name}: {error}")
            continue
        if hasattr(module, "Builder"):
            return module
        tried.append(f"{name}: has no Builder (a lean runtime?)")
    raise TensorRTNotFoundError(
        "no TensorRT can be imported (" + "; ".join(tried) + "). Install one of\n"
        "    pip install tensorrt                            a desktop or server GPU\n"
        "    pip install tensorrt_rtx_cu13==1.7.1.116        an RTX card, or no GPU at all (builds and checks)\n"
        "On a Jetson use the TensorRT of JetPack: make the virtual environment with --system-site-packages."
    )


class _Lazy:
    """TensorRT's module, imported on the first attribute."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_module(), name)


trt: Any = _Lazy()


@dataclass(frozen=True)
class Capabilities:
    """What the TensorRT at hand can do."""

    name: str  # "tensorrt" or "tensorrt_rtx"
    version: str
    strongly_typed: bool  # tensor dtypes decide the precision; no FP16/INT8 builder flags
    typed_networks: bool  # a network can be strongly typed
    int64: bool
    bf16: bool
    attention_v2: bool  # IAttention, in the strongly typed TensorRTs
    squeeze_layers: bool
    is_nan: bool  # UnaryOperation.ISNAN
    cumulative: bool  # running sums
    gelu: bool  # ActivationType.GELU_ERF and GELU_TANH
    group_normalization: bool  # add_normalization_v2: groups with a scale per channel
    tactic_sources: bool  # cuBLAS, cuBLASLt and cuDNN can be switched off
    compute_capabilities: bool  # the GPU to build for can be named (TensorRT-RTX)
    dla: bool  # it can build for a DLA, where there is one; every version has the API (facts: gone after 10.7, back in 11.4.1)
    dla_explicit: bool  # a DLA takes quantize and dequantize layers (11.4.1)
    dynamic_outputs: bool  # NonZero and NMS layers have an implementation
    calibrators: bool  # INT8 by calibration
    quantize_output_type: bool  # quantize and dequantize layers are told their output's type
    quantizes_half: bool  # quantize and dequantize layers take and give halves beside float32 scales (run: TensorRT-RTX)
    onnx_opset: int  # the newest version of ONNX's operators to export for
    cubic_grid_sample: bool  # 8.6.0 on an H200 computes another bicubic than its documentation
    quantizes_elementwise: bool  # 8.6.0 on an H200 is wrong where an elementwise layer comes right before a quantize layer
    default_stream_synchronizes: bool  # enqueueing there synchronizes the device (execute_async_v3's documentation)
    infinite_scalars: bool  # 8.6.0 computes with 1e38 for an infinite number that it fuses into elementwise layers
    max_num_tactics: bool  # the builder's tactics can be limited in number (10.4)
    tiling: bool  # IBuilderConfig.tiling_optimization_level (10.8)
    device_memory_v2: bool  # ICudaEngine.device_memory_size_v2 (10.1)
    hardware_compatibility: bool  # an engine can be built for other GPUs too; TensorRT-RTX has the names, and ignores them
    timing_cache: bool  # what a build measures can be kept (TensorRT-RTX measures nothing)
    include_refit: bool  # a serialized engine stays refittable by a flag (SerializationFlag.INCLUDE_REFIT)

    @property
    def title(self) -> str:
        """Name and version for people, e.g. ``TensorRT-RTX 1.7.1.116``."""
        return f"{'TensorRT-RTX' if self.name == 'tensorrt_rtx' else 'TensorRT'} {self.version}"


@functools.cache
def capabilities() -> Capabilities:
    """Capabilities of the installed TensorRT.

    Raises:
        TensorRTNotFoundError: there is none.
    """
    module = _module()
    rtx = module.__name__ == "tensorrt_rtx"
    number = tuple(int(part) for part in module.__version__.split(".")[:3] if part.isdigit())
    newer = rtx or number >= (10,)
    return Capabilities(
        name=module.__name__,
        version=module.__version__,
        strongly_typed=not hasattr(module.BuilderFlag, "FP16"),
        typed_networks=not hasattr(module.BuilderFlag, "FP16")
        or hasattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"),
        int64=hasattr(module.DataType, "INT64"),
        bf16=hasattr(module.DataType, "BF16"),
        attention_v2=hasattr(module.INetworkDefinition, "add_attention_v2"),
        squeeze_layers=hasattr(module.INetworkDefinition, "add_squeeze"),
        is_nan=hasattr(module.UnaryOperation, "ISNAN"),
        cumulative=hasattr(module.INetworkDefinition, "add_cumulative"),
        gelu=hasattr(module.ActivationType, "GELU_ERF"),
        group_normalization=hasattr(module.INetworkDefinition, "add_normalization_v2"),
        tactic_sources=hasattr(module.TacticSource, "CUDNN"),
        compute_capabilities=hasattr(module.IBuilderConfig, "set_compute_capability"),
        dla=not rtx and (number < (10, 8) or number >= (11, 4, 1)),
        dla_explicit=not rtx and number >= (11, 4, 1),
        dynamic_outputs=not rtx,
        calibrators=hasattr(module, "IInt8EntropyCalibrator2"),
        quantize_output_type=hasattr(module.IQuantizeLayer, "to_type"),
        quantizes_half=not hasattr(module.BuilderFlag, "FP16"),
        onnx_opset=18 if hasattr(module.DataType, "INT64") else 17,  # 8.6 parses up to 17 (LayerNormalization)
        cubic_grid_sample=newer,
        quantizes_elementwise=newer,
        default_stream_synchronizes=newer,
        infinite_scalars=newer,
        max_num_tactics=hasattr(module.IBuilderConfig, "max_num_tactics"),
        tiling=hasattr(module.IBuilderConfig, "tiling_optimization_level"),
        device_memory_v2=hasattr(module.ICudaEngine, "device_memory_size_v2"),
        hardware_compatibility=not rtx,
        timing_cache=not rtx,
        include_refit=hasattr(getattr(module, "SerializationFlag", None), "INCLUDE_REFIT"),
    )


def device_memory_size(engine: Any) -> int:
    """Bytes on the GPU that each execution context of an ICudaEngine takes for activations and scratch."""
    if capabilities().device_memory_v2:
        return int(engine.device_memory_size_v2)
    return int(engine.device_memory_size)


def context_without_memory(engine: Any) -> Any:
    """An execution context that is given the memory of its activations; None where TensorRT gives none."""
    if hasattr(trt, "ExecutionContextAllocationStrategy"):
        return engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    return engine.create_execution_context_without_device_memory()


def give_memory(context: Any, address: int, size: int) -> None:
    """Tell a context of ``context_without_memory`` where its activations are."""
    if hasattr(trt.IExecutionContext, "set_device_memory"):
        context.set_device_memory(address, size)
    else:
        context.device_memory = address


def members(enum: str) -> dict[str, Any]:
    """The names of TensorRT's enum and their values; none where this TensorRT has no such enum. Names of one value, as 8.6
    has old and new ones, are all there."""
    found = getattr(_module(), enum, None)
    return {} if found is None else dict(found.__members__)


def same_major(version: str) -> bool:
    """Whether a version of TensorRT and the one that is here are of one major version."""
    return version.partition(".")[0] == capabilities().version.partition(".")[0]


def why_not_executable() -> str:
    """Why engines cannot run in this process, or an empty string when they can."""
    if not torch.cuda.is_available():
        return "no NVIDIA GPU is visible here (torch.cuda.is_available() is False)"
    if capabilities().name == "tensorrt_rtx" and torch.cuda.get_device_capability() == (9, 0):
        return "TensorRT-RTX does not support this GPU (compute capability 9.0)"
    return ""


@functools.cache
def dla_cores() -> int:
    """How many DLA cores TensorRT finds on this machine."""
    return int(trt.Builder(logger()).num_DLA_cores) if capabilities().dla else 0


def why_no_dla() -> str:
    """Why nothing can be built for a DLA here, or an empty string."""
    if not capabilities().dla:
        return f"{capabilities().title} has no DLA support"
    return "" if dla_cores() else f"{capabilities().title} finds no DLA core on this machine"


def gpu_name() -> str:
    """Name of the current GPU, or an empty string."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def logging_levels() -> dict[Any, int]:
    """Python's logging level of each of TensorRT's severities."""
    severity = trt.ILogger.Severity
    return {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.INFO,
        severity.VERBOSE: logging.DEBUG,
    }


@functools.cache
def logger() -> Any:
    """The process's one TensorRT logger; it speaks to Python's logger ``torch2edge.tensorrt``."""
    levels = logging_levels()

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 trampolines crash when the base is not initialised by name

        def log(self, level: Any, message: str) -> None:
            for lines, wanted in list(_recorders):
                if wanted is None or wanted.search(message):
                    lines.append(message)
            if levels[level] == logging.ERROR and _NO_DRIVER not in message:
                _errors.append(message.strip())
            _log.log(levels[level], message)

    return Logger()


@contextlib.contextmanager
def recorded(wanted: re.Pattern[str] | None = None) -> Iterator[list[str]]:
    """All that TensorRT says meanwhile, of every severity, line by line; or only what ``wanted`` is found in."""
    lines: list[str] = []
    with _recorders_lock:
        _recorders.append((lines, wanted))
    try:
        yield lines
    finally:
        with _recorders_lock:
            _recorders[:] = [other for other in _recorders if other[0] is not lines]


# Quiet by default: TensorRT's errors come back in our exceptions, its warnings only on request.
if _log.level == logging.NOTSET:
    _log.setLevel(logging.CRITICAL)


def load_plugins() -> None:
    """Register TensorRT's own plugins, where it has any: the ONNX parser of 8.6 takes InstanceNormalization with one."""
    register = getattr(_module(), "init_libnvinfer_plugins", None)
    if register is not None:
        register(logger(), "")


def clear_errors() -> None:
    """Forget TensorRT's error lines so far."""
    _errors.clear()


def last_errors(count: int = 5) -> list[str]:
    """TensorRT's latest error lines, oldest first."""
    return list(_errors)[-count:]


_TO_TRT = {
    torch.float32: "FLOAT",
    torch.float16: "HALF",
    torch.bfloat16: "BF16",
    torch.int8: "INT8",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
}


def carried(dtype: torch.dtype) -> torch.dtype:
    """The torch dtype in which values of ``dtype`` travel through an engine: int64 is int32 where TensorRT has no INT64."""
    return torch.int32 if dtype == torch.int64 and not capabilities().int64 else dtype


def carried_by(dtype: str, name: str, version: str) -> str:
    """The same by the names of dtypes, for an engine of any TensorRT: ``carried_by("int64", "tensorrt", "8.6.0")``."""
    old = name == "tensorrt" and int(version.partition(".")[0]) < 10
    return "int32" if dtype == "int64" and old else dtype


def inside(dtype: torch.dtype) -> torch.dtype:
    """The torch dtype in which values of ``dtype`` travel between layers: TensorRT takes UINT8 at inputs and outputs only."""
    return torch.int32 if dtype == torch.uint8 else carried(dtype)


def to_trt_dtype(dtype: torch.dtype) -> Any:
    """TensorRT's DataType for a torch dtype.

    Raises:
        ConfigError: TensorRT, or this version of it, has no such type.
    """
    name = _TO_TRT.get(carried(dtype))
    if name is None or not hasattr(trt.DataType, name):
        raise ConfigError(f"{capabilities().title} has no data type for {dtype}")
    return getattr(trt.DataType, name)


def from_trt_dtype(dtype: Any) -> torch.dtype:
    """The torch dtype of a TensorRT DataType."""
    return next(torch_dtype for torch_dtype, name in _TO_TRT.items() if name == dtype.name)
