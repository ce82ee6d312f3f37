"""Sampling between the elements of a volume, from gathers: IGridSampleLayer of TensorRT 8.6 takes images only."""

from __future__ import annotations

import itertools
import math

import torch

from .core import Tensor, Value
from .matrix import Matrix

__all__ = ["Volume"]


class Volume(Matrix):
    """grid_sample over any number of spatial axes."""

    def sample(self, x: Value, grid: Value, nearest: bool, outside: str, align_corners: bool) -> Tensor:
        """The elements of ``x`` (N, C, *space) at the places of ``grid`` (N, *places, axes), in the grid's order (x, y, z).

        ``outside`` is FILL (zeros), CLAMP or REFLECT, names of trt.SampleMode. Computed in float32. One gather reads all
        neighbours of all places; their weights are constants of the corner times the places' fractions.
        """
        t, g = self.tensor(x), self.tensor(grid, torch.float32)
        axes, count = t.ndim - 2, math.prod(g.shape[1:-1])
        sizes = torch.tensor(t.shape[:1:-1], dtype=torch.float32)
        places = self._coordinates(self.reshape(g, (1, g.shape[0], count, axes)), sizes, outside, align_corners)
        return self.reshape(self.between(t, places, nearest), (*t.shape[:2], *g.shape[1:-1]))

    def between(self, x: Tensor, places: Tensor, nearest: bool = False, image: Tensor | None = None) -> Tensor:
        """The elements of ``x`` (N, C, *space) at ``places`` (1, rows, count, axes), positions in the order (x, y, z): zeros
        outside. Row i reads of image i, or of image ``image[i]`` (int32).

        Returns:
            (rows, C, count), in the dtype of ``x``.
        """
        sizes = torch.tensor(x.shape[:1:-1], dtype=torch.float32)
        if nearest:
            corners, weights = self.unary(places, "ROUND"), None
        else:
            low = self.unary(places, "FLOOR")
            steps = torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(sizes)))).reshape(-1, 1, 1, len(sizes))
            corners = self.add(low, steps)
            near = self.sub(1.0, self.unary(self.sub(places, corners), "ABS"))
            weights = self.reduce(near, "PROD", [-1], keepdim=True)
        inside = self.cast(self._inside(corners, sizes), torch.float32)
        weights = inside if weights is None else self.mul(weights, inside)
        read = self.cast(self._read(x, corners, sizes, image), torch.float32)  # (corners, rows, count, C)
        total = self.reduce(self.mul(read, weights), "SUM", [0], keepdim=False)
        return self.cast(self.permute(total, (0, 2, 1)), x.dtype)

    def _coordinates(self, grid: Tensor, sizes: torch.Tensor, outside: str, align_corners: bool) -> Tensor:
        """Places from -1 to 1 as positions of elements."""
        if align_corners:
            places = self.mul(self.add(grid, 1.0), (sizes - 1) / 2)
        else:
            places = self.mul(self.sub(self.mul(self.add(grid, 1.0), sizes), 1.0), 0.5)
        if outside == "REFLECT":
            places = self._reflected(places, torch.zeros_like(sizes) if align_corners else torch.full_like(sizes, -0.5), sizes)
        if outside != "FILL":
            places = self.elementwise("MIN", self.elementwise("MAX", places, 0.0), sizes - 1)
        return places

    def _reflected(self, places: Tensor, low: torch.Tensor, sizes: torch.Tensor) -> Tensor:
        """Places mirrored at ``low`` and at its opposite until they lie between; the axis of one aligned element is 0."""
        span = sizes - 1 - 2 * low
        single = span == 0
        distance = self.unary(self.sub(places, low), "ABS")
        period = 2 * span.masked_fill(single, 1.0)
        rest = self.sub(distance, self.mul(self.unary(self.div(distance, period), "FLOOR"), period))
        folded = self.add(self.elementwise("MIN", rest, self.sub(period, rest)), low)
        return self.select(single, 0.0, folded) if single.any() else folded

    def _inside(self, corners: Tensor, sizes: torch.Tensor) -> Tensor:
        """(corners, N, places, 1): whether a corner is an element."""
        inside = self.elementwise(
            "AND", self.elementwise("GREATER", corners, -0.5), self.elementwise("LESS", corners, sizes - 0.5)
        )
        return self.reduce(inside, "MIN", [-1], keepdim=True)

    def _read(self, x: Tensor, corners: Tensor, sizes: torch.Tensor, image: Tensor | None) -> Tensor:
        """The channels of ``x`` at ``corners``, the nearest element where one is outside."""
        batch, channels, *space = x.shape
        held = self.elementwise("MIN", self.elementwise("MAX", corners, 0.0), sizes - 1)
        pitch = sizes.cumprod(0).long() // sizes.long()
        flat = self.reduce(self.mul(self.cast(held, torch.int32), pitch.int()), "SUM", [-1], keepdim=False)
        start: Value = (torch.arange(batch) * math.prod(space)).int().reshape(1, batch, 1)
        if image is not None:
            start = self.reshape(self.mul(image, math.prod(space)), (1, -1, 1))
        rows = self.reshape(self.permute(x, (0, *range(2, x.ndim), 1)), (-1, channels))
        return self.gather(rows, self.add(flat, start), 0)
