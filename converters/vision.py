"""Vision: PyTorch's torch.nn, "Vision Layers" (F.interpolate, F.grid_sample, F.affine_grid)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor, at_least, capabilities, is_symbolic, same, settle
from torch2edge.lower.registry import converter

aten = torch.ops.aten

_BYTES = "PyTorch rounds an interpolated uint8 image its own way; cast to float first"


def _given(factors: Sequence[float | None] | None, axis: int) -> float | None:
    """The scale factor of a spatial axis; None where only the sizes count."""
    return factors[axis] if factors else None


# ---- nearest: every result is one element of the input ---------------------------------------------------------------


@converter(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec)
def nearest(net: Network, input: Tensor, output_size: list[int] | None, scale_factors: list[float] | None) -> Tensor:
    """upsample_nearest2d.vec(Tensor input, SymInt[]? output_size, float[]? scale_factors) -> Tensor

    Which element it is comes from PyTorch: its float32 arithmetic decides where a coordinate is whole.
    """
    return _nearest(net, input, scale_factors, aten.upsample_nearest1d.default)


@converter(
    aten._upsample_nearest_exact1d.vec, aten._upsample_nearest_exact2d.vec, aten._upsample_nearest_exact3d.vec
)  # fmt: skip
def nearest_exact(net: Network, input: Tensor, output_size: list[int] | None, scale_factors: list[float] | None) -> Tensor:
    """_upsample_nearest_exact2d.vec(Tensor input, SymInt[]? output_size, float[]? scale_factors) -> Tensor"""
    return _nearest(net, input, scale_factors, aten._upsample_nearest_exact1d.default)


def _nearest(net: Network, x: Tensor, factors: list[float] | None, rule: Callable[..., torch.Tensor]) -> Tensor:
    """Axes that grow by a whole number in one resize layer; the others by slices and gathers."""
    size = list(x.shape[2:])
    picks = {}
    computed = {}
    for axis, (old, new) in enumerate(zip(x.shape[2:], net.out.shape[2:])):
        if same(old, new) and _given(factors, axis) in (None, 1.0):
            continue
        if is_symbolic(old) or is_symbolic(new):
            shift = 0.5 if rule is aten._upsample_nearest_exact1d.default else 0.0
            if whole_factor(old, new) is not None:
                size[axis] = new
            else:
                computed[axis + 2] = net.nearest_places(old, new, _given(factors, axis), shift)
            continue
        places = rule(torch.arange(old, dtype=torch.float32)[None, None], [new], _given(factors, axis))
        index = [int(place) for place in places.flatten()]
        if index == [place * old // new for place in range(new)] and new % old == 0:
            size[axis] = new
        else:
            picks[axis + 2] = index
    result: Tensor = net.resize(net.cast(x, torch.float32) if x.dtype == torch.uint8 else x, "NEAREST", size)
    for dim, index in picks.items():
        result = net.pick(result, dim, index)
    for dim, chosen in computed.items():
        result = net.gather(result, chosen, dim)
    return net.cast(result, x.dtype)


def whole_factor(old: int, new: int) -> int | None:
    """``new / old`` where it is a whole number, whatever the sizes are."""
    factor = settle(new // old)
    return factor if not is_symbolic(factor) and same(factor * old, new) else None


# ---- linear and cubic: every result is a weighted sum ----------------------------------------------------------------


def _interpolates(input: Any, output_size: Any, align_corners: bool, scale_factors: Any) -> str:
    return _BYTES if input.dtype == torch.uint8 else ""


@converter(
    aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, aten.upsample_trilinear3d.vec, supports=_interpolates
)  # fmt: skip
def linear(
    net: Network, input: Tensor, output_size: list[int] | None, align_corners: bool, scale_factors: list[float] | None
) -> Tensor:
    """upsample_bilinear2d.vec(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors) -> Tensor"""
    return _interpolate(net, input, align_corners, scale_factors, "LINEAR", aten.upsample_bilinear2d.default)


@converter(aten.upsample_bicubic2d.vec, supports=_interpolates)
def bicubic(
    net: Network, input: Tensor, output_size: list[int] | None, align_corners: bool, scale_factors: list[float] | None
) -> Tensor:
    """upsample_bicubic2d.vec(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors) -> Tensor"""
    return _interpolate(net, input, align_corners, scale_factors, "CUBIC", aten.upsample_bicubic2d.default)


@converter(aten._upsample_bilinear2d_aa.vec, supports=_interpolates)
def linear_antialias(
    net: Network, input: Tensor, output_size: list[int] | None, align_corners: bool, scale_factors: list[float] | None
) -> Tensor:
    """_upsample_bilinear2d_aa.vec(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors) -> Tensor

    TensorRT has no antialiasing: each axis is multiplied by PyTorch's own weights. (Where the new width is 1, PyTorch's
    CPU kernel repeats the first row, up to 2.11 at least; the engine does not.)
    """
    return _interpolate(net, input, align_corners, scale_factors, None, aten._upsample_bilinear2d_aa.default)


@converter(aten._upsample_bicubic2d_aa.vec, supports=_interpolates)
def bicubic_antialias(
    net: Network, input: Tensor, output_size: list[int] | None, align_corners: bool, scale_factors: list[float] | None
) -> Tensor:
    """_upsample_bicubic2d_aa.vec(Tensor input, SymInt[]? output_size, bool align_corners, float[]? scale_factors) -> Tensor"""
    return _interpolate(net, input, align_corners, scale_factors, None, aten._upsample_bicubic2d_aa.default)


# The same by sizes and factors; F.interpolate is recorded before PyTorch makes these of it.


@converter(aten.upsample_linear1d.default)
def linear_1d(net: Network, self: Tensor, output_size: list[int], align_corners: bool, scales: float | None) -> Tensor:
    """upsample_linear1d(Tensor self, SymInt[1] output_size, bool align_corners, float? scales=None) -> Tensor"""
    return _interpolate(net, self, align_corners, [scales], "LINEAR", aten.upsample_bilinear2d.default)


@converter(aten.upsample_trilinear3d.default)
def linear_3d(
    net: Network, self: Tensor, output_size: list[int], align_corners: bool, scales_d: float | None, scales_h: float | None,
    scales_w: float | None,
) -> Tensor:  # fmt: skip
    """upsample_trilinear3d(Tensor self, SymInt[3] output_size, bool align_corners, float? scales_d=None,
    float? scales_h=None, float? scales_w=None) -> Tensor"""
    return _interpolate(net, self, align_corners, [scales_d, scales_h, scales_w], "LINEAR", aten.upsample_bilinear2d.default)


def _image(target: Any, mode: str | None) -> None:
    def convert(
        net: Network, self: Tensor, output_size: list[int], align_corners: bool, scales_h: float | None,
        scales_w: float | None,
    ) -> Tensor:  # fmt: skip
        return _interpolate(net, self, align_corners, [scales_h, scales_w], mode, target)

    convert.__name__ = target._schema.name.split("::")[1]
    convert.__doc__ = (
        f"{convert.__name__}(Tensor self, SymInt[2] output_size, bool align_corners, float? scales_h=None, "
        "float? scales_w=None) -> Tensor"
    )
    converter(target, supports=lambda self, **_: _BYTES if self.dtype == torch.uint8 else "")(convert)


for _target, _mode in {
    aten.upsample_bilinear2d.default: "LINEAR", aten.upsample_bicubic2d.default: "CUBIC",
    aten._upsample_bilinear2d_aa.default: None, aten._upsample_bicubic2d_aa.default: None,
}.items():  # fmt: skip
    _image(_target, _mode)


def _interpolate(
    net: Network, x: Tensor, align_corners: bool, factors: Sequence[float | None] | None, mode: str | None,
    rule: Callable[..., Any],
) -> Tensor:  # fmt: skip
    """The axes whose coordinates TensorRT shares in one resize layer; the others by constant matrices.

    Two kinds of axes need a matrix. With a given scale factor PyTorch computes coordinates from it, TensorRT from the
    sizes. And for one aligned corner, a single pixel, TensorRT's formula divides by 0.
    """
    size = list(x.shape[2:])
    computed: dict[int, tuple[Any, Any, float | None]] = {}
    matrices = {}
    for axis, (old, new) in enumerate(zip(x.shape[2:], net.out.shape[2:])):
        factor = _given(factors, axis)
        if is_symbolic(old) or is_symbolic(new):
            if mode is not None and _shares_coordinates(old, new, align_corners, factor):
                size[axis] = new
            elif not same(old, new):
                computed[axis + 2] = (old, new, factor)
            continue
        own_scale = factor is not None and not align_corners and factor * old != new
        if mode is None or own_scale or (align_corners and new == 1):
            matrices[axis + 2] = _weights(rule, old, new, align_corners, factor)
        else:
            size[axis] = new
    result = x if mode is None else net.resize(x, mode, size, align_corners)
    for dim, matrix in matrices.items():
        result = net.resample(result, dim, matrix)
    for dim, (old, new, factor) in computed.items():
        if mode != "LINEAR":
            net.concrete(old, "the size of an image that is resized by this rule")
            net.concrete(new, "the size to which an image is resized by this rule")
        result = net.linear_along(result, dim, new, align_corners, factor)
    return result


def _shares_coordinates(old: int, new: int, align_corners: bool, factor: float | None) -> bool:
    """Whether TensorRT's coordinates, which follow from the sizes alone, are PyTorch's, whatever the sizes are."""
    if align_corners:
        return at_least(new, 3)  # TensorRT divides by new - 1; PyTorch's symbols are 2 at least, though 1 is allowed
    return factor is None or factor == whole_factor(old, new)


def _weights(rule: Callable[..., Any], old: int, new: int, align_corners: bool, factor: float | None) -> torch.Tensor:
    """The (new, old) matrix of one axis: PyTorch's op on every unit vector."""
    resized: torch.Tensor = rule(torch.eye(old)[:, None, None, :], [1, new], align_corners, None, factor)
    return resized[:, 0, 0, :].T


