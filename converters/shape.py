"""Shapes: view, permute, squeeze, expand (torch page, "Indexing, Slicing, Joining, Mutating Ops")."""

from __future__ import annotations

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten


@converter(aten.flatten.using_ints)
def flatten(net: Network, self: Tensor, start_dim: int, end_dim: int) -> Tensor:
    """flatten.using_ints(Tensor(a) self, int start_dim=0, int end_dim=-1) -> Tensor(a)"""
    return net.reshape(self, net.out.shape)
