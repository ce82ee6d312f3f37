"""Layers that move elements: reshape, permute, expand, slice, concatenation, gather, scatter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..._trt import trt
from ...sizes import bounds, settle
from .core import Tensor, Value
from .sizes import Sizes
from .symbols import at_least, is_symbolic, same, same_shape

__all__ = ["Shapes"]


def _is_open(size: Any) -> bool:
    """Whether a size of a reshape is -1, which no size that varies is."""
    return not is_symbolic(size) and bool(size == -1)


class Shapes(Sizes):
    """Layers whose results hold elements of their inputs."""

    def reshape(self, x: Value, shape: Sequence[int]) -> Tensor:
        """``x`` in ``shape`` (one -1 allowed); no layer where it has that shape."""
        if isinstance(x, torch.Tensor) and not any(map(is_symbolic, shape)):
            return self.tensor(x.reshape(tuple(shape)))
        t = self.tensor(x)
        shape = settle(tuple(shape))
        if any(map(_is_open, shape)):
            known = math.prod(d for d in shape if not _is_open(d))
            shape = settle(tuple(math.prod(t.shape) // known if _is_open(d) else d for d in shape))
        if same_shape(shape, t.shape):
            return t
        layer = self.layer(self.raw.add_shuffle(t.raw))
        self._give_dims(layer, t.shape, shape)
        return self.result(layer, t.dtype, shape)

    def _give_dims(self, layer: Any, before: Sequence[int], after: Sequence[int]) -> None:
        """The dimensions that a shuffle reshapes to. Symbolic ones: those that stay at their place are 0 there, one other
        is -1; more than one need computed sizes."""
        moved = [i for i, n in enumerate(after) if is_symbolic(n)]
        if len(moved) > 1:
            moved = [i for i in moved if not (i < len(before) and same(before[i], after[i]))]
        layer.zero_is_placeholder = False
        if not any(map(is_symbolic, after)):
            layer.reshape_dims = tuple(after)
        elif len(moved) > 1 or not all(at_least(n, 1) for i, n in enumerate(after) if i not in moved):
            layer.set_input(1, self.size_tensor(after).raw)
        else:
            layer.reshape_dims = tuple(-1 if i in moved else 0 if is_symbolic(n) else n for i, n in enumerate(after))
            layer.zero_is_placeholder = 0 in tuple(layer.reshape_dims)

    def permute(self, x: Value, dims: Sequence[int]) -> Tensor:
        """Axis ``i`` of the result is axis ``dims[i]`` of ``x``; negative axes count from the end."""
        t = self.tensor(x)
        order = tuple(d % t.ndim for d in dims)
        if order == tuple(range(t.ndim)):
            return t
        layer = self.layer(self.raw.add_shuffle(t.raw))
        layer.first_transpose = trt.Permutation(order)
        return self.result(layer, t.dtype, [t.shape[d] for d in order])

    def unsqueeze(self, x: Value, dim: int) -> Tensor:
        """``x`` with a new axis of size 1 at ``dim``."""
        t = self.tensor(x)
        at = dim % (t.ndim + 1)
        return self.reshape(t, (*t.shape[:at], 1, *t.shape[at:]))

    def broadcast_ranks(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """All with the rank of the largest; TensorRT broadcasts sizes, not ranks."""
        rank = max(t.ndim for t in tensors)
        return tuple(self.reshape(t, (1,) * (rank - t.ndim) + t.shape) for t in tensors)

    def expand(self, x: Value, shape: Sequence[int]) -> Tensor:
        """``x`` repeated to ``shape``, as torch.Tensor.expand: -1 keeps a size, new axes come in front."""
        t = self.tensor(x)
        t = self.reshape(t, (1,) * (len(shape) - t.ndim) + t.shape)
        size = tuple(own if same(wanted, -1) else wanted for own, wanted in zip(t.shape, shape))
        if same_shape(size, t.shape):
            return t
        stride = tuple(0 if same(own, 1) and not same(wanted, 1) else 1 for own, wanted in zip(t.shape, size))
        return self.strided(t, (0,) * t.ndim, size, stride)

    def strided(
        self, x: Value, start: Sequence[int], size: Sequence[int], stride: Sequence[int], mode: str = "STRICT_BOUNDS",
        fill: Value | None = None,
    ) -> Tensor:  # fmt: skip
        """ISliceLayer: element i of the result is element ``start + i * stride`` of ``x``, per axis.

        ``mode`` (a name of trt.SampleMode) says what lies out of bounds; ``fill`` is the value of mode FILL.
        """
        t = self.tensor(x)
        if same_shape(size, t.shape) and all(same(s, 0) for s in start) and all(same(s, 1) for s in stride):
            return t
        given = settle((tuple(start), tuple(size), tuple(stride)))
        fixed = [(0,) * t.ndim if any(map(is_symbolic, part)) else tuple(part) for part in given]
        layer = self.layer(self.raw.add_slice(t.raw, *fixed))
        for place, part in enumerate(given, 1):
            if any(map(is_symbolic, part)):
                layer.set_input(place, self.size_tensor(part).raw)
        if mode != "STRICT_BOUNDS":
            layer.mode = getattr(trt.SampleMode, mode)
        if fill is not None:
            layer.set_input(4, self.tensor(fill, t.dtype).raw)
        return self.result(layer, t.dtype, given[1])

    def slice(self, x: Value, dim: int, start: int, length: int, step: int = 1) -> Tensor:
        """``length`` elements of axis ``dim`` from ``start``, every ``step``-th."""
        t = self.tensor(x)
        dim %= t.ndim
        starts, sizes, strides = [0] * t.ndim, list(t.shape), [1] * t.ndim
        starts[dim], sizes[dim], strides[dim] = start, length, step
        return self.strided(t, starts, sizes, strides)

    def concat(self, values: Sequence[Value], dim: int, dtype: torch.dtype | None = None) -> Tensor:
        """The values one after the other along ``dim``, promoted to one dtype (to ``dtype`` if given)."""
        tensors = self.promote(*values, dtype=dtype)
        if len(tensors) == 1:
            return tensors[0]
        layer = self.layer(self.raw.add_concatenation([t.raw for t in tensors]))
        layer.axis = dim = dim % tensors[0].ndim
        shape = list(tensors[0].shape)
        shape[dim] = sum(t.shape[dim] for t in tensors)
        return self.result(layer, tensors[0].dtype, shape)

    def gather(self, x: Value, index: Value, dim: int, mode: str = "DEFAULT") -> Tensor:
        """IGatherLayer along ``dim``; ``mode`` is a name of trt.GatherMode. Indices must not be negative.

        Raises:
            ValueError: a constant index is out of bounds or negative.
        """
        t, positions = self.tensor(x), self.tensor(index)
        if isinstance(index, torch.Tensor) and mode != "ND":
            self.check_bounds(index, t.shape[dim])
        layer = self.layer(self.raw.add_gather_v2(t.raw, positions.raw, getattr(trt.GatherMode, mode)))
        if mode == "ND":
            return self.result(layer, t.dtype)
        layer.axis = dim = dim % t.ndim
        around = (*t.shape[:dim], *positions.shape, *t.shape[dim + 1 :])
        return self.result(layer, t.dtype, around if mode == "DEFAULT" else positions.shape)

    def rearrange(self, x: Value, split: Sequence[int], order: Sequence[int], shape: Sequence[int]) -> Tensor:
        """``x.reshape(split).permute(order).reshape(shape)``, the first two in one layer."""
        t = self.tensor(x)
        layer = self.layer(self.raw.add_shuffle(t.raw))
        self._give_dims(layer, t.shape, settle(tuple(split)))
        layer.second_transpose = trt.Permutation(tuple(order))
        return self.reshape(self.result(layer, t.dtype, [split[d] for d in order]), shape)

    def pad(self, x: Value, pads: Sequence[int], mode: str = "FILL", value: float | int | bool = 0) -> Tensor:
        """``x`` with (before, after) elements more on each axis, given from the last axis on; negative counts crop.

        ``mode`` (a name of trt.SampleMode) says where the new elements come from; ``value`` is FILL's.
        """
        t = self.tensor(x)
        if t.dtype == torch.bool:  # 8.6 does not build a slice that fills with bools
            return self.cast(self.pad(self.cast(t, torch.int32), pads, mode, int(value)), torch.bool)
        pads = [self.concrete(p, "a count of elements to pad") for p in pads] if mode != "FILL" else pads
        if mode == "WRAP" and min(pads) < 0 < max(pads):  # PyTorch wraps around what is left after the crop
            t = self.pad(t, [min(p, 0) for p in pads])
            pads = [max(p, 0) for p in pads]
        start, size = [0] * t.ndim, list(t.shape)
        for i, (before, after) in enumerate(zip(pads[::2], pads[1::2])):
            start[-1 - i] = -before
            size[-1 - i] += before + after
        if not any(is_symbolic(p) or p > 0 for p in pads):
            return self.strided(t, start, size, (1,) * t.ndim)
        # DLA wants a fill constant that no other layer uses
        fill = torch.tensor(value).to(t.dtype) if mode == "FILL" else None
        return self.strided(t, start, size, (1,) * t.ndim, mode, fill)

    def take(self, x: Value, index: Value, dim: int) -> Tensor:
        """Axis ``dim`` replaced by the axes of ``index``; a constant index in even steps is a slice.

        Raises:
            ValueError: a constant index is out of bounds or negative.
        """
        t = self.tensor(x)
        dim %= t.ndim
        if isinstance(index, torch.Tensor):
            flat = index.reshape(-1).cpu()
            self.check_bounds(flat, t.shape[dim])
            step = int(flat[1] - flat[0]) if len(flat) > 1 else 1
            if len(flat) and torch.equal(flat, flat[0] + step * torch.arange(len(flat))):
                t = self.slice(t, dim, int(flat[0]), len(flat), step)
                return self.reshape(t, (*t.shape[:dim], *index.shape, *t.shape[dim + 1 :]))
            index = index.to(torch.int32)
        return self.gather(t, index, dim)

    def overwrite(self, x: Value, new: Value, dim: int, positions: torch.Tensor) -> Tensor:
        """``x`` with ``new`` in the place of the elements ``positions`` (1-D, constant) of axis ``dim``."""
        size, count = x.shape[dim], len(positions)  # type: ignore[union-attr]
        dtype = x.dtype  # type: ignore[union-attr]
        positions = positions.cpu().long()
        self.check_bounds(positions, size)
        first = int(positions[0]) if count else 0
        if torch.equal(positions, first + torch.arange(count)):
            return self.overwrite_run(x, new, dim, first, count)
        size = self.concrete(size, "the size of an axis of which scattered elements are overwritten")
        origin = torch.arange(size)
        origin[positions] = size + torch.arange(count)
        return self.take(self.concat([x, new], dim, dtype), origin, dim)

    def overwrite_run(self, x: Value, new: Value, dim: int, start: int, count: int) -> Tensor:
        """``x`` with ``new`` in the place of ``count`` elements of axis ``dim`` from ``start`` on."""
        size = x.shape[dim]  # type: ignore[union-attr]
        parts = [(0, start), (start + count, size - start - count)]
        before, after = (
            [] if same(length, 0) else
            [x.narrow(dim, at, length)] if isinstance(x, torch.Tensor) and not (is_symbolic(at) or is_symbolic(length)) else
            [self.slice(x, dim, at, length)] for at, length in parts
        )  # fmt: skip
        return self.concat([*before, *([] if same(count, 0) else [new]), *after], dim, x.dtype)  # type: ignore[union-attr]

    def scatter(self, x: Value, index: Value, updates: Value, dim: int) -> Tensor:
        """IScatterLayer element by element: ``x`` with ``updates`` where ``index`` points along ``dim``.

        Indices must not be negative, and two updates of one element must be equal. TensorRT has no form for bool.
        """
        t = self.tensor(x)
        if isinstance(index, torch.Tensor):
            self.check_bounds(index, t.shape[dim])
        dtype = torch.int32 if t.dtype == torch.bool else t.dtype
        layer = self.layer(
            self.raw.add_scatter(
                self.cast(t, dtype).raw, self.tensor(index).raw, self.tensor(updates, dtype).raw, trt.ScatterMode.ELEMENT
            )
        )
        layer.axis = dim % t.ndim
        return self.cast(self.result(layer, dtype, t.shape), t.dtype)

    # ---- made of sizes ----------------------------------------------------------------------------------------------

    def filled(self, value: Value, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor full of one value; a constant where the shape is known."""
        if not any(map(is_symbolic, shape)) and not isinstance(value, Tensor) and not is_symbolic(value):
            return self.constant(torch.full(tuple(shape), value), dtype)  # type: ignore[arg-type]
        return self.expand(self.tensor(value, dtype), shape)

    def along(self, values: Value, dim: int, rank: int) -> Value:
        """1-D ``values`` as the axis ``dim`` of a tensor whose other axes have size 1."""
        shape = [values.shape[0] if d == dim else 1 for d in range(rank)]  # type: ignore[union-attr]
        return values.reshape(shape) if isinstance(values, torch.Tensor) else self.reshape(values, shape)

    def windows(self, count: int, step: int, size: int, dilation: int) -> Value:
        """Which elements each of ``count`` windows holds: (count, size) of int64; a constant where ``count`` is."""
        inside = dilation * torch.arange(size)
        starts = self.positions(count)
        if isinstance(starts, torch.Tensor):
            return step * starts[:, None] + inside
        first = self._of_two("PROD", starts, self._integers([step]), starts.shape)
        column = self.reshape(first, (count, 1))
        return self._of_two("SUM", column, self.constant(inside[None]), (count, size))

    def triangle(self, height: int, width: int, diagonal: int = 0, upper: bool = False) -> torch.Tensor | Tensor:
        """True on and below a diagonal of a (height, width) matrix, or on and above it; a constant where the sizes are."""
        if not any(map(is_symbolic, (height, width, diagonal))):
            ones = torch.ones(height, width, dtype=torch.bool)
            return ones.triu(diagonal) if upper else ones.tril(diagonal)
        rows = self.tensor(self.along(self.positions(height), 0, 2))
        columns = self.tensor(self.along(self.positions(width), 1, 2))
        reach = self._of_two("SUM", columns, self.constant(-diagonal, torch.int64, 2), columns.shape)
        outside = self._of_two("LESS" if upper else "GREATER", reach, rows, (height, width), torch.bool)
        inside = self.layer(self.raw.add_unary(outside.raw, trt.UnaryOperation.NOT))
        return self.result(inside, torch.bool, (height, width))

    def check_bounds(self, index: torch.Tensor, size: int) -> None:
        """Refuse a constant index that PyTorch would refuse: TensorRT would read a zero there.

        Raises:
            ValueError: for the smallest size that the axis can have, where it is dynamic.
        """
        if not index.numel():
            return
        least, greatest = int(index.min()), int(index.max())
        if least < 0 or not at_least(size, greatest + 1):
            count = f"between {bounds(size)[0]} and {bounds(size)[1]}" if is_symbolic(size) else size
            raise ValueError(f"the index runs from {least} to {greatest}, the axis has {count} elements")
