"""Rows of converters/sorting.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, check_row, convert_row, rows

from torch2edge._trt import trt
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.errors import UnsupportedOpError

aten = torch.ops.aten
I32, I64, BOOL, U8 = torch.int32, torch.int64, torch.bool, torch.uint8
TIES = Spec((2, 3, 9), I64, -3, 4)
NAN = float("nan")


def pair(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn``'s named tuple as a tuple."""
    return lambda *inputs: tuple(fn(*inputs))


def ties(x: torch.Tensor) -> torch.Tensor:
    """Floats, many of them equal."""
    return (2 * x).round()


def holes(x: torch.Tensor) -> torch.Tensor:
    """A third of the elements NaN."""
    return torch.where(x > 0.5, NAN, x)


ROWS = [
    *rows(aten.topk.default, [
        (pair(lambda x: x.topk(2)), (2, 5)), (pair(lambda x: x.topk(3, 0, largest=False)), (5, 4)),
        (pair(lambda x: x.topk(1, -2)), (2, 3, 4)), (pair(lambda x: x.topk(7)), (7,)),
        (pair(lambda x: x.topk(2, 0)), (3, 2, 2, 1, 2, 2)), (pair(lambda x: x.topk(1)), ()),
        (lambda x: x.topk(2, sorted=False)[0].sort()[0], (2, 5)), (pair(lambda x: x.topk(2)), Spec((2, 5), I32, -900, 1000)),
        (lambda x: x.topk(4)[0], TIES), (lambda x: x.topk(2)[0], Spec((3, 5), U8)),
    ]),
    *rows(aten.topk.default, [(pair(lambda x: x.topk(3, 1)), (2, 9, 3))], (F16, BF16)),
    *rows(aten.sort.default, [
        (pair(torch.sort), (2, 5)), (pair(lambda x: x.sort(0, descending=True)), (5, 4)), (torch.argsort, (2, 3, 9)),
        (lambda x: x.argsort(1, descending=True), (2, 3, 9)), (torch.msort, (5, 3)), (pair(torch.sort), TIES),
        (pair(torch.sort), ()), (pair(torch.sort), (1,)), (pair(lambda x: x.sort(1, True)), Spec((2, 9), BOOL)),
        (lambda x: torch.sort(x)[0], (1, 300)), (lambda x: x.quantile(0.3, 1), (3, 9)),
        (lambda x: x.quantile(torch.tensor([0.1, 0.9]), 0, keepdim=True), (8, 2)),
        (lambda x: holes(x).nanquantile(0.5), (20,)),
    ]),
    *rows(aten.sort.stable, [
        (pair(lambda x: torch.sort(ties(x), stable=True)), (2, 3, 9)),
        (pair(lambda x: torch.sort(ties(x), dim=0, descending=True, stable=True)), (9, 2)),
        (lambda x: torch.argsort(x, stable=True), TIES), (pair(lambda x: torch.sort(x, stable=True)), ()),
        (pair(lambda x: torch.sort(holes(x), stable=True)), (3, 9)),
        (pair(lambda x: torch.sort(holes(ties(x)), stable=True, descending=True)), (3, 9)),
        (pair(lambda x: torch.sort(x, stable=False)), (3, 4)),
    ]),
    *rows(aten.sort.stable, [(pair(lambda x: torch.sort(ties(x), stable=True)), (2, 9))], (F16, BF16)),
    *rows(aten.kthvalue.default, [
        (pair(lambda x: x.kthvalue(2)), (3, 5)), (pair(lambda x: x.kthvalue(3, 0, keepdim=True)), (5, 2, 3)),
        (lambda x: x.kthvalue(4)[0], TIES), (pair(lambda x: x.kthvalue(1)), ()),
    ]),
    *rows(aten.median.default, [(torch.median, (3, 4)), (torch.median, (5,)), (torch.median, ()), (torch.median, TIES),
                                (lambda x: holes(x).median(), (9,))]),
    *rows(aten.nanmedian.default, [(lambda x: holes(x).nanmedian(), (3, 9)), (torch.nanmedian, TIES)]),
    *rows(aten.median.dim, [
        (pair(lambda x: x.median(1)), (3, 5)), (pair(lambda x: x.median(0, keepdim=True)), (4, 2, 3)),
        (lambda x: x.median(-1)[0], TIES), (lambda x: holes(x).median(1)[0], (30, 3)), (pair(lambda x: x.median(0)), ()),
    ]),
    *rows(aten.median.dim, [(pair(lambda x: x.median(1)), (3, 5))], (F16,)),
    *rows(aten.nanmedian.dim, [
        (pair(lambda x: holes(x).nanmedian(1)), (3, 9)), (lambda x: holes(x - 2).nanmedian(0, keepdim=True)[0], (4, 2, 3)),
        (lambda x: torch.where(x > -9, NAN, x).nanmedian(1)[0], (3, 4)),
    ]),
    *rows(aten.searchsorted.Tensor, [
        (lambda x: torch.searchsorted(torch.arange(-2.0, 3), x), (3, 5)),
        (lambda x: torch.searchsorted(torch.tensor([-1, 0, 0, 2]), x, right=True), TIES),
        (lambda x: torch.searchsorted(torch.tensor([-1, 0, 0, 2]), x, out_int32=True), TIES),
        (lambda e, x: torch.searchsorted(e.sort()[0], x, side="right"), (2, 3, 6), (2, 3, 4)),
        (lambda e, x: torch.searchsorted(e.sort()[0], x), (6,), (2, 3)),
        (lambda e, x: torch.searchsorted(e, x, sorter=e.argsort()), (2, 6), (2, 4)),
        (lambda e: torch.searchsorted(e.sort()[0], torch.tensor([0.1, 0.5])), (6,)),
        (lambda x: torch.searchsorted(torch.arange(-2.0, 3), holes(x)), (9,)),
        (lambda x: torch.searchsorted(torch.arange(-2.0, 3), holes(x), right=True), (9,)),
    ]),
    *rows(aten.searchsorted.Scalar, [(lambda e: torch.searchsorted(e.sort()[0], 0.3), (6,))]),
    *rows(aten.bucketize.Tensor, [
        (lambda x: torch.bucketize(x, torch.arange(-2.0, 3)), (3, 5)), (lambda x: torch.bucketize(x, torch.arange(3.0)), ()),
        (lambda x, e: torch.bucketize(x, e.sort()[0], right=True, out_int32=True), (2, 3), (4,)),
        (lambda x: torch.bucketize(x, torch.tensor([-1, 0, 2])), TIES),
    ]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


def test_equal_edges_and_values_count_by_side():
    x = torch.tensor([-1.0, 0.0, 0.5, 2.0, 3.0])
    for right in (False, True):
        row = Row(aten.bucketize.Tensor, lambda x, right=right: torch.bucketize(x, torch.tensor([0.0, 0.0, 2.0]), right=right),
                  (tuple(x.shape),))  # fmt: skip
        _, _, lowered, session = convert_row(row)
        given = ReferenceExecutor(session.network, trt).run({lowered.input_names[0]: x})
        assert torch.equal(given[lowered.output_names[0]], torch.bucketize(x, torch.tensor([0.0, 0.0, 2.0]), right=right))


@pytest.mark.parametrize(("op", "fn", "spec", "words"), [
    (aten.topk.default, lambda x: tuple(x.topk(3841)), Spec((9000,)), "k = 3841: TensorRT's TopK sorts floats, 3840"),
    (aten.topk.default, lambda x: tuple(x.topk(3)), Spec((9000,), I32), "an order of torch.int32"),
    (aten.sort.stable, lambda x: torch.sort(x, stable=True)[0], Spec((9000,), F32), "a stable order"),
    (aten.median.default, torch.median, Spec((9, 1000), F32), "comparing all pairs takes 81000000 elements"),
    (aten.bucketize.Tensor, lambda x: torch.bucketize(x, torch.arange(9000.0)), Spec((9000,)), "no binary search"),
])  # fmt: skip
def test_too_large(op: Any, fn: Any, spec: Spec, words: str) -> None:
    with pytest.raises(UnsupportedOpError, match=words):
        convert_row(Row(op, fn, (spec,)))


def test_more_than_topk_takes_goes_by_ranks():
    check_row(Row(aten.topk.default, lambda x: x.topk(3900)[0], ((4000,),)))
