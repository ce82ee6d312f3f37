"""Rows of converters/comparison.py."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from support.rows import BF16, F16, Row, Spec, check_row, convert_row, rows

from torch2edge import _trt
from torch2edge._trt import trt
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.errors import UnsupportedOpError
from torch2edge.lower.network import core

aten = torch.ops.aten
I32, I64, BOOL, U8 = torch.int32, torch.int64, torch.bool, torch.uint8
NAMES = ("eq", "ne", "lt", "le", "gt", "ge")
BITS, BYTES = Spec((20,), BOOL), Spec((20,), U8, 0, 4)
SMALL = Spec((20,), I64, -2, 3)
WIDE = Spec((5, 1), I64, -(2**62), 2**62)

COMPARISONS = [
    row
    for name in NAMES
    for packet, fn in [(getattr(aten, name), getattr(torch, name))]
    for row in [
        *rows(packet.Tensor, [
            (fn, (2, 3, 4), (3, 1)), (fn, SMALL, SMALL), (fn, SMALL, Spec((20,), I32, -2, 3)), (fn, SMALL, (20,)),
            (fn, BITS, BITS),
            (fn, BYTES, BYTES),
        ]),
        *rows(packet.Scalar, [(lambda x, fn=fn: fn(x, 1), SMALL), (lambda x, fn=fn: fn(x, 0.5), SMALL)]),
        *rows(packet.Scalar, [(lambda x, fn=fn: fn(x, 0.5), (2, 3))], (F16,)),
    ]
]  # fmt: skip

LOGIC = [
    row
    for name in ("and", "or", "xor")
    for logical, bitwise in [(getattr(aten, f"logical_{name}"), getattr(aten, f"bitwise_{name}"))]
    for row in [
        *rows(logical.default, [(logical.default, BITS, BITS), (logical.default, SMALL, (20,))]),
        *rows(bitwise.Tensor, [
            (bitwise.Tensor, Spec((2, 3), BOOL), Spec((3,), BOOL)),
            (bitwise.Tensor, SMALL, Spec((20,), I64, -9, 9)),
            (bitwise.Tensor, Spec((20,), I32, -(2**31), 2**31), Spec((20,), I32, -(2**31), 2**31)),
            (bitwise.Tensor, BYTES, Spec((20,), U8, 0, 256)),
            (bitwise.Tensor, SMALL, BITS),
            (lambda x, op=bitwise.Tensor: op(x, torch.tensor([1, -2, 0x0F0F])), Spec((2, 3), I64, -1000, 1000)),
        ]),
        *rows(bitwise.Scalar, [
            (lambda x, op=bitwise.Scalar: op(x, True), BITS),
            (lambda x, op=bitwise.Scalar: op(x, 6), SMALL),
            (lambda x, op=bitwise.Scalar: op(x, -3), Spec((), I32, -99, 99)),
        ]),
        *rows(bitwise.Scalar_Tensor, [(lambda x, op=bitwise.Scalar_Tensor: op(6, x), SMALL)]),
    ]
]  # fmt: skip

SHIFTS = [
    *rows(aten.__lshift__.Scalar, [(lambda x: x << 3, SMALL), (lambda x: x << 3, BYTES), (lambda x: x << 0, SMALL)]),
    *rows(aten.__rshift__.Scalar, [(lambda x: x >> 2, SMALL), (lambda x: x >> 29, Spec((20,), I32, -(2**31), 2**31))]),
    *rows(aten.__lshift__.Tensor, [(lambda x: x << torch.tensor(2), SMALL)]),
    *rows(aten.__rshift__.Tensor, [(lambda x: x >> torch.tensor([1]), SMALL)]),
    *rows(aten.bitwise_left_shift.Tensor, [(lambda x: torch.bitwise_left_shift(x, torch.tensor([[1]])), SMALL)]),
    *rows(aten.bitwise_right_shift.Tensor, [(lambda x: torch.bitwise_right_shift(x, torch.tensor(1)), SMALL)]),
    *rows(aten.bitwise_left_shift.Tensor_Scalar, [(lambda x: torch.bitwise_left_shift(x, 5), SMALL)]),
    *rows(aten.bitwise_right_shift.Tensor_Scalar, [(lambda x: torch.bitwise_right_shift(x, 1), BYTES)]),
]

ROWS = [
    *COMPARISONS,
    *LOGIC,
    *SHIFTS,
    *rows(aten.logical_not.default, [(torch.logical_not, BITS), (torch.logical_not, SMALL),
    (lambda x: ~(x > 0).logical_not(), (3,))]),
    *rows(aten.bitwise_not.default, [(lambda x: ~x, BITS), (lambda x: ~x, SMALL), (lambda x: ~x, BYTES)]),
    *rows(aten.isnan.default, [(lambda x: torch.isnan(x.log()), (20,)), (torch.isnan, SMALL)]),
    *rows(aten.isinf.default, [(lambda x: torch.isinf(x.relu().log()), (20,)), (torch.isinf, SMALL)]),
    *rows(aten.isfinite.default, [(lambda x: torch.isfinite(x.log()), (20,)), (torch.isfinite, SMALL)]),
    *rows(aten.isnan.default, [(lambda x: torch.isnan(x.sqrt()), (20,))], (F16, BF16)),
    *rows(aten.le.Tensor, [(torch.isclose, (5,), (5,))]),
    *rows(aten.where.self, [
        (lambda x, y: torch.where(x > y, x, y), (2, 3, 4), (4,)),
        (lambda c, x: torch.where(c, x, 0), BITS, (20,)),
        (lambda c, x: torch.where(c, 1.5, x), BITS, SMALL),
        (lambda c: torch.where(c, 1.0, 0.0), BITS),
        (lambda c: torch.where(c, 1, 0), BITS),
        (lambda c, x, y: torch.where(c, x, y), Spec((3, 1), BOOL), (2, 1, 4), Spec((), I64)),
        (lambda c, x, y: torch.where(c, x, y), BITS, BITS, BITS),
        (lambda c, x, y: torch.where(c, x, y), BITS, BYTES, BYTES),
        (lambda x: torch.where(torch.tensor([True, False, True]), x, -x), (2, 3)),
        (lambda x, m: x.masked_fill(m, float("-inf")), (2, 3), Spec((3,), BOOL)),
        (lambda x, m: x.masked_fill(m, torch.tensor(7)), (2, 3), Spec((2, 1), BOOL)),
        (lambda x, m: x.clone().masked_fill_(m, 2), SMALL, BITS),
        (torch.nan_to_num, (5,)),
    ]),
    *rows(aten.where.self, [(lambda x, m: x.masked_fill(m, -1e4), (2, 3), Spec((3,), BOOL))], (F16, BF16)),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


@pytest.mark.parametrize("name", [*NAMES, "isnan", "isinf", "isfinite", "logical_not"])
@pytest.mark.parametrize("native", [True, False])
def test_nan(name: str, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without an ISNAN layer (TensorRT 8.6 has none)."""
    import dataclasses

    from torch2edge import _trt
    from torch2edge.lower.network import core

    monkeypatch.setattr(core, "capabilities", lambda: dataclasses.replace(_trt.capabilities(), is_nan=native))
    values = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, 1.0, -3.0])
    fn: Any = getattr(torch, name)
    inputs = (values.repeat(6), values.repeat_interleave(6)) if name in NAMES else (values,)
    op = getattr(aten, name).Tensor if name in NAMES else getattr(aten, name).default
    _, _, lowered, session = convert_row(Row(op, fn, tuple(Spec(tuple(t.shape)) for t in inputs)))
    given = ReferenceExecutor(session.network, trt).run(dict(zip(lowered.input_names, inputs)))
    assert torch.equal(given[lowered.output_names[0]], fn(*inputs))


