"""Attention: PyTorch's torch.nn, "Transformer Layers" and nn.MultiheadAttention."""

from __future__ import annotations

import math

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten


@converter(aten.scaled_dot_product_attention.default)
def scaled_dot_product_attention(
    net: Network, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | torch.Tensor | None, dropout_p: float,
    is_causal: bool, scale: float | None, enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float dropout_p=0.0,
    bool is_causal=False, *, float? scale=None, bool enable_gqa=False) -> Tensor

    Tracing refuses a dropout_p above 0: it draws.
    """
    factor = 1 / math.sqrt(net.concrete(query.shape[-1], "the size of a head")) if scale is None else scale
    return net.attention(net.mul(query, factor), key, value, attn_mask, is_causal)


@converter(aten._safe_softmax.default)
def safe_softmax(net: Network, self: Tensor, dim: int, dtype: torch.dtype | None) -> Tensor:
    """_safe_softmax(Tensor self, int dim, ScalarType? dtype=None) -> Tensor

    A softmax that gives zeros where all elements are minus infinity.
    """
    x = net.cast(self, net.out.dtype)
    blind = net.elementwise("EQUAL", net.reduce(x, "MAX", [dim], keepdim=True), -math.inf)
    return net.select(blind, net.tensor(0.0, x.dtype), net.softmax(x, dim))
