"""Pixels that become channels, or channels pixels: convolutions with one 1 per kernel."""

from __future__ import annotations

import torch

from ...graph import Constant, Op
from .editor import CHANNELS, Editor, is_image

__all__ = ["shuffle_as_convolution"]

aten = torch.ops.aten
LARGEST_UP = 22  # TensorRT keeps square kernels and strides of 23 to 32 off the DLA (facts.md 3.2, Deconvolution)
LARGEST_DOWN = 8  # stride of a convolution


def shuffle_as_convolution(op: Op, to: Editor) -> bool:
    """Replaces ``pixel_shuffle`` by a transposed convolution, and ``pixel_unshuffle`` by a convolution, with a kernel and a
    stride of the block's size, no padding, one group.

    Exact because each kernel is 0 but for a single 1, at the place in the block that its channel holds: one term of every
    sum is the pixel, the others are zeros.

    Serves facts.md 3.2: "Deconvolution: padding must be 0; groups 1; in/out channels [1,8192]; square kernel + stride in
    [23,32] disabled"; reshapes of six dimensions, which they are else, are none of a DLA's. NVIDIA's own rewrite
    (op_reconstruction) is the same.
    """
    if op.target not in (aten.pixel_shuffle.default, aten.pixel_unshuffle.default) or not is_image(op.args[0]):
        return False
    x, block, result = op.args[0], op.args[1], op.outputs[0]
    assert result is not None
    up = op.target is aten.pixel_shuffle.default
    if block > (LARGEST_UP if up else LARGEST_DOWN) or max(x.shape[1], result.shape[1]) > CHANNELS:
        to.note(op, f"{op.short_name} by {block} of {x.shape[1]} channels stays as it is: no convolution of a DLA is as large")
        return False
    few = min(x.shape[1], result.shape[1])
    weight = Constant(_one_hot(few, block, result.dtype))
    to.add(op, aten.convolution.default, (x, weight, None, [block, block], [0, 0], [1, 1], up, [0, 0], 1), result)
    name = "transposed convolution" if up else "convolution"
    to.note(op, f"{op.short_name} became a {name} of {block}x{block} with a single 1 in each kernel")
    return True


def _one_hot(channels: int, block: int, dtype: torch.dtype) -> torch.Tensor:
    """(channels * block * block, channels, block, block): of a transposed convolution as of the other."""
    places = torch.eye(block * block, dtype=dtype).reshape(block * block, block, block)
    return torch.einsum("ab,pij->apbij", torch.eye(channels, dtype=dtype), places).reshape(-1, channels, block, block)
