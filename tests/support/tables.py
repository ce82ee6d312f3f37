"""The op tables of tests/converters, for tests over all of them."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

from support.dynamic_rows import DynamicRow
from support.rows import Row

__all__ = ["all_dynamic_rows", "all_rows", "tables"]

FOLDER = Path(__file__).resolve().parent.parent / "converters"


@cache
def tables(name: str = "ROWS") -> dict[str, list[Any]]:
    """File name -> the rows of its ``ROWS``, or of another table."""
    found = {}
    for path in sorted(FOLDER.glob("test_*.py")):
        if not re.search(rf"^{name}\b", path.read_text(), re.MULTILINE):
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if hasattr(module, name):
            found[path.name] = list(getattr(module, name))
    return found


def all_rows() -> list[Row]:
    """The rows of every table."""
    return [row for rows in tables().values() for row in rows]


def all_dynamic_rows() -> list[DynamicRow]:
    """The rows with dynamic axes of every table."""
    return [row for rows in tables("DYNAMIC_ROWS").values() for row in rows]
