"""Options per module: submodules or their paths, or patterns of paths -> a value; the innermost module that has one wins."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from torch import nn

from .errors import ConfigError

__all__ = ["by_path", "check_reached", "inside", "nearest"]

T = TypeVar("T")


def by_path(
    model: nn.Module, given: Any, option: str, example: str, *, known: Iterable[str] | None = None, patterns: bool = False
) -> dict[str, Any]:  # fmt: skip
    """``given`` by module path.

    Args:
        given: submodule or its path -> value, or None.
        option: what messages call it.
        example: how to write it.
        known: the paths there are; by default those of the model's submodules.
        patterns: keys with ``*``, ``?`` or ``[`` stand for every path that they match (``fnmatch``). A later key comes before
            an earlier one that gives the same module a value.

    Raises:
        ConfigError: it is no mapping, or names what is no submodule; with the nearest names.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{option} is a {type(given).__name__}; write {example}")
    paths = {id(m): path for path, m in model.named_modules(remove_duplicate=False)}
    names = list(dict.fromkeys(paths.values()) if known is None else known)
    result: dict[str, Any] = {}
    for key, value in (given or {}).items():
        result |= dict.fromkeys(_meant(key, paths, names, option, patterns), value)
    return result


def _meant(key: Any, paths: Mapping[int, str], names: list[str], option: str, patterns: bool) -> list[str]:
    if patterns and isinstance(key, str) and any(c in key for c in "*?["):
        found = [name for name in names if fnmatchcase(name, key)]
        if not found:
            raise ConfigError(f"{option}: the pattern {key!r} matches no submodule of the model{_near(key, names)}")
        return found
    path = key if isinstance(key, str) else paths.get(id(key))
    if path is None or path not in names:
        shown = repr(key) if isinstance(key, str) else f"a {type(key).__name__}"
        raise ConfigError(f"{option}: {shown} is no submodule of the model{_near(key, names)}")
    return [path]


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


def inside(values: Mapping[str, T], path: str) -> dict[str, T]:
    """The values that hold in the submodule ``path``, by the paths in it."""
    result = {key.removeprefix(f"{path}."): value for key, value in values.items() if key.startswith(f"{path}.")}
    around = nearest(values, path)
    return result if around is None else {**result, "": around}


def check_reached(given: Mapping[str, Any], reached: Iterable[str], option: str) -> None:
    """Refuse entries for modules in which nothing ran.

    Args:
        reached: the module path of every op.

    Raises:
        ConfigError: with the module.
    """
    inside = {""}
    for path in reached:
        while path not in inside:
            inside.add(path)
            path = path.rpartition(".")[0]
    for path in given:
        if path not in inside:
            raise ConfigError(
                f"{option}: nothing ran in {path!r} when the model was traced, so its entry has no effect. Take it out, or "
                "name a module that the forward calls"
            )
