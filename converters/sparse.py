"""Embeddings: PyTorch's torch.nn, "Sparse Layers"."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

from .indexing import too_large

aten = torch.ops.aten
Value = Tensor | torch.Tensor


@converter(aten.embedding.default)
def embedding(
    net: Network, weight: Tensor | torch.Tensor, indices: Tensor, padding_idx: int, scale_grad_by_freq: bool, sparse: bool
) -> Tensor:
    """embedding(Tensor weight, Tensor indices, SymInt padding_idx=-1, bool scale_grad_by_freq=False, bool sparse=False)
    -> Tensor

    The padding index matters to gradients only. An index out of range is an error in PyTorch and undefined in TensorRT.
    """
    return net.gather(weight, indices, 0)


def _bag_supports(weight: Any, indices: Any, offsets: Any, include_last_offset: bool, **_: Any) -> str:
    """Bags of unequal sizes: every index is held against every bag."""
    if _bag_size(getattr(offsets, "tensor", None), indices.shape[0], include_last_offset):
        return ""
    return too_large(indices.shape[0] * offsets.shape[0] * weight.shape[1])


def _bag_size(offsets: Any, count: int, last_given: bool) -> int:
    """The size of all bags where it is known and one, else 0."""
    if not isinstance(offsets, torch.Tensor) or not offsets.numel():
        return 0
    borders = offsets.tolist() + ([] if last_given else [count])
    sizes = {b - a for a, b in itertools.pairwise(borders)}
    return sizes.pop() if len(sizes) == 1 and borders[0] == 0 else 0


@converter(aten._embedding_bag.default, aten._embedding_bag_forward_only.default, supports=_bag_supports)
def embedding_bag(
    net: Network, weight: Value, indices: Value, offsets: Value, scale_grad_by_freq: bool, mode: int, sparse: bool,
    per_sample_weights: Value | None, include_last_offset: bool, padding_idx: int,
) -> tuple[Tensor, None, None, None]:  # fmt: skip
    """_embedding_bag(Tensor weight, Tensor indices, Tensor offsets, bool scale_grad_by_freq=False, int mode=0,
    bool sparse=False, Tensor? per_sample_weights=None, bool include_last_offset=False, int padding_idx=-1)
    -> (Tensor, Tensor, Tensor, Tensor)

    Mode 0 sums, 1 averages, 2 takes the maximum; a bag with nothing in it gives zeros.
    """
    bags, dim = net.outputs[0].shape
    rows = net.gather(weight, indices, 0)
    if per_sample_weights is not None:
        rows = net.mul(rows, net.unsqueeze(per_sample_weights, 1))
    size = _bag_size(offsets, indices.shape[0], include_last_offset)
    if size and size * bags == indices.shape[0]:
        rows, held = net.reshape(rows, (bags, size, dim)), None
    else:
        rows, held = net.unsqueeze(rows, 0), _held(net, offsets, indices.shape[0], include_last_offset)
    if padding_idx >= 0:
        counts = net.compare("NOT_EQUAL", net.reshape(indices, (-1, rows.shape[1])), padding_idx)
        held = counts if held is None else net.elementwise("AND", held, counts)
    return _reduce_bags(net, rows, held, mode), None, None, None


def _held(net: Network, offsets: Value, count: int, last_given: bool) -> Value:
    """(bags, indices): whether a bag holds an index."""
    places = torch.arange(count)
    given = net.tensor(offsets, torch.int64)
    bags = given.shape[0] - last_given
    starts = net.reshape(net.slice(given, 0, 0, bags), (bags, 1))
    later = [net.slice(given, 0, 1, given.shape[0] - 1)] if given.shape[0] > 1 else []
    ends = net.concat([*later, *([] if last_given else [torch.tensor([count])])], 0)
    return net.elementwise("AND", net.compare("LESS_EQUAL", starts, places),
                           net.elementwise("LESS", places, net.reshape(ends, (bags, 1))))  # fmt: skip


def _reduce_bags(net: Network, rows: Tensor, held: Value | None, mode: int) -> Tensor:
    """Axis 1 of ``rows`` (1 or bags, indices, dim) where ``held``, put together."""
    if held is not None:
        mask = net.unsqueeze(held, -1)
        rows = net.select(mask, rows, torch.tensor(-math.inf if mode == 2 else 0.0, dtype=rows.dtype))
    if mode != 2:
        total = net.reduce(rows, "SUM", [1], keepdim=False)
        if mode == 0:
            return total
        if held is None:
            return net.mul(total, 1 / rows.shape[1])
        count = net.reduce(net.cast(mask, torch.int32), "SUM", [1], keepdim=False)
        return net.div(total, net.cast(net.elementwise("MAX", count, 1), total.dtype))
    best = net.reduce(rows, "MAX", [1], keepdim=False)
    return best if held is None else net.select(net.elementwise("EQUAL", best, -math.inf), 0.0, best, best.dtype)
