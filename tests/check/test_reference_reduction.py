"""Sums over axes, products, normalization, attention and quantization, in float64 numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from torch2edge.errors import ReferenceExecutionError, UnsupportedLayerError

trt = pytest.importorskip("tensorrt_rtx")


def f32(values: Any) -> Any:
    """A float32 array."""
    return np.array(values, dtype=np.float32)


REDUCTIONS: dict[str, Any] = {"SUM": np.sum, "PROD": np.prod, "MAX": np.max, "MIN": np.min, "AVG": np.mean}


@pytest.mark.parametrize("kind", REDUCTIONS)
@pytest.mark.parametrize("keep", [True, False])
def test_reduce(bench: Any, kind: str, keep: bool) -> None:
    x = torch.randn(3, 4, 5)
    layer = bench.network.add_reduce(bench.input(x), getattr(trt.ReduceOperation, kind), 0b101, keep)
    expected = REDUCTIONS[kind](x.double().numpy(), axis=(0, 2), keepdims=keep)
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-5, atol=1e-6)


def test_reduce_integers_exactly(bench: Any) -> None:
    x = bench.input(torch.tensor([2147483647, 1, 2], dtype=torch.int32))
    total = bench.network.add_reduce(x, trt.ReduceOperation.SUM, 1, False)
    assert bench.one(total) == 2147483650 - 2**32


def test_average_of_integers_with_a_remainder(bench: Any) -> None:
    x = bench.input(torch.tensor([1, 2], dtype=torch.int32))
    with pytest.raises(ReferenceExecutionError, match="remainder"):
        bench.one(bench.network.add_reduce(x, trt.ReduceOperation.AVG, 1, False))


@pytest.mark.parametrize(
    ("kind", "value"), [("SUM", 0.0), ("PROD", 1.0), ("MAX", -math.inf), ("MIN", math.inf), ("AVG", math.nan)]
)
def test_reduce_of_nothing_is_the_documented_value(bench: Any, kind: str, value: float) -> None:
    layer = bench.network.add_reduce(bench.input(torch.zeros(2, 0), (2, -1)), getattr(trt.ReduceOperation, kind), 0b10, False)
    np.testing.assert_array_equal(bench.one(layer), f32([value, value]))


def test_softmax(bench: Any) -> None:
    x = torch.randn(2, 3, 4) * 30
    layer = bench.network.add_softmax(bench.input(x))
    layer.axes = 1 << 1
    shifted = np.exp(x.double().numpy() - x.double().numpy().max(axis=1, keepdims=True))
    np.testing.assert_allclose(bench.one(layer), shifted / shifted.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-7)


def test_ragged_softmax(bench: Any) -> None:
    x, bounds = torch.randn(1, 2, 4), torch.tensor([[[4], [2]]], dtype=torch.int32)
    layer = bench.network.add_ragged_softmax(bench.input(x), bench.input(bounds))
    result, rows = bench.one(layer)[0], np.exp(x.double().numpy()[0])
    np.testing.assert_allclose(result[0], rows[0] / rows[0].sum(), rtol=1e-5)
    np.testing.assert_allclose(result[1], [*rows[1, :2] / rows[1, :2].sum(), 0, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("a", "op_a", "b", "op_b", "equation"),
    [
        ((2, 3, 4), "NONE", (1, 4, 5), "NONE", "bij,cjk->bik"),
        ((4, 3), "TRANSPOSE", (5, 4), "TRANSPOSE", "ji,kj->ik"),
        ((2, 4), "VECTOR", (2, 4, 5), "NONE", "bj,bjk->bk"),
        ((2, 3, 4), "NONE", (2, 4), "VECTOR", "bij,bj->bi"),
        ((4,), "VECTOR", (4,), "VECTOR", "j,j->"),
    ],
)
def test_matrix_multiply(bench: Any, a: Any, op_a: str, b: Any, op_b: str, equation: str) -> None:
    left, right = torch.randn(a), torch.randn(b)
    ops = [getattr(trt.MatrixOperation, op) for op in (op_a, op_b)]
    layer = bench.network.add_matrix_multiply(bench.input(left), ops[0], bench.input(right), ops[1])
    expected = np.einsum(equation, left.double().numpy(), right.double().numpy())
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("equation", ["bij,jk->bik", "bij,jk->", "bij,jk->ki"])
def test_einsum(bench: Any, equation: str) -> None:
    a, b = torch.randn(2, 3, 4), torch.randn(4, 5)
    layer = bench.network.add_einsum([bench.input(a), bench.input(b)], equation)
    expected = np.einsum(equation, a.double().numpy(), b.double().numpy())
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_cumulative(bench: Any, exclusive: bool, reverse: bool) -> None:
    x = torch.randn(2, 5)
    op = trt.CumulativeOperation.SUM
    layer = bench.network.add_cumulative(bench.input(x), bench.constant(-1, np.int32), op, exclusive, reverse)
    expected = np.zeros((2, 5))
    for j in range(5):
        first, last = (j + exclusive, 5) if reverse else (0, j + 1 - exclusive)
        expected[:, j] = x.double().numpy()[:, first:last].sum(axis=1)
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-5, atol=1e-6)


def normalized(x: Any, axes: tuple[int, ...]) -> Any:
    """Zero mean and unit variance over the axes, with the epsilon of the tests."""
    variance = ((x - x.mean(axes, keepdims=True)) ** 2).mean(axes, keepdims=True)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(variance + 1e-3)


@pytest.mark.parametrize(("axes", "shape"), [((1, 2, 3), (1, 6, 4, 5)), ((2, 3), (1, 6, 1, 1)), ((3,), (1, 1, 1, 5))])
def test_layer_and_instance_norm(bench: Any, axes: tuple[int, ...], shape: tuple[int, ...]) -> None:
    x, scale, bias = torch.randn(2, 6, 4, 5), torch.randn(shape), torch.randn(shape)
    mask = sum(1 << axis for axis in axes)
    layer = bench.network.add_normalization(*map(bench.input, (x, scale, bias)), mask)
    layer.epsilon = 1e-3
    expected = normalized(x.double().numpy(), axes) * scale.numpy() + bias.numpy()
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("second", [False, True])
def test_group_norm(bench: Any, second: bool) -> None:
    x = torch.randn(2, 6, 4, 5)
    channels = 6 if second else 3
    scale, bias = torch.randn(1, channels, 1, 1), torch.randn(1, channels, 1, 1)
    add = bench.network.add_normalization_v2 if second else bench.network.add_normalization
    layer = add(*map(bench.input, (x, scale, bias)), 0b1100)
    layer.epsilon, layer.num_groups = 1e-3, 3
    groups = normalized(x.double().numpy().reshape(2, 3, 2, 4, 5), (2, 3, 4))
    if second:
        expected = groups.reshape(2, 6, 4, 5) * scale.numpy() + bias.numpy()
    else:
        expected = (groups * scale.numpy()[:, :, None] + bias.numpy()[:, :, None]).reshape(2, 6, 4, 5)
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-4, atol=1e-5)


def test_lrn(bench: Any) -> None:
    x = torch.randn(1, 7, 2, 2)
    layer = bench.network.add_lrn(bench.input(x), 5, 0.4, 0.75, 2.0)
    data, expected = x.double().numpy(), np.zeros((1, 7, 2, 2))
    for c in range(7):
        around = (data[:, max(c - 2, 0) : c + 3] ** 2).sum(axis=1)
        expected[:, c] = data[:, c] / (2.0 + 0.4 / 5 * around) ** 0.75
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-5)


def attended(q: Any, k: Any, v: Any, allowed: Any = None, added: Any = 0.0) -> Any:
    """softmax(q k^T + mask) v in float64, one head of k and v for each group of heads of q."""
    q, k, v = (t.double().numpy() for t in (q, k, v))
    k, v = (np.repeat(t, q.shape[1] // t.shape[1], axis=1) for t in (k, v))
    scores = np.einsum("bhid,bhjd->bhij", q, k) + added
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("bhij,bhjd->bhid", weights / weights.sum(axis=-1, keepdims=True), v)


@pytest.mark.parametrize("kind", ["NONE", "UPPER_LEFT", "LOWER_RIGHT"])
def test_attention_causal(bench: Any, kind: str) -> None:
    q, k, v = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    softmax = trt.AttentionNormalizationOp.SOFTMAX
    causal = getattr(trt.CausalMaskKind, kind)
    layer = bench.network.add_attention_v2(*map(bench.input, (q, k, v)), softmax, causal)
    shift = {"NONE": 99, "UPPER_LEFT": 0, "LOWER_RIGHT": 2}[kind]
    allowed = np.arange(5)[None] <= np.arange(3)[:, None] + shift
    np.testing.assert_allclose(bench.one(layer), attended(q, k, v, allowed), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("boolean", [True, False])
def test_attention_mask(bench: Any, boolean: bool) -> None:
    q, k, v = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)
    mask = torch.rand(1, 1, 3, 5) > 0.3 if boolean else torch.randn(1, 1, 3, 5)
    mask[..., 0] = True if boolean else 0.0
    none = trt.CausalMaskKind.NONE
    layer = bench.network.add_attention_v2(*map(bench.input, (q, k, v)), trt.AttentionNormalizationOp.SOFTMAX, none)
    layer.mask = bench.input(mask)
    expected = attended(q, k, v, mask.numpy()) if boolean else attended(q, k, v, added=mask.numpy())
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-4, atol=1e-5)


def test_attention_without_normalization_in_half(bench: Any) -> None:
    q = (torch.randn(1, 1, 4, 8) / 4).half()
    none = trt.AttentionNormalizationOp.NONE
    x = bench.input(q)
    layer = bench.network.add_attention_v2(x, x, x, none, trt.CausalMaskKind.NONE)
    exact = q.double().numpy()
    expected = exact @ exact.swapaxes(-1, -2) @ exact
    np.testing.assert_allclose(bench.one(layer), expected.astype(np.float16), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("width", [0, 4])
@pytest.mark.parametrize("positions", [False, True])
def test_rotary_embedding(bench: Any, interleaved: bool, width: int, positions: bool) -> None:
    x, ids = torch.randn(2, 3, 5, 8), torch.randint(0, 9, (2, 5))
    half = (width or 8) // 2
    angles = torch.rand(9, half) if positions else torch.rand(2, 5, half)
    tensors = map(bench.input, (x, angles.cos(), angles.sin()))
    layer = bench.network.add_rotary_embedding(*tensors, interleaved, width)
    if positions:
        layer.set_input(3, bench.input(ids))
    expected = x.double().numpy()
    for b in range(2):
        for t in range(5):
            for i in range(half):
                angle = float(angles[ids[b, t], i] if positions else angles[b, t, i])
                p, q = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
                first, second = expected[b, :, t, p].copy(), expected[b, :, t, q].copy()
                expected[b, :, t, p] = first * math.cos(angle) - second * math.sin(angle)
                expected[b, :, t, q] = first * math.sin(angle) + second * math.cos(angle)
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-4, atol=1e-5)


def test_quantize_rounds_half_to_even_and_clamps(bench: Any) -> None:
    x = bench.input(torch.tensor([0.25, 0.75, 1.25, -0.25, 1000.0, -1000.0]))
    scale = bench.constant(0.5)
    quantized = bench.network.add_quantize(x, scale, trt.int8).get_output(0)
    back = bench.network.add_dequantize(quantized, scale, trt.float32).get_output(0)
    codes, values = bench.run(quantized, back)
    assert codes.tolist() == [0, 2, 2, 0, 127, -128]
    assert values.tolist() == [0.0, 1.0, 1.0, 0.0, 63.5, -64.0]


def test_quantize_per_channel(bench: Any) -> None:
    x, scale = torch.randn(3, 4) * 10, f32([0.1, 0.2, 0.4])
    layer = bench.network.add_quantize(bench.input(x), bench.constant(scale), trt.int8)
    layer.axis = 0
    expected = np.clip(np.round(x.numpy() / scale[:, None]), -128, 127)
    np.testing.assert_array_equal(bench.one(layer), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_dequantize_per_channel(bench: Any, axis: int) -> None:
    codes = torch.randint(-128, 128, (3, 4, 5), dtype=torch.int8)
    scale = f32(np.linspace(0.05, 0.4, codes.shape[axis]))
    layer = bench.network.add_dequantize(bench.input(codes), bench.constant(scale), trt.float32)
    layer.axis = axis
    shape = [1, 1, 1]
    shape[axis] = -1
    np.testing.assert_array_equal(bench.one(layer), codes.numpy().astype(np.float32) * scale.reshape(shape))


def test_quantize_divides(bench: Any) -> None:
    """By the documentation it is input / scale: at ties a product with 1 / scale gives another code."""
    step = np.float32(0.0371)
    x = torch.tensor([float(np.float32(k + 0.5) * step) for k in range(-120, 120)])
    layer = bench.network.add_quantize(bench.input(x), bench.constant(step), trt.int8)
    expected = np.round(x.numpy() / step)
    assert (expected != np.round(x.numpy() * (np.float32(1) / step))).any()
    np.testing.assert_array_equal(bench.one(layer), expected)


def test_quantize_to_fp8(bench: Any) -> None:
    x = bench.input(torch.tensor([1.0, 1.0625, 1.1875, 500.0]))  # steps of 1/8 from 1 on: both ties go to even
    quantized = bench.network.add_quantize(x, bench.constant(1.0), trt.fp8).get_output(0)
    back = bench.network.add_dequantize(quantized, bench.constant(1.0), trt.float32)
    assert bench.one(back).tolist() == [1.0, 1.0, 1.25, 448.0]


def test_dynamic_quantize_is_left_out(bench: Any) -> None:
    shape, kinds = (1, 16), (trt.fp4, trt.fp8)
    layer = bench.network.add_dynamic_quantize_v2(bench.input(torch.randn(2, 32)), shape, *kinds)
    layer.set_input(1, bench.constant(1.0))
    scale = bench.network.add_dequantize(layer.get_output(1), bench.constant(1.0), trt.float32)
    with pytest.raises(UnsupportedLayerError, match="of type DYNAMIC_QUANTIZE"):
        bench.one(scale)
