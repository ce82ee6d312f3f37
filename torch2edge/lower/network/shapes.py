"""Layers that move elements: reshape, permute, expand, slice, concatenation, gather, scatter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..._trt import trt
from .core import Core, Tensor, Value

__all__ = ["Shapes"]


class Shapes(Core):
    """Layers whose results hold elements of their inputs."""

    def reshape(self, x: Value, shape: Sequence[int]) -> Tensor:
        """``x`` in ``shape`` (one -1 allowed); no layer where it has that shape."""
        if isinstance(x, torch.Tensor):
            return self.tensor(x.reshape(tuple(shape)))
        t = self.tensor(x)
        shape = tuple(shape)
        if -1 in shape:
            known = math.prod(d for d in shape if d != -1)
            shape = tuple(math.prod(t.shape) // known if d == -1 else d for d in shape)
        if shape == t.shape:
            return t
        layer = self.layer(self.raw.add_shuffle(t.raw))
        layer.zero_is_placeholder = False
        layer.reshape_dims = shape
        return self.result(layer, t.dtype)

    def permute(self, x: Value, dims: Sequence[int]) -> Tensor:
        """Axis ``i`` of the result is axis ``dims[i]`` of ``x``; negative axes count from the end."""
        t = self.tensor(x)
        order = tuple(d % t.ndim for d in dims)
        if order == tuple(range(t.ndim)):
            return t
        layer = self.layer(self.raw.add_shuffle(t.raw))
        layer.first_transpose = trt.Permutation(order)
        return self.result(layer, t.dtype)

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
        size = tuple(own if wanted == -1 else wanted for own, wanted in zip(t.shape, shape))
        if size == t.shape:
            return t
        stride = tuple(0 if own == 1 and wanted != 1 else 1 for own, wanted in zip(t.shape, size))
        return self.strided(t, (0,) * t.ndim, size, stride)

    def strided(
        self, x: Value, start: Sequence[int], size: Sequence[int], stride: Sequence[int], mode: str = "STRICT_BOUNDS",
        fill: Value | None = None,
    ) -> Tensor:  # fmt: skip
        """ISliceLayer: element i of the result is element ``start + i * stride`` of ``x``, per axis.

        ``mode`` (a name of trt.SampleMode) says what lies out of bounds; ``fill`` is the value of mode FILL.
        """
        t = self.tensor(x)
        if tuple(size) == t.shape and not any(start) and all(s == 1 for s in stride):
            return t
        layer = self.layer(self.raw.add_slice(t.raw, tuple(start), tuple(size), tuple(stride)))
        if mode != "STRICT_BOUNDS":
            layer.mode = getattr(trt.SampleMode, mode)
        if fill is not None:
            layer.set_input(4, self.tensor(fill, t.dtype).raw)
        return self.result(layer, t.dtype)

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
        layer.axis = dim % tensors[0].ndim
        return self.result(layer, tensors[0].dtype)

    def gather(self, x: Value, index: Value, dim: int, mode: str = "DEFAULT") -> Tensor:
        """IGatherLayer along ``dim``; ``mode`` is a name of trt.GatherMode. Indices must not be negative.

        Raises:
            ValueError: a constant index is out of bounds or negative.
        """
        t, positions = self.tensor(x), self.tensor(index)
        if isinstance(index, torch.Tensor) and mode != "ND":
            self.check_bounds(index, t.shape[dim])
        layer = self.layer(self.raw.add_gather_v2(t.raw, positions.raw, getattr(trt.GatherMode, mode)))
        if mode != "ND":
            layer.axis = dim % t.ndim
        return self.result(layer, t.dtype)

    def rearrange(self, x: Value, split: Sequence[int], order: Sequence[int], shape: Sequence[int]) -> Tensor:
        """``x.reshape(split).permute(order).reshape(shape)``, the first two in one layer."""
        t = self.tensor(x)
        layer = self.layer(self.raw.add_shuffle(t.raw))
        layer.zero_is_placeholder = False
        layer.reshape_dims, layer.second_transpose = tuple(split), trt.Permutation(tuple(order))
        return self.reshape(self.result(layer, t.dtype), shape)

    def pad(self, x: Value, pads: Sequence[int], mode: str = "FILL", value: float | int | bool = 0) -> Tensor:
        """``x`` with (before, after) elements more on each axis, given from the last axis on; negative counts crop.

        ``mode`` (a name of trt.SampleMode) says where the new elements come from; ``value`` is FILL's.
        """
        t = self.tensor(x)
        if t.dtype == torch.bool:  # 8.6 does not build a slice that fills with bools
            return self.cast(self.pad(self.cast(t, torch.int32), pads, mode, int(value)), torch.bool)
        if mode == "WRAP" and min(pads) < 0 < max(pads):  # PyTorch wraps around what is left after the crop
            t = self.pad(t, [min(p, 0) for p in pads])
            pads = [max(p, 0) for p in pads]
        start, size = [0] * t.ndim, list(t.shape)
        for i, (before, after) in enumerate(zip(pads[::2], pads[1::2])):
            start[-1 - i] = -before
            size[-1 - i] += before + after
        if max(pads, default=0) <= 0:
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
            parts: list[tuple[int, int]] = [(0, first), (first + count, size - first - count)]
            before, after = (
                [] if not length else [x.narrow(dim, start, length)] if isinstance(x, torch.Tensor) else
                [self.slice(x, dim, start, length)] for start, length in parts
            )  # fmt: skip
            return self.concat([*before, *([new] if count else []), *after], dim, dtype)
        origin = torch.arange(size)
        origin[positions] = size + torch.arange(count)
        return self.take(self.concat([x, new], dim, dtype), origin, dim)

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
        return self.cast(self.result(layer, dtype), t.dtype)

    @staticmethod
    def check_bounds(index: torch.Tensor, size: int) -> None:
        """Refuse a constant index that PyTorch would refuse: TensorRT would read a zero there.

        Raises:
            ValueError
        """
        if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < size):
            raise ValueError(f"the index runs from {int(index.min())} to {int(index.max())}, the axis has {size} elements")
