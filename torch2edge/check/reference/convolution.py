"""Sliding windows: convolution, deconvolution, pooling, padding. All in N, C, spatial order, 1 to 3 spatial dims."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from torch2edge.check.reference.layer import Layer, common, handles, wide

CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
DECONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX_POOL: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def _window(layer: Layer, size: str, rank: int) -> tuple[list[int], list[int], list[int]]:
    """(kernel, stride, dilation) of the spatial dimensions."""
    kernel = list(layer.dims(size) or ())
    stride = list(layer.dims("stride_nd") or [1] * rank)
    dilation = list(layer.dims("dilation_nd") or [1] * rank)
    if not len(kernel) == len(stride) == len(dilation) == rank or rank not in CONVOLVE:
        raise layer.wrong(f"{rank} spatial dimensions, kernel {kernel}, stride {stride}, dilation {dilation}")
    return kernel, stride, dilation


def _explicit(layer: Layer, rank: int) -> list[tuple[int, int]]:
    """Pre- and post-padding of each spatial dimension."""
    before = layer.dims("pre_padding") or (0,) * rank
    after = layer.dims("post_padding") or (0,) * rank
    return list(zip(before, after, strict=True))


def _padding(layer: Layer, data: Tensor, extent: list[int], stride: list[int]) -> list[tuple[int, int, int]]:
    """(before, after, overhang) of each spatial dimension: NvInfer.h, PaddingMode, convolution and pooling.

    `extent` is DK, what the (dilated) window covers. `overhang` is by how much the last window of EXPLICIT_ROUND_UP
    reaches over the padded input.
    """
    mode, sizes = layer.option("padding_mode"), list(data.shape[2:])
    if mode.startswith("SAME"):
        return [(*_same(layer, mode, *spec), 0) for spec in zip(sizes, extent, stride, strict=True)]
    result = []
    for (before, after), size, cover, step in zip(_explicit(layer, len(sizes)), sizes, extent, stride, strict=True):
        room = size + before + after - cover
        steps = -(-room // step) if mode == "EXPLICIT_ROUND_UP" else room // step
        result.append((before, after, max(steps * step - room, 0)))
    return result


def _same(layer: Layer, mode: str, size: int, cover: int, step: int) -> tuple[int, int]:
    total = (size - 1) // step * step + cover - size
    if total < 0:  # a stride greater than the window: the formula gives a negative padding, of undocumented meaning
        raise layer.unsupported(f"{mode} with a stride ({step}) that steps over input elements")
    small = total // 2
    return (small, total - small) if mode == "SAME_UPPER" else (total - small, small)


def _pad(data: Tensor, padding: Sequence[tuple[int, ...]], value: float = 0.0) -> Tensor:
    """Pad the spatial dimensions by the first and the sum of the other numbers of each tuple."""
    flat = [amount for before, *after in reversed(padding) for amount in (before, sum(after))]
    return F.pad(data, flat, value=value) if any(flat) else data


def _kernel(layer: Layer, inputs: Sequence[Any], shape: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """Kernel and bias, from the optional inputs 1 and 2 or from the layer's weights."""
    kernel = inputs[1] if layer.has_input(1) else layer.weights("kernel")
    bias = inputs[2] if layer.has_input(2) else layer.weights("bias")
    if kernel is None:
        raise layer.wrong("no kernel")
    return kernel.reshape(tuple(shape)), bias


