"""The rows with dynamic axes on a real GPU engine, at all their sizes: many rows to one network, with one profile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.dynamic_rows import DYNAMIC, DynamicRow
from support.gpu import FAST, Many, disagreement, executes, halved, needs_gpu
from support.tables import all_dynamic_rows

import torch2edge
from torch2edge import Input

ROWS_PER_ENGINE = 16

pytestmark = [pytest.mark.gpu, needs_gpu]


def groups() -> list[list[DynamicRow]]:
    """The rows of equal dtypes and ranges, in parts."""
    rows = [row for row in all_dynamic_rows() if row.dims is DYNAMIC]
    kinds: dict[Any, list[DynamicRow]] = {}
    for row in rows:
        kinds.setdefault(row.dtype, []).append(row)
    if not executes():
        return [rows]
    return [part[i : i + ROWS_PER_ENGINE] for part in kinds.values() for i in range(0, len(part), ROWS_PER_ENGINE)]


def execute(rows: list[DynamicRow]) -> list[str]:
    """One engine, called at every size; a line per row and size that is wrong."""
    model = Many([row.at(row.every_size()[1]) for row in rows]).eval()
    used = sorted({name for row in rows for name in row.used})
    inputs = []
    for row in rows:
        for shape, spec in zip([s.shape for s in row.specs()], row.at(row.every_size()[1]).specs()):
            dtype = row.dtype if spec.dtype == torch.float32 else spec.dtype
            dims = {n: DYNAMIC[n] for n in shape if isinstance(n, str)}
            inputs.append(Input(shape, dims=dims, dtype=dtype, low=spec.low, high=spec.high))
    engine = torch2edge.convert(model, inputs, verify=False, **FAST)
    wrong = []
    every = DynamicRow(None, None, (tuple(used),), dims=DYNAMIC).every_size()  # type: ignore[arg-type]
    for number, sizes in enumerate(every):
        drawn = [t for row in rows for t in row.at(sizes).draw(seed=number + 1)]
        with torch.no_grad():
            expected = model(*[t.clone() for t in drawn])
        given = engine(*[t.cuda() for t in drawn])
        at = zip([row.at(sizes) for row in rows], given, expected)
        wrong += [f"{row} at {sizes}: {told}" for row, g, e in at if (told := disagreement(row, g, e))]
    return wrong


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, once per process; the CPU tier runs the same rows with errors on
@pytest.mark.parametrize("rows", groups(), ids=lambda rows: f"{str(rows[0].dtype)[6:]}-{rows[0]}..{rows[-1]}")
def test_rows(rows: list[DynamicRow]) -> None:
    wrong = halved(rows, execute)
    assert not wrong, f"{len(wrong)} of {len(rows)} rows:\n" + "\n".join(wrong)
