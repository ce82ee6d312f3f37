"""Linear algebra: PyTorch's torch.nn, "Linear Layers", and torch, "BLAS and LAPACK Operations"."""

from __future__ import annotations

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten


@converter(aten.linear.default)
def linear(net: Network, input: Tensor, weight: Tensor | torch.Tensor, bias: Tensor | torch.Tensor | None) -> Tensor:
    """linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor"""
    product = net.matmul(input, weight, transpose_b=True)
    return product if bias is None else net.add(product, bias)
