"""Rows of converters/pointwise.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, assert_close, check_row, convert_row, rows

from torch2edge._trt import trt
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.errors import ConversionError, UnsupportedOpError

aten = torch.ops.aten
I32, I64, BOOL = torch.int32, torch.int64, torch.bool
POSITIVE = Spec((2, 5), positive=True)
UNIT = Spec((2, 5), scale=0.3)


def ints(*shape: int, dtype: torch.dtype = I64, low: int = -9, high: int = 10) -> Spec:
    return Spec(shape, dtype, low, high)


def divisors(*shape: int, dtype: torch.dtype = I64) -> Spec:
    return Spec(shape, dtype, 1, 5)


ARITHMETIC = [
    *rows(aten.add.Tensor, [(torch.add, (2, 3, 4, 5), (3, 1, 5)), (torch.add, (4,), ()), (lambda x: 1 + x, (2, 3))],
    (F32, F16)),
    *rows(aten.add.Tensor, [
        (lambda x, y: torch.add(x, y, alpha=-2.5), (2, 3), (2, 3)),
        (lambda x: torch.add(x, 3, alpha=2), (2, 3)),
        (torch.add, ints(2, 3), ints(3)),
        (torch.add, ints(2, 3, dtype=I32), (2, 3)),
        (torch.add, ints(2, 3), Spec((3,), F16)),
        (torch.add, ints(2, 3, dtype=I32), Spec((), I64)),
        (torch.add, Spec((2, 3), BOOL), Spec((2, 3), BOOL)),
        (torch.add, Spec((2, 3), BOOL), ints(2, 3)),
        (lambda x, y: torch.add(x, y, alpha=3), ints(2, 3), ints(2, 3)),
        (lambda x: x + torch.tensor([[1.0], [2.0]]), (2, 3)),
        (lambda x: x + torch.tensor(1.5, dtype=torch.float64), (2, 3)),
        (lambda x: x + 1.5, Spec((2, 3), torch.uint8)),
        (torch.add, Spec((20,), torch.uint8, 0, 256), Spec((20,), torch.uint8, 0, 256)),
    ]),
    *rows(aten.add.Scalar, [(lambda x: aten.add.Scalar(x, 2, 3), (2, 3)), (lambda x: aten.add.Scalar(x, 2.5), ints(3))]),
    *rows(aten.sub.Tensor, [
        (torch.sub, (2, 3), (3,)),
        (lambda x: x - 1.5, (1, 3, 4, 5)),
        (lambda x: 1.5 - x, (1, 3, 4, 5)),
        (lambda x, y: torch.rsub(x, y, alpha=2), (2, 3), (2, 3)),
        (lambda x: 7 - x, ints(2, 3)),
        (torch.sub, Spec((20,), torch.uint8, 0, 256), Spec((20,), torch.uint8, 0, 256)),
    ]),
    *rows(aten.sub.Scalar, [(lambda x: aten.sub.Scalar(x, 2, 3), (2, 3))]),
    *rows(aten.mul.Tensor, [
        (torch.mul, (2, 1, 3), (4, 1)),
        (lambda x: 2.5 * x, (1, 3, 4, 5)),
        (lambda x: x * 0.5, ints(3)),
        (torch.mul, Spec((2, 3), BOOL), (2, 3)),
        (torch.mul, Spec((2, 3), BOOL), Spec((2, 3), BOOL)),
        (lambda x, y: torch.addcmul(x, x, y, value=2), (2, 3), (2, 3)),
    ]),
    *rows(aten.mul.Tensor, [(lambda x: x * 1e5, Spec((2, 3), scale=1e-4)),
    (lambda x: x * 1e-7, Spec((2, 3), scale=1e4))], (F16,)),
    *rows(aten.mul.Tensor, [(torch.mul, (2, 3), (3,)), (lambda x: x * 3, (1, 2, 3, 4))], (BF16,)),
    *rows(aten.mul.Scalar, [(lambda x: aten.mul.Scalar(x, 2.5), (2, 3))]),
    *rows(aten.div.Tensor, [
        (torch.div, (2, 3), Spec((2, 3), positive=True)),
        (torch.div, ints(2, 3), divisors(2, 3)),
        (lambda x: x / 255, Spec((1, 3, 4, 4), torch.uint8, 0, 256)),
        (lambda x: x / -8, (1, 3, 4, 5)),
        (lambda x, y: torch.addcdiv(x, x, y, value=2), POSITIVE, POSITIVE),
    ]),
    *rows(aten.reciprocal.default, [(lambda x: 2 / x, POSITIVE), (torch.reciprocal, divisors(3))], (F32, F16)),
    *rows(aten.div.Scalar, [(lambda x: aten.div.Scalar(x, 3), (2, 3)), (lambda x: aten.div.Scalar(x, 4), ints(3))]),
    *rows(aten.div.Tensor_mode, [
        (lambda x, y: torch.div(x, y, rounding_mode="floor"), Spec((4, 5), scale=9), Spec((5,), positive=True)),
        (lambda x, y: torch.div(x, y, rounding_mode="trunc"), Spec((4, 5), scale=9), Spec((5,), center=-3, scale=0.3)),
        (lambda x, y: torch.div(x, y, rounding_mode="floor"), ints(9, 5), divisors(5)),
        (lambda x, y: torch.div(x, y, rounding_mode="trunc"), ints(9, 5, dtype=I32), divisors(5, dtype=I32)),
        (lambda x, y: torch.div(x, y, rounding_mode=None), ints(3), divisors(3)),
        (lambda x: x // 4, ints(9)),
        (lambda x, y: torch.div(x, y, rounding_mode="trunc"), Spec((30,), BF16, scale=9), Spec((), center=3, scale=0.3)),
        (lambda x: x // -4.0, Spec((9,), scale=9)),
    ]),
    *rows(aten.div.Scalar_mode, [(lambda x: aten.div.Scalar_mode(x, 3, rounding_mode="trunc"), ints(9))]),
    *rows(aten.remainder.Tensor, [
        (torch.remainder, Spec((4, 5), scale=9), Spec((5,), center=3, scale=0.3)),
        (torch.remainder, Spec((4, 5), scale=9), Spec((5,), center=-3, scale=0.3)),
        (torch.remainder, ints(9, 5), divisors(5)),
        (torch.remainder, ints(9, 5), Spec((5,), I64, -4, 0)),
    ]),
    *rows(aten.remainder.Scalar, [(lambda x: x % 2.5, Spec((20,), scale=9)), (lambda x: x % -3, ints(20))], (F32, F16)),
    *rows(aten.remainder.Scalar_Tensor, [(lambda x: torch.remainder(7, x), POSITIVE)]),
    *rows(aten.fmod.Tensor, [
        (torch.fmod, Spec((4, 5), scale=9), Spec((5,), center=-3, scale=0.3)),
        (torch.fmod, ints(9, 5), Spec((5,), I64, -4, 0)),
        (torch.fmod, ints(9, 5, dtype=I32), (9, 5)),
    ]),
    *rows(aten.fmod.Tensor, [(torch.fmod, Spec((9,), torch.uint8, 0, 256), Spec((9,), torch.uint8, 1, 9))]),
    *rows(aten.fmod.Scalar, [(lambda x: torch.fmod(x, 2.5), Spec((20,), scale=9)), (lambda x: torch.fmod(x, -3), ints(20))]),
    *rows(aten.rsqrt.default, [(torch.rsqrt, POSITIVE), (torch.rsqrt, divisors(3))], (F32, F16)),
]  # fmt: skip

POWERS = [
    *rows(aten.pow.Tensor_Scalar, [
        *[(lambda x, e=e: x**e, (2, 5)) for e in (0, 1, 2, 3, 7, 2.0, -1, -3)],
        *[(lambda x, e=e: x**e, POSITIVE) for e in (0.5, -0.5, 0.7, -2.3, 1.5)],
        *[(lambda x, e=e: x**e, Spec((7,), scale=0.02, center=c)) for e in (65, 66) for c in (-1, 1)],
        *[(lambda x, e=e: x**e, ints(2, 5)) for e in (0, 2, 3, 5)],
        (lambda x: x**0.5, divisors(3)),
        (torch.square, (1, 2, 3, 4)),
    ]),
    *rows(aten.pow.Tensor_Scalar, [(lambda x: x**3, (2, 5)), (torch.square, (2, 5)), (lambda x: x**1.5, POSITIVE)],
    (F16, BF16)),
    *rows(aten.pow.Tensor_Tensor, [
        (torch.pow, (9, 5), ints(9, 5, low=-3, high=4)),
        (torch.pow, POSITIVE, (5,)),
        (torch.pow, (2, 5), Spec((2, 5), low=-3, high=4)),
        (lambda x: torch.tensor([2.0, 0.5, 3.0]) ** x, (2, 3)),
        (lambda x: x ** torch.tensor([2.0, -1.0, 3.0]), (2, 3)),
    ]),
    *rows(aten.pow.Tensor_Tensor, [(lambda x: x.abs() ** torch.tensor(1.5).to(x), (2, 3))], (F16,)),
    *rows(aten.pow.Scalar, [(lambda x: 2**x, (2, 3)), (lambda x: (-2.0) ** x, ints(9, low=-4, high=5))]),
    *rows(aten.exp2.default, [(torch.exp2, (2, 3))], (F32, F16)),
    *rows(aten.expm1.default, [(torch.expm1, Spec((9,), scale=3)), (torch.expm1, Spec((9,), scale=1e-6)),
    (torch.expm1, ints(3))]),
    *rows(aten.expm1.default, [(torch.expm1, (9,))], (F16,)),
    *rows(aten.log1p.default, [
        (torch.log1p, Spec((9,), positive=True, scale=50)),
        (torch.log1p, Spec((9,), scale=1e-6)),
        (torch.log1p, Spec((9,), scale=0.3)),
        (torch.log1p, divisors(3)),
    ]),
    *rows(aten.log1p.default, [(torch.log1p, POSITIVE)], (F16,)),
    *rows(aten.log2.default, [(torch.log2, POSITIVE), (torch.log2, divisors(3))], (F32, F16)),
    *rows(aten.log10.default, [(torch.log10, POSITIVE)], (F32, F16)),
]  # fmt: skip

ROUNDING = [
    *rows(aten.abs.default, [(torch.abs, (2, 3)), (torch.abs, ()), (torch.abs, ints(5, dtype=I32)), (torch.abs, ints(5)),
                             (torch.abs, Spec((3,), torch.uint8))]),
    *rows(aten.neg.default, [(torch.neg, (2, 3)), (torch.neg, ints(5)), (lambda x: -x, (1, 2, 3, 4, 5))], (F32, F16)),
    *rows(aten.sign.default, [(torch.sign, (2, 3)), (torch.sign, ints(20)), (torch.sgn, ints(20, dtype=I32))], (F32, F16)),
    *rows(aten.ceil.default, [(torch.ceil, Spec((20,), scale=4)), (torch.ceil, ints(3))]),
    *rows(aten.floor.default, [(torch.floor, Spec((20,), scale=4)), (torch.floor, ints(3))]),
    *rows(aten.sub.Tensor, [(torch.frac, Spec((20,), scale=4))]),
    *rows(aten.trunc.default, [(torch.trunc, Spec((20,), scale=4)), (torch.fix, ints(3))], (F32, BF16)),
    *rows(aten.round.default, [(torch.round, Spec((20,), scale=4)), (lambda x: torch.round(x.float() / 2), ints(20)),
                               (torch.round, ints(3))]),
    *rows(aten.round.decimals, [
        (lambda x: torch.round(x, decimals=2), Spec((20,), scale=4)),
        (lambda x: torch.round(x, decimals=-1), Spec((20,), scale=40)),
    ]),
]  # fmt: skip

UNARY = [
    *[row for op, fn, spec in [
        (aten.exp.default, torch.exp, (2, 5)), (aten.log.default, torch.log, POSITIVE),
        (aten.sqrt.default, torch.sqrt, POSITIVE),
        (aten.erf.default, torch.erf, (2, 5)), (aten.sin.default, torch.sin, (2, 5)), (aten.cos.default, torch.cos, (2, 5)),
        (aten.tan.default, torch.tan, UNIT), (aten.asin.default, torch.asin, UNIT), (aten.acos.default, torch.acos, UNIT),
        (aten.atan.default, torch.atan, (2, 5)), (aten.sinh.default, torch.sinh, (2, 5)),
        (aten.cosh.default, torch.cosh, (2, 5)),
        (aten.asinh.default, torch.asinh, (2, 5)), (aten.acosh.default, torch.acosh, Spec((2, 5), center=3, scale=0.3)),
        (aten.atanh.default, torch.atanh, UNIT),
    ] for row in rows(op, [(fn, spec)])],
    *[row for op, fn in [(aten.exp.default, torch.exp), (aten.sin.default, torch.sin), (aten.erf.default, torch.erf),
                         (aten.atan.default, torch.atan)] for row in rows(op, [(fn, (2, 5))], (F16, BF16))],
    *rows(aten.exp.default, [(torch.exp, ints(3)), (torch.exp, ()), (torch.exp, Spec((3,), BOOL))]),
    *rows(aten.sqrt.default, [(torch.sqrt, divisors(3)), (torch.sqrt, (3,))]),
]  # fmt: skip

PAIRS = [
    *rows(aten.atan2.default, [(torch.atan2, (5, 5), (5,)), (torch.atan2, ints(9), ints(9)), (torch.atan2, (5,), ints(5, 5))]),
    *rows(aten.atan2.default, [(torch.atan2, (5,), (5,))], (F16,)),
    *rows(aten.hypot.default, [(torch.hypot, (5, 5), (5,)), (torch.hypot, Spec((9,), scale=1e30), (9,)),
                               (lambda x: torch.hypot(x * 0, x * 0), (3,))]),
    *rows(aten.lerp.Scalar, [(lambda x, y: torch.lerp(x, y, 0.3), (2, 3), (3,)), (lambda x, y: x.lerp(y, 0.9), (2, 3),
    (2, 3))]),
    *rows(aten.where.self, [(torch.lerp, (2, 3), (3,), (2, 1))]),
    *rows(aten.maximum.default, [
        (torch.maximum, (2, 3, 4), (4,)), (torch.max, ints(9), ints(9)), (torch.maximum, ints(9, dtype=I32), (9,)),
        (torch.maximum, Spec((9,), BOOL), Spec((9,), BOOL)), (torch.maximum, Spec((9,), torch.uint8), Spec((9,), torch.uint8)),
    ], (F32, F16)),
    *rows(aten.minimum.default, [(torch.minimum, (2, 3, 4), (4,)), (torch.min, Spec((9,), BOOL), Spec((9,), BOOL))]),
]  # fmt: skip

BOUNDS = [
    *rows(aten.clamp.default, [
        (lambda x: x.clamp(-0.5, 0.5), (2, 5)),
        (lambda x: x.clamp(min=0), (2, 5)),
        (lambda x: x.clamp(min=0.3), (2, 5)),
        (lambda x: x.clamp(max=0.3), (2, 5)),
        (lambda x: x.clamp(0.5, -0.5), (2, 5)),
        (lambda x: x.clamp(0, float("inf")), (2, 5)),
        (lambda x: x.clamp(-2, 3), ints(20)),
        (lambda x: x.clamp(-2.5, 3), ints(20)),
        (lambda x: x.clamp(2, 5), Spec((20,), torch.uint8)),
        (lambda x: x.clip(max=3), ints(20, dtype=I32)),
        (lambda x: x.clamp_min(0.5), (5,)),
        (lambda x: x.clamp_max(0.5), ()),
    ]),
    *rows(aten.clamp.default, [(lambda x: x.clamp(-0.5, 0.5), (2, 5))], (F16, BF16)),
    *rows(aten.clamp.Tensor, [
        (lambda x, y: x.clamp(y, y + 1), (2, 5), (5,)),
        (lambda x, y: x.clamp(max=y), (2, 5), (2, 1)),
        (lambda x: x.clamp(min=torch.zeros(5)), (2, 5)),
        (lambda x, y: x.clamp_min(y), ints(5), (5,)),
    ]),
]  # fmt: skip

ROWS = ARITHMETIC + POWERS + ROUNDING + UNARY + PAIRS + BOUNDS


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


def check_values(op: Any, fn: Any, *inputs: torch.Tensor) -> None:
    """On these very inputs the layers give what PyTorch gives."""
    _, _, lowered, session = convert_row(Row(op, fn, tuple(Spec(tuple(t.shape), t.dtype) for t in inputs)))
    given = ReferenceExecutor(session.network, trt).run(dict(zip(lowered.input_names, inputs)))
    assert_close(given[lowered.output_names[0]], fn(*inputs), 1e-5)


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("op", "fn", "values"),
    [
        (aten.pow.Tensor_Scalar, lambda x: x**3, [-INF, -2.0, 0.0, INF, NAN]),
        (aten.pow.Tensor_Scalar, lambda x: x**-1, [-INF, -2.0, 0.0, INF, NAN]),
        (aten.pow.Tensor_Scalar, lambda x: x**2.5, [-2.0, 0.0, 2.0, INF]),
        (aten.pow.Tensor_Scalar, lambda x: x**0, [-2.0, 0.0, INF, NAN]),
        (aten.expm1.default, torch.expm1, [-INF, -100.0, -0.5, 0.5, INF, NAN]),
        (aten.log1p.default, torch.log1p, [-1.0, -0.999, 0.0, 1e30, INF, NAN]),
        (aten.round.default, torch.round, [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]),
        (aten.remainder.Scalar, lambda x: x % 1.0, [-1e-9, -1.0, -0.25, 0.0, 2.75]),
        (aten.remainder.Scalar, lambda x: x % 0.1, [0.09999999, -0.05, 0.35]),
        (aten.fmod.Scalar, lambda x: torch.fmod(x, 1.0), [-1.75, -1.0, -0.25, 0.0, 2.75]),
        (aten.div.Tensor_mode, lambda x: x // 2.0, [-3.0, -1.0, -0.5, 0.0, 3.0]),
        (aten.clamp.default, lambda x: x.clamp(-1, 1), [-INF, -1.0, 0.5, INF]),
        (aten.trunc.default, torch.trunc, [-2.7, -0.5, 0.0, 0.5, 2.7, INF]),
    ],
)
def test_special_values(op: Any, fn: Any, values: list[float]) -> None:
    check_values(op, fn, torch.tensor(values))


def test_negative_base_takes_the_sign_of_a_whole_exponent() -> None:
    exponents = torch.tensor([-3.0, -2.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 1e9])
    check_values(aten.pow.Tensor_Tensor, torch.pow, torch.full((9,), -2.0), exponents)
    check_values(aten.pow.Tensor_Tensor, torch.pow, torch.full((9,), 0.5), exponents)


def test_atan2_in_all_quadrants() -> None:
    grid = torch.tensor([-2.0, 0.0, 3.0])
    check_values(aten.atan2.default, torch.atan2, grid.repeat_interleave(3), grid.repeat(3))


def test_modules_that_decompose() -> None:
    check_row(Row(aten.pow.Tensor_Scalar, torch.nn.functional.mse_loss, ((2, 3), (2, 3))))
    check_row(Row(aten.log.default, torch.logit, (Spec((9,), center=0.5, scale=0.1),)))
    check_row(Row(aten.log1p.default, torch.logaddexp, ((2, 3), (2, 3))))


def test_integer_power_with_tensor_exponent_is_refused() -> None:
    with pytest.raises(UnsupportedOpError, match=r"cast to float first"):
        convert_row(Row(aten.pow.Tensor_Tensor, torch.pow, (divisors(3), divisors(3))))


def test_arithmetic_on_int8_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"SUM on int8.*cast first"):
        convert_row(Row(aten.add.Tensor, lambda x: x + x, (Spec((3,), torch.int8),)))


def test_float64_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConversionError, match=r"no data type for torch.float64: keep the model in float32"):
        convert_row(Row(aten.mul.Tensor, lambda x: x * torch.ones(3, dtype=torch.float64), ((3,),)))


def test_scalar_on_an_image_is_one_scale_layer() -> None:
    _, _, lowered, _ = convert_row(Row(aten.mul.Tensor, lambda x: x * 2.5, ((1, 3, 4, 5),)))
    assert [layer.raw.type for layer in lowered.network.layers] == [trt.LayerType.SCALE]
