"""Rows of converters/scattering.py: reductions by index, writes by flat index."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.rows import F16, Row, Spec, check_row, convert_row, rows

from torch2edge.errors import UnsupportedOpError

aten = torch.ops.aten
M = (3, 4)
KINDS = ("sum", "prod", "mean", "amax", "amin")


def index(shape: tuple[int, ...], size: int, low: int = 0) -> Spec:
    """Places on an axis of that size; with more of them than places some are named twice."""
    return Spec(shape, torch.int64, low, size)


def scatter(dim: int, kind: str, own: bool = True) -> Any:
    return lambda x, i, y: torch.scatter_reduce(x, dim, i, y, kind, include_self=own)


def by_row(dim: int, kind: str, own: bool = True) -> Any:
    return lambda x, i, y: torch.index_reduce(x, dim, i, y, kind, include_self=own)


ROWS = [
    *[
        row
        for kind in KINDS
        for row in rows(aten.scatter_reduce.two, [
            (scatter(1, kind), M, index((3, 6), 4), (3, 6)),
            (scatter(0, kind, False), M, index((5, 4), 3), (5, 4)),
            (scatter(-1, kind, False), (2, 3, 5), index((1, 2, 3), 5), (2, 3, 4)),
            (scatter(1, kind), Spec(M, torch.int64, -9, 9), index((2, 6), 4), Spec((3, 6), torch.int64, -9, 9)),
        ])
    ],
    *rows(aten.scatter_reduce.two, [
        (scatter(0, "amax"), (), index((), 1), ()),
        (scatter(0, "sum", False), (4,), index((3,), 4), (3,)),
        (lambda x, y: torch.scatter_reduce(x, 0, torch.tensor([2, 0, 2]), y, "mean"), (4,), (3,)),
    ]),
    *rows(aten.scatter_reduce.two, [(scatter(1, k), M, index((3, 6), 4), (3, 6)) for k in ("sum", "amin", "mean")], (F16,)),
    *[
        row
        for kind in ("prod", "mean", "amax", "amin")
        for row in rows(aten.index_reduce.default, [
            (by_row(0, kind), M, index((5,), 3), (5, 4)),
            (by_row(-1, kind, False), (2, 3, 5), index((3,), 5), (2, 3, 3)),
        ])
    ],
    *rows(aten.put.default, [
        (lambda x: aten.put(x, torch.tensor([[0, -1], [5, 3]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])), M),
        (lambda x, i, y: aten.put(x, i, y, True), M, index((5,), 12, -12), (5,)),
        (lambda x, y: x.clone().put_(torch.tensor([7, 2]), y), M, (2,)),
    ]),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*is in beta:UserWarning")
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


def test_too_large_is_refused() -> None:
    row = Row(aten.scatter_reduce.two, scatter(0, "amax"), ((9000,), index((9000,), 9000), (9000,)))
    with pytest.raises(UnsupportedOpError, match="81000000 elements"):
        convert_row(row)


def test_bytes_are_refused() -> None:
    numbers = Spec(M, torch.uint8)
    with pytest.raises(UnsupportedOpError, match=r"reduction by index of torch\.uint8"):
        convert_row(Row(aten.scatter_reduce.two, scatter(0, "amax"), (numbers, index(M, 3), numbers)))
