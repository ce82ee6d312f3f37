"""The tree drawn in errors.py is the tree; what is exported is what __all__ says."""

from __future__ import annotations

import inspect
import re

import torch2edge
from torch2edge import errors


def drawn() -> list[tuple[int, str, str]]:
    """(depth, class, description) of each line of the drawing."""
    rows = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([ │├└─]*)(\w+Error)\b\s*(.*)", line)
        if found:
            rows.append((len(found[1]) // 4, found[2], found[3]))
    return rows


def classes() -> dict[str, type]:
    found = inspect.getmembers(errors, inspect.isclass)
    return {n: c for n, c in found if issubclass(c, Exception) and c.__module__ == errors.__name__}


def test_the_drawing_has_every_class_under_its_parent():
    parents: list[str] = []
    seen = {}
    for depth, name, _ in drawn():
        parents[depth:] = [name]
        seen[name] = parents[depth - 1] if depth else "Exception"
    assert seen == {name: c.__bases__[0].__name__ for name, c in classes().items()}


def test_the_drawing_names_the_builtin_that_a_class_also_is():
    also = {name: re.findall(r"also an? (\w+)", text) for _, name, text in drawn()}
    for name, c in classes().items():
        builtin = [b.__name__ for b in c.__bases__[1:]]
        assert also[name] == builtin, f"{name} is {builtin}, drawn as {also[name]}"


def test_every_class_is_exported_and_documented():
    assert sorted(errors.__all__) == sorted(classes())
    assert all(c.__doc__ for c in classes().values())
    assert all(getattr(torch2edge, name) is c for name, c in classes().items())


def test_all_of_the_package_is_what_it_exports():
    assert len(set(torch2edge.__all__)) == len(torch2edge.__all__)
    assert all(hasattr(torch2edge, name) for name in torch2edge.__all__)
    public = {
        name for name, value in vars(torch2edge).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
    }  # fmt: skip
    assert public == set(torch2edge.__all__)
