"""A plan held against what a build did, by its log."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..report import PlacementRow
from .log import DlaLog, parts_of
from .plan import DlaPlan, Row

__all__ = ["compared", "surprises"]

_GROUP = re.compile(r"\{(?:ForeignNode\[)?(?P<names>.+?)\]?\}")


def compared(plan: DlaPlan, log: DlaLog) -> list[PlacementRow]:
    """A row per layer of the plan: where it was to run, and where it runs.

    A layer that the log names nowhere was joined to another, or computed while the engine was built: its ``actual`` is "".
    """
    names = [row.name for row in plan.layers]
    on_gpu = {part: row for row in log.layers if row.device == "GPU" for part in parts_of(row.name)}
    on_dla = {name for row in log.layers if row.device == "DLA" for name in _inside(row.name, names)} - on_gpu.keys()
    return [_row(row, on_gpu, on_dla) for row in plan.layers]


def surprises(rows: Sequence[PlacementRow]) -> list[str]:
    """What to say of layers that run elsewhere than planned."""
    return [
        f"note: {row.layer} was planned for the {row.planned}, and runs on the {row.actual}"
        + (f" ({row.reason})" if row.reason else "")
        + ": a rule in torch2edge/dla is wrong or missing. Please report it with this line, the board and its TensorRT"
        for row in rows
        if row.actual not in ("", row.planned)
    ]


def _row(planned: Row, on_gpu: dict[str, Row], on_dla: set[str]) -> PlacementRow:
    if planned.name in on_gpu:
        return PlacementRow(planned.name, planned.module, planned.device, "GPU", on_gpu[planned.name].reason)
    actual = "DLA" if planned.name in on_dla else ""
    return PlacementRow(planned.name, planned.module, planned.device, actual, "")


def _inside(group: str, names: Sequence[str]) -> Iterator[str]:
    """The layers of a subgraph that a log names by its first and its last: ``{ForeignNode[first...last]}``."""
    match = _GROUP.fullmatch(group)
    told = match["names"] if match else group
    first, _, last = told.partition("...")
    if first in names and (last or first) in names:
        yield from names[names.index(first) : names.index(last or first) + 1]
    else:
        yield from told.split(",")  # up to TensorRT 8.0 all of them stand there
