"""Rows of converters/attention.py, and the modules that are made of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, check_row, convert_row, rows
from support.torch_features import SAFE_SOFTMAX, where_torch_has
from torch import nn
from torch.nn import functional as F

from torch2edge._trt import capabilities
from torch2edge.attention import plain_attention
from torch2edge.errors import RandomOpError
from torch2edge.lower.registry import newer

aten = torch.ops.aten
BOOL = torch.bool
SDPA = aten.scaled_dot_product_attention.default


def sdpa(**options: Any) -> Any:
    return lambda q, k, v, *mask: F.scaled_dot_product_attention(q, k, v, *mask, **options)


def masked(mask: torch.Tensor) -> Any:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def infinite(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A float mask of an input, with minus infinity in it."""
    return F.scaled_dot_product_attention(q, k, v, torch.zeros(mask.shape).masked_fill(mask, float("-inf")))


Q, K = (2, 3, 5, 8), (2, 3, 7, 8)
SOME_BLIND = torch.tensor([[True] * 7, [False] * 7, [True, False] * 3 + [True], [False] * 6 + [True], [True] * 7])
SOME_FLOAT = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).masked_fill(~SOME_BLIND, float("-inf"))

PRODUCTS = [
    *rows(
        SDPA,
        [
            (sdpa(), Q, K, K),
            (sdpa(), Q, K, (2, 3, 7, 4)),
            (sdpa(), (5, 8), (7, 8), (7, 8)),
            (sdpa(), (2, 5, 8), (2, 7, 8), (2, 7, 8)),
            (sdpa(), (2, 2, 3, 5, 8), (2, 2, 3, 7, 8), (2, 2, 3, 7, 8)),
            (sdpa(), (1, 1, 1, 8), (1, 1, 1, 8), (1, 1, 1, 8)),
            (sdpa(scale=0.3), Q, K, K),
            (sdpa(is_causal=True), Q, Q, Q),
            (sdpa(is_causal=True), Q, K, K),
            (sdpa(is_causal=True), K, Q, Q),
            (sdpa(), Q, K, K, (5, 7)),
            (sdpa(), Q, K, K, (2, 1, 5, 7)),
            (sdpa(), Q, K, K, Spec((5, 7), BOOL)),
            (sdpa(), Q, K, K, Spec((2, 1, 1, 7), BOOL)),
            (infinite, Q, K, K, Spec((2, 1, 5, 7), BOOL)),
            (masked(torch.ones(5, 7, dtype=BOOL).tril()), Q, K, K),
        ],
    ),
    *rows(
        SDPA,
        [
            (sdpa(), Q, K, K),
            (sdpa(is_causal=True), Q, K, K),
            (sdpa(), Q, K, K, (5, 7)),
            (sdpa(), Q, K, K, Spec((2, 1, 1, 7), BOOL)),
            (sdpa(), (2, 5, 8), (2, 7, 8), (2, 7, 8)),
        ],
        (F16, BF16),
    ),
    *rows(
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        [
            (
                lambda q, m: aten._scaled_dot_product_flash_attention_for_cpu(q, q, q, attn_mask=m, scale=0.3)[0],
                (1, 2, 4, 8),
                (1, 1, 4, 4),
            ),
            (lambda q: aten._scaled_dot_product_flash_attention_for_cpu(q, q, q, 0.0, True)[0], (1, 2, 4, 8)),
        ],
    ),
]
GROUPED = [
    *rows(
        SDPA,
        [
            (sdpa(enable_gqa=True), (2, 6, 5, 8), (2, 2, 7, 8), (2, 2, 7, 8)),
            (sdpa(enable_gqa=True), (2, 6, 5, 8), (2, 3, 7, 8), (2, 2, 7, 8)),
        ],
    ),
    *rows(SDPA, [(sdpa(enable_gqa=True), (2, 6, 5, 8), (2, 2, 7, 8), (2, 2, 7, 8))], (F16, BF16)),
]
# What sees nothing is 0 since attention's softmax is _safe_softmax; before, PyTorch gives NaN.
BLIND = [
    *rows(SDPA, [(masked(SOME_BLIND), Q, K, K), (masked(SOME_FLOAT), Q, K, K), (sdpa(), Q, K, K, Spec((2, 3, 5, 1), BOOL))]),
    *rows(SDPA, [(masked(SOME_BLIND), Q, K, K)], (F16, BF16)),
    *rows(
        newer("_safe_softmax.default"),
        [
            (lambda x: aten._safe_softmax(x, -1), (2, 3, 5)),
            (lambda x, m: aten._safe_softmax(torch.where(m, x, float("-inf")), 0), (3, 4), Spec((3, 4), BOOL)),
            (lambda x: aten._safe_softmax(x, 1, F32), (2, 3)),
        ],
        (F32, F16),
    ),
]


