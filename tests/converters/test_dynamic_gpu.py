"""The rows with dynamic axes on a real GPU engine, at all their sizes: many rows to one network, with one profile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.dynamic_rows import DYNAMIC, DynamicRow
from support.gpu import FAST, executes, needs_gpu
from support.rows import RTOL, assert_close
from support.tables import all_dynamic_rows
from torch import nn

import torch2edge
from torch2edge import Input
from torch2edge.structure import flatten

ROWS_PER_ENGINE = 16
GPU_RTOL = {torch.float32: 2e-5}  # as in test_gpu.py

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


class Many(nn.Module):
    """Several rows side by side in one module; each takes its own inputs."""

    def __init__(self, rows: list[DynamicRow]) -> None:
        super().__init__()
        usual = [row.at(row.every_size()[1]) for row in rows]
        self.parts = nn.ModuleList(row.module() for row in usual)
        self.counts = [len(row.specs()) for row in usual]

    def forward(self, *inputs: torch.Tensor) -> list[Any]:
        outputs, start = [], 0
        for part, count in zip(self.parts, self.counts):
            outputs.append(part(*inputs[start : start + count]))
            start += count
        return outputs


def execute(rows: list[DynamicRow]) -> list[str]:
    """One engine, called at every size; a line per row and size that is wrong."""
    model = Many(rows).eval()
    used = sorted({name for row in rows for name in row.used})
    inputs = []
    for row in rows:
        for shape, spec in zip([s.shape for s in row.symbolic_specs()], row.at(row.every_size()[1]).specs()):
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
        for row, g, e in zip(rows, given, expected):
            rtol = max(row.rtol or RTOL[row.dtype], GPU_RTOL.get(row.dtype, 0.0))
            try:
                for a, b in zip(flatten(g)[0], flatten(e)[0], strict=True):
                    assert_close(a.cpu(), b, rtol)
            except AssertionError as error:
                wrong.append(f"{row} at {sizes}: {error}")
    return wrong


def run_rows(rows: list[DynamicRow]) -> list[str]:
    """``execute``; rows that TensorRT refuses are found by halving."""
    try:
        return execute(rows)
    except torch2edge.Torch2EdgeError as error:
        if len(rows) == 1:
            return [f"{rows[0]}: {type(error).__name__}: {str(error)[:900]}"]
        middle = len(rows) // 2
        return run_rows(rows[:middle]) + run_rows(rows[middle:])


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, once per process; the CPU tier runs the same rows with errors on
@pytest.mark.parametrize("rows", groups(), ids=lambda rows: f"{str(rows[0].dtype)[6:]}-{rows[0]}..{rows[-1]}")
def test_rows(rows: list[DynamicRow]) -> None:
    wrong = run_rows(rows)
    assert not wrong, f"{len(wrong)} of {len(rows)} rows:\n" + "\n".join(wrong)
