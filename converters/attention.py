"""Attention: PyTorch's torch.nn, "Transformer Layers" and nn.MultiheadAttention."""

from __future__ import annotations

import math

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter, newer

aten = torch.ops.aten


@converter(aten.scaled_dot_product_attention.default)
def scaled_dot_product_attention(
    net: Network, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | torch.Tensor | None, dropout_p: float,
    is_causal: bool, scale: float | None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float dropout_p=0.0,
    bool is_causal=False, *, float? scale=None, bool enable_gqa=False) -> Tensor

    Tracing refuses a dropout_p above 0: it draws.
    """
    factor = 1 / math.sqrt(net.concrete(query.shape[-1], "the size of a head")) if scale is None else scale
    return net.attention(net.mul(query, factor), key, value, attn_mask, is_causal)


# ---- what CUDA's kernels are called; F.scaled_dot_product_attention is recorded before PyTorch chooses one ---------------


@converter(aten._scaled_dot_product_flash_attention.default)
def flash_attention(
    net: Network, query: Tensor, key: Tensor, value: Tensor, dropout_p: float, is_causal: bool, return_debug_mask: bool,
    scale: float | None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """_scaled_dot_product_flash_attention(Tensor query, Tensor key, Tensor value, float dropout_p=0.0,
    bool is_causal=False, bool return_debug_mask=False, *, float? scale=None) -> (Tensor output, Tensor logsumexp, ...)"""
    return _with_nothing_else(net, query, key, value, None, is_causal, scale)


@converter(aten._scaled_dot_product_flash_attention_for_cpu.default)
def flash_attention_for_cpu(
    net: Network, query: Tensor, key: Tensor, value: Tensor, dropout_p: float, is_causal: bool,
    attn_mask: Tensor | torch.Tensor | None, scale: float | None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """_scaled_dot_product_flash_attention_for_cpu(Tensor query, Tensor key, Tensor value, float dropout_p=0.0,
    bool is_causal=False, *, Tensor? attn_mask=None, float? scale=None) -> (Tensor output, Tensor logsumexp)"""
    return _with_nothing_else(net, query, key, value, attn_mask, is_causal, scale)


@converter(aten._scaled_dot_product_efficient_attention.default)
def efficient_attention(
    net: Network, query: Tensor, key: Tensor, value: Tensor, attn_bias: Tensor | torch.Tensor | None,
    compute_log_sumexp: bool, dropout_p: float, is_causal: bool, scale: float | None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """_scaled_dot_product_efficient_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_bias,
    bool compute_log_sumexp, float dropout_p=0.0, bool is_causal=False, *, float? scale=None) -> (Tensor output, ...)"""
    return _with_nothing_else(net, query, key, value, attn_bias, is_causal, scale)


@converter(aten._scaled_dot_product_cudnn_attention.default)
def cudnn_attention(
    net: Network, query: Tensor, key: Tensor, value: Tensor, *, attn_bias: Tensor | torch.Tensor | None = None,
    compute_log_sumexp: bool = False, dropout_p: float, is_causal: bool, return_debug_mask: bool, scale: float | None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """_scaled_dot_product_cudnn_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_bias,
    bool compute_log_sumexp, float dropout_p=0.0, bool is_causal=False, bool return_debug_mask=False, *,
    float? scale=None) -> (Tensor output, Tensor logsumexp, ...)"""
    return _with_nothing_else(net, query, key, value, attn_bias, is_causal, scale)


def _with_nothing_else(
    net: Network, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | torch.Tensor | None, causal: bool,
    scale: float | None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The attention without what the kernels keep for their backward."""
    result = scaled_dot_product_attention(net, query, key, value, mask, 0.0, causal, scale, True)
    return result, *[None] * (len(net.outputs) - 1)


@converter(newer("_safe_softmax.default"))
def safe_softmax(net: Network, self: Tensor, dim: int, dtype: torch.dtype | None) -> Tensor:
    """_safe_softmax(Tensor self, int dim, ScalarType? dtype=None) -> Tensor

    A softmax that gives zeros where all elements are minus infinity.
    """
    x = net.cast(self, net.out.dtype)
    blind = net.elementwise("EQUAL", net.reduce(x, "MAX", [dim], keepdim=True), -math.inf)
    return net.select(blind, net.tensor(0.0, x.dtype), net.softmax(x, dim))
