"""Poolings: PyTorch's torch.nn, "Pooling Layers"."""

from __future__ import annotations

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten


@converter(aten.max_pool2d.default)
def max_pool2d(
    net: Network, self: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int],
    ceil_mode: bool,
) -> Tensor:  # fmt: skip
    """max_pool2d(Tensor self, int[2] kernel_size, int[2] stride=[], int[2] padding=0, int[2] dilation=1,
    bool ceil_mode=False) -> Tensor"""
    return net.pooling(self, "MAX", kernel_size, stride or kernel_size, padding, ceil_mode)


@converter(aten.adaptive_avg_pool2d.default)
def adaptive_avg_pool2d(net: Network, self: Tensor, output_size: list[int]) -> Tensor:
    """adaptive_avg_pool2d(Tensor self, SymInt[2] output_size) -> Tensor"""
    return net.reduce(self, "AVG", (-2, -1), keepdim=True)
