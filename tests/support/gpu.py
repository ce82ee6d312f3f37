"""What the GPU tier needs: a GPU, a TensorRT that executes, and builds that are short."""

from __future__ import annotations

from typing import Any

import pytest

from torch2edge._trt import capabilities, why_not_executable
from torch2edge.errors import TensorRTNotFoundError

__all__ = ["FAST", "executes", "fast_options", "needs_gpu"]


def _reason() -> str:
    try:
        return why_not_executable()
    except TensorRTNotFoundError as error:
        return str(error)


def executes() -> bool:
    """Whether engines run here."""
    return not _reason()


def fast_options() -> dict[str, Any]:
    """Options of convert() for short builds, and without cuBLAS and cuDNN, which the GPU machine of CI only has as stubs."""
    try:
        sources = {"tactic_sources": 0} if capabilities().tactic_sources else {}
    except TensorRTNotFoundError:
        sources = {}
    return {"optimization_level": 0, **sources}


FAST = fast_options()
needs_gpu = pytest.mark.skipif(bool(_reason()), reason=f"the GPU tier cannot run here: {_reason()}")
