"""Rows of converters/linear.py."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.rows import BF16, F16, F32, Function, Row, Spec, check_row, convert_row, rows
from torch import nn
from torch.nn import functional as F

from torch2edge.errors import UnsupportedOpError
from torch2edge.lower import lower, registry
from torch2edge.trace import trace

aten = torch.ops.aten
LONG = torch.int64


def einsum(equation: str) -> object:
    return lambda *tensors: torch.einsum(equation, *tensors)


WEIGHT = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))

LINEAR = [
    *rows(
        aten.linear.default,
        [
            (nn.Linear(6, 5), (6,)),
            (nn.Linear(6, 5), (3, 6)),
            (nn.Linear(6, 5, bias=False), (1, 6)),
            (nn.Linear(6, 5), (2, 3, 6)),
            (nn.Linear(6, 1), (2, 1, 3, 6)),
            (nn.Linear(6, 5, bias=False), (2, 1, 3, 2, 6)),
            (F.linear, (2, 6), (5, 6), (5,)),
            (F.linear, (2, 3, 6), (5, 6)),
            (F.linear, (6,), (5, 6), (5,)),
            (lambda w: F.linear(WEIGHT, w), (3, 6)),
            (lambda x: F.linear(x[:, :, :0], torch.zeros(4, 0), torch.ones(4)), (2, 3, 4)),
        ],
    ),
    *rows(aten.linear.default, [(nn.Linear(6, 5), (2, 3, 6))], (F16, BF16)),
    *rows(
        aten.bilinear.default,
        [
            (nn.Bilinear(4, 3, 5), (2, 4), (2, 3)),
            (nn.Bilinear(4, 3, 5, bias=False), (2, 6, 4), (2, 6, 3)),
            (nn.Bilinear(4, 1, 1), (4,), (1,)),
            (F.bilinear, (2, 4), (2, 3), (5, 4, 3), (5,)),
        ],
    ),
]

PRODUCTS = [
    *rows(aten.mm.default, [(torch.mm, (3, 4), (4, 5)), (torch.mm, (1, 1), (1, 5))], (F32, F16)),
    *rows(aten.mm.default, [(lambda x: torch.mm(WEIGHT, x), (6, 2))]),
    *rows(aten.bmm.default, [(torch.bmm, (2, 3, 4), (2, 4, 5)), (torch.bmm, (1, 3, 1), (1, 1, 5))], (F32, BF16)),
    *rows(aten.mm.default, [(torch.mm, Spec((3, 4), LONG, -9, 9), Spec((4, 5), LONG, -(2**40), 2**40))]),
    *rows(aten.bmm.default, [(torch.bmm, Spec((2, 3, 4), torch.int32), Spec((2, 4, 5), torch.int32))]),
    *rows(
        aten.matmul.default,
        [
            (torch.matmul, (4,), (4,)),
            (torch.matmul, (4,), (4, 5)),
            (torch.matmul, (4,), (2, 4, 5)),
            (torch.matmul, (4,), (3, 2, 4, 5)),
            (torch.matmul, (3, 4), (4,)),
            (torch.matmul, (2, 3, 4), (4,)),
            (torch.matmul, (2, 1, 3, 4), (4,)),
            (torch.matmul, (3, 4), (4, 5)),
            (torch.matmul, (3, 4), (2, 4, 5)),
            (torch.matmul, (2, 3, 4), (4, 5)),
            (torch.matmul, (2, 3, 4), (1, 4, 5)),
            (torch.matmul, (2, 1, 3, 4), (6, 4, 5)),
            (torch.matmul, (2, 6, 1, 4), (2, 1, 4, 1)),
            (torch.matmul, (2, 1, 2, 3, 4), (3, 1, 4, 2)),
            (lambda x: x @ WEIGHT, (2, 3, 5)),
            (lambda x: WEIGHT[0] @ x, (2, 6, 3)),
            (lambda x: x @ x.mT, (2, 3, 5)),
            (torch.matmul, Spec((2, 3), LONG, -9, 9), Spec((3,), LONG, -9, 9)),
        ],
    ),
    *rows(aten.matmul.default, [(torch.matmul, (2, 3, 4), (2, 4, 5))], (F16,)),
    *rows(aten.mv.default, [(torch.mv, (3, 4), (4,)), (lambda v: torch.mv(WEIGHT, v), (6,))]),
    *rows(aten.dot.default, [(torch.dot, (7,), (7,)), (torch.dot, Spec((7,), LONG), Spec((7,), LONG))]),
    *rows(aten.dot.default, [(torch.vdot, (7,), (7,))]),
    *rows(aten.mm.default, [(lambda a, b: torch.tensordot(a, b, dims=([1, 2], [0, 1])), (2, 3, 4), (3, 4, 5))]),
    *rows(aten.mm.default, [(torch.inner, (2, 4), (3, 4))]),
]

SUMS = [
    *rows(
        aten.addmm.default,
        [
            (torch.addmm, (3, 5), (3, 4), (4, 5)),
            (lambda b, x, y: torch.addmm(b, x, y, beta=0.5, alpha=-2), (5,), (3, 4), (4, 5)),
            (lambda b, x, y: torch.addmm(b * float("nan"), x, y, beta=0), (5,), (3, 4), (4, 5)),
            (lambda b, x: torch.addmm(b, x, WEIGHT), (3, 1), (3, 5)),
            (
                lambda b, x, y: torch.addmm(b, x, y, beta=3, alpha=2),
                Spec((5,), LONG), Spec((3, 4), LONG), Spec((4, 5), LONG),
            ),
        ],
    ),
    *rows(aten.addmm.default, [(lambda b, x, y: torch.addmm(b, x, y, alpha=0.5), (5,), (3, 4), (4, 5))], (F16,)),
    *rows(
        aten.addmv.default,
        [(torch.addmv, (3,), (3, 4), (4,)), (lambda b, m, v: b.addmv(m, v, beta=2, alpha=3), (1,), (3, 4), (4,))],
    ),
    *rows(
        aten.baddbmm.default,
        [
            (torch.baddbmm, (2, 3, 5), (2, 3, 4), (2, 4, 5)),
            (lambda b, x, y: torch.baddbmm(b, x, y, beta=0.5, alpha=2), (1, 5), (2, 3, 4), (2, 4, 5)),
        ],
    ),
    *rows(
        aten.addbmm.default,
        [
            (torch.addbmm, (3, 5), (2, 3, 4), (2, 4, 5)),
            (lambda b, x, y: torch.addbmm(b, x, y, beta=0.5, alpha=2), (1, 5), (2, 3, 4), (2, 4, 5)),
        ],
    ),
]  # fmt: skip

EINSUM = [
    *rows(
        aten.einsum.default,
        [
            (einsum("ij,jk->ik"), (2, 3), (3, 4)),
            (einsum("ij,jk"), (2, 3), (3, 4)),
            (einsum("ba, ca"), (2, 3), (4, 3)),
            (einsum("i,i->"), (5,), (5,)),
            (einsum("i,j->ji"), (3,), (4,)),
            (einsum("ij->ji"), (2, 3)),
            (einsum("ijk->j"), (2, 3, 4)),
            (einsum("ij->"), (2, 3)),
            (einsum("ii->i"), (3, 3)),
            (einsum("ii"), (3, 3)),
            (einsum("biji->bj"), (2, 3, 4, 3)),
            (einsum("iii->i"), (3, 3, 3)),
            (einsum("ij,ij->ij"), (2, 3), (2, 3)),
            (einsum("bhid,bhjd->bhij"), (2, 3, 4, 5), (2, 3, 6, 5)),
            (einsum("nkctv,kvw->nctw"), (2, 3, 4, 5, 6), (3, 6, 7)),
            (einsum("bchw,cd->bdhw"), (2, 3, 4, 5), (3, 6)),
            (einsum("...ij,...jk->...ik"), (2, 1, 3, 4), (5, 4, 2)),
            (einsum("...d,d->..."), (2, 3, 4), (4,)),
            (einsum("...,...->..."), (2, 3), (3,)),
            (einsum("...ij->...ji"), (2, 3, 4, 5)),
            (einsum("i...->..."), (2, 3, 4)),
            (einsum("...i,...i"), (2, 3), (2, 3)),
            (einsum("ij,jk->ik"), (2, 1), (3, 4)),
            (einsum("bi,bj->bij"), (1, 3), (4, 5)),
            (einsum("AiB,Bi->A"), (2, 3, 4), (4, 3)),
            (einsum("ij,jk,kl->il"), (2, 3), (3, 4), (4, 5)),
            (einsum("bi,oij,bj->bo"), (2, 3), (5, 3, 4), (2, 4)),
            (einsum("a,b,c->abc"), (2,), (3,), (4,)),
            (einsum("ij,kl->"), (2, 3), (4, 5)),
            (lambda x: torch.einsum("bi,oi->bo", x, WEIGHT), (3, 6)),
            (einsum("ij->j"), Spec((2, 3), LONG)),
        ],
    ),
    *rows(aten.einsum.default, [(einsum("bhid,bhjd->bhij"), (2, 3, 4, 5), (2, 3, 6, 5))], (F16, BF16)),
]

DISTANCES = [
    *rows(
        aten._cdist_forward.default,
        [
            (torch.cdist, (4, 3), (5, 3)),
            (torch.cdist, (2, 4, 3), (5, 3)),
            *((lambda a, b, p=p: torch.cdist(a, b, p=p), (2, 4, 3), (1, 5, 3)) for p in (0.0, 1.0, 2.5, float("inf"))),
            (torch.cdist, (3, 1), (2, 1)),
        ],
    ),
    *rows(
        aten._pdist_forward.default,
        [(lambda x, p=p: torch.nn.functional.pdist(x, p), (5, 3)) for p in (0.0, 1.0, 1.5, 2.0, float("inf"))],
    ),
    *rows(
        aten.dist.default,
        [(torch.dist, (2, 3), (3,)), *((lambda a, b, p=p: torch.dist(a, b, p), (2, 3), (2, 3)) for p in (0, 1, 3.5))],
    ),
]


ROWS = [*LINEAR, *PRODUCTS, *SUMS, *EINSUM, *DISTANCES]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


def last_op(fn: object, *shapes: tuple[int, ...]) -> Row:
    """The row of an op that PyTorch takes apart: about the last of its parts."""
    graph = trace(Function(fn).eval(), [torch.randn(s) for s in shapes], is_leaf=registry().is_leaf)  # type: ignore[arg-type]
    return Row(graph.ops[-1].target, fn, shapes)  # type: ignore[arg-type]


@pytest.mark.parametrize("fn", [torch.outer, torch.kron, torch.linalg.vecdot, torch.linalg.multi_dot, torch.inner])
def test_what_pytorch_takes_apart(fn: object) -> None:
    if fn is torch.linalg.multi_dot:
        row = last_op(lambda a, b, c: torch.linalg.multi_dot([a, b, c]), (2, 3), (3, 4), (4, 5))
    else:
        row = last_op(fn, (3,), (3,))
    check_row(row)


def test_large_cdist() -> None:
    """PyTorch computes it by a matrix product from 26 points on."""
    row = last_op(torch.cdist, (30, 3), (31, 3))
    check_row(dataclasses.replace(row, rtol=1e-4, why="differences of large squares"))


def test_products_of_bytes_are_refused() -> None:
    row = Row(aten.mm.default, torch.mm, (Spec((2, 3), torch.int8), Spec((3, 2), torch.int8)))
    with pytest.raises(UnsupportedOpError, match=r"aten\.mm\.default.*product of torch\.int8"):
        convert_row(row)


def test_einsum_of_integers_is_refused() -> None:
    row = Row(aten.einsum.default, einsum("ij,jk->ik"), (Spec((2, 3), LONG), Spec((3, 2), LONG)))  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOpError, match=r"einsum of torch\.int64"):
        convert_row(row)


@pytest.mark.parametrize("shape", [(2, 6), (1, 3, 6), (2, 3, 6)])
def test_a_weight_is_the_product_s_operand_under_its_name(shape: tuple[int, ...]) -> None:
    """No shuffle stands between, and it keeps its name; of a batch the rows are the operand, so that it is read once."""
    from torch2edge._trt import trt
    from torch2edge.build import BuildSession
    from torch2edge.options import Options

    model = nn.Linear(6, 5).eval()
    graph = trace(model, [torch.randn(shape)], is_leaf=registry().is_leaf)
    session = BuildSession(Options())
    lowered = lower(graph, session.network, registry(), names={id(p): n for n, p in model.named_parameters()})
    assert "weight" in lowered.network.weights_by_name
    kinds = [layer.raw.type.name for layer in lowered.network.layers if layer.raw.type != trt.LayerType.SHUFFLE]
    assert kinds[:2] == ["CONSTANT", "MATRIX_MULTIPLY"]
    product = next(layer.raw for layer in lowered.network.layers if layer.raw.type == trt.LayerType.MATRIX_MULTIPLY)
    assert tuple(product.get_input(0).shape) == ((6, 6) if shape == (2, 3, 6) else shape)
    weights = next(layer.raw for layer in lowered.network.layers if layer.raw.type == trt.LayerType.CONSTANT)
    assert product.get_input(1).name == weights.get_output(0).name
