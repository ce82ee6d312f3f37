"""Ops that add no layer at inference."""

from __future__ import annotations

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten


@converter(aten.alias.default)
def alias(net: Network, self: Tensor | torch.Tensor) -> Tensor:
    """alias(Tensor(a) self) -> Tensor(a)

    Tracing records it where a constant takes the place of a traced tensor.
    """
    return net.tensor(self)
