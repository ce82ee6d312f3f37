"""Torchvision's ops for detection: roi_align, deform_conv2d. nms is refused while tracing: its size depends on the data."""

from __future__ import annotations

from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

Value = Tensor | torch.Tensor


def _roi_supports(sampling_ratio: int, **_: Any) -> str:
    if sampling_ratio > 0:
        return ""
    return "sampling_ratio <= 0 takes as many samples as a box is large, and an engine's sizes are fixed; give a ratio, e.g. 2"


@converter("torchvision.roi_align.default", supports=_roi_supports)
def roi_align(
    net: Network, input: Value, rois: Value, spatial_scale: float, pooled_height: int, pooled_width: int,
    sampling_ratio: int, aligned: bool,
) -> Tensor:  # fmt: skip
    """roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width,
    int sampling_ratio, bool aligned) -> Tensor

    The average of samples between the elements, each read by gathers. Places are computed in float32.
    """
    x, boxes = net.tensor(input), net.tensor(rois, torch.float32)
    channels, height, width = x.shape[1:]
    count = boxes.shape[0]
    inside, places = [], []
    for axis, (size, bins) in enumerate(((width, pooled_width), (height, pooled_height))):
        along = _samples(net, boxes, axis, spatial_scale, bins, sampling_ratio, aligned)  # (boxes, bins * ratio)
        inside.append(
            net.elementwise("AND", net.compare("GREATER_EQUAL", along, -1.0), net.compare("LESS_EQUAL", along, float(size)))
        )
        places.append(net.elementwise("MIN", net.elementwise("MAX", along, 0.0), float(size - 1)))
    grid = (count, places[1].shape[1], places[0].shape[1])
    columns, rows = net.expand(net.unsqueeze(places[0], 1), grid), net.expand(net.unsqueeze(places[1], 2), grid)
    both = net.concat([net.reshape(t, (1, count, -1, 1)) for t in (columns, rows)], -1)
    image = net.cast(net.slice(boxes, 1, 0, 1), torch.int32)
    read = net.reshape(net.between(x, both, image=image), (count, channels, *grid[1:]))
    seen = net.elementwise("AND", net.unsqueeze(inside[0], 1), net.unsqueeze(inside[1], 2))
    read = net.select(net.unsqueeze(seen, 1), read, torch.zeros((), dtype=x.dtype))
    split = net.reshape(read, (count, channels, pooled_height, sampling_ratio, pooled_width, sampling_ratio))
    return net.reduce(split, "AVG", [3, 5], keepdim=False)


def _samples(net: Network, boxes: Tensor, axis: int, scale: float, bins: int, ratio: int, aligned: bool) -> Tensor:
    """Positions of the samples of every box along an axis (0 is x), in torchvision's order of operations."""
    shift = 0.5 if aligned else 0.0
    start, end = (net.sub(net.mul(net.slice(boxes, 1, i, 1), scale), shift) for i in (1 + axis, 3 + axis))
    length = net.sub(end, start)
    if not aligned:
        length = net.elementwise("MAX", length, 1.0)
    pitch = net.div(length, float(bins))
    whole = torch.arange(bins, dtype=torch.float32).repeat_interleave(ratio)[None]
    part = (torch.arange(ratio) + 0.5).repeat(bins)[None]
    return net.add(net.add(start, net.mul(pitch, whole)), net.div(net.mul(pitch, part), float(ratio)))


@converter("torchvision.deform_conv2d.default")
def deform_conv2d(
    net: Network, input: Value, weight: Value, offset: Value, mask: Value, bias: Value, stride_h: int, stride_w: int,
    pad_h: int, pad_w: int, dilation_h: int, dilation_w: int, groups: int, offset_groups: int, use_mask: bool,
) -> Tensor:  # fmt: skip
    """deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, SymInt stride_w,
    SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask)
    -> Tensor

    The elements under every kernel place are read by gathers; then it is a matrix product.
    """
    x = net.tensor(input)
    batch, channels = x.shape[:2]
    maps, _, *kernel = weight.shape
    out = net.out.shape[2:]
    taps, count = kernel[0] * kernel[1], out[0] * out[1]
    unmoved = _unmoved(out, kernel, (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    moved = net.reshape(net.tensor(offset, torch.float32), (1, batch * offset_groups, taps, 2, count))
    moved = net.permute(net.add(moved, unmoved), (0, 1, 2, 4, 3))  # y, x
    places = net.reshape(net.take(moved, torch.tensor([1, 0]), -1), (1, batch * offset_groups, taps * count, 2))
    parts = net.reshape(x, (batch * offset_groups, channels // offset_groups, *x.shape[2:]))
    read = net.reshape(net.between(parts, places), (batch, offset_groups, channels // offset_groups, taps, count))
    if use_mask:
        read = net.mul(read, net.reshape(mask, (batch, offset_groups, 1, taps, count)))
    rows = net.reshape(read, (batch, groups, channels // groups * taps, count))
    kernels = net.reshape(weight, (1, groups, maps // groups, channels // groups * taps))
    if isinstance(weight, torch.Tensor):
        net.note_weights(weight, net.layers[-1].raw)
    product = net.reshape(net.matmul(kernels, rows), net.out.shape)
    shift = net.reshape(bias, (1, maps, 1, 1))
    if isinstance(bias, torch.Tensor):
        net.note_weights(bias, net.layers[-1].raw)
    return net.add(product, shift)


def _unmoved(
    out: tuple[int, ...], kernel: list[int], stride: tuple[int, int], pad: tuple[int, int], dilation: tuple[int, int]
) -> torch.Tensor:
    """(1, 1, taps, 2, places): where (y, x) an ordinary convolution reads."""
    along = [
        (torch.arange(n) * s - p)[None, :] + (torch.arange(k) * d)[:, None]  # (taps, places)
        for n, k, s, p, d in zip(out, kernel, stride, pad, dilation)
    ]
    shape = (kernel[0], kernel[1], out[0], out[1])
    rows, columns = along[0][:, None, :, None].expand(shape), along[1][None, :, None, :].expand(shape)
    return torch.stack([rows, columns], 2).reshape(1, 1, shape[0] * shape[1], 2, -1).float()
