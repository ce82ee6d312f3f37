"""Layers over images and volumes: convolution, pooling, scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..._trt import trt
from .core import Tensor, Value
from .matrix import Matrix

__all__ = ["Spatial"]


class Spatial(Matrix):
    """Layers over (N, C, spatial axes)."""

    def image(self, x: Value, axes: int) -> Tensor:
        """``x``, whose last ``axes`` axes are spatial, with batch, channels and at least two spatial axes.

        TensorRT wants all four: (C, H, W) becomes (1, C, H, W), and a 1-D (N, C, L) becomes (N, C, 1, L).
        """
        t = self.tensor(x)
        front, space = t.shape[: t.ndim - axes], t.shape[t.ndim - axes :]
        return self.reshape(t, (*(1,) * (2 - len(front)), *front, *(1,) * (2 - axes), *space))

    @staticmethod
    def per_axis(axes: int, *values: Sequence[int]) -> list[list[int]]:
        """Each as a list of one number per spatial axis; PyTorch takes one number for all of them too."""
        return [[*v] * axes if len(v) == 1 else [*v] for v in values]

    def convolution(
        self, x: Value, weight: Value, bias: torch.Tensor | None, stride: Sequence[int], padding: Sequence[int],
        dilation: Sequence[int], groups: int, end_padding: Sequence[int] | None = None,
    ) -> Tensor:  # fmt: skip
        """IConvolutionLayer; ``weight`` is (out, in / groups, *kernel), ``x`` of the same rank (3 to 5).

        ``padding`` goes to both ends of each axis, or only to the start where ``end_padding`` is given.
        """
        t = self.image(x, len(stride))
        kernel = tuple(weight.shape[2:])  # type: ignore[union-attr]
        held = self.weights(weight if isinstance(weight, torch.Tensor) else None, t.dtype)
        layer = self.layer(
            self.raw.add_convolution_nd(t.raw, weight.shape[0], self._flat(kernel, 1), held, self.weights(bias, t.dtype))  # type: ignore[union-attr]
        )
        ends = end_padding or padding
        space = [
            (n + before + after - d * (k - 1) - 1) // s + 1
            for n, k, s, before, after, d in zip(t.shape[-len(stride) :], kernel, stride, padding, ends, dilation)
        ]
        return self._convolved(layer, t, weight, bias, stride, padding, ends, dilation, groups, space)

    def deconvolution(
        self, x: Value, weight: Value, bias: torch.Tensor | None, stride: Sequence[int], padding: Sequence[int],
        dilation: Sequence[int], groups: int, end_padding: Sequence[int],
    ) -> Tensor:  # fmt: skip
        """IDeconvolutionLayer; ``weight`` is (in, out / groups, *kernel). The paddings trim the ends of the result.

        In float32 for bfloat16, for which TensorRT has no transposed convolution.
        """
        dtype = self.tensor(x).dtype
        t = self.image(self.cast(x, torch.float32 if dtype == torch.bfloat16 else dtype), len(stride))
        kernel = tuple(weight.shape[2:])  # type: ignore[union-attr]
        held = self.weights(weight if isinstance(weight, torch.Tensor) else None, t.dtype)
        maps = weight.shape[1] * groups  # type: ignore[union-attr]
        biases = self.weights(bias, t.dtype)
        layer = self.layer(self.raw.add_deconvolution_nd(t.raw, maps, self._flat(kernel, 1), held, biases))
        space = [
            (n - 1) * s - before - after + d * (k - 1) + 1
            for n, k, s, before, after, d in zip(t.shape[-len(stride) :], kernel, stride, padding, end_padding, dilation)
        ]
        result = self._convolved(layer, t, weight, bias, stride, padding, end_padding, dilation, groups, space)
        return self.cast(result, dtype)

    def _convolved(
        self, layer: Any, t: Tensor, weight: Value, bias: torch.Tensor | None, stride: Sequence[int],
        padding: Sequence[int], end_padding: Sequence[int], dilation: Sequence[int], groups: int, space: Sequence[int],
    ) -> Tensor:  # fmt: skip
        """The rest of both kinds of convolution: steps, ends, groups, a kernel that is a tensor, names for refit."""
        layer.stride_nd, layer.dilation_nd = self._flat(stride, 1), self._flat(dilation, 1)
        layer.pre_padding, layer.post_padding = self._flat(padding, 0), self._flat(end_padding, 0)
        layer.num_groups = groups
        if isinstance(weight, torch.Tensor):
            self.note_weights(weight, layer)
        else:
            layer.set_input(1, self._kernel(self.tensor(weight, t.dtype), len(stride)).raw)
        self.note_weights(bias, layer)
        shape = (t.shape[0], layer.num_output_maps, *self._flat(space, 1))
        return self._unflat(self.result(layer, t.dtype, shape), len(stride))

    def _kernel(self, weight: Tensor, axes: int) -> Tensor:
        """A kernel that is a tensor, with at least two spatial axes."""
        held = self.requantized(weight, lambda w: w.unsqueeze(2)) if axes == 1 else None
        return held or self.image(weight, axes)

    @staticmethod
    def _flat(sizes: Sequence[int], missing: int) -> tuple[int, ...]:
        """Numbers of the spatial axes, with ``missing`` for the axis that ``image`` puts in front of a single one."""
        return (missing, *sizes) if len(sizes) == 1 else tuple(sizes)

    def _unflat(self, t: Tensor, axes: int) -> Tensor:
        """Without the axis that ``image`` added."""
        return self.reshape(t, (*t.shape[:2], *t.shape[3:])) if axes == 1 else t

    def pooling(
        self, x: Value, kind: str, window: Sequence[int], stride: Sequence[int], padding: Sequence[int],
        end_padding: Sequence[int] | None = None, count_include_pad: bool = True,
    ) -> Tensor:  # fmt: skip
        """IPoolingLayer of ``kind`` (a name of trt.PoolingType) over the last axes of ``x``, which need not have a batch.

        Sizes round down: who rounds up pads the end with ``end_padding``, and then knows what the average counts.
        """
        given = self.tensor(x)
        t = self.image(given, len(window))
        layer = self.layer(self.raw.add_pooling_nd(t.raw, getattr(trt.PoolingType, kind), self._flat(window, 1)))
        layer.stride_nd = self._flat(stride, 1)
        ends = end_padding or padding
        layer.pre_padding, layer.post_padding = self._flat(padding, 0), self._flat(ends, 0)
        if kind == "AVERAGE":
            layer.average_count_excludes_padding = not count_include_pad
        space = [
            (n + before + after - k) // s + 1
            for n, k, s, before, after in zip(given.shape[-len(window) :], window, stride, padding, ends)
        ]
        pooled = self.result(layer, given.dtype, (*t.shape[:2], *self._flat(space, 1)))
        return self.reshape(pooled, (*given.shape[: -len(window)], *pooled.shape[-len(window) :]))

    def scale(self, x: Value, shift: torch.Tensor, scale: torch.Tensor) -> Tensor:
        """IScaleLayer: ``x * scale + shift`` with (C,) constants for the channels, axis 1."""
        given = self.tensor(x)
        t = self.reshape(given, (*given.shape, *[1] * (4 - given.ndim)))
        layer = self.layer(
            self.raw.add_scale_nd(
                t.raw, trt.ScaleMode.CHANNEL, self.weights(shift, t.dtype), self.weights(scale, t.dtype),
                self.weights(torch.ones_like(scale), t.dtype), 1,
            )
        )  # fmt: skip
        return self.reshape(self.result(layer, t.dtype, t.shape), given.shape)

    def average_along(self, x: Value, dim: int, windows: Sequence[range]) -> Tensor:
        """Element i of axis ``dim`` becomes the average of the elements ``windows[i]``: a product with a constant matrix."""
        t = self.tensor(x)
        dim %= t.ndim
        matrix = torch.zeros(len(windows), t.shape[dim], dtype=torch.float64)
        for row, window in zip(matrix, windows):
            row[list(window)] = 1 / len(window)
        if dim == t.ndim - 1:
            return self.matmul(t, matrix.T.to(t.dtype))
        rows = self.reshape(t, (*t.shape[: dim + 1], -1))
        result = self.matmul(matrix.to(t.dtype), rows)
        return self.reshape(result, (*t.shape[:dim], len(windows), *t.shape[dim + 1 :]))

    def pooled_to(self, x: Value, kind: str, dim: int, size: int) -> Tensor:
        """Adaptive pooling of axis ``dim`` to ``size`` where one of the sizes is symbolic; kind AVERAGE or MAX.

        Element i is of the elements from ``floor(i * old / new)`` to below ``ceil((i + 1) * old / new)``. Which those are
        is a matrix that the engine computes: a product with it averages; for the maximum others are minus infinity.
        """
        t = self.tensor(x)
        dim %= t.ndim
        old, new = t.shape[dim], size
        order = [*(d for d in range(t.ndim) if d != dim), dim]
        rows = self.unsqueeze(self.tensor(self.positions(new)), 1)  # (new, 1)
        start = self.elementwise("FLOOR_DIV", self.mul(rows, old), new)
        end = self.elementwise("FLOOR_DIV", self.add(self.mul(self.add(rows, 1), old), new - 1), new)
        places = self.unsqueeze(self.tensor(self.positions(old)), 0)  # (1, old)
        inside = self.elementwise("AND", self.compare("GREATER_EQUAL", places, start), self.elementwise("LESS", places, end))
        moved = self.permute(t, order)
        if kind == "MAX":
            seen = self.select(inside, self.unsqueeze(moved, -2), self.tensor(-math.inf, t.dtype), t.dtype)
            pooled = self.reduce(seen, "MAX", [-1], keepdim=False)
        else:
            share = self.div(self.cast(inside, torch.float32), self.cast(self.sub(end, start), torch.float32))
            pooled = self.cast(self.matmul(self.cast(moved, torch.float32), share, transpose_b=True), t.dtype)
        return self.permute(pooled, [order.index(d) for d in range(t.ndim)])

    def maximum_along(self, x: Value, dim: int, windows: Sequence[Sequence[int]]) -> Tensor:
        """Element i of axis ``dim`` becomes the greatest of the elements ``windows[i]``."""
        dim %= self.tensor(x).ndim
        width = max(len(w) for w in windows)
        index = [[*w, *[w[-1]] * (width - len(w))] for w in windows]  # to see one of them twice changes no maximum
        return self.reduce(self.gather(x, torch.tensor(index, dtype=torch.int32), dim), "MAX", [dim + 1], keepdim=False)
