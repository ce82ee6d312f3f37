"""Modules under ``torch.compile``: the Python module inside, and a run that compiles nothing."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn

__all__ = ["eager_only", "is_compiled", "unwrap"]


def is_compiled(module: nn.Module) -> bool:
    """Whether ``module`` is what ``torch.compile(module)`` returned."""
    return type(module).__name__ == "OptimizedModule" and isinstance(getattr(module, "_orig_mod", None), nn.Module)


def unwrap(module: Any) -> Any:
    """The module that was given to ``torch.compile``; any other value as it is."""
    while isinstance(module, nn.Module) and is_compiled(module):
        module = module._orig_mod
    return module


def eager_only() -> contextlib.AbstractContextManager[Any]:
    """Run compiled modules and functions as plain Python, so that hooks and the dispatch mode see inside.

    On torch before 2.6 there is no such switch; then a compiled submodule compiles, and what that breaks is an error.
    """
    set_stance = getattr(torch.compiler, "set_stance", None)
    return set_stance("force_eager") if set_stance is not None else contextlib.nullcontext()
