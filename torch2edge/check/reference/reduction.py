"""Sums over axes: reduce, softmax, matrix products, normalization, cumulative sums, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch2edge.check.reference.layer import Layer, common, handles, ints, wide


@handles("REDUCE")
def reduce(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """One value for all elements of `axes` (NvInfer.h, ReduceOperation, which also gives the empty reductions).

    How the average of integers rounds is documented nowhere: it is an error unless the division has no remainder.
    """
    data, op = wide(inputs[0]), layer.option("op")
    axes, keep = layer.axes(data.dim()), bool(layer.api.keep_dims)
    if data.dtype == torch.bool or not axes:
        raise layer.wrong("reduces a BOOL tensor" if axes else "reduces no axis")
    count = math.prod(data.shape[axis] for axis in axes)
    if op in ("SUM", "PROD", "AVG"):
        return _fold(layer, op, data, axes, count, keep)
    if op not in ("MAX", "MIN"):
        raise layer.unsupported(f"the operation {op}")
    if count == 0:
        shape = [1 if a in axes else size for a, size in enumerate(data.shape) if keep or a not in axes]
        return torch.full(shape, _extreme(data.dtype, op), dtype=data.dtype)
    return (data.amax if op == "MAX" else data.amin)(dim=axes, keepdim=keep)


def _extreme(dtype: torch.dtype, op: str) -> float | int:
    if dtype.is_floating_point:
        return -math.inf if op == "MAX" else math.inf
    limits = torch.iinfo(dtype)
    return limits.min if op == "MAX" else limits.max


def _fold(layer: Layer, op: str, data: Tensor, axes: list[int], count: int, keep: bool) -> Tensor:
    if op == "PROD":
        for axis in sorted(axes, reverse=True):
            data = data.prod(dim=axis, keepdim=keep)
        return data
    total = data.sum(dim=axes, keepdim=keep)
    if op == "SUM":
        return total
    if data.is_floating_point():
        return total / count
    if count and bool((total % count).any()):
        raise layer.wrong("the average of integers has a remainder; how it rounds is not documented")
    return torch.div(total, max(count, 1), rounding_mode="trunc")


@handles("SOFTMAX")
def softmax(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Over the one axis of the bit mask (NvInfer.h, ISoftMaxLayer)."""
    axes = layer.axes(inputs[0].dim())
    if len(axes) != 1:
        raise layer.wrong(f"softmax over the axes {axes}; it must be one")
    return wide(inputs[0]).softmax(axes[0])


