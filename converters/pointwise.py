"""Pointwise arithmetic: PyTorch's torch page, "Pointwise Ops"."""

from __future__ import annotations

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Value = Tensor | torch.Tensor | float | int


@converter(aten.add.Tensor)
def add(net: Network, self: Value, other: Value, alpha: float | int) -> Tensor:
    """add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor"""
    scaled = other if alpha == 1 else net.elementwise("PROD", other, alpha, net.out.dtype)
    return net.elementwise("SUM", self, scaled, net.out.dtype)
