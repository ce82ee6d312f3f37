"""Writing through a view: what the base becomes when a view of it gets a new value.

PyTorch's own functionalisation does the same with generated C++; these are the view ops that models write through.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import InplaceError
from ..sizes import has_symbolic

__all__ = ["as_strided", "write_through"]

aten = torch.ops.aten


def write_through(func: Any, args: tuple[Any, ...], index: int, base: torch.Tensor, new: torch.Tensor) -> Any:
    """The new value of ``base`` after its view ``func(base, *args)[index]`` became ``new``.

    Returns NotImplemented for a view op that has no inverse here.
    """
    handler = _INVERSES.get(func.overloadpacket)
    return NotImplemented if handler is None else handler(func, base, new, index, *args)


def _reshape(func: Any, base: torch.Tensor, new: torch.Tensor, index: int, *args: Any) -> Any:
    return aten.reshape.default(new, list(base.shape))


def _expand(func: Any, base: torch.Tensor, new: torch.Tensor, index: int, size: list[int], implicit: bool = False) -> Any:
    return aten.reshape.default(new, list(base.shape)) if new.numel() == base.numel() else NotImplemented


def _permute(func: Any, base: torch.Tensor, new: torch.Tensor, index: int, dims: list[int]) -> Any:
    inverse = [0] * len(dims)
    for position, dim in enumerate(dims):
        inverse[dim % len(dims)] = position
    return aten.permute.default(new, inverse)


def _transpose(func: Any, base: torch.Tensor, new: torch.Tensor, index: int, dim0: int, dim1: int) -> Any:
    return aten.transpose.int(new, dim0, dim1)


def _t(func: Any, base: torch.Tensor, new: torch.Tensor, index: int) -> Any:
    return aten.t.default(new)


def _select(func: Any, base: torch.Tensor, new: torch.Tensor, index: int, dim: int, position: int) -> Any:
    return aten.select_scatter.default(base, new, dim, position)


def _slice(func: Any, base: Any, new: Any, index: int, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    return aten.slice_scatter.default(base, new, dim, start, end, step)


def _narrow(func: Any, base: torch.Tensor, new: torch.Tensor, index: int, dim: int, start: int, length: int) -> Any:
    start = start % base.shape[dim] if start < 0 else start
    return aten.slice_scatter.default(base, new, dim, start, start + length, 1)


def _split(func: Any, base: torch.Tensor, new: torch.Tensor, index: int, sizes: Any, dim: int = 0) -> Any:
    start = sum(sizes[:index]) if isinstance(sizes, (list, tuple)) else sizes * index
    return aten.slice_scatter.default(base, new, dim, start, start + new.shape[dim], 1)


def _chunk(func: Any, base: torch.Tensor, new: torch.Tensor, index: int, chunks: int, dim: int = 0) -> Any:
    return _split(func, base, new, index, -(-base.shape[dim] // chunks), dim)


def _unbind(func: Any, base: torch.Tensor, new: torch.Tensor, index: int, dim: int = 0) -> Any:
    return aten.select_scatter.default(base, new, dim, index)


def _diagonal(func: Any, base: Any, new: Any, index: int, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    return aten.diagonal_scatter.default(base, new, offset, dim1, dim2)


def _positions(base: torch.Tensor, size: list[int], stride: list[int], offset: int | None) -> torch.Tensor:
    """Where each element of the strided view lies in a contiguous ``base``."""
    if has_symbolic((base.shape, size, stride, offset)):
        raise InplaceError(
            "as_strided, or a write to a view of memory that the forward made, over a dynamic axis has no form in an engine. "
            "Build the result with torch.cat or torch.where, or make the axis static."
        )
    if not base.is_contiguous():
        raise InplaceError("as_strided of a tensor that is not contiguous has no form in an engine. Use .contiguous() first.")
    numbers = torch.arange(base.numel(), device=base.device)
    return numbers.as_strided(size, stride, offset or 0).reshape(-1)


def as_strided(base: torch.Tensor, size: list[int], stride: list[int], offset: int | None = None) -> torch.Tensor:
    """``base.as_strided(...)`` as a gather with constant positions; ``base`` owns its memory."""
    positions = _positions(base, size, stride, offset)
    flat = base.reshape(-1)
    if positions.numel() != flat.numel() or bool((positions[1:] < positions[:-1]).any()):
        flat = flat[positions]
    return flat.reshape(size)


def _as_strided(
    func: Any, base: torch.Tensor, new: torch.Tensor, index: int, size: Any, stride: Any, offset: Any = None
) -> Any:
    positions = _positions(base, size, stride, offset)
    if torch.equal(positions, torch.arange(base.numel(), device=base.device)):
        return new.reshape(base.shape)
    if positions.numel() == base.numel():
        return new.reshape(-1)[positions.argsort()].reshape(base.shape)
    return torch.scatter(base.reshape(-1), 0, positions, new.reshape(-1)).reshape(base.shape)


_INVERSES: dict[Any, Any] = {
    **dict.fromkeys(
        [
            aten.view, aten._unsafe_view, aten.reshape, aten.flatten, aten.unflatten, aten.squeeze, aten.unsqueeze,
            aten.alias, aten.detach, aten.contiguous, aten.view_as, aten.reshape_as,
        ],
        _reshape,
    ),
    aten.expand: _expand,
    aten.permute: _permute, aten.transpose: _transpose, aten.swapaxes: _transpose, aten.swapdims: _transpose, aten.t: _t,
    aten.select: _select, aten.slice: _slice, aten.narrow: _narrow,
    aten.split: _split, aten.split_with_sizes: _split, aten.chunk: _chunk, aten.unbind: _unbind,
    aten.diagonal: _diagonal, aten.as_strided: _as_strided,
}  # fmt: skip
