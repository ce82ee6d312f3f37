"""Results without data where all sizes are known: layers repeat, and what PyTorch said of one holds for the next.

Some of PyTorch's shape rules are written in Python and take an op apart; a millisecond each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .functional import schema_of
from .tensor import tensors_in

__all__ = ["QUICK_FORMS", "Layouts"]

aten = torch.ops.aten


class Layouts:
    """Shape, strides and dtype of what ops gave in a trace, by the layout of what they were given."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Any, ...]] = {}

    def call(self, rule: Callable[..., Any], func: Any, args: Any, kwargs: Any) -> Any:
        """``rule(*args, **kwargs)``, the shape rule of ``func`` on tensors of the meta device."""
        if schema_of(func).aliases:
            return rule(*args, **kwargs)
        key = (func, _key((args, kwargs)))
        if key in self._known:
            shape, strides, dtype = self._known[key]
            return torch.empty_strided(shape, strides, dtype=dtype, device="meta")
        result = QUICK_FORMS.get(func, rule)(*args, **kwargs)
        if type(result) is torch.Tensor and not any(result is tensor for tensor in tensors_in((args, kwargs))):
            self._known[key] = (result.shape, result.stride(), result.dtype)
        return result


def _key(tree: Any) -> Any:
    if isinstance(tree, torch.Tensor):
        return (tree.shape, tree.stride(), tree.dtype)
    if isinstance(tree, (tuple, list)):
        return tuple(map(_key, tree))
    if isinstance(tree, dict):
        return tuple((name, _key(item)) for name, item in tree.items())
    return (type(tree), tree)


def _like(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return torch.empty_like(input)


def _layer_norm(input: torch.Tensor, normalized_shape: Sequence[int], *rest: Any, **options: Any) -> torch.Tensor:
    parameters = [p for p in (*rest[:2], options.get("weight"), options.get("bias")) if p is not None]
    shapes = {tuple(p.shape) for p in parameters} | {tuple(input.shape[input.dim() - len(normalized_shape) :])}
    if shapes != {tuple(normalized_shape)} or any(p.dtype != input.dtype for p in parameters):
        return aten.layer_norm.default(input, normalized_shape, *rest, **options)  # type: ignore[no-any-return]
    return torch.empty(input.shape, dtype=input.dtype, device="meta")


def _batch_norm(input: torch.Tensor, *rest: Any) -> torch.Tensor:
    parameters = [p for p in rest[:4] if p is not None]
    fits = input.dim() > 1 and all(p.shape == input.shape[1:2] and p.dtype == input.dtype for p in parameters)
    if len(rest) != 8 or rest[4] or rest[2] is None or rest[3] is None or not fits:
        return aten.batch_norm.default(input, *rest)  # type: ignore[no-any-return]
    return torch.empty_like(input)


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    given = [weight] if bias is None else [weight, bias]
    fits = weight.dim() == 2 and input.dim() > 0 and input.shape[-1] == weight.shape[1]
    if not fits or (bias is not None and bias.shape != weight.shape[:1]) or any(t.dtype != input.dtype for t in given):
        return aten.linear.default(input, weight, bias)  # type: ignore[no-any-return]
    return torch.empty((*input.shape[:-1], weight.shape[0]), dtype=input.dtype, device="meta")


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None, *rest: Any,
    **options: Any,
) -> torch.Tensor:  # fmt: skip
    fits = query.dim() == key.dim() == value.dim() and query.dim() > 2 and query.dtype == key.dtype == value.dtype
    fits = fits and query.shape[:-2] == key.shape[:-2] and key.shape[:-1] == value.shape[:-1]
    if attn_mask is not None or not fits or query.shape[-1] != key.shape[-1]:
        return aten.scaled_dot_product_attention.default(  # type: ignore[no-any-return]
            query, key, value, attn_mask, *rest, **options
        )
    return torch.empty((*query.shape[:-1], value.shape[-1]), dtype=query.dtype, device="meta")


def _bilinear(input: torch.Tensor, output_size: Any, align_corners: bool, scale_factors: Any) -> torch.Tensor:
    last = torch.channels_last
    size = output_size or [int(n * factor) for n, factor in zip(input.shape[2:], scale_factors or [])]
    if input.dim() != 4 or (output_size is None) == (scale_factors is None) or len(size) != 2 or min(size) < 1:
        return aten.upsample_bilinear2d.vec(input, output_size, align_corners, scale_factors)  # type: ignore[no-any-return]
    order = last if not input.is_contiguous() and input.is_contiguous(memory_format=last) else torch.contiguous_format
    return torch.empty((*input.shape[:2], *size), dtype=input.dtype, device="meta", memory_format=order)


#: Forms of an op that tell the same layout sooner.
QUICK_FORMS: dict[Any, Callable[..., Any]] = {
    aten.layer_norm.default: _layer_norm, aten.batch_norm.default: _batch_norm, aten.linear.default: _linear,
    aten.upsample_bilinear2d.vec: _bilinear, aten.scaled_dot_product_attention.default: _attention,
    aten.relu.default: _like, aten.gelu.default: _like,
}  # fmt: skip
