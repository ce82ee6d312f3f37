"""``--shape``: sizes, and sizes that vary."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

import torch

from ..errors import ConfigError

__all__ = ["Size", "example_inputs", "shape"]

Size = int | str | tuple[str, tuple[int, ...]]
"""A size, the name of a dim, or a dim's name (or "") and range."""
_NAME = r"[A-WYZa-wyz_]+"  # an x is between sizes
_VARIES = re.compile(rf"(?:({_NAME})=)?(\d+):(\d+):(\d+)")


def shape(text: str) -> tuple[Size, ...]:
    """``1x3x224x224``, ``1:8:16x3x224x224`` or ``batch=1:8:16x3x224x224``."""
    sizes = tuple(_size(part, text) for part in text.replace("X", "x").split("x")) if text else ()
    if any(size == 0 for size in sizes):
        raise _no_shape(text)
    return sizes


def _size(part: str, whole: str) -> Size:
    if part.isdigit():
        return int(part)
    if found := _VARIES.fullmatch(part):
        return found[1] or "", tuple(map(int, found.groups()[1:]))
    if re.fullmatch(_NAME, part):
        return part
    raise _no_shape(whole)


def _no_shape(text: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(
        f"{text!r} is no shape; write positive sizes with x between them, e.g. 1x3x224x224, or 1:8:16x3x224x224 where one "
        "varies, or batch=1:8:16 (letters, no x) for a size that several axes share"
    )


def example_inputs(
    shapes: Sequence[Sequence[Size]], dtypes: Sequence[torch.dtype]
) -> tuple[list[torch.Tensor], dict[int | str, dict[int, object]], dict[str, object]]:
    """Random tensors of the opt sizes, and ``dynamic`` and ``dims`` of ``convert``."""
    dims: dict[str, object] = {}
    usual: dict[str, int] = {}
    for size in (size for sizes in shapes for size in sizes):
        if isinstance(size, tuple) and size[0]:
            if dims.setdefault(size[0], size[1]) != size[1]:
                raise ConfigError(f"--shape gives the dim {size[0]} two ranges; give it one, and its name alone after that")
            usual[size[0]] = size[1][1]
    axes: dict[int | str, dict[int, object]] = {}
    inputs = []
    for i, (sizes, dtype) in enumerate(zip(shapes, dtypes)):
        unknown = [s for s in sizes if isinstance(s, str) and s not in usual]
        if unknown:
            raise ConfigError(f"--shape names the dim {unknown[0]}, but {unknown[0]}=MIN:OPT:MAX is nowhere")
        for axis, size in enumerate(sizes):
            if not isinstance(size, int):
                axes.setdefault(i, {})[axis] = size if isinstance(size, str) else size[0] or size[1]
        inputs.append(_draw([_usual(size, usual) for size in sizes], dtype))
    return inputs, axes, dims


def _usual(size: Size, named: dict[str, int]) -> int:
    if isinstance(size, str):
        return named[size]
    return size if isinstance(size, int) else size[1][1]


def _draw(sizes: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    if min(sizes, default=1) < 1:
        raise ConfigError("--shape: a range holds 0; the smallest size is 1")
    if dtype.is_floating_point:
        return torch.randn(*sizes).to(dtype)
    return torch.randint(0, 2 if dtype == torch.bool else 10, tuple(sizes)).to(dtype)
