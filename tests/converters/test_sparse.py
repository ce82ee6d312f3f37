"""Rows of converters/sparse.py."""

from __future__ import annotations

import pytest
import torch
from support.rows import F16, F32, Row, Spec, check_row, rows
from torch import nn

aten = torch.ops.aten
IDS = Spec((2, 5), torch.int64, 0, 11)

ROWS = [
    *rows(aten.embedding.default, [(nn.Embedding(11, 4), IDS), (nn.Embedding(11, 4, padding_idx=3), IDS)], (F32, F16)),
    *rows(aten.embedding.default, [(nn.Embedding(11, 4), Spec((3,), torch.int32, 0, 11))]),
    *rows(aten.embedding.default, [(nn.Embedding(11, 4), Spec((), torch.int64, 0, 11))]),
    *rows(aten.embedding.default, [(lambda w, i: torch.nn.functional.embedding(i, w), (11, 4), IDS)]),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)
