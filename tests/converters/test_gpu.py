"""Every row of the op tables on a real GPU engine: many rows to one network, so that the tier stays short."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu import FAST, needs_gpu
from support.rows import Row, assert_close, convert_row
from torch import nn

import torch2edge
from torch2edge._trt import capabilities
from torch2edge.lower import registry
from torch2edge.structure import flatten
from torch2edge.trace import trace

ROWS_PER_ENGINE = 24
# The GPU's kernels sum in another order than the CPU's; TF32 is off.
GPU_RTOL = {torch.float32: 2e-5}

pytestmark = [pytest.mark.gpu, needs_gpu]


def all_rows() -> list[Row]:
    """The rows of every table in this folder."""
    found: list[Row] = []
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path.name == Path(__file__).name:
            continue
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found += getattr(module, "ROWS", [])
    return found


def groups() -> list[list[Row]]:
    rows = sorted(all_rows(), key=lambda r: str(r.dtype))  # a half network lets float layers choose half kernels
    by_dtype = [[r for r in rows if r.dtype == d] for d in dict.fromkeys(r.dtype for r in rows)]
    return [part[i : i + ROWS_PER_ENGINE] for part in by_dtype for i in range(0, len(part), ROWS_PER_ENGINE)]


class Many(nn.Module):
    """Several rows side by side in one module; each takes its own inputs."""

    def __init__(self, rows: list[Row]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(row.module() for row in rows)
        self.counts = [len(row.specs()) for row in rows]

    def forward(self, *inputs: torch.Tensor) -> list[Any]:
        outputs, start = [], 0
        for part, count in zip(self.parts, self.counts):
            outputs.append(part(*inputs[start : start + count]))
            start += count
        return outputs


def execute(rows: list[Row]) -> list[str]:
    """Convert the rows to one engine, execute it, compare; a line per row that is wrong."""
    model = Many(rows).eval()
    traced = [t for row in rows for t in row.draw(seed=0)]
    engine = torch2edge.convert(model, traced, verify=False, **FAST)
    inputs = [t for row in rows for t in row.draw(seed=2)]
    with torch.no_grad():
        expected = model(*[t.clone() for t in inputs])
    given = engine(*[t.cuda() for t in inputs])
    wrong = []
    for row, g, e in zip(rows, given, expected):
        rtol = max(row.tolerance(), GPU_RTOL.get(row.dtype, 0.0))
        try:
            for a, b in zip(flatten(g)[0], flatten(e)[0], strict=True):
                assert_close(a.cpu(), b, rtol)
        except AssertionError as error:
            wrong.append(f"{row}: {error}")
    return wrong


def run_rows(rows: list[Row]) -> list[str]:
    """``execute``; rows that TensorRT refuses are found by halving."""
    try:
        return execute(rows)
    except torch2edge.Torch2EdgeError as error:
        if len(rows) == 1:
            return [f"{rows[0]}: {type(error).__name__}: {str(error)[:900]}"]
        middle = len(rows) // 2
        return run_rows(rows[:middle]) + run_rows(rows[middle:])


def converts(row: Row) -> str:
    """Why a row cannot be lowered for the TensorRT at hand, or an empty string."""
    try:
        convert_row(row)
    except torch2edge.Torch2EdgeError as error:
        return f"{row}: {type(error).__name__}: {str(error)[:900]}"
    return ""


@pytest.mark.parametrize("rows", groups(), ids=lambda rows: f"{str(rows[0].dtype)[6:]}-{rows[0]}..{rows[-1]}")
def test_rows(rows: list[Row]) -> None:
    if not capabilities().bf16:  # refused, in words, where this TensorRT has no such type
        lacking = [row for row in rows if needs_bf16(row)]
        for row in lacking:
            with pytest.raises(torch2edge.ConversionError, match=r"no data type for torch\.bfloat16"):
                convert_row(row)
        rows = [row for row in rows if row not in lacking]
    refused = {id(row): reason for row in rows if (reason := converts(row))}
    wrong = [*refused.values(), *run_rows([row for row in rows if id(row) not in refused])] if rows else []
    assert not wrong, f"{len(wrong)} of {len(rows)} rows:\n" + "\n".join(wrong)


def needs_bf16(row: Row) -> bool:
    """Whether bfloat16 occurs in a row's inputs or results."""
    graph = trace(row.module(), row.draw(seed=0), is_leaf=registry().is_leaf, module_classes=registry().module_classes())
    values = [*graph.inputs, *(v for op in graph.ops for v in op.outputs if v is not None)]
    return any(v.dtype == torch.bfloat16 for v in values)
