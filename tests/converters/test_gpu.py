"""Every row of the op tables on a real GPU engine: many rows to one network, so that the tier stays short."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu import FAST, needs_gpu
from support.rows import Row, assert_close
from torch import nn

import torch2edge
from torch2edge._trt import to_trt_dtype
from torch2edge.structure import flatten

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


def run_rows(rows: list[Row]) -> list[str]:
    """Convert, execute and compare; a line per row that is wrong."""
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
        for a, b in zip(flatten(g)[0], flatten(e)[0]):
            wrong += _complaint(row, lambda a=a, b=b, rtol=rtol: assert_close(a.cpu(), b, rtol))  # type: ignore[misc]
    return wrong


def _complaint(row: Row, check: Callable[[], Any]) -> list[str]:
    try:
        result = check()
    except Exception as error:
        return [f"{row}: {type(error).__name__}: {str(error)[:600]}"]
    return list(result or [])


@pytest.mark.parametrize("rows", groups(), ids=lambda rows: f"{str(rows[0].dtype)[6:]}-{rows[0]}..{rows[-1]}")
def test_rows(rows: list[Row]) -> None:
    try:
        to_trt_dtype(rows[0].dtype)
    except torch2edge.ConfigError:
        for row in rows:  # e.g. bfloat16 in TensorRT 8.6: refused, in words
            with pytest.raises((torch2edge.ConversionError, torch2edge.ConfigError), match="data type"):
                torch2edge.convert(row.module(), row.draw(seed=0), verify=False, **FAST)
        return
    try:
        wrong = run_rows(rows)
    except torch2edge.Torch2EdgeError:  # one of them breaks the network: find out which
        wrong = [line for row in rows for line in _complaint(row, lambda row=row: run_rows([row]))]  # type: ignore[misc]
        assert wrong, "together the rows do not convert, each for itself does"
    assert not wrong, f"{len(wrong)} of {len(rows)} rows:\n" + "\n".join(wrong)
