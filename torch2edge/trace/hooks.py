"""Forward hooks that tell the tracer in which submodule it is, and that turn some submodules into one op each."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..graph import map_tensors
from .tracer import Tracer
from .whole import record

__all__ = ["module_paths"]


@dataclass(slots=True)
class _Call:
    """A submodule that is running."""

    outer: str  # path of the submodule that called it
    whole: bool = False  # between ``begin`` and ``end``: nothing inside is recorded
    recorded: Any = None  # its arguments, when it becomes one op


@contextlib.contextmanager
def module_paths(model: nn.Module, tracer: Tracer, classes: tuple[type[nn.Module], ...]) -> Iterator[None]:
    """Keep ``tracer.path`` while the model runs in this thread; submodules of ``classes`` become one op each.

    The user's own hooks run between ours: what they do to a submodule that is converted as a whole is recorded outside of
    it. Another thread that runs the same model meanwhile passes through the hooks untouched.
    """
    stack: list[_Call] = []
    handles: list[Any] = []
    thread, handled = threading.get_ident(), sys.exc_info()[1]

    def enter(path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if threading.get_ident() == thread:
            stack.append(_Call(tracer.path))
            tracer.path = path

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        if threading.get_ident() == thread:
            stack[-1].recorded = None if tracer.depth else map_tensors((args, kwargs), tracer.read)
            stack[-1].whole = True
            tracer.depth += 1

    def end(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if threading.get_ident() == thread and stack[-1].whole:
            stack[-1].whole = False
            tracer.depth -= 1
            if stack[-1].recorded is not None and not _failed(output):
                record(tracer, type(module), module, stack[-1].recorded, output)

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            tracer.broken = None if not _failed(output) else tracer.path if tracer.broken is None else tracer.broken
            tracer.path = stack.pop().outer

    def _failed(output: Any) -> bool:
        return output is None and sys.exc_info()[1] not in (None, handled)

    try:
        for path, module in model.named_modules():
            pre = functools.partial(enter, path)
            handles.append(module.register_forward_pre_hook(pre, prepend=True, with_kwargs=True))
            if type(module) in classes:
                handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
                handles.append(module.register_forward_hook(end, prepend=True, with_kwargs=True, always_call=True))
            handles.append(module.register_forward_hook(leave, with_kwargs=True, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
        tracer.path = ""
