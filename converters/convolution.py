"""Convolutions: PyTorch's torch.nn, "Convolution Layers"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor, is_symbolic
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Parameter = Tensor | torch.Tensor
Bias = Tensor | torch.Tensor | None


def _convolution_supports(
    input: Any, weight: Any, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], transposed: bool,
    output_padding: Sequence[int], **_: Any,
) -> str:  # fmt: skip
    if not input.dtype.is_floating_point:
        return f"TensorRT has no convolution of {input.dtype}"
    constant = isinstance(getattr(weight, "tensor", None), torch.Tensor)
    if transposed and not constant and any(extra > trim for extra, trim in zip(output_padding, padding)):
        return "an output_padding greater than the padding, with weights that depend on an input"
    if transposed and not constant and max(stride) > 1 and max(dilation) > 1:
        return "a transposed convolution with both stride and dilation, with weights that depend on an input"
    return ""


@converter(aten.convolution.default, supports=_convolution_supports)
def convolution(
    net: Network, input: Parameter, weight: Parameter, bias: Bias, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[int], groups: int,
) -> Tensor:  # fmt: skip
    """convolution(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation,
    bool transposed, SymInt[] output_padding, SymInt groups) -> Tensor

    conv1d to conv3d and conv_transpose1d to conv_transpose3d arrive here, with a batch.
    """
    axes = weight.ndim - 2
    steps, pad, gaps, extra = net.per_axis(axes, stride, padding, dilation, output_padding)
    held = None if isinstance(bias, Tensor) else bias
    if transposed:
        weight, gaps = _undilated(weight, steps, gaps)
        weight, ends = _grown(weight, pad, gaps, extra)
        result = net.deconvolution(input, weight, held, steps, pad, gaps, groups, ends)
    else:
        result = net.convolution(input, weight, held, steps, pad, gaps, groups)
    return result if held is bias else net.weighted(result, None, bias, [1, result.shape[1], *[1] * axes])


def _undilated(weight: Parameter, stride: list[int], dilation: list[int]) -> tuple[Parameter, list[int]]:
    """TensorRT has no transposed convolution with both stride and dilation: put the zeros between into the kernel."""
    if max(stride) == 1 or max(dilation) == 1:
        return weight, dilation
    assert isinstance(weight, torch.Tensor)  # _convolution_supports has seen to it
    sizes = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:])]
    kernel = weight.new_zeros(*weight.shape[:2], *sizes)
    spread: tuple[Any, ...] = (..., *(slice(None, None, d) for d in dilation))
    kernel[spread] = weight
    return kernel, [1] * len(dilation)


def _grown(
    weight: Parameter, padding: Sequence[int], dilation: Sequence[int], output_padding: Sequence[int]
) -> tuple[Parameter, list[int]]:
    """The kernel of a transposed convolution, and by how much the result is trimmed at the end.

    output_padding trims that much less. Where nothing is left to trim, zeros at the kernel's end make the result longer.
    """
    steps = [max(0, -(-(extra - trim) // d)) for extra, trim, d in zip(output_padding, padding, dilation)]
    if any(steps):
        assert isinstance(weight, torch.Tensor)  # _convolution_supports has seen to it
        weight = torch.nn.functional.pad(weight, [n for step in reversed(steps) for n in (0, step)])
    return weight, [t - e + n * d for t, e, n, d in zip(padding, output_padding, steps, dilation)]


def _padded_supports(input: Any, **_: Any) -> str:
    return "" if input.dtype.is_floating_point else f"TensorRT has no convolution of {input.dtype}"


@converter(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding, supports=_padded_supports)
def convolution_padding(
    net: Network, input: Parameter, weight: Parameter, bias: Bias, stride: list[int], padding: str, dilation: list[int],
    groups: int,
) -> Tensor:  # fmt: skip
    """conv2d.padding(Tensor input, Tensor weight, Tensor? bias=None, SymInt[2] stride=1, str padding='valid',
    SymInt[2] dilation=1, SymInt groups=1) -> Tensor

    'same' pads one more at the end where the number is odd, and needs no padding layer for it.
    """
    axes = weight.ndim - 2
    steps, gaps = net.per_axis(axes, stride, dilation)
    total = [d * (size - 1) if padding == "same" else 0 for d, size in zip(gaps, weight.shape[2:])]
    ends = [n // 2 for n in total], [n - n // 2 for n in total]
    held = None if isinstance(bias, Tensor) else bias
    result = net.convolution(
        net.image(input, axes) if axes > 1 else input, weight, held, steps, ends[0], gaps, groups, ends[1]
    )
    result = result if held is bias else net.weighted(result, None, bias, [1, result.shape[1], *[1] * axes])
    return net.reshape(result, net.out.shape)


def _fold_supports(self: Any, output_size: Sequence[Any], stride: Sequence[int], **_: Any) -> str:
    if not self.dtype.is_floating_point:
        return f"TensorRT has no transposed convolution of {self.dtype}"
    if any(is_symbolic(size) and step > 1 for size, step in zip(output_size, stride)):
        return "how far the last window is from the end must be known, so a size that varies needs a stride of 1"
    return ""


@converter(aten.col2im.default, supports=_fold_supports)
def col2im(
    net: Network, self: Tensor, output_size: list[int], kernel_size: list[int], dilation: list[int], padding: list[int],
    stride: list[int],
) -> Tensor:  # fmt: skip
    """col2im(Tensor self, SymInt[2] output_size, int[2] kernel_size, int[2] dilation, int[2] padding,
    int[2] stride) -> Tensor

    A transposed convolution: each element of a window is a channel, whose kernel has its single 1 at the element's place.
    """
    steps, pad, gaps = net.per_axis(2, stride, padding, dilation)
    reach = [d * (k - 1) + 1 for d, k in zip(gaps, kernel_size)]
    counts = [(n + 2 * p - r) // s + 1 for n, p, r, s in zip(output_size, pad, reach, steps)]
    extra = [0 if s == 1 else (n + 2 * p - r) % s for n, p, r, s in zip(output_size, pad, reach, steps)]
    taps = math.prod(kernel_size)
    windows = net.reshape(self, (math.prod(net.out.shape[:-2]), taps, *counts))
    kernel = torch.eye(taps, dtype=net.out.dtype).reshape(taps, 1, *kernel_size)
    weight, gaps = _undilated(kernel, steps, gaps)
    weight, ends = _grown(weight, pad, gaps, extra)
    return net.reshape(net.deconvolution(windows, weight, None, steps, pad, gaps, 1, ends), net.out.shape)


@converter(aten.unfold_backward.default)
def unfold_backward(net: Network, grad_in: Parameter, input_sizes: list[int], dim: int, size: int, step: int) -> Tensor:
    """unfold_backward(Tensor grad_in, SymInt[] input_sizes, int dim, int size, int step) -> Tensor

    The inverse of Tensor.unfold, which torch.istft adds its windows up with. Cut into pieces as long as a step, the pieces
    of one place in their windows lie side by side, and those of the next place one piece further on.
    """
    dim %= len(input_sizes)
    x = net.tensor(grad_in)
    x = net.permute(x, [*(d for d in range(x.ndim - 1) if d != dim), dim, x.ndim - 1])
    rest, count, places = x.shape[:-2], x.shape[-2], -(-size // step)
    x = net.pad(x, [0, places * step - size])
    total: Tensor | None = None
    for place in range(places):
        pieces = net.pad(net.slice(x, x.ndim - 1, place * step, step), [0, 0, place, places - 1 - place])
        total = pieces if total is None else net.add(total, pieces)
    assert total is not None
    line = net.reshape(total, (*rest, (count + places - 1) * step))
    line = net.slice(line, line.ndim - 1, 0, (count - 1) * step + size)
    line = net.pad(line, [0, input_sizes[dim] - line.shape[-1]])
    return net.permute(line, [*range(dim), line.ndim - 1, *range(dim, line.ndim - 1)])