@handles("RAGGED_SOFTMAX")
def ragged_softmax(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Softmax over the first `bounds[z]` elements of row z (IRaggedSoftMaxLayer); what follows them is 0.

    That 0 is the value of a masked softmax; the documentation is silent on those elements.
    """
    data, bounds = wide(inputs[0]), inputs[1]
    inside = torch.arange(data.shape[-1]) < bounds
    return data.masked_fill(~inside, -math.inf).softmax(-1).masked_fill(~inside, 0.0)


@handles("MATRIX_MULTIPLY")
def matrix_multiply(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Products over the last dimensions, the others broadcast (NvInfer.h, MatrixOperation, IMatrixMultiplyLayer)."""
    a, b = common(*inputs)
    ops = (layer.option("op0"), layer.option("op1"))
    extra = [tensor.dim() - (1 if op == "VECTOR" else 2) for tensor, op in zip((a, b), ops, strict=True)]
    if extra[0] != extra[1] or extra[0] < 0:
        raise layer.wrong(f"ranks {a.dim()} ({ops[0]}) and {b.dim()} ({ops[1]}) leave {extra} extra dimensions")
    a = _operand(a, ops[0], -2)
    b = _operand(b, ops[1], -1)
    result = torch.matmul(a, b)
    result = result.squeeze(-1) if ops[1] == "VECTOR" else result
    return result.squeeze(-1 if ops[1] == "VECTOR" else -2) if ops[0] == "VECTOR" else result


def _operand(data: Tensor, op: str, missing: int) -> Tensor:
    if op == "VECTOR":
        return data.unsqueeze(missing)
    return data.transpose(-1, -2) if op == "TRANSPOSE" else data


@handles("EINSUM")
def einsum(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """The Einstein summation of the equation (NvInfer.h, IEinsumLayer)."""
    return torch.einsum(str(layer.api.equation), *common(*inputs))


@handles("CUMULATIVE")
def cumulative(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Running sums over 0..j, 0..j-1 (exclusive), j..n-1 (reverse) or j+1..n-1 (both): NvInfer.h, ICumulativeLayer."""
    if layer.option("op") != "SUM":
        raise layer.unsupported(f"the operation {layer.option('op')}")
    data, axis = wide(inputs[0]), ints(inputs[1])[0]
    data = data.flip(axis) if layer.api.reverse else data
    result = data.cumsum(axis)
    if layer.api.exclusive:  # shifted by one, not the sum less the element: that would round and turn inf into NaN
        zero = torch.zeros_like(result.narrow(axis, 0, min(1, result.shape[axis])))
        result = torch.cat((zero, result.narrow(axis, 0, max(result.shape[axis] - 1, 0))), dim=axis)
    return result.flip(axis) if layer.api.reverse else result


@handles("LRN")
def lrn(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """x / (k + alpha / w * sum of x^2 over the w channels around)^beta, channels third from last.

    NVIDIA's operator page (LRN) writes the sum over w channels to both sides, and alpha undivided. That cannot be: its
    w is the window's whole size and odd, and NVIDIA's ONNX parser hands ONNX's size, alpha, beta and bias on unchanged,
    whose formula this is.
    """
    data, size = wide(inputs[0]), int(layer.api.window_size)
    squares = data.square().movedim(-3, -1)
    padded = torch.nn.functional.pad(squares, (size // 2, size // 2))
    around = padded.unfold(-1, size, 1).sum(-1).movedim(-1, -3)
    alpha, beta, k = float(layer.api.alpha), float(layer.api.beta), float(layer.api.k)
    return data / (k + alpha / size * around).pow(beta)


@handles("NORMALIZATION")
def normalization(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias (NvInfer.h, INormalizationLayer).

    Mean and (biased) variance are over `axes`; with groups over one group's channels, dimension 1, and all after it.
    scale and bias broadcast to the input; for groups they are [1, C, 1, ...] in addNormalizationV2 and [1, groups,
    1, ...] in addNormalization.
    """
    data, scale, bias = common(*inputs)
    axes, groups = layer.axes(data.dim()), int(layer.api.num_groups)
    if groups == 1:
        return _normalize(data, axes, float(layer.api.epsilon)) * scale + bias
    if axes != list(range(2, data.dim())) or data.shape[1] % groups:
        raise layer.wrong(f"{groups} groups of {data.shape[1]} channels over the axes {axes}")
    expected = data.shape[1] if getattr(layer.api, "is_v2", False) else groups
    if scale.shape[1] != expected:
        raise layer.wrong(f"the scale has {scale.shape[1]} channels, not {expected}")
    split = data.reshape(len(data), groups, -1)
    result = _normalize(split, [2], float(layer.api.epsilon)).reshape(data.shape)
    scale, bias = (t.repeat_interleave(data.shape[1] // expected, dim=1) for t in (scale, bias))
    return result * scale + bias


def _normalize(data: Tensor, axes: list[int], epsilon: float) -> Tensor:
    centered = data - data.mean(dim=axes, keepdim=True)
    return centered / torch.sqrt(centered.square().mean(dim=axes, keepdim=True) + epsilon)


@handles("ATTENTION_INPUT")
def attention(layer: Layer, inputs: Sequence[Any]) -> Tensor:
    """norm(Q K^T + mask) V, no scaling (NvInfer.h, IAttention). [batch, heads, tokens, width], heads of K and V shared.

    True in a BOOL mask lets a position attend, another mask is added. The output layer that follows is an identity.
    """
    spec = layer.api.attention
    _check_attention(layer, spec)
    query, key, value = common(*inputs[:3])
    shared = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(shared, dim=1) for tensor in (key, value))
    scores = query @ key.transpose(-1, -2)
    mask = inputs[3] if layer.has_input(3) else _causal(spec, query.shape[2], key.shape[2])
    if mask is not None:
        masked = mask.dtype == torch.bool
        scores = scores.masked_fill(~mask, -math.inf) if masked else scores + wide(mask)
    if str(spec.norm_op.name) == "SOFTMAX":
        scores = scores.softmax(-1)
    return scores @ value


def _check_attention(layer: Layer, spec: Any) -> None:
    for form in ("query_form", "key_value_form"):
        if str(getattr(getattr(spec, form, None), "name", "PADDED_BHND")) != "PADDED_BHND":
            raise layer.unsupported("packed attention")
    if any(layer.has_input(index) for index in (4, 5, 6)):
        raise layer.unsupported("attention with a quantized normalization or with sequence lengths")


def _causal(spec: Any, queries: int, keys: int) -> Tensor | None:
    """The mask j <= i, or j <= i + (keys - queries) from the lower right corner (NvInfer.h, CausalMaskKind)."""
    kind = getattr(spec, "causal_kind", None)
    name = str(kind.name) if kind is not None else "UPPER_LEFT" if spec.causal else "NONE"
    if name == "NONE":
        return None
    shift = keys - queries if name == "LOWER_RIGHT" else 0
    return torch.arange(keys) <= torch.arange(queries).reshape(-1, 1) + shift


@handles("ROTARY_EMBEDDING")
def rotary_embedding(layer: Layer, inputs: Sequence[Any]) -> Tensor:
    """Rotate pairs of the first `rotary_embedding_dim` (0: all) of the last dimension (NvInfer.h, addRotaryEmbedding).

    Input [batch, heads, tokens, width]; caches [batch, tokens, half], or with position ids (input 3, [batch, tokens])
    [positions, half]. Pairs are neighbours when interleaved, else the two halves; (a, b) becomes
    (a cos - b sin, a sin + b cos), the paper's rotation.
    """
    data, cos, sin = common(*inputs[:3])
    if layer.has_input(3):
        cos, sin = cos[inputs[3].long()], sin[inputs[3].long()]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    width = int(layer.api.rotary_embedding_dim) or data.shape[-1]
    turned, rest = data[..., :width], data[..., width:]
    if layer.api.interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        result = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    else:
        a, b = turned.chunk(2, dim=-1)
        result = torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
    return torch.cat((result, rest), dim=-1)
