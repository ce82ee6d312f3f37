"""The executor itself, and the layers that work element by element. Expectations follow NvInfer.h, in numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from torch2edge.check.reference import ReferenceExecutor
from torch2edge.errors import ReferenceExecutionError, UnsupportedLayerError

trt = pytest.importorskip("tensorrt_rtx")


def f32(values: Any) -> Any:
    """A float32 array."""
    return np.array(values, dtype=np.float32)


ACTIVATION_ROWS = [
    ("RELU", lambda x: max(x, 0.0)),
    ("SIGMOID", lambda x: 1 / (1 + math.exp(-x))),
    ("TANH", math.tanh),
    ("LEAKY_RELU", lambda x: x if x >= 0 else 0.3 * x),
    ("ELU", lambda x: x if x >= 0 else 0.3 * (math.exp(x) - 1)),
    ("SELU", lambda x: 1.7 * x if x > 0 else 1.7 * (0.3 * math.exp(x) - 0.3)),
    ("SOFTSIGN", lambda x: x / (1 + abs(x))),
    ("SOFTPLUS", lambda x: 0.3 * math.log(math.exp(1.7 * x) + 1)),
    ("CLIP", lambda x: max(0.3, min(1.7, x))),
    ("HARD_SIGMOID", lambda x: max(0.0, min(1.0, 0.3 * x + 1.7))),
    ("SCALED_TANH", lambda x: 0.3 * math.tanh(1.7 * x)),
    ("THRESHOLDED_RELU", lambda x: x if x > 0.3 else 0.0),
    ("GELU_ERF", lambda x: 0.5 * x * (1 + math.erf(math.sqrt(0.5) * x))),
    ("GELU_TANH", lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (0.044715 * x**3 + x)))),
]


@pytest.mark.parametrize(("kind", "formula"), ACTIVATION_ROWS, ids=[row[0] for row in ACTIVATION_ROWS])
def test_activation(bench: Any, kind: str, formula: Any) -> None:
    x = torch.randn(2, 5) * 3
    layer = bench.network.add_activation(bench.input(x), getattr(trt.ActivationType, kind))
    layer.alpha, layer.beta = 0.3, 1.7
    expected = [[formula(value) for value in row] for row in x.tolist()]
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-5, atol=1e-6)


def test_every_activation_has_a_row() -> None:
    assert {row[0] for row in ACTIVATION_ROWS} == set(trt.ActivationType.__members__)


UNARY_ROWS: dict[str, Any] = {
    "EXP": math.exp,
    "LOG": math.log,
    "SQRT": math.sqrt,
    "RECIP": lambda x: 1 / x,
    "ABS": abs,
    "NEG": lambda x: -x,
    "SIN": math.sin,
    "COS": math.cos,
    "TAN": math.tan,
    "SINH": math.sinh,
    "COSH": math.cosh,
    "ASIN": math.asin,
    "ACOS": math.acos,
    "ATAN": math.atan,
    "ASINH": math.asinh,
    "ACOSH": lambda x: math.acosh(x + 1),
    "ATANH": math.atanh,
    "CEIL": math.ceil,
    "FLOOR": math.floor,
    "ERF": math.erf,
    "SIGN": lambda x: (x > 0) - (x < 0),
    "ROUND": round,
    "ISINF": math.isinf,
    "ISNAN": math.isnan,
}


@pytest.mark.parametrize("kind", UNARY_ROWS)
def test_unary(bench: Any, kind: str) -> None:
    x = torch.rand(7) * 0.9 + 0.05
    data = x + 1 if kind == "ACOSH" else x
    layer = bench.network.add_unary(bench.input(data), getattr(trt.UnaryOperation, kind))
    np.testing.assert_allclose(bench.one(layer), [UNARY_ROWS[kind](v) for v in x.tolist()], rtol=1e-5, atol=1e-6)


def test_unary_corners(bench: Any) -> None:
    x = bench.input(torch.tensor([0.5, 1.5, 2.5, -0.5, math.inf, math.nan, -0.0]))
    op = trt.UnaryOperation
    results = bench.run(*(bench.network.add_unary(x, kind).get_output(0) for kind in (op.ROUND, op.ISINF, op.ISNAN)))
    assert results[0].tolist()[:4] == [0.0, 2.0, 2.0, -0.0]  # half to even
    assert results[1].tolist() == [False, False, False, False, True, False, False]
    assert results[2].tolist() == [False, False, False, False, False, True, False]
    assert results[1].dtype == torch.bool


def test_not_and_integer_sign(bench: Any) -> None:
    flags = bench.network.add_unary(bench.input(torch.tensor([True, False])), trt.UnaryOperation.NOT)
    signs = bench.network.add_unary(bench.input(torch.tensor([-7, 0, 9], dtype=torch.int32)), trt.UnaryOperation.SIGN)
    results = bench.run(flags.get_output(0), signs.get_output(0))
    assert results[0].tolist() == [False, True]
    assert results[1].tolist() == [-1, 0, 1]


BINARY_ROWS: dict[str, Any] = {
    "SUM": lambda a, b: a + b,
    "PROD": lambda a, b: a * b,
    "MAX": max,
    "MIN": min,
    "SUB": lambda a, b: a - b,
    "DIV": lambda a, b: a / b,
    "POW": lambda a, b: a**b,
    "FLOOR_DIV": lambda a, b: math.floor(a / b),
    "EQUAL": lambda a, b: a == b,
    "GREATER": lambda a, b: a > b,
    "LESS": lambda a, b: a < b,
}


@pytest.mark.parametrize("kind", BINARY_ROWS)
def test_elementwise_broadcasts(bench: Any, kind: str) -> None:
    a, b = torch.rand(3, 1) + 0.1, torch.rand(1, 4) + 0.1
    b[0, 0] = a[0, 0]
    layer = bench.network.add_elementwise(bench.input(a), bench.input(b), getattr(trt.ElementWiseOperation, kind))
    expected = [[BINARY_ROWS[kind](p, q) for q in b[0].tolist()] for p in a[:, 0].tolist()]
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-5)


@pytest.mark.parametrize(("kind", "expected"), [("AND", [1, 0, 0, 0]), ("OR", [1, 1, 1, 0]), ("XOR", [0, 1, 1, 0])])
def test_logic(bench: Any, kind: str, expected: list[int]) -> None:
    a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    layer = bench.network.add_elementwise(bench.input(a), bench.input(b), getattr(trt.ElementWiseOperation, kind))
    assert bench.one(layer).tolist() == [bool(value) for value in expected]


def test_integer_arithmetic_truncates_floors_and_wraps(bench: Any) -> None:
    a = bench.input(torch.tensor([-7, 7, -7, 2147483647], dtype=torch.int32))
    b = bench.input(torch.tensor([2, -2, -2, 1], dtype=torch.int32))
    op = trt.ElementWiseOperation
    layers = [bench.network.add_elementwise(a, b, kind) for kind in (op.DIV, op.FLOOR_DIV, op.SUM)]
    divided, floored, added = bench.run(*(layer.get_output(0) for layer in layers))
    assert divided.tolist() == [-3, -3, 3, 2147483647]
    assert floored.tolist() == [-4, -4, 3, 2147483647]
    assert added.tolist() == [-5, 5, -9, -2147483648]


def test_half_is_computed_wide_and_rounded_once(bench: Any) -> None:
    a, b = torch.randn(4, 300).half(), torch.randn(300, 5).half()
    none = trt.MatrixOperation.NONE
    product = bench.one(bench.network.add_matrix_multiply(bench.input(a), none, bench.input(b), none))
    exact = a.numpy().astype(np.float64) @ b.numpy().astype(np.float64)
    assert product.dtype == np.float16
    np.testing.assert_allclose(product, exact.astype(np.float16), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mode", ["UNIFORM", "CHANNEL", "ELEMENTWISE"])
def test_scale(bench: Any, mode: str) -> None:
    x = torch.rand(2, 3, 4, 5)
    count = {"UNIFORM": (1,), "CHANNEL": (3,), "ELEMENTWISE": (3, 4, 5)}[mode]
    shift, scale, power = (np.random.default_rng(i).random(count).astype(np.float32) for i in range(3))
    kind = getattr(trt.ScaleMode, mode)
    layer = bench.network.add_scale_nd(bench.input(x), kind, shift.ravel(), scale.ravel(), power.ravel(), 1)
    spread = (slice(None), None, None) if mode == "CHANNEL" else (Ellipsis,)
    expected = (x.numpy() * scale[spread] + shift[spread]) ** power[spread]
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-5)


def test_scale_defaults(bench: Any) -> None:
    x = torch.rand(1, 2, 3, 3)
    layer = bench.network.add_scale_nd(bench.input(x), trt.ScaleMode.CHANNEL, f32([1, 2]), channel_axis=1)
    np.testing.assert_allclose(bench.one(layer)[:, 1], x.numpy()[:, 1] + 2, rtol=1e-6)


def test_select_broadcasts(bench: Any) -> None:
    condition, a, b = torch.tensor([[True], [False]]), torch.randn(2, 3), torch.randn(1, 3)
    layer = bench.network.add_select(bench.input(condition), bench.input(a), bench.input(b))
    np.testing.assert_array_equal(bench.one(layer), np.where(condition.numpy(), a.numpy(), b.numpy()))


def test_parametric_relu(bench: Any) -> None:
    x = torch.randn(2, 3, 4)
    layer = bench.network.add_parametric_relu(bench.input(x), bench.constant([[[0.1], [0.2], [0.3]]]))
    expected = np.where(x.numpy() >= 0, x.numpy(), x.numpy() * f32([[0.1], [0.2], [0.3]]))
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-6)


def test_cast(bench: Any) -> None:
    x = bench.input(torch.tensor([-1.9, -0.5, 0.0, 2.7]))
    layers = [bench.network.add_cast(x, kind) for kind in (trt.int32, trt.bool, trt.float16, trt.int64)]
    whole, flag, half, long = bench.run(*(layer.get_output(0) for layer in layers))
    assert whole.tolist() == long.tolist() == [-1, 0, 0, 2]
    assert flag.tolist() == [True, True, False, True]
    assert (half.dtype, long.dtype) == (torch.float16, torch.int64)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("kind", [trt.int32, trt.int64])
def test_cast_out_of_range_is_arbitrary_and_not_what_pytorch_gives(bench: Any, kind: Any) -> None:
    x = torch.tensor([3e19, float("-inf"), float("nan"), 7.5])
    layer = bench.network.add_cast(bench.input(x), kind)
    with pytest.warns(RuntimeWarning, match=r"layer '.*Cast.*' casts a value outside of the range"):
        given = bench.one(layer)
    assert given[3] == 7
    assert not (given[:3] == x.numpy().astype(given.dtype)[:3]).any()


def test_fill_linspace_is_the_documented_example(bench: Any) -> None:
    layer = bench.network.add_fill((3, 4), trt.FillOperation.LINSPACE, trt.float32)
    layer.set_input(1, bench.constant(1.0))
    layer.set_input(2, bench.constant([100.0, 10.0]))
    assert bench.one(layer).tolist() == [[1, 11, 21, 31], [101, 111, 121, 131], [201, 211, 221, 231]]


def test_fill_from_tensors_and_integers(bench: Any) -> None:
    dynamic = bench.network.add_fill((1,), trt.FillOperation.LINSPACE, trt.int32)
    dynamic.set_input(0, bench.constant([4], np.int64))
    dynamic.set_input(1, bench.constant(5, np.int32))
    dynamic.set_input(2, bench.constant([-2], np.int32))
    static = bench.network.add_fill((3,), trt.FillOperation.LINSPACE, trt.int64)
    static.alpha, static.beta = 10, 3
    results = bench.run(dynamic.get_output(0), static.get_output(0))
    assert [result.tolist() for result in results] == [[5, 3, 1, -1], [10, 13, 16]]


def test_one_hot(bench: Any) -> None:
    indices = torch.tensor([[0, 2], [1, 1]], dtype=torch.int32)
    values, depth = bench.constant([-1.0, 5.0]), bench.constant(3, np.int32)
    first = bench.network.add_one_hot(bench.input(indices), values, depth, 0)
    last = bench.network.add_one_hot(bench.network.get_input(0), values, depth, -1)
    results = bench.run(first.get_output(0), last.get_output(0))
    for i in range(2):
        for j in range(2):
            row = [5.0 if c == indices[i, j] else -1.0 for c in range(3)]
            assert results[0][:, i, j].tolist() == results[1][i, j].tolist() == row


def test_bfloat16_constant(bench: Any) -> None:
    values = torch.randn(6).bfloat16()
    constant = bench.network.add_constant((2, 3), trt.Weights(trt.bfloat16, values.data_ptr(), 6)).get_output(0)
    (result,) = bench.run(bench.network.add_identity(constant).get_output(0))
    assert torch.equal(result, values.reshape(2, 3))


def test_wrong_inputs(bench: Any) -> None:
    x = bench.input(torch.randn(2, 3), shape=(-1, 3))
    bench.network.mark_output(bench.network.add_identity(x).get_output(0))
    executor = ReferenceExecutor(bench.network, trt)
    assert next(iter(executor.run({"in0": torch.ones(7, 3)}).values())).shape == (7, 3)
    for inputs, message in (
        ({}, "inputs are"),
        ({"in0": torch.ones(2, 4)}, r"shape \[-1, 3\].*\[2, 4\]"),
        ({"in0": torch.ones(2, 3).half()}, "float32.*float16"),
    ):
        with pytest.raises(ReferenceExecutionError, match=message):
            executor.run(inputs)
    with pytest.raises(ReferenceExecutionError, match="no tensors"):
        executor.run({"in0": torch.ones(2, 3)}, keep=["nothing"])


def test_unsupported_layer_names_itself(bench: Any) -> None:
    layer = bench.network.add_fill((2,), trt.FillOperation.RANDOM_UNIFORM, trt.float32)
    layer.name = "noise"
    with pytest.raises(UnsupportedLayerError, match="layer 'noise' of type FILL: the reference executor does not"):
        bench.one(layer)


def test_a_failing_layer_names_itself(bench: Any) -> None:
    a, b = bench.input(torch.randn(2), (-1,)), bench.input(torch.randn(3), (-1,))
    layer = bench.network.add_elementwise(a, b, trt.ElementWiseOperation.SUM)
    layer.name = "sum"
    with pytest.raises(ReferenceExecutionError, match="layer 'sum' of type ELEMENTWISE") as caught:
        bench.one(layer)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_keep_on_layer_order_and_dead_layers(bench: Any) -> None:
    x = bench.input(torch.tensor([1.0, 2.0]))
    bench.network.add_fill((2,), trt.FillOperation.RANDOM_UNIFORM, trt.float32)  # nothing needs it
    late = bench.network.add_identity(x)
    double = bench.network.add_elementwise(x, x, trt.ElementWiseOperation.SUM)
    late.set_input(0, double.get_output(0))  # now stands before the layer that it needs
    seen: list[str] = []
    late.name, double.name = "late", "double"
    bench.network.mark_output(late.get_output(0))
    executor = ReferenceExecutor(bench.network, trt)
    kept = double.get_output(0).name
    result = executor.run(bench.values, on_layer=lambda name, _: seen.append(name), keep=[kept])
    assert seen == ["double", "late"]
    assert result[kept].tolist() == result[late.get_output(0).name].tolist() == [2.0, 4.0]
