"""The op tables of tests/converters, for tests over all of them."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

from support.rows import Row

__all__ = ["all_rows", "tables"]

FOLDER = Path(__file__).resolve().parent.parent / "converters"


@cache
def tables() -> dict[str, list[Row]]:
    """File name -> the rows of its ``ROWS``."""
    found = {}
    for path in sorted(FOLDER.glob("test_*.py")):
        if not re.search(r"^ROWS\b", path.read_text(), re.MULTILINE):
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if hasattr(module, "ROWS"):
            found[path.name] = list(module.ROWS)
    return found


def all_rows() -> list[Row]:
    """The rows of every table."""
    return [row for rows in tables().values() for row in rows]
