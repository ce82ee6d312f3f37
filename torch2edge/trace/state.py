"""What a forward may change in passing, and putting it back: attributes, containers in them, flags, random generators."""

from __future__ import annotations

import contextlib
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import InplaceError, RandomOpError
from .tensor import Traced

__all__ = ["RefuseDataAssignment", "held", "no_draws", "unchanged"]

_DATA = torch.Tensor.data
_CONTAINERS = (dict, list, set, deque)
_BARE: dict[type, Any] = {dict: dict, list: list, set: list, deque: list}  # what a copy of one is kept as
_OPAQUE = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType, torch.jit.ScriptModule)
_PLAIN_HOLDERS = ("types", "collections", "argparse")  # SimpleNamespace, UserDict, Namespace
_NUMBERS = {type(None), bool, int, float, complex, str, bytes}  # and the like: what holds no tensor
_OWN = ("_parameters", "_buffers", "_modules")
_OBJECTS_DEEP = 3  # objects of the user's own classes are followed this far from a module: a trainer leads to everything


def _walk(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every container and tensor that the model holds, in whatever nesting, with what to call it; each once."""
    seen: set[int] = set()
    stack: list[tuple[str, Any, int]] = [(path, m, 0) for path, m in reversed(list(model.named_modules()))]
    while stack:
        name, value, depth = stack.pop()
        if id(value) in seen or isinstance(value, _OPAQUE):
            continue
        if isinstance(value, torch.Tensor):
            seen.add(id(value))
            yield name, value
        elif isinstance(value, (*_CONTAINERS, tuple)):
            seen.add(id(value))
            yield name, value
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            stack.extend((f"{name}[{k!r}]", v, depth) for k, v in pairs if _holds(v))
        elif isinstance(value, nn.Module) or (depth < _OBJECTS_DEEP and _is_followed(value)):
            seen.add(id(value))
            attributes = vars(value)
            seen.add(id(attributes))
            yield name, attributes
            is_module = isinstance(value, nn.Module)
            deeper = depth if is_module else depth + 1
            dot = "." if name else ""
            for key, item in attributes.items():
                if type(item) in _NUMBERS:
                    continue
                if is_module and key in _OWN:
                    seen.add(id(item))
                    yield key, item
                    stack.extend((f"{name}{dot}{k}", v, depth) for k, v in item.items() if v is not None)
                elif type(item) in _BARE and not item:  # the hooks of most modules
                    if id(item) not in seen:
                        seen.add(id(item))
                        yield key, item
                elif _holds(item):
                    stack.append((f"{name}{dot}{key}", item, deeper))


def _is_followed(value: Any) -> bool:
    """The user's objects; not queues, locks, loggers and the like, which other threads work with."""
    library = type(value).__module__.partition(".")[0]
    return hasattr(value, "__dict__") and (library not in sys.stdlib_module_names or library in _PLAIN_HOLDERS)


def _holds(value: Any) -> bool:
    return type(value) not in _NUMBERS and not isinstance(value, (bool, int, float, complex, str, bytes))


def held(model: nn.Module) -> list[tuple[str, Any]]:
    """Every container and tensor that the model holds, also in lists and objects, with a name such as ``head.cache[0]``."""
    return list(_walk(model))


@contextlib.contextmanager
def unchanged(model: nn.Module, everything: list[tuple[str, Any]] | None = None) -> Iterator[None]:
    """Put back what a forward may leave behind: attributes, containers, requires_grad flags, random generators.

    ``everything`` is what ``held(model)`` gave, if somebody asked already.
    """
    holders, flags = [], []
    for _, value in held(model) if everything is None else everything:
        if isinstance(value, torch.Tensor):
            flags.append((value, value.requires_grad))
        elif not isinstance(value, tuple):
            bare = _BARE.get(type(value)) or _BARE[next(c for c in _CONTAINERS if isinstance(value, c))]
            holders.append((value, bare(value)))
    generators = _generators()
    try:
        yield
    finally:
        _put_back_generators(generators)
        for holder, content in holders:
            _put_back(holder, content)
        for tensor, flag in flags:
            if tensor.requires_grad != flag:
                tensor.requires_grad_(flag)


class RefuseDataAssignment(TorchFunctionMode):
    """Refuse ``tensor.data = other``: no op tells of it, and a real tensor whose memory is gone crashes the process.

    Args:
        here: says where the forward is.
    """

    def __init__(self, here: Callable[[], str]) -> None:
        super().__init__()
        self._here = here
        self.refused: InplaceError | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let all else pass."""
        if getattr(func, "__self__", None) is _DATA and func.__name__ == "__set__":
            self.refused = InplaceError(
                f"tensor.data = ... {self._here()}: the forward replaces a tensor's memory (module.half(), .float() and .to() "
                "do it too), and an engine cannot follow that. Compute a new tensor; prepare weights before the conversion."
            )
            raise self.refused
        if getattr(func, "__self__", None) is _DATA and isinstance(args[0], Traced):
            return args[0].detach()  # the same memory; torch 2.4 gives no .data of a tensor that is made in inference mode
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def no_draws() -> Iterator[None]:
    """Refuse code that draws from Python's or NumPy's global generators: tracing cannot see that in the ops.

    Raises:
        RandomOpError
    """
    python, numbers = random.getstate(), numpy.random.get_state(legacy=False)
    yield
    if random.getstate() != python or not _same(numpy.random.get_state(legacy=False), numbers):
        raise RandomOpError(
            "while the forward ran, Python's random or NumPy's generator was drawn from; an engine would freeze that draw. "
            "Draw outside and pass the numbers in. (If it was another thread, convert again while it rests.)"
        )


def _generators() -> tuple[Any, Any, torch.Tensor, list[torch.Tensor]]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), numpy.random.get_state(legacy=False), torch.get_rng_state(), cuda


def _put_back_generators(before: tuple[Any, Any, torch.Tensor, list[torch.Tensor]]) -> None:
    """Only those that were drawn from: another thread may be using them."""
    now = _generators()
    if now[0] != before[0]:
        random.setstate(before[0])
    if not _same(now[1], before[1]):
        numpy.random.set_state(before[1])
    if not torch.equal(now[2], before[2]):
        torch.set_rng_state(before[2])
    if before[3] and not all(torch.equal(a, b) for a, b in zip(now[3], before[3])):
        torch.cuda.set_rng_state_all(before[3])


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return bool(numpy.array_equal(a, b))


def _put_back(holder: Any, content: Any) -> None:
    """Make ``holder`` hold exactly ``content`` again; one that does already is not touched, others may be reading it."""
    if isinstance(holder, dict):
        if list(holder) != list(content):
            for key in [k for k in holder if k not in content]:
                del holder[key]
            if list(holder) != [k for k in content if k in holder] or len(holder) < len(content):
                holder.clear()  # the order is part of what it was
        for key, value in content.items():
            if key not in holder or holder[key] is not value:
                holder[key] = value
    elif len(holder) != len(content) or any(a is not b for a, b in zip(holder, content)):
        holder.clear()
        (holder.update if isinstance(holder, set) else holder.extend)(content)
