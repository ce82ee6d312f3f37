"""The registry: which function converts which op. Knows no op."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import ConfigError
from ..graph import Function

__all__ = ["Converter", "Newer", "Registry", "converter", "is_own", "newer", "registry", "remember_own"]

F = TypeVar("F", bound=Callable[..., Any])
Supports = Callable[..., str]


@dataclass(frozen=True)
class Newer:
    """An ATen overload that the installed torch lacks, but a newer one has."""

    name: str

    def __str__(self) -> str:
        return self.name


def newer(name: str) -> Any:
    """The ATen overload ``name`` (``"_safe_softmax.default"``), which a torch that is supported may lack.

    A converter of it is checked where torch has the op. Which ones that are stands in trace/torch_versions.py, and a test
    holds both against each other and against the installed torch.
    """
    return _overload(f"aten.{name}") or Newer(f"aten.{name}")


@dataclass(frozen=True)
class Converter:
    """A function that turns one op into layers, and what is known of it."""

    target: Any  # torch._ops.OpOverload, a class of nn.Module, a Function or a Newer
    function: Callable[..., Any]
    supports: Supports | None = None

    @property
    def where(self) -> str:
        """``file.py:12`` of the function."""
        code = inspect.unwrap(self.function).__code__
        return f"{code.co_filename}:{code.co_firstlineno}"


class Registry:
    """Converters by op; lookups go to ``overrides`` of one call first."""

    def __init__(self, parent: Registry | None = None) -> None:
        self._own: dict[Any, Converter] = {}
        self._refused: dict[str, str] = {}
        self._parent = parent

    def add(self, target: Any, function: Callable[..., Any], supports: Supports | None = None, replace: bool = False) -> None:
        """Register ``function`` for ``target``.

        Raises:
            ConfigError: the target is no functional ATen overload or module class, the parameters are not the op's
                schema, or there is one already and ``replace`` is False.
        """
        new = Converter(target, function, supports)
        _check_target(target)
        _check_signature(new)
        key = _key(target)
        if key in self._own and not replace:
            raise ConfigError(
                f"{_title(target)} has two converters: {self._own[key].where} and {new.where}. To put one in the place "
                "of the other, register it with replace=True."
            )
        self._own[key] = new

    def get(self, target: Any) -> Converter | None:
        """The converter of an overload or module class, or None."""
        return self._own.get(_key(target)) or (self._parent.get(target) if self._parent else None)

    def all(self) -> dict[Any, Converter]:
        """Every converter by target."""
        return {**(self._parent.all() if self._parent else {}), **self._own}

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Say why ops that have no converter have none: name without namespace and overload -> reason."""
        self._refused.update(reasons)

    def refused(self) -> dict[str, str]:
        """Why which ops have no converter, by name."""
        return {**(self._parent.refused() if self._parent else {}), **self._refused}

    def why_not(self, target: Any) -> str:
        """Why an op without a converter has none, or ""."""
        name = target._schema.name.split("::")[1] if isinstance(target, torch._ops.OpOverload) else ""
        return self.refused().get(name, "")

    def module_classes(self) -> tuple[type[nn.Module], ...]:
        """The classes that are converted as a whole."""
        return tuple(t for t in self.all() if inspect.isclass(t) and issubclass(t, nn.Module))

    def functions(self) -> tuple[Function, ...]:
        """The functions that are converted as a whole."""
        return tuple(t for t in self.all() if isinstance(t, Function))

    def is_leaf(self, target: Any) -> bool:
        """Whether an overload is converted as it is, so that tracing must not take it apart."""
        return self.get(target) is not None

    def extended(self, converters: Mapping[Any, Callable[..., Any]] | None) -> Registry:
        """A registry for one call, in which ``converters`` come first."""
        if not converters:
            return self
        if not isinstance(converters, Mapping):
            raise ConfigError(f"converters is a {type(converters).__name__}; write {{torch.ops.aten.relu.default: function}}")
        child = Registry(self)
        for target, function in converters.items():
            child.add(target, function)
        return child


_registry = Registry()
_own: dict[Any, Converter] = {}


