"""What convert() was given, checked and brought into one form. Part of api.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ._trt import trt
from .errors import ConfigError
from .lower import OnnxFile
from .modules import by_path
from .options import FALLBACKS, Options
from .shapes import Dynamic
from .trace import torch_versions

__all__ = ["check_fallback", "check_flags", "read_device_type", "read_device_types", "read_precisions", "refuse_dynamic"]


def refuse_dynamic(options: Options, declared: Dynamic, file: OnnxFile | None) -> None:
    """Refuse sizes that vary on a road that has none."""
    if declared and file:
        raise ConfigError(f"dynamic shapes of an ONNX file are not there yet: give fixed shapes for {file.path}")
    if declared and options.fallback == "onnx":
        raise ConfigError("dynamic shapes by way of ONNX are not there yet: leave fallback at 'error', or give fixed shapes")
    if declared and options.wants_dla():
        names = ", ".join(map(str, declared.dims.values()))
        raise ConfigError(f"the DLA takes no dynamic shapes, but {names}. Convert with fixed shapes, or for the GPU.")


def check_flags(**flags: Any) -> None:
    """Refuse what is neither True nor False, by name."""
    for name, given in flags.items():
        if not isinstance(given, bool):
            raise ConfigError(f"{name} is {given!r}; it must be True or False")


def check_fallback(fallback: str, file: OnnxFile | None, exporter: str) -> None:
    """Refuse a fallback that cannot be."""
    if fallback not in FALLBACKS:
        raise ConfigError(f"fallback is {fallback!r}; it must be one of {', '.join(map(repr, FALLBACKS))}")
    if fallback == "torch" and file is not None:
        raise ConfigError(f"fallback='torch': {file.path} is an ONNX file, of which nothing can stay in PyTorch")
    if fallback == "onnx" and exporter == "dynamo" and not torch_versions.exports_dynamo():
        raise ConfigError(
            f"onnx_exporter='dynamo': torch.onnx.export(dynamo=True) of torch {torch.__version__} is another exporter, which "
            "current versions of onnxscript do not support. Use onnx_exporter='torchscript', or a newer torch."
        )


def read_device_types(model: nn.Module, given: Any, file: OnnxFile | None) -> dict[str, Any]:
    """``device_types`` by module path."""
    placed = by_path(
        model, given, "device_types", "{submodule: trt.DeviceType.DLA}", known=file.modules() if file else None, patterns=True
    )  # fmt: skip
    return placed.map(lambda path, device: read_device_type(device, f"device_types[{path!r}]"))


def read_device_type(given: Any, option: str) -> Any:
    """TensorRT's DeviceType for itself, or for its name."""
    if isinstance(given, str) and given.upper() in ("GPU", "DLA"):
        return getattr(trt.DeviceType, given.upper())
    if not isinstance(given, trt.DeviceType):
        raise ConfigError(f'{option} is {given!r}; it must be trt.DeviceType.GPU or trt.DeviceType.DLA, or "gpu" or "dla"')
    return given


def read_precisions(model: nn.Module, given: Any, file: OnnxFile | None) -> dict[str, Any]:
    """``precisions`` by module path."""
    return by_path(
        model, given, "precisions", "{submodule: 'fp32'}", known=file.modules() if file else None, patterns=True
    )  # fmt: skip