class Attend(nn.Module):
    """nn.MultiheadAttention with fixed options."""

    def __init__(self, options: dict[str, Any], fixed: dict[str, Any], own: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention, self.fixed, self.own = nn.MultiheadAttention(8, 2, **options), fixed, own

    def forward(self, query: torch.Tensor, *rest: torch.Tensor) -> Any:
        key, value = (query, query) if self.own else (rest[0], rest[1])
        padding = rest[-1] if rest and rest[-1].dtype == BOOL else None
        return self.attention(query, key, value, key_padding_mask=padding, **self.fixed)


NO_WEIGHTS = {"need_weights": False}
CAUSAL = nn.Transformer.generate_square_subsequent_mask(5)
MULTIHEAD = [
    *rows(
        SDPA,
        [
            (Attend({"batch_first": True}, NO_WEIGHTS, own=True), (2, 5, 8)),
            (Attend({}, NO_WEIGHTS, own=True), (5, 2, 8)),
            (Attend({"bias": False}, NO_WEIGHTS, own=True), (5, 8)),
            (Attend({"batch_first": True}, NO_WEIGHTS), (2, 5, 8), (2, 7, 8), (2, 7, 8)),
            (Attend({"batch_first": True, "kdim": 6, "vdim": 4}, NO_WEIGHTS), (2, 5, 8), (2, 7, 6), (2, 7, 4)),
            (Attend({"batch_first": True}, {**NO_WEIGHTS, "attn_mask": CAUSAL, "is_causal": True}, own=True), (2, 5, 8)),
            (Attend({"add_bias_kv": True, "add_zero_attn": True}, NO_WEIGHTS, own=True), (5, 2, 8)),
        ],
        id="multihead",
    ),
    *rows(
        aten.bmm.default,
        [
            (Attend({"batch_first": True}, {}, own=True), (2, 5, 8)),
            (Attend({}, {"average_attn_weights": False}), (5, 2, 8), (7, 2, 8), (7, 2, 8)),
        ],
        id="multihead",
    ),
    Row(aten.baddbmm.default, Attend({"batch_first": True}, {"attn_mask": CAUSAL}, own=True), ((2, 5, 8),), id="multihead"),
]
PADDED = [
    Row(SDPA, Attend({"batch_first": True}, options, own=True), ((2, 5, 8), Spec((2, 5), BOOL)))
    for options in (NO_WEIGHTS, {**NO_WEIGHTS, "attn_mask": CAUSAL < 0})
]


def layer(kind: type[nn.Module], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return kind(d_model=8, nhead=2, dim_feedforward=16, **options)


TRANSFORMERS = rows(
    SDPA,
    [
        (layer(nn.TransformerEncoderLayer, batch_first=True), (2, 5, 8)),
        (layer(nn.TransformerEncoderLayer, norm_first=True, activation="gelu"), (5, 2, 8)),
        (layer(nn.TransformerDecoderLayer, batch_first=True), (2, 5, 8), (2, 7, 8)),
        (layer(nn.TransformerDecoderLayer, norm_first=True, activation="gelu", batch_first=True), (2, 5, 8), (2, 7, 8)),
        (layer(nn.Transformer, num_encoder_layers=1, num_decoder_layers=1, batch_first=True), (2, 5, 8), (2, 4, 8)),
    ],
    id="transformer",
)
ROWS = [
    *PRODUCTS, *MULTIHEAD, *TRANSFORMERS,
    *where_torch_has("aten.scaled_dot_product_attention.default", "enable_gqa", GROUPED),
    *where_torch_has("aten._safe_softmax.default", "", BLIND),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


@SAFE_SOFTMAX
@pytest.mark.parametrize("row", PADDED, ids=("padding", "padding and causal"))
def test_padded_multihead_attention(row: Row) -> None:
    with plain_attention():  # eager's fused fast path gives NaN for rows that see nothing
        check_row(row)


def test_encoder_stack_in_half_precision() -> None:
    encoder = nn.TransformerEncoder(layer(nn.TransformerEncoderLayer, batch_first=True), 2, enable_nested_tensor=False)
    check_row(Row(SDPA, encoder, ((2, 5, 8),), dtype=F16, rtol=1e-2, why="two layers of half precision"))


@pytest.mark.parametrize(("dtype", "fused"), [(F16, True), (BF16, True), (F32, False)])
def test_the_attention_layer_is_used_where_it_has_kernels(dtype: torch.dtype, fused: bool) -> None:
    _, _, lowered, _ = convert_row(Row(SDPA, sdpa(), (Q, K, K), dtype=dtype))
    kinds = {layer.raw.type.name for layer in lowered.network.layers}
    assert ("ATTENTION_INPUT" in kinds) == (fused and capabilities().attention_v2)
    assert lowered.network.raw.num_layers == len(lowered.network.layers)
    assert all(layer.raw.name.startswith("/scaled_dot_product_attention") for layer in lowered.network.layers)


def test_dropout_is_refused() -> None:
    with pytest.raises(RandomOpError, match="scaled_dot_product_attention"):
        convert_row(Row(SDPA, sdpa(dropout_p=0.1), (Q, K, K)))


def test_a_mask_of_constants_without_blind_rows_costs_nothing() -> None:
    plain = convert_row(Row(SDPA, masked(torch.zeros(5, 7)), (Q, K, K)))[2]
    blind = convert_row(Row(SDPA, masked(copy.copy(SOME_BLIND)), (Q, K, K)))[2]
    kinds = [[layer.raw.type.name for layer in lowered.network.layers] for lowered in (plain, blind)]
    assert "SELECT" not in kinds[0]
    assert "SELECT" in kinds[1]
