"""Elements by index or by rank: gather, scatter, top k, non-zero, non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch2edge.check.reference.layer import Layer, handles, ints, wide


def _index(layer: Layer, indices: Tensor, size: int, axis: int, declared: int) -> tuple[Tensor, Tensor]:
    """Indices made non-negative, and which of them are inside [0, size).

    Negative indices count from the end; on an axis whose length the network does not fix they are undefined
    behaviour (NvInfer.h, IGatherLayer), which is an error here.
    """
    indices = indices.long()
    negative = indices < 0
    if declared == -1 and bool(negative.any()):
        raise layer.wrong(f"a negative index on axis {axis}, which is of dynamic length, is undefined behaviour")
    indices = torch.where(negative, indices + size, indices)
    return indices, (indices >= 0) & (indices < size)


def _declared(layer: Layer, axis: int) -> int:
    """The length of an axis of input 0 as the network states it; 0 where it states none."""
    tensor = layer.inputs[0]
    return tensor.shape[axis] if tensor is not None and tensor.shape is not None else 0


@handles("GATHER")
def gather(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Select elements by index; out of bounds reads give 0 (NvInfer.h, GatherMode, IGatherLayer)."""
    modes = {"DEFAULT": _gather_default, "ELEMENT": _gather_element, "ND": _gather_nd}
    mode = layer.option("mode")
    if mode not in modes:
        raise layer.unsupported(f"the mode {mode}")
    return modes[mode](layer, inputs[0], inputs[1])


def _gather_default(layer: Layer, data: Tensor, indices: Tensor) -> Tensor:
    """Each index selects along `axis`; with one elementwise dimension, batch by batch, the batches broadcast."""
    axis, batch = int(layer.api.axis), int(layer.api.num_elementwise_dims)
    axis = axis % data.dim()
    index, inside = _index(layer, indices, data.shape[axis], axis, _declared(layer, axis))
    if batch == 0:
        return _select(data, axis, index, inside)
    if batch != 1 or axis == 0:
        raise layer.wrong(f"num_elementwise_dims is {batch} and the axis {axis}")
    count = max(len(data), len(index)) if min(len(data), len(index)) else 0
    data, index, inside = (t.expand(count, *t.shape[1:]) for t in (data, index, inside))
    rows = [_select(data[i], axis - 1, index[i], inside[i]) for i in range(count)]
    return torch.stack(rows)


def _select(data: Tensor, axis: int, index: Tensor, inside: Tensor) -> Tensor:
    """The elements of one axis, that axis replaced by the dimensions of the indices; zero where not inside."""
    safe = torch.where(inside, index, 0)
    shape = (*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])
    if data.shape[axis] == 0 and index.numel():
        return data.new_zeros(shape)
    result = data.index_select(axis, safe.reshape(-1)).reshape(shape)
    mask = inside.reshape((*inside.shape, *[1] * (data.dim() - axis - 1)))
    return result if bool(inside.all()) else torch.where(mask, result, torch.zeros_like(result))


def _gather_element(layer: Layer, data: Tensor, indices: Tensor) -> Tensor:
    """output[J] = data[J with J[axis] replaced by indices[J]]."""
    axis = int(layer.api.axis) % data.dim()
    index, inside = _index(layer, indices, data.shape[axis], axis, _declared(layer, axis))
    result = data.gather(axis, torch.where(inside, index, 0))
    return torch.where(inside, result, torch.zeros_like(result))


def _gather_nd(layer: Layer, data: Tensor, indices: Tensor) -> Tensor:
    """The last dimension of the indices is a position in data[b...], after `num_elementwise_dims` equal ones."""
    batch = int(layer.api.num_elementwise_dims)
    if data.shape[:batch] != indices.shape[:batch]:
        raise layer.wrong(f"elementwise dimensions of {list(data.shape)} and {list(indices.shape)} differ")
    places, inside = _positions(layer, indices, data.shape[batch:], batch)
    lead = [
        torch.arange(data.shape[axis]).reshape(-1, *[1] * (indices.dim() - 2 - axis)).expand(indices.shape[:-1])
        for axis in range(batch)
    ]
    result = data[tuple(lead + places)]
    mask = inside.reshape((*inside.shape, *[1] * (result.dim() - inside.dim())))
    return torch.where(mask, result, torch.zeros_like(result))


def _positions(layer: Layer, indices: Tensor, sizes: Sequence[int], offset: int) -> tuple[list[Tensor], Tensor]:
    """The index of each axis from the last dimension of `indices` (0 where outside), and which tuples are inside."""
    places: list[Tensor] = []
    inside = torch.ones(indices.shape[:-1], dtype=torch.bool)
    for axis in range(indices.shape[-1]):
        index, valid = _index(layer, indices[..., axis], sizes[axis], offset + axis, _declared(layer, offset + axis))
        places.append(index)
        inside &= valid
    return [torch.where(inside, index, 0) for index in places], inside


