"""``torch2edge inspect``"""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..errors import ExecutionError, TensorRTNotFoundError
from ..loading import described
from ..report import Report, table
from ..run.foreign import Found, recognised
from ..sizes import shape_text

__all__ = ["add_inspect"]
_LONG = 60  # characters of a value of a foreign header


def add_inspect(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "inspect", parents=[common], help="what an engine file is: built where, for what, how exact",
        description="Say what an engine file is: what built it, its inputs, outputs, precision, and the report of its "
                    "conversion. Needs neither TensorRT nor a GPU, but for the inputs and outputs of an engine that "
                    "torch2edge did not build (trtexec, Polygraphy, Ultralytics, torch2trt).",
    )  # fmt: skip
    command.add_argument("file", metavar="FILE.engine")
    command.add_argument("--json", action="store_true", help="the file's header as JSON")
    command.set_defaults(run=_run)


def _shape(sizes: list[Any]) -> str:
    if any(isinstance(size, list) for size in sizes):
        return shape_text(sizes)
    return "x".join(map(str, sizes)) or "scalar"


def _run(arguments: argparse.Namespace) -> int:
    found = recognised(arguments.file)
    metadata, unknown = _metadata(found, arguments.file)
    if arguments.json:
        little = {"kind": found.kind, "plan_bytes": len(found.plan), "header": found.header, "unknown": unknown}
        print(json.dumps(metadata or little, indent=2, default=str))
        return 0
    rows = _made(metadata, found) if metadata else []
    if found.kind != "torch2edge":
        rows = [["file of", found.built_by], *rows, *_foreign_header(found.header)]
    if not metadata:
        rows += [["plan", f"{len(found.plan)} bytes"], ["not known", unknown]]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name.ljust(width)}  {value}" for name, value in rows))
    if metadata:
        print("\n" + _tensors(metadata))
        print("\n" + str(Report.from_dict(metadata["report"])))
    return 0


def _metadata(found: Found, origin: str) -> tuple[dict[str, Any], str]:
    """The header, or why there is none."""
    try:
        return described(found, origin), ""
    except (ExecutionError, TensorRTNotFoundError) as error:
        return {}, str(error)


def _made(metadata: dict[str, Any], found: Found) -> list[list[Any]]:
    whole = "checksum right" if found.kind == "torch2edge" else "TensorRT can load it here"
    own = [["written by", f"torch2edge {metadata['torch2edge']}, torch {metadata['torch']}"]]
    return [
        ["model", metadata["model"] or "unknown"],
        ["built with", metadata["title"]],
        ["built for", metadata["target"]],
        ["precision", metadata["precision"]],
        ["DLA core", "none" if metadata["dla_core"] is None else metadata["dla_core"]],
        ["plan", f"{len(found.plan)} bytes, {whole}"],
        *([["built by", metadata["built_by"]]] if metadata.get("built_by") else own),
    ]


def _foreign_header(header: dict[str, Any]) -> list[list[str]]:
    texts = {key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in header.items()}
    return [[key, text if len(text) <= _LONG else text[: _LONG - 3] + "..."] for key, text in texts.items()]


def _tensors(metadata: dict[str, Any]) -> str:
    rows = [
        [kind, row["name"], row["dtype"], _shape(row["shape"]), row["binding"] or "(not used)"]
        for kind, key in (("input", "inputs"), ("output", "outputs")) for row in metadata[key]
    ]  # fmt: skip
    return table(["", "name", "dtype", "shape", "binding"], rows)