@handles("CONVOLUTION")
def convolution(layer: Layer, inputs: Sequence[Any]) -> Tensor:
    """Correlation with a kernel [K, C / groups, *size] ("GKCRS", NvInfer.h, IConvolutionLayer)."""
    rank, groups = inputs[0].dim() - 2, int(layer.api.num_groups)
    size, stride, dilation = _window(layer, "kernel_size_nd", rank)
    shape = (int(layer.api.num_output_maps), inputs[0].shape[1] // groups, *size)
    kernel, bias = _kernel(layer, inputs, shape)
    data, kernel = common(inputs[0], kernel)
    padding = _padding(layer, data, _extent(size, dilation), stride)
    symmetric = all(before == after + overhang for before, after, overhang in padding)
    data = data if symmetric else _pad(data, padding)
    edge = [before for before, _, _ in padding] if symmetric else 0
    return CONVOLVE[rank](data, kernel, None if bias is None else bias.to(data.dtype), stride, edge, dilation, groups)


def _extent(size: list[int], dilation: list[int]) -> list[int]:
    return [1 + step * (length - 1) for length, step in zip(size, dilation, strict=True)]


@handles("DECONVOLUTION")
def deconvolution(layer: Layer, inputs: Sequence[Any]) -> Tensor:
    """The inverse of a convolution, kernel [C, K / groups, *size] ("CKRS", NvInfer.h, IDeconvolutionLayer).

    The full result has (I - 1) * S + DK elements; padding trims it at both ends (setPaddingNd, PaddingMode).
    """
    rank, groups = inputs[0].dim() - 2, int(layer.api.num_groups)
    size, stride, dilation = _window(layer, "kernel_size_nd", rank)
    shape = (inputs[0].shape[1], int(layer.api.num_output_maps) // groups, *size)
    kernel, bias = _kernel(layer, inputs, shape)
    data, kernel = common(inputs[0], kernel)
    full = DECONVOLVE[rank](data, kernel, None, stride, 0, 0, groups, dilation)
    mode, trim = layer.option("padding_mode"), _explicit(layer, rank)
    if mode.startswith("SAME"):
        trim = [_same_trim(mode, *pair) for pair in zip(_extent(size, dilation), stride, strict=True)]
    if any(min(pair) < 0 for pair in trim):
        raise layer.wrong(f"negative padding {trim} is not supported")
    result = _pad(full, [(-before, -after) for before, after in trim])
    return result if bias is None else result + bias.to(result.dtype).reshape(-1, *[1] * rank)


def _same_trim(mode: str, cover: int, step: int) -> tuple[int, int]:
    total = max(cover - step, 0)
    return (total // 2, total - total // 2) if mode == "SAME_UPPER" else (total - total // 2, total // 2)


@handles("POOLING")
def pooling(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """MAX (padded with -inf), AVERAGE, or (1 - f) * MAX + f * AVERAGE (NvInfer.h, PoolingType, IPoolingLayer)."""
    data, kind = wide(inputs[0]), layer.option("type")
    size, stride, _ = _window(layer, "window_size_nd", data.dim() - 2)
    padding = _padding(layer, data, size, stride)
    if kind == "MAX":
        return _maximum(data, size, stride, padding)
    average = _average(layer, data, size, stride, padding)
    if kind == "AVERAGE":
        return average
    blend = float(layer.api.blend_factor)
    return (1 - blend) * _maximum(data, size, stride, padding) + blend * average


def _maximum(data: Tensor, size: list[int], stride: list[int], padding: list[tuple[int, int, int]]) -> Tensor:
    lowest = -math.inf if data.is_floating_point() else torch.iinfo(data.dtype).min
    return MAX_POOL[len(size)](_pad(data, padding, lowest), size, stride)


def _average(layer: Layer, data: Tensor, size: list[int], stride: list[int], padding: list[tuple[int, int, int]]) -> Tensor:
    """The sum over the window by the number of its elements that lie in the input, padded or not.

    `average_count_excludes_padding` counts the overlap with the input alone, otherwise that with the padded input
    (setAverageCountExcludesPadding); what lies beyond the padded edge counts in neither case.
    """
    inside = data.new_ones((1, 1, *data.shape[2:]))
    if not layer.api.average_count_excludes_padding:
        inside = _pad(inside, [(before, after) for before, after, _ in padding], 1.0)
        inside = _pad(inside, [(0, overhang) for _, _, overhang in padding])
    else:
        inside = _pad(inside, padding)
    return _window_sum(_pad(data, padding), size, stride) / _window_sum(inside, size, stride)


def _window_sum(data: Tensor, size: list[int], stride: list[int]) -> Tensor:
    channels = data.shape[1]
    ones = data.new_ones((channels, 1, *size))
    return CONVOLVE[len(size)](data, ones, None, stride, 0, 1, channels)


@handles("PADDING")
def padding_layer(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Zeros around the last two dimensions; a negative number crops (NvInfer.h, IPaddingLayer)."""
    before, after = layer.dims("pre_padding_nd") or (), layer.dims("post_padding_nd") or ()
    return _pad(inputs[0], list(zip(before, after, strict=True)))
