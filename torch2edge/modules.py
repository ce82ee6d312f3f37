"""Options per module: submodules or their paths, or patterns of paths -> a value; the innermost module that has one wins."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from torch import nn

from .errors import ConfigError

__all__ = ["ByPath", "by_path", "check_reached", "flatten_recurrent", "inside", "nearest"]

T = TypeVar("T")
U = TypeVar("U")


class ByPath(dict[str, T]):
    """Module path -> value.

    Attributes:
        patterns: of the paths that a pattern stands for, path -> the pattern.
        whole: it is of a whole model, not of what a part of one holds of its entries.
    """

    def __init__(self, values: Mapping[str, T], patterns: Mapping[str, str], whole: bool = True) -> None:
        super().__init__(values)
        self.patterns, self.whole = dict(patterns), whole

    def map(self, function: Callable[[str, T], U]) -> ByPath[U]:
        """The same with ``function(path, value)`` for each value."""
        return ByPath({path: function(path, value) for path, value in self.items()}, self.patterns, self.whole)


def by_path(
    model: nn.Module, given: Any, option: str, example: str, *, known: Iterable[str] | None = None, patterns: bool = False
) -> ByPath[Any]:  # fmt: skip
    """``given`` by module path.

    Args:
        given: submodule or its path -> value, or None.
        option: what messages call it.
        example: how to write it.
        known: the paths there are; by default those of the model's submodules.
        patterns: keys with ``*``, ``?`` or ``[`` stand for the paths that they match (``fnmatch``); what lies inside of a
            match goes with it. Of the entries of one path a module or path comes before a pattern, and a later pattern before
            an earlier one; between paths the innermost wins (``nearest``).

    Raises:
        ConfigError: it is no mapping, or names what is no submodule; with the nearest names.
    """
    if isinstance(given, ByPath):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{option} is a {type(given).__name__}; write {example}")
    paths = {id(m): path for path, m in model.named_modules(remove_duplicate=False)}
    names = list(dict.fromkeys(paths.values()) if known is None else known)
    named: dict[str, Any] = {}
    matched: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for key, value in (given or {}).items():
        if patterns and isinstance(key, str) and any(c in key for c in "*?["):
            found = _matches(key, names, option)
            matched |= dict.fromkeys(found, value)
            origin |= dict.fromkeys(found, key)
        else:
            named[_meant(key, paths, names, option)] = value
    return ByPath({**matched, **named}, {path: key for path, key in origin.items() if path not in named})


def _matches(key: str, names: list[str], option: str) -> list[str]:
    """The outermost modules that a pattern matches."""
    found = dict.fromkeys(name for name in names if fnmatchcase(name, key))
    if not found:
        raise ConfigError(f"{option}: the pattern {key!r} matches no submodule of the model{_near(key, names)}")
    return [name for name in found if not any(around in found for around in _around(name))]


def _around(path: str) -> Iterator[str]:
    """The paths of the modules around one."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _meant(key: Any, paths: Mapping[int, str], names: list[str], option: str) -> str:
    path = key if isinstance(key, str) else paths.get(id(key))
    if path is None or path not in names:
        shown = repr(key) if isinstance(key, str) else f"a {type(key).__name__}"
        raise ConfigError(f"{option}: {shown} is no submodule of the model{_near(key, names)}")
    return path


def _near(key: Any, names: list[str]) -> str:
    near = difflib.get_close_matches(key, names, 3) if isinstance(key, str) else []
    return f"; near it: {', '.join(near)}" if near else ""


def nearest(values: Mapping[str, T], path: str) -> T | None:
    """The value of the submodule ``path``: its own, else that of the nearest module around it, else None."""
    while True:
        if path in values:
            return values[path]
        if not path:
            return None
        path = path.rpartition(".")[0]


def inside(values: Mapping[str, T], path: str) -> ByPath[T]:
    """The values that hold in the submodule ``path``, by the paths in it."""

    def within(given: Mapping[str, U]) -> dict[str, U]:
        return {key.removeprefix(f"{path}."): value for key, value in given.items() if key.startswith(f"{path}.")}

    around = nearest(values, path)
    whole = {} if around is None else {"": around}
    return ByPath({**within(values), **whole}, within(getattr(values, "patterns", {})), whole=False)


def check_reached(given: Mapping[str, Any], reached: Iterable[str], option: str) -> None:
    """Refuse entries for modules in which nothing ran, and of a whole model patterns of which no module ran.

    Args:
        given: a ``ByPath``, or plain paths.
        reached: the module path of every op.

    Raises:
        ConfigError: with the module.
    """
    inside = {""}
    for path in reached:
        while path not in inside:
            inside.add(path)
            path = path.rpartition(".")[0]
    patterns = getattr(given, "patterns", {})
    live = {key for path, key in patterns.items() if path in inside}
    for path in given:
        key = patterns.get(path, path)
        elsewhere = path in patterns and not getattr(given, "whole", True)
        if path not in inside and key not in live and not elsewhere:
            raise ConfigError(
                f"{option}: nothing ran in {key!r} when the model was traced, so its entry has no effect. Take it out, or "
                "name a module that the forward calls"
            )


def flatten_recurrent(model: nn.Module) -> None:
    """Put the weights of each RNN, GRU and LSTM of a copied model into one piece of memory.

    cuDNN wants them so; a copy has them apart, and PyTorch warns of that in a call, and copies them in each.
    """
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
