"""What the GPU tier needs: a GPU, a TensorRT that executes, builds that are short, and many rows to one engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from support.rows import Row, assert_close
from torch2edge._trt import capabilities, why_not_executable
from torch2edge.errors import TensorRTNotFoundError, Torch2EdgeError
from torch2edge.structure import flatten

__all__ = ["FAST", "Many", "alone", "disagreement", "executes", "fast_options", "halved", "needs_gpu"]

# The GPU's kernels sum in another order than the CPU's; TF32 is off.
GPU_RTOL = {torch.float32: 2e-5}


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
alone = pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" in os.environ, reason="it fills or measures the whole GPU, on which others work: run it without -n"
)
needs_gpu = pytest.mark.skipif(bool(_reason()), reason=f"the GPU tier cannot run here: {_reason()}")


class Many(nn.Module):
    """Several rows side by side in one module; each takes its own inputs."""

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(row.module() for row in rows)
        self.counts = [len(row.specs()) for row in rows]

    def forward(self, *inputs: torch.Tensor) -> list[Any]:
        outputs, start = [], 0
        for part, count in zip(self.parts, self.counts):
            outputs.append(part(*inputs[start : start + count]))
            start += count
        return outputs


def disagreement(row: Row, given: Any, expected: Any) -> str:
    """How an engine's outputs differ from a row's, or ""."""
    rtol = max(row.tolerance(), GPU_RTOL.get(row.dtype, 0.0))
    try:
        for a, b in zip(flatten(given)[0], flatten(expected)[0], strict=True):
            assert_close(a.cpu(), b, rtol)
    except (AssertionError, ValueError) as error:  # ValueError: not as many outputs
        return str(error)
    return ""


def halved(rows: list[Any], execute: Callable[[list[Any]], list[str]]) -> list[str]:
    """``execute``, which gives a line per row that is wrong; rows that TensorRT refuses are found by halving."""
    try:
        return execute(rows)
    except Torch2EdgeError as error:
        if len(rows) == 1:
            return [f"{rows[0]}: {type(error).__name__}: {str(error)[:900]}"]
        middle = len(rows) // 2
        return halved(rows[:middle], execute) + halved(rows[middle:], execute)
