"""TF32 in PyTorch: a reference that rounds to 10 bits of mantissa would blame the engine for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["tf32"]


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """PyTorch's CUDA products and convolutions with TF32, or without. Its default is with, for convolutions."""
    switches = _switches(allowed)
    before = [getattr(holder, name) for holder, name, _ in switches]
    try:
        for holder, name, value in switches:
            setattr(holder, name, value)
        yield
    finally:
        for (holder, name, _), value in zip(switches, before):
            setattr(holder, name, value)


def _switches(allowed: bool) -> list[tuple[Any, str, Any]]:
    """The old switches; or, where somebody used the new ones of torch 2.9, those: then reading the old ones is an error."""
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    try:
        _ = matmul.allow_tf32, cudnn.allow_tf32
    except RuntimeError:
        return [(holder, "fp32_precision", "tf32" if allowed else "ieee") for holder in (matmul, cudnn.conv, cudnn.rnn)]
    return [(matmul, "allow_tf32", allowed), (cudnn, "allow_tf32", allowed)]
