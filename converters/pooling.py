"""Poolings: PyTorch's torch.nn, "Pooling Layers"."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor, is_symbolic, same
from torch2edge.lower.registry import converter

aten = torch.ops.aten


def _floats(self: Any, **_: Any) -> str:
    return "" if self.dtype.is_floating_point else f"TensorRT has no pooling of {self.dtype}"


# ---- maximum --------------------------------------------------------------------------------------------------------
# The indices of the maxima are left out: TensorRT's pooling has none, and its TopK does not say which of equals it takes.


@converter(aten.max_pool1d.default, supports=_floats)
def max_pool1d(
    net: Network, self: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int],
    ceil_mode: bool,
) -> Tensor:  # fmt: skip
    """max_pool1d(Tensor self, int[1] kernel_size, int[1] stride=[], int[1] padding=0, int[1] dilation=1,
    bool ceil_mode=False) -> Tensor"""
    return _max_pool(net, self, 1, kernel_size, stride, padding, dilation, ceil_mode)


@converter(aten.max_pool2d.default, supports=_floats)
def max_pool2d(
    net: Network, self: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int],
    ceil_mode: bool,
) -> Tensor:  # fmt: skip
    """max_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, int[2] dilation=1,
    bool ceil_mode=False) -> Tensor"""
    return _max_pool(net, self, 2, kernel_size, stride, padding, dilation, ceil_mode)


@converter(aten.max_pool3d.default, supports=_floats)
def max_pool3d(
    net: Network, self: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int],
    ceil_mode: bool,
) -> Tensor:  # fmt: skip
    """max_pool3d(Tensor self, int[3] kernel_size, int[3] stride=[], int[3] padding=0, int[3] dilation=1,
    bool ceil_mode=False) -> Tensor"""
    return _max_pool(net, self, 3, kernel_size, stride, padding, dilation, ceil_mode)


@converter(aten.max_pool1d_with_indices.default, supports=_floats)
def max_pool1d_with_indices(
    net: Network, self: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int],
    ceil_mode: bool,
) -> tuple[Tensor, None]:  # fmt: skip
    """max_pool1d_with_indices(Tensor self, int[1] kernel_size, int[1] stride=[], int[1] padding=0, int[1] dilation=1,
    bool ceil_mode=False) -> (Tensor, Tensor)"""
    return _max_pool(net, self, 1, kernel_size, stride, padding, dilation, ceil_mode), None


@converter(aten.max_pool2d_with_indices.default, supports=_floats)
def max_pool2d_with_indices(
    net: Network, self: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int],
    ceil_mode: bool,
) -> tuple[Tensor, None]:  # fmt: skip
    """max_pool2d_with_indices(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, int[2] dilation=1,
    bool ceil_mode=False) -> (Tensor, Tensor)"""
    return _max_pool(net, self, 2, kernel_size, stride, padding, dilation, ceil_mode), None


@converter(aten.max_pool3d_with_indices.default, supports=_floats)
def max_pool3d_with_indices(
    net: Network, self: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int],
    ceil_mode: bool,
) -> tuple[Tensor, None]:  # fmt: skip
    """max_pool3d_with_indices(Tensor self, int[3] kernel_size, int[3] stride=[], int[3] padding=0, int[3] dilation=1,
    bool ceil_mode=False) -> (Tensor, Tensor)"""
    return _max_pool(net, self, 3, kernel_size, stride, padding, dilation, ceil_mode), None


def _max_pool(
    net: Network, x: Tensor, axes: int, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int],
    ceil_mode: bool,
) -> Tensor:  # fmt: skip
    """Each axis for itself where the window is dilated, which TensorRT's pooling cannot."""
    window, step, pad, gap = net.per_axis(axes, kernel_size, stride or kernel_size, padding, dilation)
    wanted = net.outputs[0].shape[-axes:]
    if all(d == 1 for d, k in zip(gap, window) if k > 1):
        window = _within(x, window, pad)
        return net.pooling(x, "MAX", window, step, pad, _end_padding(net, x, wanted, window, step, pad, ceil_mode))
    for dim in range(-axes, 0):
        k, s, p, d = window[dim], step[dim], pad[dim], gap[dim]
        n = net.concrete(x.shape[dim], "the size of an axis that is pooled with dilation")
        seen = [[i for i in range(o * s - p, o * s - p + k * d, d) if 0 <= i < n] for o in range(wanted[dim])]
        x = net.maximum_along(x, dim, seen)
    return x


def _within(x: Tensor, window: list[int], padding: list[int]) -> list[int]:
    """Windows no larger than the padded input. With ceil_mode they may be; PyTorch cuts them, and counts what is left."""
    sizes = x.shape[-len(window) :]
    return [k if is_symbolic(n) else min(k, n + 2 * p) for k, n, p in zip(window, sizes, padding)]


