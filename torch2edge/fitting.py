"""Whether precisions and devices fit a traced graph: refusals, and notes on what has no effect. Part of api.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ._trt import capabilities, why_no_dla
from .errors import ConfigError
from .graph import Graph, Op, is_quantizer
from .modules import nearest
from .options import Options
from .shapes import Dynamic

__all__ = ["check_dla", "check_fixed", "check_io_range", "listed", "without_effect"]

SHOWN = 5  # modules that a message names


def listed(paths: Sequence[str], most: int = SHOWN) -> str:
    """The first few modules, and how many more there are."""
    paths = [path or "the model itself" for path in dict.fromkeys(paths)]
    return ", ".join(paths[:most]) + (f" and {len(paths) - most} more" if len(paths) > most else "")


def check_fixed(declared: Dynamic) -> None:
    """Refuse sizes that vary, which no DLA takes.

    Raises:
        ConfigError: with the sizes.
    """
    if declared:
        names = ", ".join(map(str, declared.dims.values()))
        raise ConfigError(f"the DLA takes no dynamic shapes, but {names}; give fixed ones")


def check_dla(graph: Graph, options: Options) -> None:
    """Refuse on the DLA what none takes: float32 and bfloat16, and before TensorRT 11.4.1 quantize layers.

    Raises:
        ConfigError: with the modules.
    """
    ops = [op for op in graph.ops if options.on_dla(op.module)]
    wide = [op.module for op in ops if _wide(op, options.precision_of(op.module))]
    if wide:
        raise ConfigError(
            f"the DLA computes in fp16 and int8 only, but these modules are in fp32 or bf16: {listed(wide)}. Add fp16=True, "
            "or int8=True with a calibration, or precisions= for them"
        )
    if not capabilities().dla_explicit and not why_no_dla() and any(is_quantizer(op.target) for op in ops):
        raise ConfigError(
            f"the model quantizes by itself, which becomes quantize layers, and {capabilities().title} has none for the DLA "
            "(11.4.1 has): convert the float model with int8=True and a calibration"
        )


def _wide(op: Op, precision: str) -> bool:
    dtypes = {v.dtype for v in op.outputs if v is not None}
    return torch.bfloat16 in dtypes or (torch.float32 in dtypes and precision not in ("fp16", "int8"))


def check_io_range(graph: Graph, dtype: torch.dtype, largest: Mapping[int, float]) -> None:
    """Refuse an ``io_dtype`` that has no room for an input or output of the example.

    Args:
        largest: index of a value -> largest finite magnitude.

    Raises:
        ConfigError: with the name.
    """
    limit, tiny = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    named = [*zip(graph.input_names, graph.inputs), *zip(graph.output_names, graph.outputs)]
    for name, value in named:
        reached = largest.get(getattr(value, "index", -1), 0.0)
        if value.dtype.is_floating_point and reached > limit:
            raise ConfigError(
                f"io_dtype={dtype}: {name} reaches {reached:g} for the example, and {dtype} ends at {limit:g}. Leave io_dtype "
                "out, or scale in the model (of a mask, take minus infinity)"
            )
        if value.dtype.is_floating_point and 0 < reached < tiny:
            raise ConfigError(
                f"io_dtype={dtype}: {name} reaches {reached:g} only for the example, and {dtype} loses digits below {tiny:g}. "
                "Leave io_dtype out, or scale in the model"
            )


def without_effect(graph: Graph, options: Options, quantized: Sequence[str]) -> list[str]:
    """Notes on precisions that nothing can take.

    Args:
        quantized: paths of the modules that have something in INT8.
    """
    floats = {op.module for op in graph.ops if any(v is not None and v.dtype == torch.float32 for v in _values(op))}
    notes = []
    if options.uses("int8") and not quantized:
        notes.append(
            "note: nothing is INT8: only float32 convolutions (transposed ones without groups), linear layers and matrix "
            "products are quantized, and there is none. A half model has to be converted as model.float()"
        )
    low = [name for name in ("fp16", "bf16") if getattr(options, name)]
    if low and not floats:
        notes.append(f"note: {low[0]}=True has no effect: nothing of the model is float32")
    ran = {op.module for op in graph.ops}

    def within(path: str, modules: Iterable[str]) -> bool:
        return any(nearest({path: True}, module) for module in modules)

    idle = [path for path in options.precisions if within(path, ran) and not within(path, floats)]
    if idle:
        dtypes = {v.dtype for op in graph.ops for v in _values(op) if v is not None}
        half = torch.float16 in dtypes or torch.bfloat16 in dtypes
        tip = ". A half model has to be converted as model.float()" if half else ""
        notes.append(f"note: precisions has no effect on {listed(idle)}: nothing there is float32{tip}")
    return notes


def _values(op: Op) -> list[Any]:
    return [*op.inputs(), *op.outputs]
