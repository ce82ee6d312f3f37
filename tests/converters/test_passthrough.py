"""Rows of converters/passthrough.py, and the calls that add no layer at inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.rows import Row, Spec, check_row, convert_row, rows
from torch import nn
from torch.nn import functional as F

aten = torch.ops.aten


def overwritten(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = x.clone()
    y.copy_(torch.ones(2, 3))
    return y, x + 1


ROWS = rows(aten.alias.default, [(overwritten, (2, 3))])


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


@pytest.mark.parametrize(
    "fn",
    [
        nn.Dropout(0.5), nn.Dropout2d(0.5), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5), nn.Identity(),
        lambda x: F.dropout(x, 0.5, training=False), lambda x: x.contiguous(), lambda x: x.clone(), lambda x: x.detach(),
        lambda x: x.data, lambda x: +x, lambda x: x.float(), lambda x: x.cpu(), 
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.requires_grad_(False), torch.real,
    ],
)  # fmt: skip
def test_no_layer(fn: Callable[..., Any]) -> None:
    """The op that follows is the only one."""
    model = nn.Sequential(fn, nn.ReLU()) if isinstance(fn, nn.Module) else lambda x: fn(x).relu()
    row = Row(aten.relu.default, model, ((1, 2, 3, 4),))
    _, graph, _, _ = convert_row(row)
    assert [op.name for op in graph.ops] == ["aten.relu.default"]
    check_row(row)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8, torch.bool])
def test_an_input_may_be_an_output(dtype: torch.dtype) -> None:
    check_row(Row(aten.relu.default, lambda x, y: (x.relu(), y, y), ((3,), Spec((4,), dtype))))
