"""Where elements sit: shape, shuffle, squeeze, concatenation, slice, sequences reversed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch2edge.check.reference.layer import Layer, handles, ints, volume


@handles("SHAPE")
def shape(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """The dimensions as a 1-d tensor, INT64 from TensorRT 10 on, INT32 before (NvInfer.h, IShapeLayer)."""
    return torch.tensor(list(inputs[0].shape), dtype=layer.dtype)


@handles("SHUFFLE")
def shuffle(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Transpose, reshape, transpose (NvInfer.h, IShuffleLayer). Dimension i of a transpose is permutation[i] before.

    The placeholder 0 copies a dimension of what the reshape sees, that is after the first transpose: the shape
    inference of TensorRT-RTX 1.7 says so, the documentation says only "input".
    """
    data = _transpose(inputs[0], layer.api.first_transpose)
    sizes: Sequence[int] | None = ints(inputs[1]) if layer.has_input(1) else layer.dims("reshape_dims")
    if sizes == () and layer.outputs[0].shape != ():
        sizes = None  # TensorRT 8.6: of a shuffle that only transposes, unset dimensions are read as ()
    if sizes is not None:
        data = data.reshape(_resolve(layer, list(data.shape), list(sizes)))
    return _transpose(data, layer.api.second_transpose)


def _transpose(data: Tensor, permutation: Any) -> Tensor:
    return data.permute([int(axis) for axis in permutation][: data.dim()])


def _resolve(layer: Layer, old: list[int], new: list[int]) -> list[int]:
    """Reshape dimensions with their 0 (if placeholders) and -1 replaced."""
    if layer.api.zero_is_placeholder:
        if any(size == 0 and axis >= len(old) for axis, size in enumerate(new)):
            raise layer.wrong(f"reshape {new} copies a dimension that {old} has not")
        new = [old[axis] if size == 0 else size for axis, size in enumerate(new)]
    if -1 in new:
        known = volume([size for size in new if size != -1])
        if new.count(-1) > 1 or known == 0 or volume(old) % known:
            raise layer.wrong(f"reshape of {old} to {new} leaves -1 undetermined")
        new[new.index(-1)] = volume(old) // known
    if volume(new) != volume(old):
        raise layer.wrong(f"reshape of {old} to {new} changes the volume")
    return new


