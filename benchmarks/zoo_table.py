"""The zoo's table: a line on the terminal, JSON with its conditions, Markdown to read."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch2edge._trt import capabilities

__all__ = ["line", "summary", "write"]

Row = dict[str, Any]
LIBRARIES = {
    "torchvision": ["torchvision"], "timm": ["timm"], "transformers": ["transformers"], "audio": ["torchaudio"],
}  # fmt: skip
REASON = 230  # characters of a reason in the Markdown table; the JSON file has all of it


def line(row: Row) -> str:
    """What the terminal shows of a model."""
    if row["error"]:
        return f"{row['model']:50} FAILED: {row['error'][:300]}"
    told = "{ops:5} ops {layers:5} layers  rel L2 {rel_l2:.1e}  {seconds:6.1f} s".format(**row)
    return f"{row['model']:50} {told}" + (f"  in {row['engines']} engines" if row["road"] != "direct" else "")


def summary(rows: Sequence[Row]) -> str:
    """How many took which road."""
    direct = sum(row["road"] == "direct" for row in rows)
    parts = sum(row["road"] == "torch" for row in rows)
    share = 100 * direct / max(1, len(rows))
    failed = len(rows) - direct - parts
    told = f"{direct} of {len(rows)} models ({share:.1f} %) with no fallback"
    return f"{told}, {parts} in parts (fallback='torch'), {failed} not at all"


def write(rows: Sequence[Row], collections: Sequence[str], folder: Path) -> Path:
    """Two files named after their conditions; the path of the one to read."""
    caps = capabilities()
    head = {
        "date": time.strftime("%Y-%m-%d"), "tensorrt": caps.title, "torch": importlib.metadata.version("torch"),
        **{name: importlib.metadata.version(name) for c in collections for name in LIBRARIES[c]},
        "python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU used",
        "checked_by": "the reference executor, against PyTorch fp32, fresh random inputs, random weights",
    }  # fmt: skip
    torch_version = head["torch"].partition("+")[0]
    path = folder / f"zoo-{'-'.join(collections)}-{caps.name}{caps.version}-torch{torch_version}.md"
    folder.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(head | {"rows": list(rows)}, indent=1) + "\n")
    path.write_text(_markdown(head, rows))
    return path


def _markdown(head: dict[str, str], rows: Sequence[Row]) -> str:
    conditions = ", ".join(f"{key} {value}" for key, value in head.items())
    lines = [
        "# The zoo", "", f"Made by `benchmarks/zoo.py`: {conditions}.", "", summary(rows) + ".", "",
        "| model | task | ops | layers | engines | relative L2 error | seconds | no fallback, or why |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |", *map(_cells, rows), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _cells(row: Row) -> str:
    why = " ".join((row.get("reason") or row["error"]).replace("|", "\\|").split())
    why = why if len(why) <= REASON else why[:REASON] + " ..."
    if row["error"]:
        return f"| {row['model']} | {row.get('task', '')} | | | | | | **failed**: {why} |"
    numbers = f"{row['ops']} | {row['layers']} | {row['engines']} | {row['rel_l2']:.1e} | {row['seconds']}"
    return f"| {row['model']} | {row['task']} | {numbers} | {why or 'yes'} |"
