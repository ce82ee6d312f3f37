"""Rows of converters/indexing.py whose index is a tensor: gather, scatter, advanced indexing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, check_row, convert_row, rows

from torch2edge.errors import ConversionError, DataDependentError, UnsupportedOpError

aten = torch.ops.aten
I32, I64, BOOL = torch.int32, torch.int64, torch.bool
ROW = torch.tensor([2, -1, 0, 1])
GRID = torch.tensor([[0, -2], [1, 1], [2, 0]])
MASK = torch.tensor([[True, False, True], [False, True, False]])


def ids(size: int, *shape: int, dtype: torch.dtype = I64, low: int | None = None) -> Spec:
    """An index into an axis of ``size``; ``low`` = -size draws negative ones too."""
    return Spec(shape, dtype, 0 if low is None else low, size)


def put(index: Any, accumulate: bool = False) -> Any:
    """``values`` written to ``x[index]``; a range in the index stands for the input of that number."""

    def write(x: torch.Tensor, values: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        where = index if isinstance(index, tuple) else (index,)
        return aten.index_put(x, [more[i.start] if isinstance(i, range) else i for i in where], values, accumulate)

    return write


ROWS = [
    *rows(
        aten.index.Tensor,
        [
            (lambda x: x[ROW], (3, 4)),
            (lambda x: x[:, GRID], (2, 3, 4)),
            (lambda x: x[..., torch.tensor([3, 1])], (2, 3, 4)),
            (lambda x: x[:, torch.arange(0, 6, 2)], (2, 6)),
            (lambda x: x[GRID, torch.tensor([0, -1])], (3, 4, 2)),
            (lambda x: x[:, ROW[:, None], torch.tensor([[0, 2]])], (2, 3, 4, 2)),
            (lambda x: x[ROW, :, ROW], (3, 2, 4)),
            (lambda x: x[:, ROW, :, GRID[:, :1, None]], (2, 3, 4, 3)),
            (lambda x: x[:, ROW, None, ROW], (2, 3, 3)),
            (lambda x: x[MASK], (2, 3, 4)),
            (lambda x: x[:, MASK], (2, 2, 3)),
            (lambda x: x[:, [0, 2]], Spec((2, 3), BOOL)),
            (lambda x, i: x[i], (3, 4), ids(3, 5, low=-3)),
            (lambda x, i: x[:, i], (2, 4, 3), ids(4, 2, 3, dtype=I32, low=-4)),
            (lambda x, i, j: x[i, j], (3, 4), ids(3, 2, 1, low=-3), ids(4, 5, low=-4)),
            (lambda x, i: x[i, :, ROW], (3, 2, 4), ids(3, 2, 1, low=-3)),
            (lambda i: GRID[i], ids(3, 4, low=-3)),
            (lambda x, i: x[torch.arange(2), i], (2, 5), ids(5, 2)),
        ],
    ),
    *rows(aten.index.Tensor, [(lambda x: x[:, ROW], (2, 3))], (F16, BF16)),
    *rows(
        aten.index_select.default,
        [
            (lambda x: x.index_select(1, torch.tensor([2, 0])), (2, 3, 4)),
            (lambda x, i: x.index_select(-1, i), (2, 3), ids(3, 4)),
            (lambda x, i: x.index_select(0, i), (3, 2), ids(3)),
            (lambda x: x.index_select(0, torch.tensor([0])), ()),
        ],
    ),
    *rows(aten.take.default, [(lambda x: x.take(GRID), (3, 4)), (lambda x, i: x.take(i), (2, 3), ids(6, 2, 2, low=-6))]),
    *rows(
        aten.gather.default,
        [
            (lambda x, i: x.gather(1, i), (3, 4), ids(4, 3, 2)),
            (lambda x, i: x.gather(-2, i), (3, 4, 5), ids(4, 2, 6, 1)),
            (lambda x, i: x.gather(0, i), (), ids(1)),
            (lambda x, i: x.gather(0, i), (5,), ids(5, 3)),
            (lambda x: x.gather(1, torch.tensor([[1, 0], [2, 2]])), (2, 3)),
            (lambda x, i: torch.take_along_dim(x, i, 1), (3, 4), ids(4, 1, 2, low=-4)),
            (lambda x, i: x.gather(1, i), Spec((3, 4), I64), ids(4, 3, 4)),
        ],
    ),
    *rows(aten.gather.default, [(lambda x, i: x.gather(1, i), (3, 4), ids(4, 3, 2))], (F16,)),
    *rows(
        aten.scatter.src,
        [
            (lambda x, y: x.scatter(1, torch.tensor([[3, 0], [1, 2]]), y), (2, 4), (2, 2)),
            (lambda x, y, i: x.scatter(0, i, y), (4, 3), (2, 5), ids(4, 1, 2)),
            (lambda x, y: x.scatter(-1, torch.tensor([1, 0]), y), Spec((3,), BOOL), Spec((2,), BOOL)),
            (lambda x, y: x.scatter(0, torch.tensor(0), y), (), ()),
        ],
    ),
    *rows(
        aten.scatter.value,
        [
            (lambda x, i: x.scatter(1, i, 2.5), (2, 4), ids(4, 2, 3)),
            (lambda i: torch.zeros(3, 5).scatter(1, i, 1), ids(5, 3, 1)),
            (lambda x, i: x.scatter(-2, i, True), Spec((3, 4), BOOL), ids(3, 2, 4)),
        ],
        (F32, F16),
    ),
    *rows(
        aten.scatter_add.default,
        [
            (lambda x, y, i: x.scatter_add(1, i, y), (3, 4), (3, 7), ids(4, 3, 6)),
            (lambda x, y, i: x.scatter_add(0, i, y), (4, 3, 2), (6, 2, 2), ids(4, 6, 2, 1)),
            (lambda x, y, i: x.scatter_add(0, i, y), Spec((3,), I64), Spec((5,), I64), ids(3, 5)),
        ],
    ),
    *rows(
        aten.index_put.default,
        [
            (put(ROW[:3]), (3, 4), (3, 4)),
            (put((None, torch.tensor([2, 0]))), (2, 3, 4), (4,)),
            (put((None, torch.tensor([1, 2, 3]))), (2, 5), (2, 3)),
            (put((torch.tensor([0, 2]), None, torch.tensor([[-1], [1]]))), (3, 2, 4), (2, 2, 2)),
            (put((torch.tensor([0, -1]), torch.tensor([1, 3]))), (3, 4), ()),
            (put(MASK), (2, 3), ()),
            (put(MASK), (2, 3), (3,)),
            (put((range(1),)), (4, 3), (1, 3), ids(4, 1, low=-4)),
            (put((None, range(1))), (2, 5, 3), (2, 1, 3), ids(5, 1, dtype=I32)),
            (put((None, torch.tensor([0, 2]))), Spec((2, 3), BOOL), Spec((2, 2), BOOL)),
            (put(torch.tensor([1, 1, 0]), True), (3, 2), (3, 2)),
            (put((None, range(1)), True), (2, 3), (2, 8), ids(3, 8, low=-3)),
            (put((range(1), None, range(1, 2)), True), (3, 2, 2), (5, 2), ids(3, 5), ids(2, 5, low=-2)),
        ],
    ),
    *rows(aten.index_put.default, [(put(ROW[:3]), (3, 4), (3, 4))], (F16,)),
    *rows(
        aten.index_copy.default,
        [
            (lambda x, y: x.index_copy(1, torch.tensor([2, 0]), y), (2, 3, 2), (2, 2, 2)),
            (lambda x, y, i: x.index_copy(2, i, y), (1, 2, 5, 3), (1, 2, 1, 3), ids(5, 1)),
            (lambda x, y: x.index_copy(0, torch.tensor([0]), y), (), ()),
        ],
    ),
    *rows(
        aten.index_fill.int_Scalar,
        [
            (lambda x: x.index_fill(1, torch.tensor([2, -3]), 1.5), (2, 3, 2)),
            (lambda x, i: x.index_fill(-1, i, -1), (2, 4), ids(4, 3, low=-4)),
            (lambda x: x.index_fill(0, torch.tensor([1]), 7), Spec((3,), I64)),
        ],
    ),
    *rows(aten.index_fill.int_Tensor, [(lambda x, v: x.index_fill(0, torch.tensor([1, 2]), v), (4, 2), ())]),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


def test_constant_index_out_of_bounds_is_refused() -> None:
    with pytest.raises(ConversionError, match="from 3 to 3, the axis has 3"):
        convert_row(Row(aten.index.Tensor, lambda x: x[:, torch.tensor([3])], ((2, 3),)))


def test_constant_gather_index_out_of_bounds_is_refused() -> None:
    with pytest.raises(ConversionError, match="from 0 to 5, the axis has 3"):
        convert_row(Row(aten.gather.default, lambda x: x.gather(1, torch.tensor([[0, 5]])), ((2, 3),)))


def test_large_accumulation_is_refused() -> None:
    row = Row(aten.index_put.default, lambda x, i: x.index_put([i], x[:1000], True), ((100000,), ids(9, 1000)))
    with pytest.raises(UnsupportedOpError, match="cannot add into a tensor by index"):
        convert_row(row)


def test_masked_scatter_is_refused() -> None:
    row = Row(aten.masked_scatter.default, lambda x, m: x.masked_scatter(m, x), ((2, 3), Spec((2, 3), BOOL)))
    with pytest.raises((UnsupportedOpError, AssertionError), match="masked_scatter"):
        convert_row(row)


def test_mask_that_depends_on_an_input_is_refused() -> None:
    with pytest.raises(DataDependentError, match=r"boolean mask.*torch.where"):
        convert_row(Row(aten.index.Tensor, lambda x, m: x[m], ((2, 3), Spec((2, 3), BOOL))))


def test_even_steps_are_slices() -> None:
    _, _, lowered, _ = convert_row(Row(aten.index.Tensor, lambda x: x[:, torch.arange(4, -1, -2)], ((2, 6),)))
    assert [layer.raw.type.name for layer in lowered.network.layers] == ["SLICE"]
