"""Rows of converters/activation.py."""

from __future__ import annotations

import pytest
import torch
from support.rows import BF16, F16, F32, Row, check_row, rows

aten = torch.ops.aten

ROWS = [
    *rows(aten.relu.default, [(torch.relu, (2, 3, 8, 8)), (torch.relu, (5,)), (torch.relu, ())], (F32, F16, BF16)),
    *rows(aten.sigmoid.default, [(torch.sigmoid, (2, 3, 8, 8)), (torch.sigmoid, (5,))], (F32, F16)),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)
