"""The options of a conversion: one frozen dataclass, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ._trt import capabilities, dla_cores, trt, why_no_dla
from .builder_options import DLA_POOLS, BuilderOptions, memory_size
from .errors import ConfigError
from .modules import nearest

__all__ = ["CALIBRATORS", "DLA_POOLS", "FALLBACKS", "ONNX_EXPORTERS", "PRECISIONS", "DLAWarning", "Options"]

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}

FLAGS = ("fp16", "bf16", "int8", "sparse", "tf32", "gpu_fallback", "dla_rewrites", "refittable")
IO_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CALIBRATORS = ("pytorch", "tensorrt")
FALLBACKS = ("error", "onnx", "torch")
ONNX_EXPORTERS = ("torchscript", "dynamo")
PARSED = "of a network that TensorRT's ONNX parser made nobody knows which weights are whose; leave refittable out"


class DLAWarning(UserWarning):
    """What was to be on a DLA is built for the GPU."""


@dataclass(frozen=True)
class Options(BuilderOptions):
    """How to build an engine; ``convert()`` documents each field.

    Raises:
        ConfigError: a value is out of range, or the installed TensorRT cannot honour it.
    """

    fp16: bool = False
    bf16: bool = False
    int8: bool = False
    precisions: Mapping[str, str] = field(default_factory=dict)
    strongly_typed: bool | None = None
    io_dtype: torch.dtype | None = None
    calibrator: str = "pytorch"
    sparse: bool = False
    tf32: bool = False
    default_device_type: Any = None
    device_types: Mapping[str, Any] = field(default_factory=dict)
    dla_core: int | None = None
    gpu_fallback: bool = True
    dla_rewrites: bool = False
    dla_pools: Mapping[str, int | str] = field(default_factory=dict)
    fallback: str = "error"
    onnx_exporter: str = "torchscript"
    onnx_opset: int | None = None
    tolerance: float | None = None
    refittable: bool = False

    def __post_init__(self) -> None:
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be True or False")
        if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, (int, float, type(None))):
            raise ConfigError(f"tolerance is the largest relative error of an output, a number, but is {self.tolerance!r}")
        if self.tolerance is not None and not self.tolerance >= 0:
            raise ConfigError(f"tolerance is the largest relative error of an output, from 0 on, but is {self.tolerance!r}")
        if self.default_device_type is not None and not isinstance(self.default_device_type, trt.DeviceType):
            raise ConfigError(f"default_device_type is {self.default_device_type!r}; it must be trt.DeviceType.GPU or .DLA")
        self.check_builder()
        self._check_fallback()
        self._check_dla()
        self._check_precision()
        self._check_refittable()

    # ---- precision --------------------------------------------------------------------------------------------------

    @property
    def strong(self) -> bool:
        """Whether the network is strongly typed: what this TensorRT knows only, or what was asked for, or the default."""
        caps = capabilities()
        if caps.strongly_typed or not caps.typed_networks:
            return caps.strongly_typed
        return not self.wants_dla() if self.strongly_typed is None else self.strongly_typed

    def precision_of(self, path: str) -> str:
        """fp32, fp16, bf16 or int8: that of the submodule ``path``, or of the nearest module around it, or of the model."""
        given = nearest(self.precisions, path)
        return given or ("int8" if self.int8 else self.low)

    def with_best(self, calibrated: bool) -> Options:
        """These options with every precision allowed, for a weakly typed TensorRT to take the fastest of each layer.

        Raises:
            ConfigError: the network is strongly typed.
        """
        caps = capabilities()
        if self.strong:
            way = "strongly_typed=False as well" if not caps.strongly_typed else "fp16=True, or int8=True with a calibration"
            raise ConfigError(
                f"best=True: in a strongly typed network ({caps.title}) no precision is left to choose; write {way}"
            )
        if self.precisions or self.fp16 or self.bf16 or self.int8:
            raise ConfigError("best=True allows every precision: leave out fp16, bf16, int8 and precisions")
        return replace(self, fp16=True, int8=calibrated, tf32=True)

    @property
    def low(self) -> str:
        """The float precision of the model, and of the ops of INT8 modules that are not quantized."""
        return "fp16" if self.fp16 else "bf16" if self.bf16 else "fp32"

    def float_of(self, path: str) -> torch.dtype:
        """The dtype of the float ops of a submodule."""
        name = self.precision_of(path)
        return PRECISIONS[self.low if name == "int8" else name]

    def uses(self, name: str) -> bool:
        """Whether a precision is asked for anywhere."""
        return name in (self.low, *self.precisions.values()) or (name == "int8" and self.int8)

    def check_parsed(self, road: str) -> None:
        """Refuse what has no effect on a network that TensorRT's ONNX parser made.

        Raises:
            ConfigError: with ``road``, what led to the parser.
        """
        if self.dla_rewrites:
            raise ConfigError(
                f"{road}: dla_rewrites changes the traced model's ops, and here TensorRT's parser makes the layers"
            )
        if self.refittable:
            raise ConfigError(f"{road}: refittable=True: {PARSED}")
        if self.io_dtype is not None:
            raise ConfigError(
                f"{road}: a network that TensorRT's parser made keeps the ONNX model's dtypes; leave io_dtype out"
            )
        if self.strong and any(map(self.uses, ("fp16", "bf16", "int8"))):
            raise ConfigError(
                f"{road}: the layers of a strongly typed network that TensorRT's parser made have the dtypes of the ONNX "
                "model, which fp16, bf16, int8 and precisions do not change. Convert model.half() with half inputs"
            )

    def _check_precision(self) -> None:
        caps = capabilities()
        if self.fp16 and self.bf16:
            raise ConfigError("fp16=True and bf16=True: choose one for the model; precisions={module: 'bf16'} mixes them")
        for path, name in self.precisions.items():
            if name not in PRECISIONS:
                raise ConfigError(f"precisions[{path!r}] is {name!r}; it must be one of {', '.join(map(repr, PRECISIONS))}")
        if self.uses("bf16") and not caps.bf16:
            raise ConfigError(f"bf16: {caps.title} has no bfloat16; use fp16")
        if self.strongly_typed is not None and self.strongly_typed != self.strong:
            typed = "strongly" if caps.strongly_typed else "weakly"
            raise ConfigError(f"strongly_typed={self.strongly_typed}: {caps.title} is {typed} typed, and knows no other way")
        if self.fallback == "onnx":
            self.check_parsed("fallback='onnx'")
        self._check_io_dtype()
        self._check_calibrator()

    def _check_io_dtype(self) -> None:
        if self.io_dtype is None:
            return
        if self.io_dtype not in IO_DTYPES:
            known = ", ".join(map(str, IO_DTYPES))
            raise ConfigError(
                f"io_dtype is the dtype of the engine's float inputs and outputs, one of {known}, but is {self.io_dtype!r}"
            )
        if self.io_dtype == torch.bfloat16 and not capabilities().bf16:
            raise ConfigError(f"io_dtype: {capabilities().title} has no bfloat16; use torch.float16")
        if self.fallback == "torch":
            raise ConfigError(
                "io_dtype: the parts of fallback='torch' take and give what the model around them has; leave it out"
            )

    def _check_calibrator(self) -> None:
        if self.calibrator not in CALIBRATORS:
            raise ConfigError(f"calibrator is {self.calibrator!r}; it must be one of {', '.join(map(repr, CALIBRATORS))}")
        if self.calibrator == "tensorrt":
            title = capabilities().title
            if not capabilities().calibrators:
                raise ConfigError(f"calibrator='tensorrt': {title} has no calibrators any more; 'pytorch' finds the ranges")
            if self.strong:
                raise ConfigError(
                    "calibrator='tensorrt': TensorRT calibrates weakly typed networks only; add strongly_typed=False"
                )

    def _check_refittable(self) -> None:
        if not self.refittable:
            return
        if self.wants_dla():
            raise ConfigError(
                f"refittable=True: what runs on a DLA cannot be refitted, and the DLA is asked for "
                f"({', '.join(self.wants_dla())}). Leave one of them out"
            )
        if self.fallback == "onnx":
            raise ConfigError("refittable=True: " + PARSED)
        if self.uses("int8") and not self.strong:
            raise ConfigError(
                f"refittable=True with int8: a weakly typed network ({capabilities().title}) holds INT8 weights in scales "
                "that TensorRT chose when it built the engine. Use fp16=True, or fake quantization in the model without int8"
            )

    def _check_fallback(self) -> None:
        for name, known in (("fallback", FALLBACKS), ("onnx_exporter", ONNX_EXPORTERS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(map(repr, known))}")
        opset = self.onnx_opset
        if opset is not None and (isinstance(opset, bool) or not isinstance(opset, int) or opset < 9):
            raise ConfigError(f"onnx_opset must be a whole number from 9 on, but is {opset!r}")

    def wants_dla(self) -> list[str]:
        """The submodules, or "default_device_type", for which the DLA is asked."""
        wants = [path for path, device in self.device_types.items() if device == trt.DeviceType.DLA]
        return [*wants, "default_device_type"] if self.default_device_type == trt.DeviceType.DLA else wants

    def _check_dla(self) -> None:
        wants = self.wants_dla()
        core = self.dla_core
        if core is not None and (isinstance(core, bool) or not isinstance(core, int) or core < 0):
            raise ConfigError(f"dla_core is the number of a DLA core, from 0 on, but is {core!r}")
        if core is not None and not wants:
            raise ConfigError("dla_core is given, but neither device_types nor default_device_type names the DLA")
        if self.dla_rewrites and not wants:
            raise ConfigError("dla_rewrites=True, but neither device_types nor default_device_type names the DLA")
        if self.dla_pools and not wants:
            raise ConfigError("dla_pools is given, but neither device_types nor default_device_type names the DLA")
        pools = {
            name: memory_size(s, f"dla_pools[{name!r}]") if isinstance(s, str) else s for name, s in self.dla_pools.items()
        }
        self._settle("dla_pools", pools)
        for name, size in pools.items():
            if name not in DLA_POOLS:
                raise ConfigError(f"dla_pools: there is no {name!r}, only {', '.join(map(repr, DLA_POOLS))}")
            if isinstance(size, bool) or not isinstance(size, int) or size < 4096 or size & (size - 1):
                raise ConfigError(f"dla_pools[{name!r}] is {size!r}; it must be a power of two of bytes, from 4096 on")
        if not wants:
            return
        missing = why_no_dla()
        if missing and not self.gpu_fallback:
            raise ConfigError(
                f"DLA is asked for ({', '.join(wants)}), but {missing}. With gpu_fallback=True all of it runs on the GPU; "
                "torch2edge.plan_dla tells, without a board, what a DLA would take"
            )
        if not missing and core is not None and core >= dla_cores():
            raise ConfigError(f"dla_core is {core}, but this machine has {dla_cores()}: 0 to {dla_cores() - 1}")

    def without_dla(self) -> str:
        """Why what is to be on the DLA runs on the GPU, or ""."""
        wants = self.wants_dla()
        missing = why_no_dla() if wants else ""
        return f"{', '.join(wants)} {'is' if len(wants) == 1 else 'are'} built for the GPU: {missing}" if missing else ""

    def on_dla(self, path: str) -> bool:
        """Whether the submodule ``path`` is to run on the DLA."""
        return bool((self.device_of(path) or self.default_device_type) == trt.DeviceType.DLA)

    def device_of(self, path: str) -> Any:
        """DeviceType of the submodule ``path``: its own entry, else that of the nearest module around it, else None."""
        return nearest(self.device_types, path)
