"""``torch2edge dla-log``"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..dla.log import read_log
from ..errors import InputError
from .convert import check_outputs, write_json

__all__ = ["add_dla_log"]


def add_dla_log(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "dla-log", parents=[common], help="what a build log of TensorRT says of the DLA: placement, subgraphs, reasons",
        description="Read a log of trtexec or TensorRT (best with --verbose) and show where each layer runs, the DLA's "
                    "subgraphs, and why the others are on the GPU, as the table of plan-dla.",
    )  # fmt: skip
    command.add_argument("file", metavar="build.log")
    command.add_argument("--json", nargs="?", const="-", metavar="FILE",
                         help="write it as JSON: to FILE, or to stdout in place of the text")  # fmt: skip
    command.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    path = Path(arguments.file)
    check_outputs((arguments.json,), ())
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    found = read_log(text, str(path))
    write_json(arguments.json, found)
    if arguments.json != "-":
        print(found)
    return 0
