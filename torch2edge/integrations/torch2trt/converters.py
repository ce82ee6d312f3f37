"""tensorrt_converter: converters by dotted name, on top of torch2edge's conversion of modules and functions as a whole."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any, TypeVar

from torch import nn

from ...errors import ConfigError
from ...graph import Function
from ...lower.network import Network
from .context import ConversionContext

__all__ = ["CONVERTERS", "Entry", "converters_for", "keywords_read", "tensorrt_converter"]

F = TypeVar("F", bound=Callable[[ConversionContext], Any])


@dataclass(frozen=True)
class Entry:
    """A registered converter, and what it converts."""

    converter: Callable[[ConversionContext], Any]
    name: str
    holder: Any
    attribute: str
    call: Callable[..., Any]

    @property
    def is_forward(self) -> bool:
        """Whether it is the forward of a module class."""
        return self.attribute == "forward" and inspect.isclass(self.holder) and issubclass(self.holder, nn.Module)


CONVERTERS: dict[Any, Entry] = {}
"""Registered converters by the name or function they were registered for."""


def tensorrt_converter(
    method: str | Callable[..., Any], is_real: bool = True, enabled: bool = True, imports: object = ()
) -> Callable[[F], F]:
    """Register the decorated function for calls of ``method``; what is registered for no name converts as ever.

    Args:
        method: dotted name of a function, of a method (``torch.Tensor.add``) or of a module class's forward
            (``torch.nn.ReLU.forward``), or the function itself.
        is_real: False (a hook that adds no layers) is refused.
        enabled: False registers nothing.
        imports: without effect, as in torch2trt.

    Raises:
        ConfigError: ``method`` cannot be found at all, or is no function.
    """
    if not is_real:
        raise ConfigError(
            f"tensorrt_converter({method!r}, is_real=False): a converter that adds no layers is not needed here; what has no "
            "converter is an error that names the op and the source line"
        )

    def register(converter: F) -> F:
        found = _resolve(method) if enabled else None
        if found is not None:
            CONVERTERS[method] = Entry(converter, *found)
        return converter

    return register


def _resolve(method: str | Callable[..., Any]) -> tuple[str, Any, str, Callable[..., Any]] | None:
    """Name, holder, attribute, function; None with a warning for a name that this version of the library lacks."""
    name = method if isinstance(method, str) else f"{method.__module__}.{method.__qualname__}"
    if "<" in name:
        raise ConfigError(f"{name} is local or a lambda: it has no name under which calls of it can be found")
    module, rest = _module_of(name)
    holder: Any = None
    found: Any = module
    for part in rest:
        if not hasattr(found, part):
            warnings.warn(f"there is no {name} here ({part} is missing): its converter is never called", stacklevel=4)
            return None
        holder, found = found, getattr(found, part)
    if holder is None or not callable(found) or inspect.isclass(found):
        raise ConfigError(f"{name} is no function; for a module class name its forward: {name}.forward")
    return name, holder, rest[-1], found


def _module_of(name: str) -> tuple[Any, list[str]]:
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            return importlib.import_module(".".join(parts[:count])), parts[count:]
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise  # it exists, but something that it imports does not
    raise ConfigError(f"{name!r} is no dotted name: no module {parts[0]!r} can be imported")


def converters_for(module: nn.Module, torch2trt_kwargs: Mapping[str, Any]) -> dict[Any, Callable[..., Any]]:
    """The registered converters as ``convert(converters=...)`` takes them, for a conversion of ``module``."""
    result: dict[Any, Callable[..., Any]] = {}
    for entry in CONVERTERS.values():
        target = _adapted(entry, torch2trt_kwargs)
        if entry.is_forward:  # also for subclasses that inherit it
            result.update({type(m): target for m in module.modules() if type(m).forward is entry.call})
        else:
            result[Function(entry.holder, entry.attribute, entry.call)] = target
    return result


def _adapted(entry: Entry, torch2trt_kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    def run(net: Network, *args: Any, **kwargs: Any) -> Any:
        ctx = ConversionContext(net, entry.name, args, kwargs, torch2trt_kwargs)
        try:
            entry.converter(ctx)
            return ctx.results()
        finally:
            ctx.close()

    run.__signature__ = inspect.signature(run)  # type: ignore[attr-defined]
    run.__wrapped__ = entry.converter  # type: ignore[attr-defined]  # messages name its file and line
    return run


def keywords_read() -> set[str]:
    """Every string in the code of a registered converter that reads ``ctx.torch2trt_kwargs``."""
    found: set[str] = set()
    for entry in CONVERTERS.values():
        codes = list(_codes(getattr(inspect.unwrap(entry.converter), "__code__", None)))
        if any("torch2trt_kwargs" in code.co_names for code in codes):
            found |= {c for code in codes for c in code.co_consts if isinstance(c, str)}
    return found


def _codes(code: CodeType | None) -> Iterator[CodeType]:
    if code is not None:
        yield code
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from _codes(constant)
