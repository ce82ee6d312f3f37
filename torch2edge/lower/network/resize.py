"""Resampling: IResizeLayer, its constant matrices and gathers, grid sampling."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from ..._trt import trt
from .core import Tensor, Value
from .matrix import Matrix

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
        if t.shape[2:] == tuple(size):
            return t
        layer = self.layer(self.raw.add_resize(t.raw))
        layer.resize_mode = getattr(trt.InterpolationMode, mode)
        kinds = trt.ResizeCoordinateTransformation
        layer.coordinate_transformation = kinds.ALIGN_CORNERS if align_corners else kinds.HALF_PIXEL
        if mode == "NEAREST":
            layer.coordinate_transformation, layer.nearest_rounding = kinds.ASYMMETRIC, trt.ResizeRoundMode.FLOOR
        if mode == "CUBIC":
            layer.cubic_coeff = _CUBIC
        if all(new % old == 0 for old, new in zip(t.shape[2:], size)):
            # the same as `shape`, but DLA takes scales only
            layer.scales = [1.0, 1.0, *(float(new // old) for old, new in zip(t.shape[2:], size))]
        else:
            layer.shape = (*t.shape[:2], *size)
        return self.result(layer, t.dtype)

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

    def grid_sample(self, x: Value, grid: Value, mode: str, outside: str, align_corners: bool) -> Tensor:
        """IGridSampleLayer; ``mode`` is a name of trt.InterpolationMode, ``outside`` one of trt.SampleMode."""
        t, places = self.promote(x, grid)
        layer = self.layer(self.raw.add_grid_sample(t.raw, places.raw))
        layer.interpolation_mode = getattr(trt.InterpolationMode, mode)
        layer.sample_mode = getattr(trt.SampleMode, outside)
        layer.align_corners = align_corners
        return self.result(layer, t.dtype)
