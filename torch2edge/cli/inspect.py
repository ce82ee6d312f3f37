"""``torch2edge inspect``"""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..report import Report, table
from ..run import read
from ..sizes import shape_text

__all__ = ["add_inspect"]


def add_inspect(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "inspect", parents=[common], help="what an engine file is: built where, for what, how exact",
        description="Say what an engine file is: what built it, its inputs, outputs, precision, and the report of its "
                    "conversion. Needs neither TensorRT nor a GPU.",
    )  # fmt: skip
    command.add_argument("file", metavar="FILE.engine")
    command.add_argument("--json", action="store_true", help="the file's header as JSON")
    command.set_defaults(run=_run)


def _shape(sizes: list[Any]) -> str:
    if any(isinstance(size, list) for size in sizes):
        return shape_text(sizes)
    return "x".join(map(str, sizes)) or "scalar"


def _run(arguments: argparse.Namespace) -> int:
    metadata, plan = read(arguments.file)
    if arguments.json:
        print(json.dumps(metadata, indent=2))
        return 0
    made = [
        ["model", metadata["model"]],
        ["built with", metadata["title"]],
        ["built for", metadata["target"]],
        ["precision", metadata["precision"]],
        ["DLA core", "none" if metadata["dla_core"] is None else metadata["dla_core"]],
        ["plan", f"{len(plan)} bytes, checksum right"],
        ["written by", f"torch2edge {metadata['torch2edge']}, torch {metadata['torch']}"],
    ]
    width = max(len(name) for name, _ in made)
    print("\n".join(f"{name.ljust(width)}  {value}" for name, value in made))
    rows = [[kind, row["name"], row["dtype"], _shape(row["shape"]),
             row["binding"] or "(not used)"]
            for kind, key in (("input", "inputs"), ("output", "outputs")) for row in metadata[key]]  # fmt: skip
    print("\n" + table(["", "name", "dtype", "shape", "binding"], rows))
    print("\n" + str(Report.from_dict(metadata["report"])))
    return 0
