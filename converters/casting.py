"""Casts: Tensor.to and its kin."""

from __future__ import annotations

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten


@converter(aten._to_copy.default)
def to_copy(
    net: Network, self: Tensor, dtype: torch.dtype | None, layout: torch.layout | None, device: torch.device | None,
    pin_memory: bool | None, non_blocking: bool, memory_format: torch.memory_format | None,
) -> Tensor:  # fmt: skip
    """_to_copy(Tensor self, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None,
    bool non_blocking=False, MemoryFormat? memory_format=None) -> Tensor

    ``.to``, ``.float``, ``.type_as`` and the like come down to this one. Devices have no meaning inside an engine.
    """
    return net.cast(self, net.out.dtype)


@converter(aten.copy.default)
def copy(net: Network, self: Tensor | torch.Tensor, src: Tensor | torch.Tensor, non_blocking: bool) -> Tensor:
    """copy(Tensor self, Tensor src, bool non_blocking=False) -> Tensor

    ``src`` in the shape and dtype of ``self``, whose values do not matter.
    """
    return net.expand(net.tensor(src, net.out.dtype), net.out.shape)
