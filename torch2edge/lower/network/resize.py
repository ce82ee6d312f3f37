"""Resampling: IResizeLayer, its constant matrices and gathers, grid sampling."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from ..._trt import trt
from ...sizes import settle
from .core import Tensor, Value
from .matrix import Matrix
from .symbols import is_symbolic, same, same_shape

__all__ = ["Resize"]

_CUBIC = -0.75  # PyTorch's coefficient; TensorRT's default is the same, but said in no header


class Resize(Matrix):
    """Layers that read between the elements of the spatial axes (all after the second)."""

    def resize(self, x: Value, mode: str, size: Sequence[int], align_corners: bool = False) -> Tensor:
        """IResizeLayer of ``mode`` (a name of trt.InterpolationMode) to the spatial ``size``; no layer where that is its size.

        Coordinates follow from input and output sizes alone: NEAREST takes the element at or below
        ``place * old / new``, the others are at half pixels or have aligned corners, elements outside repeat the edge.
        """
        t = self.tensor(x)
        if same_shape(t.shape[2:], size):
            return t
        layer = self.layer(self.raw.add_resize(t.raw))
        layer.resize_mode = getattr(trt.InterpolationMode, mode)
        kinds = trt.ResizeCoordinateTransformation
        layer.coordinate_transformation = kinds.ALIGN_CORNERS if align_corners else kinds.HALF_PIXEL
        if mode == "NEAREST":
            layer.coordinate_transformation, layer.nearest_rounding = kinds.ASYMMETRIC, trt.ResizeRoundMode.FLOOR
        if mode == "CUBIC":
            layer.cubic_coeff = _CUBIC
        scales = settle([new // old for old, new in zip(t.shape[2:], size)])
        shape = (*t.shape[:2], *size)
        if not any(map(is_symbolic, scales)) and all(same(k * old, new) for old, new, k in zip(t.shape[2:], size, scales)):
            # the same as `shape`, but DLA takes scales only
            layer.scales = [1.0, 1.0, *map(float, scales)]
        elif any(map(is_symbolic, shape)):
            layer.set_input(1, self.size_tensor(shape).raw)
        else:
            layer.shape = shape
        return self.result(layer, t.dtype, shape)

    def pick(self, x: Value, dim: int, index: Sequence[int]) -> Tensor:
        """The elements of axis ``dim`` at constant positions: a slice where their distances are equal, else a gather."""
        t = self.tensor(x)
        steps = {b - a for a, b in itertools.pairwise(index)} or {1}
        if len(steps) == 1 and min(steps) > 0:
            return self.slice(t, dim, index[0], len(index), min(steps))
        return self.gather(t, torch.tensor(index, dtype=torch.int32), dim)

    def resample(self, x: Value, dim: int, matrix: torch.Tensor) -> Tensor:
        """Axis ``dim`` multiplied by a constant (new, old) matrix."""
        t = self.tensor(x)
        dim %= t.ndim
        if dim == t.ndim - 1:
            return self.matmul(t, matrix, transpose_b=True)
        rest = t.shape[dim + 1 :]
        columns = self.reshape(t, (*t.shape[: dim + 1], -1))
        return self.reshape(self.matmul(matrix, columns), (*t.shape[:dim], matrix.shape[0], *rest))

    # ---- sizes that are known only when the engine runs -------------------------------------------------------------

    def nearest_places(self, old: int, new: int, factor: float | None, shift: float) -> Tensor:
        """Which element each of ``new`` places takes: ``floor((place + shift) * old / new)`` in float32, as PyTorch."""
        places = self.cast(self.positions(new), torch.float32)
        places = self.add(places, shift) if shift else places
        taken = self.unary(self.mul(places, self._step(old, new, factor)), "FLOOR")
        return self.cast(self.elementwise("MIN", taken, self.sub(self._float(old), 1.0)), torch.int32)

    def _float(self, size: int) -> Tensor:
        return self.constant(size, torch.float32, 1)

    def _step(self, old: int, new: int, factor: float | None) -> Tensor:
        """How far apart in the input neighbours of the result lie."""
        return self.constant(1 / factor, torch.float32, 1) if factor else self.div(self._float(old), self._float(new))

    def linear_along(self, x: Value, dim: int, new: int, align_corners: bool, factor: float | None) -> Tensor:
        """Axis ``dim`` interpolated linearly to ``new`` elements, of places that the engine computes; in float32."""
        t = self.cast(x, torch.float32)
        old = t.shape[dim]
        places = self.cast(self.positions(new), torch.float32)
        if align_corners:
            last = self.sub(self._float(old), 1.0)
            step = self.div(last, self.elementwise("MAX", self.sub(self._float(new), 1.0), 1.0))
            places = self.mul(places, step)
        else:
            places = self.sub(self.mul(self.add(places, 0.5), self._step(old, new, factor)), 0.5)
            places = self.elementwise("MAX", places, 0.0)
        end = self.sub(self._float(old), 1.0)
        low = self.elementwise("MIN", self.unary(places, "FLOOR"), end)
        high = self.elementwise("MIN", self.add(low, 1.0), end)
        share = self.tensor(self.along(self.sub(places, low), dim, t.ndim))
        left, right = (self.gather(t, self.cast(index, torch.int32), dim) for index in (low, high))
        return self.cast(self.add(left, self.mul(self.sub(right, left), share)), self.tensor(x).dtype)

    def grid_sample(self, x: Value, grid: Value, mode: str, outside: str, align_corners: bool) -> Tensor:
        """IGridSampleLayer; ``mode`` is a name of trt.InterpolationMode, ``outside`` one of trt.SampleMode."""
        t, places = self.promote(x, grid)
        layer = self.layer(self.raw.add_grid_sample(t.raw, places.raw))
        layer.interpolation_mode = getattr(trt.InterpolationMode, mode)
        layer.sample_mode = getattr(trt.SampleMode, outside)
        layer.align_corners = align_corners
        return self.result(layer, t.dtype, (*t.shape[:2], *places.shape[1:3]))
