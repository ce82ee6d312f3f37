"""Activations: PyTorch's torch.nn, "Non-linear Activations"."""

from __future__ import annotations

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten


@converter(aten.relu.default)
def relu(net: Network, self: Tensor) -> Tensor:
    """relu(Tensor self) -> Tensor"""
    return net.activation(self, "RELU")


@converter(aten.sigmoid.default)
def sigmoid(net: Network, self: Tensor) -> Tensor:
    """sigmoid(Tensor self) -> Tensor"""
    return net.activation(net.cast(self, net.out.dtype), "SIGMOID")