@handles("SQUEEZE")
def squeeze(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Remove the given dimensions of length 1; without an axes input those that are 1 in the network's definition."""
    data = inputs[0]
    if layer.has_input(1):
        axes = [axis % data.dim() for axis in ints(inputs[1])]
    else:
        declared = layer.inputs[0]
        axes = [a for a, size in enumerate((declared.shape if declared else None) or ()) if size == 1]
    if any(data.shape[axis] != 1 for axis in axes):
        raise layer.wrong(f"cannot squeeze the axes {axes} of shape {list(data.shape)}")
    return data.reshape([size for axis, size in enumerate(data.shape) if axis not in axes])


@handles("UNSQUEEZE")
def unsqueeze(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Insert dimensions of length 1; the axes count in the output (NvInfer.h, addUnsqueeze)."""
    data, axes = inputs[0], ints(inputs[1])
    rank = data.dim() + len(axes)
    places = {axis % rank for axis in axes}
    if len(places) != len(axes) or any(not -rank <= axis < rank for axis in axes):
        raise layer.wrong(f"axes {axes} are not unique or not in the range of rank {rank}")
    sizes = iter(data.shape)
    return data.reshape([1 if axis in places else next(sizes) for axis in range(rank)])


@handles("CONCATENATION")
def concatenation(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """All inputs one after the other along `axis`."""
    if len({tensor.dim() for tensor in inputs}) != 1:
        raise layer.wrong(f"inputs of the shapes {[list(tensor.shape) for tensor in inputs]} cannot be concatenated")
    # Not torch.cat on the raw inputs: it skips 1-d empty tensors of any rank and promotes mixed types.
    return torch.cat([tensor.to(layer.dtype) for tensor in inputs], dim=int(layer.api.axis))


@handles("SLICE")
def slice_(layer: Layer, inputs: Sequence[Any]) -> Tensor:
    """Output element i of an axis is input element start + i * stride (NvInfer.h, ISliceLayer).

    SampleMode says what lies outside: STRICT_BOUNDS fails, WRAP repeats, CLAMP takes the border, FILL input 4, REFLECT
    mirrors at the middle of the border element.
    """
    data: Tensor = inputs[0]
    mode = layer.option("mode")
    start, size, stride = (_extent(layer, inputs, *spec) for spec in ((1, "start"), (2, "shape"), (3, "stride")))
    axes = _axes(layer, inputs, data.dim())
    if not len(axes) == len(start) == len(size) == len(stride):
        raise layer.wrong(f"axes {axes}, start {start}, size {size} and stride {stride} differ in length")
    inside: Tensor | None = None
    for axis, first, count, step in zip(axes, start, size, stride, strict=True):
        index = first + step * torch.arange(count)
        index, valid = _sample(layer, mode, index, data.shape[axis])
        if valid is not None:
            valid = valid.reshape(-1, *[1] * (data.dim() - axis - 1))
            inside = valid if inside is None else inside & valid
        data = _take(data, axis, index, first, step)
    if inside is None:
        return data
    return torch.where(inside, data, _fill_value(layer, inputs, data))


def _extent(layer: Layer, inputs: Sequence[Any], index: int, attribute: str) -> list[int]:
    if layer.has_input(index):
        return ints(inputs[index])
    fixed = layer.dims(attribute)
    if fixed is None:
        raise layer.wrong(f"neither the attribute {attribute} nor input {index} is set")
    return list(fixed)


def _axes(layer: Layer, inputs: Sequence[Any], rank: int) -> list[int]:
    axes = ints(inputs[5]) if layer.has_input(5) else layer.dims("axes")
    return list(range(rank)) if not axes else [axis % rank for axis in axes]


def _fill_value(layer: Layer, inputs: Sequence[Any], data: Tensor) -> Tensor:
    """Input 4; unset it is 0, which only NVIDIA's ONNX parser tells: it leaves it out for a Pad with zeros."""
    if not layer.has_input(4):
        return data.new_zeros(())
    value: Tensor = inputs[4]
    return value.reshape(()).to(data.dtype)


def _sample(layer: Layer, mode: str, index: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
    """Indices brought into [0, size), and for FILL which of them were inside (None: all)."""
    inside = (index >= 0) & (index < size)
    if bool(inside.all()):
        return index, None
    if mode in ("STRICT_BOUNDS", "DEFAULT"):  # DEFAULT: the other name of the same value in TensorRT 8.6
        raise layer.wrong(f"reads index {int(index[~inside][0])} of an axis of length {size}")
    if mode == "FILL":
        return index.clamp(0, max(size - 1, 0)), inside
    if size == 0:
        raise layer.wrong(f"the mode {mode} cannot read from an axis of length 0")
    if mode == "WRAP":
        return index % size, None
    if mode == "CLAMP":
        return index.clamp(0, size - 1), None
    if mode != "REFLECT":
        raise layer.unsupported(f"the mode {mode}")
    period = max(2 * (size - 1), 1)
    folded = index % period
    return torch.minimum(folded, period - folded) if size > 1 else torch.zeros_like(index), None


def _take(data: Tensor, axis: int, index: Tensor, first: int, step: int) -> Tensor:
    """Elements of one axis, as a view where they are evenly spaced and inside."""
    if step > 0 and torch.equal(index, first + step * torch.arange(len(index))):
        view = (slice(None),) * axis + (slice(first, first + step * len(index), step),)
        return data[view]
    if data.shape[axis] == 0 and len(index):  # FILL only: nothing to read, the value comes from the fill
        return data.new_zeros(*data.shape[:axis], len(index), *data.shape[axis + 1 :])
    return data.index_select(axis, index)


@handles("REVERSE_SEQUENCE")
def reverse_sequence(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Of each slice along `batch_axis`, reverse the first `lengths[i]` elements of `sequence_axis`."""
    data, lengths = inputs[0], ints(inputs[1])
    batch, sequence = int(layer.api.batch_axis), int(layer.api.sequence_axis)
    moved = data.movedim((batch, sequence), (0, 1))
    if len(lengths) != len(moved) or any(not 0 <= length <= moved.shape[1] for length in lengths):
        raise layer.wrong(f"lengths {lengths} do not fit the shape {list(data.shape)}")
    rows = [torch.cat((row[:length].flip(0), row[length:])) for row, length in zip(moved, lengths, strict=True)]
    return torch.stack(rows).movedim((0, 1), (batch, sequence))
