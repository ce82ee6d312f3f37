"""Rows and tests about what an older torch lacks: the one place that leaves them out, and only there."""

from __future__ import annotations

from typing import TypeVar

import pytest
import torch

from torch2edge.trace.torch_versions import LATER, lacks, runs_uncompiled

__all__ = ["LACKING", "SAFE_SOFTMAX", "UNCOMPILED", "where_torch_has"]

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


def where_torch_has(op: str, parameter: str, items: list[T]) -> list[T]:
    """The rows of an op, or of a parameter of it; none where the installed torch lacks it."""
    assert op in LATER, f"{op} is in every torch that is supported, or has to stand in LATER"
    assert not parameter or parameter in LATER[op]
    return [] if lacks(op, parameter) else items