def registry() -> Registry:
    """The process's registry, with torch2edge's own converters in it."""
    importlib.import_module("torch2edge.converters")
    return _registry


def remember_own() -> None:
    """What is registered now is torch2edge's own; torch2edge.converters calls it at the end of its import."""
    _own.update(_registry.all())


def is_own(found: Converter | None) -> bool:
    """Whether a converter is torch2edge's own and in its own place: one that serves another op is the user's doing."""
    own = _own.get(_key(found.target)) if found else None
    return found is not None and own is not None and found.function is own.function and found.supports is own.supports


def converter(*targets: Any, supports: Supports | None = None, replace: bool = False) -> Callable[[F], F]:
    """Register the decorated function as the converter of ``targets``.

    Args:
        targets: ATen overloads with the same schema, e.g. ``torch.ops.aten.relu.default``, or classes of nn.Module; an op
            of a library that may not be imported by its name, ``"torchvision.roi_align.default"``. The
            function's parameters after the first (the ``Network``) are the op's schema, name by name; for a class they
            are the submodule and then what its forward takes.
        supports: takes the same parameters with ``Value`` and ``Constant`` in the place of tensors, before any layer is
            added, and returns why this call cannot convert, or "".
        replace: put it in the place of a converter that is there.

    Raises:
        ConfigError: see ``Registry.add``.

    Example::

        @converter(torch.ops.aten.relu.default)
        def relu(net, self):
            \"\"\"relu(Tensor self) -> Tensor\"\"\"
            return net.activation(self, "RELU")
    """

    def register(function: F) -> F:
        if not targets:
            raise ConfigError("converter() needs at least one op or module class")
        for target in targets:
            _registry.add(target, function, supports, replace)
        return function

    return register


def _key(target: Any) -> Any:
    """What a target is looked up by: an op that is not PyTorch's own by its name."""
    return str(target) if isinstance(target, torch._ops.OpOverload) and target.namespace != "aten" else target


def _overload(name: str) -> Any:
    """The op of that name, or None where nothing has registered it."""
    namespace, op, overload = name.split(".")
    packet = getattr(getattr(torch.ops, namespace), op, None)
    return packet and getattr(packet, overload, None)


def _title(target: Any) -> str:
    if isinstance(target, Function):
        return target.name
    return target.__qualname__ if inspect.isclass(target) else str(target)


def _check_target(target: Any) -> None:
    if isinstance(target, str) and re.fullmatch(r"(?!aten\.)\w+\.\w+\.\w+", target):  # of a library that may be missing
        return
    if isinstance(target, (Function, Newer)) or (inspect.isclass(target) and issubclass(target, nn.Module)):
        return
    if isinstance(target, torch._ops.OpOverloadPacket):
        raise ConfigError(
            f"{target} stands for several overloads; name one: {', '.join(f'{target}.{o}' for o in target.overloads())}"
        )
    if not isinstance(target, torch._ops.OpOverload):
        raise ConfigError(f"{target!r} is neither an ATen overload such as torch.ops.aten.relu.default nor an nn.Module class")
    if target._schema.is_mutable:
        raise ConfigError(f"{target} writes in place; tracing gives its functional form, so register that one")


def _check_signature(new: Converter) -> None:
    parameters = list(inspect.signature(new.function).parameters.values())
    names = [p.name for p in parameters]
    if isinstance(new.target, Function):
        if not names:
            raise ConfigError(f"the converter {new.where} of {_title(new.target)} must take (net, ...)")
        return
    if inspect.isclass(new.target):
        if len(names) < 2:
            raise ConfigError(f"the converter {new.where} of {_title(new.target)} must take (net, module, ...)")
        return
    op = _overload(new.target) if isinstance(new.target, str) else new.target
    if op is None or isinstance(op, Newer):  # its library is not imported, or torch has no such op yet
        return
    wanted = [a.name for a in op._schema.arguments]
    if [p.name for p in parameters[1:] if p.name in wanted or p.default is p.empty] != wanted:
        raise ConfigError(
            f"the converter {new.where} of {new.target} must take (net, {', '.join(wanted)}), the op's schema, but takes "
            f"({', '.join(names)})"
        )
