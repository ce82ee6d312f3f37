"""Convolution, deconvolution, pooling, resize and grid sample, against loops over every output element."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from torch2edge.errors import ReferenceExecutionError, UnsupportedLayerError

trt = pytest.importorskip("tensorrt_rtx")

Array = Any


def padding_of(mode: str, size: int, before: int, after: int, cover: int, step: int) -> tuple[int, int]:
    """(output length, pre-padding) as NvInfer.h, PaddingMode, has them for convolution and pooling."""
    padded = size + before + after
    if mode == "EXPLICIT_ROUND_DOWN":
        return math.floor((padded - cover) / step) + 1, before
    if mode == "EXPLICIT_ROUND_UP":
        return math.ceil((padded - cover) / step) + 1, before
    total = math.floor((size - 1) / step) * step + cover - size
    small = math.floor(total / 2)
    return math.ceil(size / step), small if mode == "SAME_UPPER" else total - small


def naive_convolution(
    x: Array,
    kernel: Array,
    bias: Array,
    outs: Sequence[int],
    pre: Sequence[int],
    stride: Any,
    dilation: Any,
    groups: int,
) -> Array:
    """Correlation, one multiplication at a time."""
    count, per_group = kernel.shape[0], kernel.shape[1]
    result = np.zeros((x.shape[0], count, *outs))
    for n, k in itertools.product(range(x.shape[0]), range(count)):
        first = k // (count // groups) * per_group
        for place in itertools.product(*map(range, outs)):
            total = float(bias[k])
            for c, *tap in itertools.product(range(per_group), *map(range, kernel.shape[2:])):
                spot = [p * s - b + t * d for p, s, b, t, d in zip(place, stride, pre, tap, dilation, strict=True)]
                if all(0 <= q < size for q, size in zip(spot, x.shape[2:], strict=True)):
                    total += x[(n, first + c, *spot)] * kernel[(k, c, *tap)]
            result[(n, k, *place)] = total
    return result


MODES = ["EXPLICIT_ROUND_DOWN", "EXPLICIT_ROUND_UP", "SAME_UPPER", "SAME_LOWER"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("groups", "dilation"), [(1, (1, 1)), (2, (2, 1))])
def test_convolution(bench: Any, mode: str, groups: int, dilation: tuple[int, int]) -> None:
    x, kernel = torch.randn(2, 4, 7, 6), np.random.default_rng(1).standard_normal((6, 4 // groups, 3, 2))
    kernel, bias = kernel.astype(np.float32), np.arange(6, dtype=np.float32)
    layer = bench.network.add_convolution_nd(bench.input(x), 6, (3, 2), kernel, bias)
    layer.stride_nd, layer.dilation_nd, layer.num_groups = (2, 3), dilation, groups
    layer.pre_padding, layer.post_padding = (1, 2), (3, 0)
    layer.padding_mode = getattr(trt.PaddingMode, mode)
    if mode.startswith("SAME"):
        layer.stride_nd = (2, 1)
    stride = tuple(layer.stride_nd)
    cover = [1 + d * (f - 1) for d, f in zip(dilation, (3, 2), strict=True)]
    spec = [padding_of(mode, x.shape[2 + i], (1, 2)[i], (3, 0)[i], cover[i], stride[i]) for i in range(2)]
    outs, pre = [out for out, _ in spec], [before for _, before in spec]
    expected = naive_convolution(x.numpy(), kernel, bias, outs, pre, stride, dilation, groups)
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-4, atol=1e-4)


def test_convolution_3d_with_kernel_as_input(bench: Any) -> None:
    x, kernel = torch.randn(1, 2, 3, 4, 5), torch.randn(3, 2, 2, 2, 2)
    layer = bench.network.add_convolution_nd(bench.input(x), 3, (2, 2, 2), trt.Weights())
    layer.set_input(1, bench.input(kernel))
    layer.padding_nd = (1, 0, 1)
    pre, ones = (1, 0, 1), (1, 1, 1)
    expected = naive_convolution(x.numpy(), kernel.numpy(), np.zeros(3), (4, 3, 6), pre, ones, ones, 1)
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-4, atol=1e-5)


def test_same_padding_that_would_be_negative(bench: Any) -> None:
    layer = bench.network.add_pooling_nd(bench.input(torch.randn(1, 1, 6, 6)), trt.PoolingType.MAX, (1, 1))
    layer.stride_nd, layer.padding_mode = (3, 3), trt.PaddingMode.SAME_UPPER
    with pytest.raises(UnsupportedLayerError, match="of type POOLING"):
        bench.one(layer)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("groups", [1, 2])
def test_deconvolution(bench: Any, mode: str, groups: int) -> None:
    x = torch.randn(1, 4, 3, 4)
    kernel = np.random.default_rng(2).standard_normal((4, 6 // groups, 3, 4)).astype(np.float32)
    bias = np.arange(6, dtype=np.float32)
    layer = bench.network.add_deconvolution_nd(bench.input(x), 6, (3, 4), kernel, bias)
    layer.stride_nd, layer.num_groups, layer.dilation_nd = (2, 3), groups, (2, 1)
    layer.pre_padding, layer.post_padding = (1, 0), (2, 1)
    layer.padding_mode = getattr(trt.PaddingMode, mode)
    full = np.zeros((1, 6, 2 * 2 + 5, 3 * 3 + 4))
    for c, k, i, j, r, s in itertools.product(range(4), range(6 // groups), range(3), range(4), range(3), range(4)):
        out = c // (4 // groups) * (6 // groups) + k
        full[0, out, i * 2 + r * 2, j * 3 + s] += float(x[0, c, i, j]) * kernel[c, k, r, s]
    before, after = [1, 0], [2, 1]
    if mode.startswith("SAME"):
        total = [max(5 - 2, 0), max(4 - 3, 0)]
        small = [p // 2 for p in total]
        large = [p - q for p, q in zip(total, small, strict=True)]
        before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
    rows = slice(before[0], full.shape[2] - after[0])
    columns = slice(before[1], full.shape[3] - after[1])
    expected = full[:, :, rows, columns] + bias[:, None, None]
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("excludes", [True, False])
@pytest.mark.parametrize("kind", ["MAX", "AVERAGE", "MAX_AVERAGE_BLEND"])
def test_pooling(bench: Any, mode: str, excludes: bool, kind: str) -> None:
    x = torch.randn(1, 2, 6, 7)
    layer = bench.network.add_pooling_nd(bench.input(x), getattr(trt.PoolingType, kind), (3, 3))
    layer.stride_nd, layer.average_count_excludes_padding, layer.blend_factor = (2, 3), excludes, 0.3
    layer.pre_padding, layer.post_padding = (1, 0), (2, 1)
    layer.padding_mode = getattr(trt.PaddingMode, mode)
    spec = [padding_of(mode, x.shape[2 + i], (1, 0)[i], (2, 1)[i], 3, (2, 3)[i]) for i in range(2)]
    ends = []
    for i in range(2):  # where the padded input ends, in coordinates of the input
        size, before, step = x.shape[2 + i], spec[i][1], (2, 3)[i]
        total = (size - 1) // step * step + 3 - size
        ends.append(size + ((2, 1)[i] if mode.startswith("EXPLICIT") else total - before))
    expected = np.zeros((1, 2, spec[0][0], spec[1][0]))
    for c, i, j in itertools.product(range(2), range(spec[0][0]), range(spec[1][0])):
        values, padded = [], 0
        for r, s in itertools.product(range(3), range(3)):
            p, q = i * 2 - spec[0][1] + r, j * 3 - spec[1][1] + s
            padded += p < ends[0] and q < ends[1]
            if 0 <= p < 6 and 0 <= q < 7:
                values.append(float(x[0, c, p, q]))
        mean = sum(values) / (len(values) if excludes else padded)
        blend = {"MAX": 0.0, "AVERAGE": 1.0}.get(kind, 0.3)
        expected[0, c, i, j] = (1 - blend) * max(values) + blend * mean
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-5, atol=1e-6)


def test_padding_pads_and_crops(bench: Any) -> None:
    x = torch.randn(1, 2, 3, 4)
    layer = bench.network.add_padding_nd(bench.input(x), (1, -1), (0, 2))
    expected = np.pad(x.numpy()[..., 1:], ((0, 0), (0, 0), (1, 0), (0, 2)))
    np.testing.assert_array_equal(bench.one(layer), expected)


def origin(kind: str, place: int, old: int, new: int, upper: bool) -> Fraction:
    """The input coordinate of an output position, NvInfer.h, ResizeCoordinateTransformation and ResizeSelector."""
    if new == 1 and upper:
        return Fraction(0)
    if kind == "ALIGN_CORNERS":
        return Fraction(place * (old - 1), new - 1) if new > 1 else Fraction(0)
    if kind == "ASYMMETRIC":
        return place * Fraction(old, new)
    return (place + Fraction(1, 2)) * Fraction(old, new) - Fraction(1, 2)


ROUND = {
    "HALF_UP": lambda x: math.floor(x + Fraction(1, 2)),
    "HALF_DOWN": lambda x: math.ceil(x - Fraction(1, 2)),
    "FLOOR": math.floor,
    "CEIL": math.ceil,
}
KINDS = ["ALIGN_CORNERS", "ASYMMETRIC", "HALF_PIXEL"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounding", ROUND)
@pytest.mark.parametrize(("old", "new"), [((4, 6), (7, 3)), ((5, 3), (1, 9))])
def test_resize_nearest(bench: Any, kind: str, rounding: str, old: tuple[int, int], new: tuple[int, int]) -> None:
    x = torch.randn(1, 2, *old)
    layer = bench.network.add_resize(bench.input(x))
    layer.shape = (1, 2, *new)
    layer.coordinate_transformation = getattr(trt.ResizeCoordinateTransformation, kind)
    layer.nearest_rounding = getattr(trt.ResizeRoundMode, rounding)
    picks = []
    for a, b in zip(old, new, strict=True):
        spots = [ROUND[rounding](origin(kind, place, a, b, False)) for place in range(b)]
        picks.append([min(max(spot, 0), a - 1) for spot in spots])
    np.testing.assert_array_equal(bench.one(layer), x.numpy()[:, :, picks[0]][..., picks[1]])


def taps(mode: str, spot: Fraction, size: int, excluded: bool, a: float = -0.6) -> list[tuple[int, float]]:
    """(element, weight) pairs of one coordinate."""
    reach = {"LINEAR": (0, 2), "CUBIC": (-1, 3)}[mode]
    pairs = []
    for index in range(math.floor(spot) + reach[0], math.floor(spot) + reach[1]):
        x = abs(float(spot - index))
        weight = 1 - x
        if mode == "CUBIC":
            near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            weight = near if x <= 1 else far if x < 2 else 0.0
        if not (excluded and not 0 <= index < size):
            pairs.append((min(max(index, 0), size - 1), weight))
    total = sum(weight for _, weight in pairs) if excluded else 1.0
    return [(index, weight / total) for index, weight in pairs]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["LINEAR", "CUBIC"])
@pytest.mark.parametrize("excluded", [False, True])
@pytest.mark.parametrize(("new", "upper"), [((7, 4), False), ((2, 1), True), ((1, 9), False)])
def test_resize_interpolates(bench: Any, kind: str, mode: str, excluded: bool, new: Any, upper: bool) -> None:
    x = torch.randn(1, 1, 5, 6)
    layer = bench.network.add_resize(bench.input(x))
    layer.set_input(1, bench.constant([1, 1, *new], np.int64))
    layer.resize_mode, layer.cubic_coeff, layer.exclude_outside = getattr(trt.InterpolationMode, mode), -0.6, excluded
    layer.coordinate_transformation = getattr(trt.ResizeCoordinateTransformation, kind)
    layer.selector_for_single_pixel = trt.ResizeSelector.UPPER if upper else trt.ResizeSelector.FORMULA
    expected = np.zeros((1, 1, *new))
    for i, j in itertools.product(*map(range, new)):
        rows = taps(mode, origin(kind, i, 5, new[0], upper), 5, excluded)
        columns = taps(mode, origin(kind, j, 6, new[1], upper), 6, excluded)
        expected[0, 0, i, j] = sum(float(x[0, 0, r, c]) * p * q for (r, p), (c, q) in itertools.product(rows, columns))
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-4, atol=1e-5)


def test_resize_by_scales_rounds_sizes_down(bench: Any) -> None:
    x = torch.randn(1, 3, 4)
    layer = bench.network.add_resize(bench.input(x))
    layer.scales = [1.0, 1.34, 2.9]
    assert bench.one(layer).shape == (1, 4, 11)


def test_resize_of_too_many_dimensions(bench: Any) -> None:
    layer = bench.network.add_resize(bench.input(torch.randn(2, 2, 2, 2), (-1, -1, -1, -1)))
    layer.set_input(1, bench.input(torch.tensor([3, 2, 2, 2])))
    layer.resize_mode = trt.InterpolationMode.LINEAR
    with pytest.raises(ReferenceExecutionError, match="of type RESIZE: LINEAR resizes the innermost 3"):
        bench.one(layer)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("edge", ["FILL", "CLAMP", "REFLECT"])
@pytest.mark.parametrize("mode", ["NEAREST", "LINEAR"])
def test_grid_sample(bench: Any, corners: bool, edge: str, mode: str) -> None:
    x, grid = torch.randn(1, 2, 4, 5), torch.rand(1, 3, 6, 2) * 3 - 1.5
    layer = bench.network.add_grid_sample(bench.input(x), bench.input(grid))
    layer.align_corners, layer.sample_mode = corners, getattr(trt.SampleMode, edge)
    layer.interpolation_mode = getattr(trt.InterpolationMode, mode)

    def place(g: float, size: int) -> float:
        spot = (g + 1) / 2 * (size - 1) if corners else ((g + 1) * size - 1) / 2
        if edge == "CLAMP":
            return min(max(spot, 0), size - 1)
        if edge == "REFLECT":
            low, high = (0, size - 1) if corners else (-0.5, size - 0.5)
            while not low <= spot <= high:
                spot = 2 * low - spot if spot < low else 2 * high - spot
            return min(max(spot, 0), size - 1)
        return spot

    def read(c: int, i: int, j: int) -> float:
        return float(x[0, c, i, j]) if 0 <= i < 4 and 0 <= j < 5 else 0.0

    expected = np.zeros((1, 2, 3, 6))
    for c, p, q in itertools.product(range(2), range(3), range(6)):
        across, down = place(float(grid[0, p, q, 0]), 5), place(float(grid[0, p, q, 1]), 4)
        if mode == "NEAREST":
            expected[0, c, p, q] = read(c, round(down), round(across))
            continue
        for i, j in itertools.product((math.floor(down), math.floor(down) + 1), (math.floor(across), math.floor(across) + 1)):
            expected[0, c, p, q] += read(c, i, j) * (1 - abs(down - i)) * (1 - abs(across - j))
    np.testing.assert_allclose(bench.one(layer), expected, rtol=1e-4, atol=1e-5)
