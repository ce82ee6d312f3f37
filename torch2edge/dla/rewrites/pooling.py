"""Averages over more pixels than a DLA's window has: a chain of average poolings."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ...graph import Op, Value
from .editor import Editor, is_image

__all__ = ["pooling_chain"]

aten = torch.ops.aten
LARGEST = 8  # side of a pooling window (facts.md 3.2, Pooling: [1,8])


def pooling_chain(op: Op, to: Editor) -> bool:
    """Replaces ``mean`` over height and width (one of them, or both), and average poolings in windows without overlap of
    which a side is longer than 8, global ones above all, by average poolings with windows of at most 8 x 8.

    Exact because the mean of the means of parts of one size is the mean of the whole: each window divides what the one
    before left. A size with a prime factor above 7 has no such windows. For a global mean, a border of zeros gives it some,
    and a factor takes the zeros out of the mean: of 13 pixels, one zero on each side, windows of 5 and 3, times 15 / 13.
    Of the sizes up to 8192 some 400 have none even so, the smallest of them 107; they stay, with a note.
    Averages that count the padding are PyTorch's default, and the only ones that a DLA of Xavier knows.

    Serves facts.md 3.2: "Pooling: window [1,8]"; "ReduceMean, GlobalAveragePool: not through TRT".
    """
    image = _image(op, to)
    window = None if image is None else _window(op, image)
    if image is None or window is None or (op.target is not aten.mean.dim and max(window) <= LARGEST):
        return False  # a pooling of such windows is one of the DLA's
    sizes = image.shape[2:]
    high, wide = (_steps(side, side == size) for side, size in zip(window, sizes))
    if high is None or wide is None:
        to.note(
            op, f"{op.short_name} over {window[0]}x{window[1]} of {sizes[0]}x{sizes[1]} pixels stays as it is: average "
            "poolings one after the other, in windows of at most 8x8, do not give it"
        )  # fmt: skip
        return False
    count = max(len(high), len(wide), 1)
    padded = [*zip(*((*steps, *[Step(0, 1)] * (count - len(steps))) for steps in (high, wide)))]
    factor = _without_zeros(sizes[0], high) * _without_zeros(sizes[1], wide)
    _append(op, to, image, padded, factor)
    kernels = ", ".join(f"{h.window}x{w.window}" for h, w in padded)
    scaled = "" if factor == 1 else f" and a factor {factor:.4g}"
    to.note(op, f"{op.short_name} became average pooling{'s' if count > 1 else ''} of {kernels}{scaled}")
    return True


def _append(op: Op, to: Editor, x: Value, steps: Sequence[tuple[Step, Step]], factor: float) -> None:
    """The poolings, the factor if it is not 1, and a reshape where the result is no image."""
    result = op.outputs[0]
    assert result is not None
    reshaped = len(result.shape) != 4
    for i, step in enumerate(steps):
        kernel, padding = [s.window for s in step], [s.padding for s in step]
        shape = (*x.shape[:2], *((n + 2 * p) // k for n, p, k in zip(x.shape[2:], padding, kernel)))
        last = i == len(steps) - 1 and factor == 1 and not reshaped
        x = to.add(op, aten.avg_pool2d.default, (x, kernel, kernel, padding, False, True), result if last else shape)
    if factor != 1:
        x = to.add(op, aten.mul.Tensor, (x, factor), x.shape if reshaped else result)
    if reshaped:
        to.add(op, aten.reshape.default, (x, list(result.shape)), result)


def _image(op: Op, to: Editor) -> Value | None:
    """What is averaged, as an image: of ``x.mean(3).mean(2)`` the second mean reads one whose width is gone."""
    value = op.arguments().get("self")
    if is_image(value):
        return value
    image = to.image_behind(value) if op.target is aten.mean.dim else None
    return image if image is not None and image.shape == (*value.shape, 1) else None  # type: ignore[union-attr]


def _window(op: Op, x: Value) -> tuple[int, int] | None:
    """Height and width of the windows of an average of ``x`` without overlap; None of any other op."""
    given = op.arguments()
    if op.target is aten.mean.dim:
        return _reduced(given, x)
    if op.target in (aten.adaptive_avg_pool2d.default, aten._adaptive_avg_pool2d.default):
        return _of_axes([n // o if n % o == 0 else None for n, o in zip(x.shape[2:], given["output_size"])])
    return _of_axes(_pooled(given, x)) if op.target is aten.avg_pool2d.default else None


def _of_axes(sides: Sequence[int | None]) -> tuple[int, int] | None:
    high, wide = sides
    return None if high is None or wide is None else (high, wide)


def _reduced(given: dict[str, Any], x: Any) -> tuple[int, int] | None:
    rank = len(given["self"].shape)
    axes = {axis % rank for axis in given["dim"] or range(rank)}
    if not axes <= {2, 3} or given["dtype"] not in (None, x.dtype):
        return None
    return x.shape[2] if 2 in axes else 1, x.shape[3] if 3 in axes else 1


def _pooled(given: dict[str, Any], x: Any) -> list[int | None]:
    """Windows that lie side by side and cover all, or a single one that does."""
    kernel, stride, padding = (_pair(given[name]) for name in ("kernel_size", "stride", "padding"))
    if any(padding) or given["divisor_override"] is not None:
        return [None, None]
    return [k if n == k or (n % k == 0 and s == k) else None for n, k, s in zip(x.shape[2:], kernel, stride or kernel)]


def _pair(numbers: Sequence[int] | int) -> list[int]:
    """PyTorch takes one number for both axes."""
    given = [numbers] if isinstance(numbers, int) else list(numbers)
    return given * 2 if len(given) == 1 else given


class Step(NamedTuple):
    """One pooling along one axis; its stride is its window."""

    padding: int
    window: int


@functools.cache
def _steps(size: int, alone: bool) -> tuple[Step, ...] | None:
    """The poolings that average ``size`` pixels: without padding where that can be, then as few as there can be.

    Args:
        alone: there is one window, so zeros may be put around it. PyTorch pads by half a window at most; a DLA by 7.
    """
    if size <= LARGEST:
        return (Step(0, size),) if size > 1 else ()
    found = []
    for window in range(LARGEST, 1, -1):
        for padding in range(window // 2 + 1 if alone else 1):
            rest = None if (size + 2 * padding) % window else _steps((size + 2 * padding) // window, alone)
            if rest is not None:
                found.append((Step(padding, window), *rest))
    return min(
        found, key=lambda steps: (any(s.padding for s in steps), len(steps), sum(s.padding for s in steps)), default=None
    )


def _without_zeros(size: int, steps: Sequence[Step]) -> float:
    """What the mean of ``size`` pixels and the zeros that the poolings put around them is to be multiplied by."""
    factor = 1.0
    for padding, window in steps:
        factor *= (size + 2 * padding) / size
        size = (size + 2 * padding) // window
    return factor
