"""Submodules and functions that become one op each: nothing inside is recorded, what they return are the op's results."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from torch import nn

from ..errors import ConfigError, InplaceError
from ..graph import Function, Op, Value, map_tensors
from ..structure import flatten
from .source import caller
from .tensor import Buffer, Traced, tensors_in
from .tracer import Tracer

__all__ = ["record", "whole_functions"]

_ABSENT = object()


def record(tracer: Tracer, target: Any, instance: nn.Module | None, recorded: Any, output: Any) -> None:
    """Append the op; ``recorded`` holds its arguments, as the tracer read them before the call.

    Raises:
        InplaceError: it wrote to a tensor from outside and did not return that tensor.
    """
    tensors, nesting = flatten(output, "output")
    buffers: list[tuple[Buffer, Buffer]] = []
    outputs = [_published(tracer, t, buffers) if isinstance(t, Traced) and t.value.hidden else None for t in tensors]
    op = Op(target, recorded[0], recorded[1], outputs, tracer.path, caller(), instance, nesting)
    lost = any(buffer.value.hidden for buffer in tracer.memory.overwritten)
    tracer.memory.overwritten.clear()
    if lost:
        raise InplaceError(
            f"{op.name} {tracer.here()}: it is converted as a whole, but it writes to a tensor from outside of it that it "
            "does not return."
        )
    tracer.ops.append(op)


def _published(tracer: Tracer, tensor: Traced, buffers: list[tuple[Buffer, Buffer]]) -> Value:
    """The value under which a result is known outside; ``buffers`` are those of the results before it: inside, outside."""
    value, memory = tracer.new_value(tensor.meta), tensor.buffer
    tensor.value = value
    if memory.hidden:  # memory of its own
        tensor.buffer = Buffer(value, tensor.meta, memory.device)
        tensor.chain, tensor.version = (), 0
        buffers.append((memory, tensor.buffer))
        sharing = [outside for inside, outside in buffers if inside is memory]
        for buffer in sharing if len(sharing) > 1 else ():
            buffer.frozen = "one of several results that share memory, of something that is converted as a whole"
    elif not tensor.chain:  # the tensor from outside that was written to
        memory.value, tensor.version = value, memory.version
    return value


@contextlib.contextmanager
def whole_functions(tracer: Tracer, functions: Sequence[Function]) -> Iterator[None]:
    """While the model runs in this thread, a call of one of ``functions`` becomes one op.

    Each is replaced where it lives, and in every module that has imported it by name; what holds it otherwise (a default
    argument, an attribute of an object) calls the original, whose ops are then recorded as usual.
    """
    with contextlib.ExitStack() as undo:
        for function in functions:
            wrapper = _wrapper(tracer, function)
            for holder, name in _places(function):
                _replace(holder, name, wrapper, undo)
        yield


def _wrapper(tracer: Tracer, function: Function) -> Callable[..., Any]:
    thread = threading.get_ident()
    call = inspect.getattr_static(function.holder, function.attribute)
    call = call.__func__ if isinstance(call, (staticmethod, classmethod)) else function.call

    @functools.wraps(call)
    def whole(*args: Any, **kwargs: Any) -> Any:
        traced = any(isinstance(t, Traced) for t in tensors_in((args, kwargs)))
        if threading.get_ident() != thread or tracer.depth or not traced:
            return call(*args, **kwargs)
        recorded = map_tensors((args, kwargs), tracer.read)
        tracer.depth += 1
        try:
            output = call(*args, **kwargs)
        finally:
            tracer.depth -= 1
        record(tracer, function, None, recorded, output)
        return output

    return whole


def _places(function: Function) -> list[tuple[Any, str]]:
    places = [(function.holder, function.attribute)]
    if not isinstance(function.holder, ModuleType):
        return places
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType):
            names = [k for k, v in list(vars(module).items()) if v is function.call]
            places += [(module, name) for name in names if (module, name) != places[0]]
    return places


def _replace(holder: Any, name: str, wrapper: Callable[..., Any], undo: contextlib.ExitStack) -> None:
    before = vars(holder).get(name, _ABSENT)
    try:
        setattr(holder, name, type(before)(wrapper) if isinstance(before, (staticmethod, classmethod)) else wrapper)
    except (AttributeError, TypeError) as error:
        raise ConfigError(f"{name} cannot be converted as a whole: {holder!r} does not let it be replaced") from error
    if before is _ABSENT:  # inherited
        undo.callback(delattr, holder, name)
    else:
        undo.callback(setattr, holder, name, before)
