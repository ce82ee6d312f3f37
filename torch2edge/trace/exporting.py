"""The public sign by which a forward knows that it is being recorded."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch

from .torch_versions import compiling_flags

__all__ = ["as_exporting"]


@contextlib.contextmanager
def as_exporting() -> Iterator[None]:
    """``torch.compiler.is_compiling()`` and ``is_exporting()`` are true inside, as they are under ``torch.export``.

    Many models look at the values of a mask to save work in eager mode ("is anything padded at all?"), and leave that out
    when these say so: transformers' attention masks, for one. The check afterwards runs the model in eager mode.
    """
    changed: dict[str, Any] = dict.fromkeys(compiling_flags(), True) | {"is_compiling": _for_all_but_modules}
    before = {name: getattr(torch.compiler, name) for name in changed}
    for name, value in changed.items():
        setattr(torch.compiler, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(torch.compiler, name, value)


def _for_all_but_modules() -> bool:
    """Under compilation nn.Module leaves out the hooks that run after an exception, and ours keep the module path by them."""
    return sys._getframe(1).f_globals.get("__name__") != "torch.nn.modules.module"
