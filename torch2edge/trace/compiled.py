"""Modules under ``torch.compile``: the Python module inside, and a run that is plain Python."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from ..attention import plain_attention
from .torch_versions import uncompiled

__all__ = ["eager_only", "is_compiled", "unwrap"]


def is_compiled(module: nn.Module) -> bool:
    """Whether ``module`` is what ``torch.compile(module)`` returned."""
    return type(module).__name__ == "OptimizedModule" and isinstance(getattr(module, "_orig_mod", None), nn.Module)


def unwrap(module: Any) -> Any:
    """The module that was given to ``torch.compile``; any other value as it is."""
    while isinstance(module, nn.Module) and is_compiled(module):
        module = module._orig_mod
    return module


@contextlib.contextmanager
def eager_only() -> Iterator[None]:
    """Run a model as plain Python all through, so that hooks and the dispatch mode see inside.

    Compiled submodules run uncompiled (where torch cannot do that, trace() refuses them), and nn.MultiheadAttention takes
    its ordinary path.
    """
    with uncompiled(), plain_attention():
        yield
