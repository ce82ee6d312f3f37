"""``torch2edge ops``"""

from __future__ import annotations

import argparse
import inspect
import json
from pathlib import Path
from typing import Any

from ..lower import registry
from ..report import table

__all__ = ["add_ops", "markdown", "rows"]


def add_ops(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "ops", parents=[common], help="what converts: op -> converter",
        description="List the ATen ops, and the module classes, that have a converter. Composite ops (linear, silu of a "
                    "module, ...) reach the converters as the ops that PyTorch takes them apart into.",
    )  # fmt: skip
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--markdown", action="store_true", help="as converters/README.md")
    command.set_defaults(run=_run)


def rows() -> list[dict[str, str]]:
    """Op, the file of its converter in converters/, the function; by file, then by op."""
    found = []
    for target, entry in registry().all().items():
        code = inspect.unwrap(entry.function).__code__
        name = f"{target.__module__}.{target.__qualname__}" if inspect.isclass(target) else str(target)
        found.append({"op": name, "file": Path(code.co_filename).name, "function": code.co_name})
    return sorted(found, key=lambda row: (row["file"], row["op"]))


def markdown() -> str:
    """The text of converters/README.md."""
    lines = [
        "# What converts",
        "",
        "Written by `python -m torch2edge ops --markdown > converters/README.md`; a test holds it against the registry.",
        "How to add an op: [CONTRIBUTING.md](../CONTRIBUTING.md).",
        "",
        f"{len(rows())} ops and module classes.",
        "",
        "| op | file | function |",
        "| --- | --- | --- |",
    ]
    lines += [f"| `{row['op']}` | [{row['file']}]({row['file']}) | `{row['function']}` |" for row in rows()]
    lines += ["", "## Not supported, because", "", "| op | reason |", "| --- | --- |"]
    lines += [f"| `{name}` | {reason} |" for name, reason in sorted(registry().refused().items())]
    return "\n".join(lines)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(json.dumps(rows(), indent=2))
    elif arguments.markdown:
        print(markdown())
    else:
        print(table(["op", "file", "function"], [list(row.values()) for row in rows()]))
        print(f"\n{len(rows())} ops and module classes have a converter.")
    return 0