def _end_padding(
    net: Network, x: Tensor, wanted: Sequence[int], window: list[int], stride: list[int], padding: list[int], ceil_mode: bool
) -> list[int]:
    """Padding at the end of each axis for the size that PyTorch computed, rounded up or not (ceil_mode)."""
    ends = []
    for n, o, k, s, p in zip(x.shape[-len(window) :], wanted, window, stride, padding):
        if not is_symbolic(n):
            ends.append(max((o - 1) * s + k - n - p, p))
        elif not ceil_mode:
            ends.append(p)
        elif s + p <= k:  # TensorRT rounds down: as much more padding rounds up
            ends.append(p + s - 1)
        else:  # a window may begin in the padding at the end, and PyTorch leaves that one out
            net.concrete(n, "the size of an axis that is pooled with ceil_mode in steps that pass over the padding")
    return ends


# ---- average --------------------------------------------------------------------------------------------------------


@converter(aten.avg_pool1d.default, supports=_floats)
def avg_pool1d(
    net: Network, self: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], ceil_mode: bool,
    count_include_pad: bool,
) -> Tensor:  # fmt: skip
    """avg_pool1d(Tensor self, int[1] kernel_size, int[1] stride=[], int[1] padding=0, bool ceil_mode=False,
    bool count_include_pad=True) -> Tensor"""
    return _avg_pool(net, self, 1, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


@converter(aten.avg_pool2d.default, supports=_floats)
def avg_pool2d(
    net: Network, self: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> Tensor:  # fmt: skip
    """avg_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, bool ceil_mode=False,
    bool count_include_pad=True, int? divisor_override=None) -> Tensor"""
    return _avg_pool(net, self, 2, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@converter(aten.avg_pool3d.default, supports=_floats)
def avg_pool3d(
    net: Network, self: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> Tensor:  # fmt: skip
    """avg_pool3d(Tensor self, int[3] kernel_size, int[3] stride=[], int[3] padding=0, bool ceil_mode=False,
    bool count_include_pad=True, int? divisor_override=None) -> Tensor"""
    return _avg_pool(net, self, 3, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _avg_pool(
    net: Network, x: Tensor, axes: int, kernel_size: list[int], stride: list[int], padding: list[int], ceil_mode: bool,
    count_include_pad: bool, divisor: int | None,
) -> Tensor:  # fmt: skip
    """The padding counts for TensorRT, also what ceil_mode adds to it, so the divisor is the window's size.

    Where PyTorch divides by something else, a constant factor puts it right; but to leave out all padding there is a
    layer's option (not on Xavier's DLA, so only where there is padding).
    """
    window, step, pad = net.per_axis(axes, kernel_size, stride or kernel_size, padding)
    window = _within(x, window, pad)
    wanted = net.outputs[0].shape[-axes:]
    ends = _end_padding(net, x, wanted, window, step, pad, ceil_mode)
    if any(map(is_symbolic, (*x.shape[-axes:], *wanted))):
        return _avg_pool_of_any_size(net, x, window, step, pad, ends, count_include_pad, divisor)
    overhang = [(o - 1) * s + k - n - p for n, o, k, s, p in zip(x.shape[-axes:], wanted, window, step, pad)]
    exclude = divisor is None and not count_include_pad and (any(pad) or any(e > 0 for e in overhang))
    average = net.pooling(x, "AVERAGE", window, step, pad, ends, count_include_pad=not exclude)
    if divisor is not None:
        return net.mul(average, math.prod(window) / divisor)
    if exclude or all(e <= p for e, p in zip(overhang, pad)):
        return average
    factor = torch.ones(())
    for n, o, k, s, p in zip(x.shape[-axes:], wanted, window, step, pad):
        count = [min(i * s + k, n + 2 * p) - i * s for i in range(o)]  # windows end at the padded edge
        factor = factor.unsqueeze(-1) * (k / torch.tensor(count))
    return net.elementwise("PROD", average, factor, average.dtype)


def _avg_pool_of_any_size(
    net: Network, x: Tensor, window: list[int], stride: list[int], padding: list[int], ends: list[int],
    count_include_pad: bool, divisor: int | None,
) -> Tensor:  # fmt: skip
    """An average whose sizes are not known: windows over the end are right where all padding counts, or none does."""
    longer = any(e > p for e, p in zip(ends, padding))
    exclude = divisor is None and (not count_include_pad or (longer and not any(padding)))
    if longer and divisor is None and not exclude:
        open_size = next(n for n in x.shape[-len(window) :] if is_symbolic(n))
        net.concrete(open_size, "the size of an image whose average pooling counts padding with ceil_mode")
    average = net.pooling(x, "AVERAGE", window, stride, padding, ends, count_include_pad=not exclude)
    return average if divisor is None else net.mul(average, math.prod(window) / divisor)


# ---- adaptive -------------------------------------------------------------------------------------------------------


@converter(aten.adaptive_avg_pool1d.default, supports=_floats)
def adaptive_avg_pool1d(net: Network, self: Tensor, output_size: list[int]) -> Tensor:
    """adaptive_avg_pool1d(Tensor self, int[1] output_size) -> Tensor"""
    return _adaptive_avg_pool(net, self, 1)


@converter(aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default, supports=_floats)
def adaptive_avg_pool2d(net: Network, self: Tensor, output_size: list[int]) -> Tensor:
    """adaptive_avg_pool2d(Tensor self, SymInt[2] output_size) -> Tensor"""
    return _adaptive_avg_pool(net, self, 2)


@converter(aten.adaptive_avg_pool3d.default, aten._adaptive_avg_pool3d.default, supports=_floats)
def adaptive_avg_pool3d(net: Network, self: Tensor, output_size: list[int]) -> Tensor:
    """adaptive_avg_pool3d(Tensor self, SymInt[3] output_size) -> Tensor"""
    return _adaptive_avg_pool(net, self, 3)


@converter(aten.adaptive_max_pool1d.default, supports=_floats)
def adaptive_max_pool1d(net: Network, self: Tensor, output_size: list[int]) -> tuple[Tensor, None]:
    """adaptive_max_pool1d(Tensor self, int[1] output_size) -> (Tensor, Tensor)"""
    return _adaptive_max_pool(net, self, 1), None


@converter(aten.adaptive_max_pool2d.default, supports=_floats)
def adaptive_max_pool2d(net: Network, self: Tensor, output_size: list[int]) -> tuple[Tensor, None]:
    """adaptive_max_pool2d(Tensor self, int[2] output_size) -> (Tensor, Tensor)"""
    return _adaptive_max_pool(net, self, 2), None


@converter(aten.adaptive_max_pool3d.default, supports=_floats)
def adaptive_max_pool3d(net: Network, self: Tensor, output_size: list[int]) -> tuple[Tensor, None]:
    """adaptive_max_pool3d(Tensor self, int[3] output_size) -> (Tensor, Tensor)"""
    return _adaptive_max_pool(net, self, 3), None


def _adaptive_avg_pool(net: Network, x: Tensor, axes: int) -> Tensor:
    """A pooling over a whole image is a reduction, unless the DLA can pool it (windows up to 8)."""
    if all(same(o, 1) for o in net.out.shape[-axes:]) and _beyond_dla(x.shape[-axes:]):
        return net.reduce(x, "AVG", range(-axes, 0), keepdim=True)
    x, uneven = _pool_even_axes(net, x, "AVERAGE", axes)
    for dim, windows in uneven.items():
        x = net.average_along(x, dim, windows)
    return x


def _beyond_dla(window: Sequence[int]) -> bool:
    return any(map(is_symbolic, window)) or max(window) > 8


def _adaptive_max_pool(net: Network, x: Tensor, axes: int) -> Tensor:
    if all(same(o, 1) for o in net.outputs[0].shape[-axes:]) and _beyond_dla(x.shape[-axes:]):
        return net.reduce(x, "MAX", range(-axes, 0), keepdim=True)
    x, uneven = _pool_even_axes(net, x, "MAX", axes)
    for dim, windows in uneven.items():
        x = net.maximum_along(x, dim, windows)
    return x


def _pool_even_axes(net: Network, x: Tensor, kind: str, axes: int) -> tuple[Tensor, dict[int, list[range]]]:
    """Pool along the axes whose windows have one size and one step, in one layer; and the windows of the others."""
    window, step, uneven = [1] * axes, [1] * axes, {}
    for dim in range(-axes, 0):
        n, o = x.shape[dim], net.outputs[0].shape[dim]
        if same(n, o):
            continue
        if is_symbolic(n) or is_symbolic(o):
            x = net.pooled_to(x, kind, dim, o)
            continue
        windows = [range(i * n // o, -(-(i + 1) * n // o)) for i in range(o)]
        steps = {b.start - a.start for a, b in itertools.pairwise(windows)}
        if len({len(w) for w in windows}) == 1 and len(steps) <= 1 and 0 not in steps:
            window[dim], step[dim] = len(windows[0]), steps.pop() if steps else 1
        else:
            uneven[dim] = windows
    if any(k > 1 for k in window):
        x = net.pooling(x, kind, window, step, [0] * axes)
    return x, uneven
