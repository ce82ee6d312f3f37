"""Rows of converters/sparse.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.rows import F16, F32, Row, Spec, check_row, rows
from torch import nn
from torch.nn import functional as F

aten = torch.ops.aten
IDS = Spec((2, 5), torch.int64, 0, 11)

ROWS = [
    *rows(aten.embedding.default, [(nn.Embedding(11, 4), IDS), (nn.Embedding(11, 4, padding_idx=3), IDS)], (F32, F16)),
    *rows(aten.embedding.default, [(nn.Embedding(11, 4), Spec((3,), torch.int32, 0, 11))]),
    *rows(aten.embedding.default, [(nn.Embedding(11, 4), Spec((), torch.int64, 0, 11))]),
    *rows(aten.embedding.default, [(lambda w, i: F.embedding(i, w), (11, 4), IDS)]),
]

FLAT, TABLE = Spec((7,), torch.int64, 0, 11), torch.linspace(-2, 2, 44).reshape(11, 4)


def bags(mode: str, **options: Any) -> Any:
    """Bags of ids with the table as an input; ``offsets`` among the options are constant."""
    return lambda i, *weights: F.embedding_bag(i, TABLE, mode=mode, **options, **dict(zip(["per_sample_weights"], weights)))


ROWS += [
    *[
        row
        for mode in ("sum", "mean", "max")
        for row in rows(aten._embedding_bag_forward_only.default, [
            (bags(mode), IDS),
            (bags(mode, padding_idx=3), Spec((4, 6), torch.int64, 2, 5)),
            (bags(mode, offsets=torch.tensor([0, 3, 3, 4])), FLAT),
            (bags(mode, offsets=torch.tensor([0, 4, 4, 7]), include_last_offset=True, padding_idx=1), FLAT),
            (bags(mode, offsets=torch.tensor([0])), FLAT),
            (lambda i, o, m=mode: F.embedding_bag(i, TABLE, o.sort()[0] * torch.tensor([0, 1, 1]), mode=m), FLAT,
             Spec((3,), torch.int64, 0, 7)),
        ])
    ],
    *rows(aten._embedding_bag_forward_only.default, [
        (bags("sum"), IDS, (2, 5)),
        (bags("sum", offsets=torch.tensor([0, 2])), FLAT, (7,)),
    ]),
    *rows(aten._embedding_bag.default, [(nn.EmbeddingBag(11, 4), IDS)], (F16,)),
    *rows(aten._embedding_bag.default, [
        (nn.EmbeddingBag(11, 4, mode="sum"), IDS),
        (nn.EmbeddingBag(11, 4, mode="max", padding_idx=2), Spec((3, 5), torch.int64, 0, 4)),
        (lambda i: aten._embedding_bag(TABLE, i, torch.tensor([0, 2, 3]), False, 1)[0], FLAT),
    ]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)
