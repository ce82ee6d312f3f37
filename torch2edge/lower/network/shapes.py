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

    def strided(self, x: Value, start: Sequence[int], size: Sequence[int], stride: Sequence[int], mode: str = "STRICT_BOUNDS") -> Tensor:
        """ISliceLayer: element i of the result is element ``start + i * stride`` of ``x``, per axis.

        ``mode`` (a name of trt.SampleMode) says what lies out of bounds.
        """
        t = self.tensor(x)
        if tuple(size) == t.shape and not any(start) and all(s == 1 for s in stride):
            return t
        layer = self.layer(self.raw.add_slice(t.raw, tuple(start), tuple(size), tuple(stride)))
        if mode != "STRICT_BOUNDS":
            layer.mode = getattr(trt.SampleMode, mode)
        return self.result(layer, t.dtype)

    def slice(self, x: Value, dim: int, start: int, length: int, step: int = 1) -> Tensor:
        """``length`` elements of axis ``dim`` from ``start``, every ``step``-th."""
        t = self.tensor(x)
        dim %= t.ndim
        starts, sizes, strides = [0] * t.ndim, list(t.shape), [1] * t.ndim
        starts[dim], sizes[dim], strides[dim] = start, length, step
        return self.strided(t, starts, sizes, strides)

    def concat(self, values: Sequence[Value], dim: int) -> Tensor:
        """The values one after the other along ``dim``, promoted to one dtype."""
        tensors = self.promote(*values)
        if len(tensors) == 1:
            return tensors[0]
        layer = self.layer(self.raw.add_concatenation([t.raw for t in tensors]))
        layer.axis = dim % tensors[0].ndim
        return self.result(layer, tensors[0].dtype)

    def gather(self, x: Value, index: Value, dim: int, mode: str = "DEFAULT") -> Tensor:
        """IGatherLayer along ``dim``; ``mode`` is a name of trt.GatherMode. Indices must not be negative."""
        t, positions = self.tensor(x), self.tensor(index)
        layer = self.layer(self.raw.add_gather_v2(t.raw, positions.raw, getattr(trt.GatherMode, mode)))
        if mode != "ND":
            layer.axis = dim % t.ndim
        return self.result(layer, t.dtype)
