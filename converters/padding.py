"""Padding: PyTorch's torch.nn, "Padding Layers"."""

from __future__ import annotations

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Value = Tensor | torch.Tensor
_MODES = {"constant": "FILL", "reflect": "REFLECT", "replicate": "CLAMP", "circular": "WRAP"}


@converter(aten.pad.default)
def pad(net: Network, self: Value, pad: list[int], mode: str, value: float | None) -> Tensor:
    """pad(Tensor self, SymInt[] pad, str mode="constant", float? value=None) -> Tensor"""
    return net.pad(self, pad, _MODES[mode], value or 0)


@converter(aten.constant_pad_nd.default)
def constant_pad_nd(net: Network, self: Value, pad: list[int], value: float | int | bool) -> Tensor:
    """constant_pad_nd(Tensor self, SymInt[] pad, Scalar value=0) -> Tensor"""
    return net.pad(self, pad, "FILL", value)


@converter(aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default)
def reflection_pad(net: Network, self: Value, padding: list[int]) -> Tensor:
    """reflection_pad1d(Tensor self, SymInt[2] padding) -> Tensor"""
    return net.pad(self, padding, "REFLECT")


@converter(aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default)
def replication_pad(net: Network, self: Value, padding: list[int]) -> Tensor:
    """replication_pad1d(Tensor self, SymInt[2] padding) -> Tensor"""
    return net.pad(self, padding, "CLAMP")