@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_bits_of_all_64(name: str) -> None:
    """Values beyond int32, and int8: in no table, for TensorRT 8.6 has neither."""
    op = getattr(aten, f"bitwise_{name}").Tensor
    check_row(Row(op, op, (WIDE, Spec((4,), I64, -(2**62), 2**62))))
    signed = Spec((20,), torch.int8, -128, 128)  # an INT8 input is a quantized one for 8.6
    check_row(Row(op, op, (signed, signed)))


@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_bits_of_many_integers_are_refused(name: str) -> None:
    op = getattr(aten, f"bitwise_{name}")
    many = Spec((2**20 + 1,), I32)
    with pytest.raises(UnsupportedOpError, match=r"no bitwise layers for integers.*67108928 elements"):
        convert_row(Row(op.Tensor, op.Tensor, (many, many)))
    with pytest.raises(UnsupportedOpError, match=r"no bitwise layers for integers"):
        convert_row(Row(op.Scalar, lambda x: op.Scalar(x, 1), (many,)))


@pytest.mark.parametrize(
    ("fn", "inputs", "reason"),
    [
        (lambda x, y: x << y, (SMALL, SMALL), "shift by a tensor"),
        (lambda x: x << torch.tensor([1, 2] * 10), (SMALL,), "shift by a tensor"),
        (lambda x: x << 63, (SMALL,), "shift by 63 bits"),
        (lambda x: x << 1, (Spec((3,), torch.int8),), "cast first"),
    ],
)
def test_shifts_that_are_refused(fn: Any, inputs: tuple[Spec, ...], reason: str) -> None:
    op = aten.__lshift__.Tensor if reason == "shift by a tensor" else aten.__lshift__.Scalar
    with pytest.raises(UnsupportedOpError, match=reason):
        convert_row(Row(op, fn, inputs))


def test_infinite_numbers_where_tensorrt_makes_them_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT 8.6.0 computed with 1e38 for an infinite scalar in a fused elementwise layer; out of a table it stays."""
    lacking = dataclasses.replace(_trt.capabilities(), infinite_scalars=False)
    monkeypatch.setattr(core, "capabilities", lambda: lacking)
    for function in (lambda x, m: x.masked_fill(m, -math.inf), lambda x, m: torch.where(m, torch.tensor([math.inf]), x)):
        row = Row(aten.where.self, function, ((2, 3), Spec((3,), BOOL)))
        check_row(row)
        _, _, lowered, _ = convert_row(row)
        assert trt.LayerType.GATHER in [layer.raw.type for layer in lowered.network.layers]
