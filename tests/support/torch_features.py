"""Rows and tests about what an older torch lacks: the one place that leaves them out, and only there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch.fx.experimental import symbolic_shapes

from torch2edge.trace.torch_versions import LATER, exports_dynamo, lacks, runs_uncompiled

__all__ = [
    "DYNAMO",
    "EXPORTERS",
    "FREE_SIZES",
    "INLINING",
    "LACKING",
    "LOADS_BYTEARRAYS",
    "META_ATTENTION",
    "SAFE_SOFTMAX",
    "SYMBOLS_LEFT_ALONE",
    "UNCOMPILED",
    "where_cpu_computes",
    "where_torch_has",
]  # fmt: skip

_HERE = f"torch {torch.__version__}"
T = TypeVar("T")
# Ops with a converter that this torch does not have.
LACKING = {op for op in LATER if lacks(op)}

UNCOMPILED = pytest.mark.skipif(
    not runs_uncompiled(),
    reason=f"{_HERE} cannot run a compiled module uncompiled (torch.compiler.set_stance)",
)
SAFE_SOFTMAX = pytest.mark.skipif(
    lacks("aten._safe_softmax.default"), reason=f"{_HERE} gives NaN, not 0, for a row of attention that sees nothing"
)
DYNAMO = pytest.mark.skipif(not exports_dynamo(), reason=f"{_HERE} has another torch.onnx.export(dynamo=True), see api.py")
EXPORTERS = ("torchscript", pytest.param("dynamo", marks=DYNAMO))
META_ATTENTION = pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key("aten::_scaled_dot_product_flash_attention", "Meta"),
    reason=f"{_HERE} has no shape rules for its GPU kernels of attention; F.scaled_dot_product_attention does not need them",
)
# Before, x[:, :n] asked whether n is the length: a ConfigError for ranges that hold both answers. So did the parts that
# PyTorch takes F.pad into (which is recorded whole where it has its converter). Nor was n / n known to be 1.
SYMBOLS_LEFT_ALONE = hasattr(symbolic_shapes, "guard_or_false")
FREE_SIZES = pytest.mark.skipif(not SYMBOLS_LEFT_ALONE, reason=f"{_HERE} asks of symbolic sizes what newer ones leave open")
# What torch.load(weights_only=True) takes; torch2trt's state dicts hold the engine as one.
LOADS_BYTEARRAYS = bytearray in torch._weights_only_unpickler._get_allowed_globals().values()


def _inlining() -> list[bool]:
    """Whether Dynamo makes parameters inputs of a graph: what this torch does by default, and what else it can do."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            default = bool(torch._dynamo.config.inline_inbuilt_nn_modules)
        except FutureWarning:  # torch 2.15 has no choice
            return [True]
    return [True, False] if default else [False]  # torch 2.4 can, but does not tell a buffer from an input then


INLINING = _inlining()


def where_torch_has(op: str, parameter: str, items: list[T]) -> list[T]:
    """The rows of an op, or of a parameter of it; none where the installed torch lacks it."""
    assert op in LATER, f"{op} is in every torch that is supported, or has to stand in LATER"
    assert not parameter or parameter in LATER[op]
    return [] if lacks(op, parameter) else items


def where_cpu_computes(probe: Callable[[], object], items: list[T]) -> list[T]:
    """The rows of an op, none where the CPU has no kernel for it, as ``probe`` tells: nothing could be compared with."""
    try:
        probe()
    except RuntimeError as error:
        if "not implemented for" not in str(error):
            raise
        return []
    return items