@handles("SCATTER")
def scatter(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """A copy of data with the updates written into it (NvInfer.h, ScatterMode, IScatterLayer).

    Different values for the same element are undefined behaviour, and an index outside is not documented: errors.
    """
    data, indices, updates = inputs
    if layer.option("mode") == "ND":
        places, inside = _positions(layer, indices, data.shape, 0)
        target = _flat(places, data.shape[: len(places)])
        rows, values = data.clone().reshape(-1, *data.shape[len(places) :]), updates.flatten(0, indices.dim() - 2)
        values = values if indices.dim() > 1 else updates.unsqueeze(0)
    else:
        axis = int(layer.api.axis) % data.dim()
        index, inside = _index(layer, indices, data.shape[axis], axis, _declared(layer, axis))
        grid = list(torch.meshgrid(*[torch.arange(size) for size in indices.shape], indexing="ij"))
        grid[axis] = index
        target, rows, values = _flat(grid, data.shape), data.clone().reshape(-1), updates.reshape(-1)
    if not bool(inside.all()):
        raise layer.wrong("an index is outside the data")
    rows[target] = values.to(data.dtype)
    if not torch.equal(_bits(rows[target]), _bits(values.to(data.dtype))):
        raise layer.wrong("different updates of the same element are undefined behaviour")
    return rows.reshape(data.shape)


def _flat(places: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Row-major positions from one index tensor per axis."""
    flat = torch.zeros_like(places[0])
    for index, size in zip(places, sizes, strict=True):
        flat = flat * size + index
    return flat.reshape(-1)


def _bits(values: Tensor) -> Tensor:
    """Values comparable where NaN equals NaN."""
    return values.nan_to_num(nan=1.25e-30) if values.is_floating_point() else values


@handles("TOPK")
def topk(layer: Layer, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The k largest or smallest along one axis, sorted, and their positions (NvInfer.h, addTopK).

    The order of equal values is not documented; here the lower position comes first.
    """
    data = inputs[0]
    axes = layer.axes(data.dim())
    k = ints(inputs[1])[0] if layer.has_input(1) else int(layer.api.k)
    if len(axes) != 1 or not 0 < k <= data.shape[axes[0]]:
        raise layer.wrong(f"k is {k} on the axes {axes} of shape {list(data.shape)}")
    values, order = wide(data).sort(dim=axes[0], descending=layer.option("op") == "MAX", stable=True)
    return values.narrow(axes[0], 0, k), order.narrow(axes[0], 0, k)


@handles("NON_ZERO")
def non_zero(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """[rank, count]: each column a position, in row-major order (NvInfer.h, INonZeroLayer)."""
    return inputs[0].nonzero().t()


@handles("NMS")
def nms(layer: Layer, inputs: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression per batch item and class (NvInfer.h, INMSLayer).

    Per batch item all (box, class) pairs are sorted by score and cut to `topk_box_limit`; a pair is taken if its score
    exceeds the threshold and its overlap with every taken box of its class is at most the IoU threshold.
    """
    boxes, scores = wide(inputs[0]), wide(inputs[1])
    limit = ints(inputs[2])[0]
    overlap = float(inputs[3]) if layer.has_input(3) else 0.0
    threshold = float(inputs[4]) if layer.has_input(4) else 0.0
    boxes = _corners(layer.option("bounding_box_format"), boxes)
    boxes = boxes.unsqueeze(2).expand(-1, -1, scores.shape[2], -1) if boxes.dim() == 3 else boxes
    rows: list[tuple[int, int, int]] = []
    for batch in range(len(scores)):
        order = scores[batch].reshape(-1).sort(descending=True, stable=True).indices[: int(layer.api.topk_box_limit)]
        taken: dict[int, list[int]] = {}
        for flat in order.tolist():
            box, label = divmod(flat, scores.shape[2])
            chosen = taken.setdefault(label, [])
            if float(scores[batch, box, label]) <= threshold or len(chosen) >= limit:
                continue
            if all(_iou(boxes[batch, box, label], boxes[batch, other, label]) <= overlap for other in chosen):
                chosen.append(box)
                rows.append((batch, label, box))
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 3), torch.tensor(len(rows))


def _corners(layout: str, boxes: Tensor) -> Tensor:
    """(low, high) corners: from any two diagonal ones, or from center and size (NvInfer.h, BoundingBoxFormat)."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if layout == "CENTER_SIZES":
        first, second = first - second / 2, first + second / 2
    return torch.cat((torch.minimum(first, second), torch.maximum(first, second)), dim=-1)


def _iou(a: Tensor, b: Tensor) -> float:
    low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])
    shared = float((high - low).clamp(min=0).prod())
    union = float((a[2:] - a[:2]).prod()) + float((b[2:] - b[:2]).prod()) - shared
    return shared / union if union > 0 else 0.0
