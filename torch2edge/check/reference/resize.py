"""Sampling between elements: resize and grid sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from torch2edge.check.reference.layer import Layer, common, handles, ints, wide

#: How many of the innermost dimensions a mode resizes (NvInfer.h, IResizeLayer; Python docs of IResizeLayer for CUBIC).
INNERMOST = {"NEAREST": 8, "LINEAR": 3, "CUBIC": 2}


@handles("RESIZE")
def resize(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Resize the innermost dimensions, one after the other: all three modes are separable.

    A dimension that keeps its length is left alone: every coordinate transformation maps it onto itself.
    """
    data, mode = wide(inputs[0]), layer.option("resize_mode")
    if mode not in INNERMOST:
        raise layer.unsupported(f"the mode {mode}")
    for axis, size in enumerate(_sizes(layer, inputs, data.shape)):
        if size == data.shape[axis]:
            continue
        if axis < data.dim() - INNERMOST[mode]:
            raise layer.wrong(f"{mode} resizes the innermost {INNERMOST[mode]} dimensions, not axis {axis}")
        data = _along(layer, mode, data, axis, size)
    return data


def _sizes(layer: Layer, inputs: Sequence[Tensor], old: Sequence[int]) -> list[int]:
    """The output dimensions: input 1, or `shape`, or floor(input dimension * scale)."""
    if layer.has_input(1):
        return ints(inputs[1])
    fixed = layer.dims("shape")
    if fixed:
        return list(fixed)
    scales = list(layer.api.scales or [])
    if len(scales) != len(old):
        raise layer.wrong(f"{len(scales)} scales for {len(old)} dimensions, and no output dimensions")
    # The scales are float32 in TensorRT, and so is the product: 3 * 1.3333334 is 4, in float64 it would be 4.0000002.
    products = torch.tensor(list(old), dtype=torch.float32) * torch.tensor(scales, dtype=torch.float32)
    return [math.floor(product) for product in products.tolist()]


def _along(layer: Layer, mode: str, data: Tensor, axis: int, size: int) -> Tensor:
    old = data.shape[axis]
    above, below = _coordinates(layer, old, size)
    if mode == "NEAREST":
        return data.index_select(axis, _rounded(layer, above, below).clamp(0, old - 1))
    low = torch.div(above, below, rounding_mode="floor")
    fraction = (above - low * below).double() / below
    taps = range(2) if mode == "LINEAR" else range(-1, 3)
    weights = torch.stack([_weight(layer, mode, (fraction - tap).abs()) for tap in taps])
    places = torch.stack([low + tap for tap in taps])
    if layer.api.exclude_outside:
        weights = torch.where((places >= 0) & (places < old), weights, 0.0)
        weights = weights / weights.sum(0)
    return _blend(data, axis, places.clamp(0, old - 1), weights.float())


def _coordinates(layer: Layer, old: int, new: int) -> tuple[Tensor, int]:
    """x_origin of every output position as an exact fraction (NvInfer.h, ResizeCoordinateTransformation).

    Exact, because rounding to the nearest or the lower element is discontinuous just where coordinates are whole.
    A single output position: ResizeSelector::kUPPER takes element 0; the formula of ALIGN_CORNERS has 0 / 0 there
    and gives 0 too.
    """
    place, kind = torch.arange(new), layer.option("coordinate_transformation")
    if new == 1 and (layer.option("selector_for_single_pixel") == "UPPER" or kind == "ALIGN_CORNERS"):
        return place, 1
    if kind == "ALIGN_CORNERS":
        return place * (old - 1), new - 1
    if kind == "ASYMMETRIC":
        return place * old, new
    if kind != "HALF_PIXEL":
        raise layer.unsupported(f"the coordinate transformation {kind}")
    return (2 * place + 1) * old - new, 2 * new


def _rounded(layer: Layer, above: Tensor, below: int) -> Tensor:
    """above / below as a whole number (NvInfer.h, ResizeRoundMode)."""
    kind = layer.option("nearest_rounding")
    if kind == "FLOOR":
        return torch.div(above, below, rounding_mode="floor")
    if kind == "CEIL":
        return -torch.div(-above, below, rounding_mode="floor")
    if kind == "HALF_UP":
        return torch.div(2 * above + below, 2 * below, rounding_mode="floor")
    if kind == "HALF_DOWN":
        return -torch.div(below - 2 * above, 2 * below, rounding_mode="floor")
    raise layer.unsupported(f"the rounding {kind}")


def _weight(layer: Layer, mode: str, x: Tensor) -> Tensor:
    """The weight of an element at distance x; for CUBIC the formula of IResizeLayer::setCubicCoeff."""
    if mode == "LINEAR":
        return 1 - x
    a = float(layer.api.cubic_coeff)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, 0.0))


def _blend(data: Tensor, axis: int, places: Tensor, weights: Tensor) -> Tensor:
    """Sum over taps: places and weights are [taps, new size]."""
    shape = (-1, *[1] * (data.dim() - axis - 1))
    parts = [data.index_select(axis, p) * w.reshape(shape) for p, w in zip(places, weights, strict=True)]
    return torch.stack(parts).sum(0)


@handles("GRID_SAMPLE")
def grid_sample(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Values of the input at the grid's positions in [-1, 1], the innermost axis first (x, y or x, y, z).

    FILL reads zeros outside, CLAMP the border, REFLECT mirrors (NvInfer.h, IGridSampleLayer). Where -1 and 1 lie
    (`align_corners`), the cubic coefficient (-0.75) and ties of NEAREST (to even) are documented only as ONNX's
    GridSample and PyTorch's, which agree.
    """
    modes = {"NEAREST": "nearest", "LINEAR": "bilinear", "CUBIC": "bicubic"}
    edges = {"FILL": "zeros", "CLAMP": "border", "REFLECT": "reflection"}
    mode, edge = layer.option("interpolation_mode"), layer.option("sample_mode")
    if mode not in modes or edge not in edges or (mode == "CUBIC" and inputs[0].dim() != 4):
        raise layer.unsupported(f"{mode} with {edge} in {inputs[0].dim() - 2} dimensions")
    data, grid = common(*inputs)
    return F.grid_sample(data, grid, modes[mode], edges[edge], bool(layer.api.align_corners))
