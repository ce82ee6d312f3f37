"""Embeddings: PyTorch's torch.nn, "Sparse Layers"."""

from __future__ import annotations

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten


@converter(aten.embedding.default)
def embedding(
    net: Network, weight: Tensor | torch.Tensor, indices: Tensor, padding_idx: int, scale_grad_by_freq: bool, sparse: bool
) -> Tensor:
    """embedding(Tensor weight, Tensor indices, SymInt padding_idx=-1, bool scale_grad_by_freq=False, bool sparse=False)
    -> Tensor

    The padding index matters to gradients only. An index out of range is an error in PyTorch and undefined in TensorRT.
    """
    return net.gather(weight, indices, 0)