# ---- sampling at computed places -------------------------------------------------------------------------------------


def _samples(input: Any, grid: Any, interpolation_mode: int, padding_mode: int, align_corners: bool) -> str:
    if interpolation_mode == 2 and not capabilities().cubic_grid_sample:
        return f"bicubic grid_sample: {capabilities().title} computes it wrongly; bilinear and nearest are right"
    return ""


@converter(
    aten.grid_sampler.default, aten.grid_sampler_2d.default, aten.grid_sampler_3d.default, supports=_samples
)  # fmt: skip
def grid_sampler(
    net: Network, input: Tensor, grid: Tensor, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Tensor:
    """grid_sampler(Tensor input, Tensor grid, int interpolation_mode, int padding_mode, bool align_corners) -> Tensor

    Volumes are sampled by gathers: the layer of TensorRT 8.6 takes images only.
    """
    mode, outside = ("LINEAR", "NEAREST", "CUBIC")[interpolation_mode], ("FILL", "CLAMP", "REFLECT")[padding_mode]
    if input.ndim == 5:
        return net.sample(input, grid, mode == "NEAREST", outside, align_corners)
    return net.grid_sample(input, grid, mode, outside, align_corners)


@converter(aten.affine_grid_generator.default)
def affine_grid(net: Network, theta: Tensor, size: list[int], align_corners: bool) -> Tensor:
    """affine_grid_generator(Tensor theta, SymInt[] size, bool align_corners) -> Tensor"""
    axes = len(size) - 2
    unmoved = torch.eye(axes, axes + 1)[None]
    fixed = [net.concrete(n, "the size of an affine grid") for n in size[1:]]
    places = aten.affine_grid_generator.default(unmoved, [1, *fixed], align_corners).reshape(-1, axes)
    places = torch.cat([places, torch.ones(len(places), 1)], 1).to(theta.dtype)
    return net.reshape(net.matmul(places, theta, transpose_b=True), net.out.shape)
