"""Rows of converters/reduction.py."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from support.dynamic_rows import DynamicRow, check_dynamic_row
from support.rows import BF16, F16, F32, Row, Spec, check_row, convert_row, rows
from torch.nn import functional as F

from torch2edge import _trt
from torch2edge._trt import trt
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.lower.network import core

aten = torch.ops.aten
I32, I64, BOOL, U8 = torch.int32, torch.int64, torch.bool, torch.uint8
INTS, BITS = Spec((2, 3, 4), I64, -9, 10), Spec((2, 3, 4), BOOL)
INF = float("inf")
DISTINCT = Spec((2, 3, 4), I32, -900, 1000)

SUMS = [
    *rows(aten.sum.dim_IntList, [
        (torch.sum, (2, 3, 4)), (lambda x: x.sum(-1), (2, 3, 4, 5)), (lambda x: x.sum((0, 2), keepdim=True), (2, 3, 4)),
        (lambda x: x.sum([]), (2, 3)), (torch.sum, ()), (lambda x: x.sum(0), (5,)), (torch.sum, INTS),
        (lambda x: x.sum(1), BITS),
        (lambda x: x.sum(1), DISTINCT), (lambda x: x.sum(1, dtype=torch.float32), INTS), (lambda x: x.sum(0),
        Spec((3, 4), U8)),
        (lambda x: x.sum(1, dtype=I32), DISTINCT), (lambda x: x.nansum(1), (2, 3)), (torch.count_nonzero, INTS),
    ]),
    *rows(aten.sum.dim_IntList, [(lambda x: x.sum(1), (2, 30))], (F16, BF16)),
    *rows(aten.mean.dim, [
        (lambda x: x.mean(-1), (2, 3, 4)), (lambda x: x.mean((2, 3)), (2, 3, 7, 5)), (lambda x: x.mean((-1, -2), True),
        (2, 3, 7, 5)),
        (lambda x: x.mean((2, 3)), (2, 3, 9, 5)), (lambda x: x.mean((1, 2)), (2, 7, 7, 3)),
        (lambda x: x.mean(1, dtype=F32), INTS),
        (lambda x: x.mean([]), (2, 3)), (lambda x: x.mean(0), (1, 4)), (lambda x: x.mean((2, 3, 4)), (1, 2, 3, 4, 5)),
    ]),
    *rows(aten.mean.dim, [(lambda x: x.mean((2, 3)), (2, 3, 7, 5)), (lambda x: x.mean(-1), (2, 40))], (F16,)),
    *rows(aten.mean.default, [(torch.mean, (2, 3)), (torch.mean, ()), (lambda x: x.mean(dtype=F32), BITS)]),
    *rows(aten.prod.default, [(torch.prod, (2, 3)), (torch.prod, Spec((2, 3), I64, 1, 5)), (torch.prod, BITS)]),
    *rows(aten.prod.dim_int, [(lambda x: x.prod(-2), (2, 3, 4)), (lambda x: x.prod(1, True), Spec((2, 3), I32, 1, 5))]),
]  # fmt: skip

EXTREMES = [
    *rows(aten.amax.default, [
        (torch.amax, (2, 3)), (lambda x: x.amax((2, 3)), (1, 2, 5, 5)), (lambda x: x.amax((-1, 0), True), INTS),
        (lambda x: x.amax(1), BITS), (lambda x: x.amax(1), Spec((2, 3), U8)), (torch.amax, ()),
    ]),
    *rows(aten.amin.default, [(lambda x: x.amin((0, 1)), (2, 3, 4)), (torch.amin, BITS)], (F32, F16)),
    *rows(aten.max.default, [(torch.max, (2, 3)), (torch.max, INTS), (torch.max, BITS)]),
    *rows(aten.min.default, [(torch.min, (2, 3)), (torch.min, Spec((9,), U8))]),
    *rows(aten.max.dim, [
        (lambda x: tuple(x.max(1)), (2, 30, 4)), (lambda x: tuple(x.max(-3, True)), (2, 3, 4)),
        (lambda x: tuple(x.max(0)), (5,)),
        (lambda x: tuple(x.max(1)), DISTINCT), (lambda x: tuple(x.max(2)), INTS), (lambda x: tuple(x.max(2)), BITS),
        (lambda x: x.max(0)[0], (2, 3)), (lambda x: tuple(x.max(0)), (3, 2, 2, 1, 2, 2)), (lambda x: tuple(x.max(0)), ()),
    ]),
    *rows(aten.min.dim, [
        (lambda x: tuple(x.min(-2, True)), (2, 30, 4)), (lambda x: tuple(x.min(1)), DISTINCT),
        (lambda x: tuple(x.min(2)), BITS),
        (lambda x: tuple(x.min(1)), (2, 3, 2, 1, 2, 2)), (lambda x: x.min(0)[1], Spec((3, 4), U8)),
    ]),
    *rows(aten.argmax.default, [
        (lambda x: x.argmax(1), (2, 30, 4)), (torch.argmax, (3, 4)), (lambda x: x.argmax(-1, keepdim=True), (1, 3, 4, 5)),
        (lambda x: x.argmax(keepdim=True), (3, 4)), (lambda x: x.argmax(1), INTS), (torch.argmax, ()),
    ]),
    *rows(aten.argmin.default, [(lambda x: x.argmin(1), (2, 30, 4)), (torch.argmin, INTS)], (F32, F16)),
    *rows(aten.max.dim, [(lambda x: tuple(x.max(1)), (2, 9))], (F16, BF16)),
]  # fmt: skip

TRUTH = [
    row for kind in ("any", "all") for packet, fn in [(getattr(aten, kind), getattr(torch, kind))] for row in [
        *rows(packet.default, [(fn, BITS), (fn, Spec((9,), I64, 0, 2)), (fn, Spec((9,), U8, 0, 2))]),
        *rows(packet.dim, [(lambda x, fn=fn: fn(x, -1), BITS), (lambda x, fn=fn: fn(x > 0, 0, keepdim=True), (5, 3))]),
        *rows(packet.dims, [(lambda x, fn=fn: fn(x, (0, 2)), BITS), (lambda x, fn=fn: fn(x, ()), Spec((9,), I64, 0, 2))]),
    ]
]  # fmt: skip

MOMENTS = [
    *rows(aten.var.correction, [
        (torch.var, (2, 30)), (lambda x: x.var(unbiased=False), ()), (lambda x: x.var(-1, unbiased=False), (2, 30)),
        (lambda x: x.var((1, 2), keepdim=True),
        (2, 3, 4)),
        (lambda x: x.std(1), (2, 30)), (lambda x: torch.var(x, 1, correction=2.5), (2, 30)),
        (lambda x: x.std((2, 3), keepdim=True), Spec((1, 2, 3, 4), center=100, scale=0.1)),
    ]),
    *rows(aten.var.correction, [(lambda x: x.var(-1), Spec((2, 30), scale=300))], (BF16,)),
    *rows(aten.var.correction, [(lambda x: x.std(-1), Spec((2, 30), scale=90))], (F16,)),
    *rows(aten.var_mean.correction, [
        (lambda x: tuple(torch.var_mean(x, (0, 2))), (2, 3, 4)), (lambda x: tuple(torch.std_mean(x, 1, keepdim=True)),
        (2, 30)),
        (lambda x: tuple(torch.var_mean(x)), (2, 3)),
    ]),
    *rows(aten.linalg_vector_norm.default, [
        *[(lambda x, p=p: torch.linalg.vector_norm(x, p, dim=1), (2, 5, 3)) for p in (0, 1, 2, 3, 2.5, INF, -INF)],
        (torch.norm, (2, 5, 3)), (lambda x: x.norm(p=2, dim=-1, keepdim=True), (2, 5)),
        (lambda x: torch.norm(x, dim=(1, 2)), (2, 5, 3)),
        (F.normalize, (2, 5, 3)), (lambda x: F.normalize(x, p=1, dim=-1), (2, 5)),
        (lambda x, y: F.cosine_similarity(x, y), (2, 5), (2, 5)),
        (F.pairwise_distance, (2, 5), (2, 5)), (lambda x: torch.linalg.norm(x), (2, 5)), (torch.linalg.vector_norm, ()),
    ]),
    *rows(aten.linalg_vector_norm.default, [(lambda x: x.norm(dim=1), Spec((2, 40), scale=300))], (F16,)),
    *rows(aten.cumsum.default, [
        (lambda x: x.cumsum(-1), (2, 3, 9)), (lambda x: x.cumsum(0), INTS), (lambda x: x.cumsum(1), BITS),
        (lambda x: x.cumsum(0), ()),
        (lambda x: x.cumsum(1, dtype=F32), INTS),
    ]),
    *rows(aten.cumsum.default, [(lambda x: x.cumsum(1), (2, 9))], (F16,)),
]  # fmt: skip


ROWS = SUMS + EXTREMES + TRUTH + MOMENTS


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


def run(op: Any, fn: Any, *inputs: torch.Tensor) -> torch.Tensor:
    _, _, lowered, session = convert_row(Row(op, fn, tuple(Spec(tuple(t.shape), t.dtype) for t in inputs)))
    given = ReferenceExecutor(session.network, trt).run(dict(zip(lowered.input_names, inputs)))
    return given[lowered.output_names[0]]


def test_first_of_equal_integers() -> None:
    x = torch.tensor([[3, 7, 7, 1], [2, 2, 2, 2]])
    assert run(aten.argmax.default, lambda x: x.argmax(1), x).tolist() == [1, 0]
    assert run(aten.argmax.default, lambda x: x.argmax(1), x > 2).tolist() == [0, 0]


def test_large_integers_keep_their_digits() -> None:
    x = torch.tensor([[2**24, 2**24 + 1, 2**24 - 1]])
    assert run(aten.argmax.default, lambda x: x.argmax(1), x).item() == 1
    assert run(aten.sum.dim_IntList, torch.sum, x).item() == 3 * 2**24


@pytest.mark.parametrize("values", [[-float("inf")] * 3, [1e4, 1e4, -1e4], [float("inf"), 0.0, 1.0]])
def test_logsumexp_of_extremes(values: list[float]) -> None:
    x = torch.tensor([values])
    assert torch.equal(run(aten.log.default, lambda x: x.logsumexp(1), x), x.logsumexp(1))


def test_image_mean_is_a_pooling() -> None:
    _, _, lowered, _ = convert_row(Row(aten.mean.dim, lambda x: x.mean((2, 3)), ((1, 3, 8, 7),)))
    assert lowered.network.layers[0].raw.__class__ is trt.IPoolingLayer


def test_cumsum_without_running_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT 8.6 and 10.3 have no cumulative layer."""
    monkeypatch.setattr(core, "capabilities", lambda: dataclasses.replace(_trt.capabilities(), cumulative=False))
    for shape, dim in [((2, 3, 4), 1), ((5,), 0), ((2, 3), -1)]:
        check_row(Row(aten.cumsum.default, lambda x, dim=dim: x.cumsum(dim), (shape,)))
    check_row(Row(aten.cumsum.default, lambda x: x.cumsum(2), (INTS,)))
    for function in (lambda x: (x > 0).cumsum(1), lambda x: x.cumsum(1)):
        check_dynamic_row(DynamicRow(aten.cumsum.default, function, (("n", "t"),)))
