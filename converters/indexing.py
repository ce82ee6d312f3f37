"""Slicing and indexing: PyTorch's torch page, "Indexing, Slicing, Joining, Mutating Ops"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor, at_least, is_symbolic, same, symbols
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Value = Tensor | torch.Tensor
_ONE_HOT_LIMIT = 2**26  # elements of the intermediate that adds up updates of one element


# ---- slices ---------------------------------------------------------------------------------------------------------


def positions(size: int, start: int | None, end: int | None, step: int) -> range:
    """The elements that ``x[start:end:step]`` holds of an axis."""
    return range(*slice(start, end, step).indices(size))


def first_of(net: Network, x: Value, dim: int, start: int | None) -> int:
    """Where ``x[start:...]`` begins, if it holds anything. What PyTorch had to assume of symbolic sizes, tracing noted."""
    size = x.shape[dim]
    if start is None:
        return 0
    if not is_symbolic(start) and not is_symbolic(size):
        return min(size, max(0, start + size if start < 0 else start))
    return start + size if at_least(-start, 1) else start


@converter(aten.select.int)
def select(net: Network, self: Value, dim: int, index: int) -> Tensor:
    """select.int(Tensor(a) self, int dim, SymInt index) -> Tensor(a)"""
    return net.reshape(net.slice(self, dim, first_of(net, self, dim, index), 1), net.out.shape)


@converter(aten.slice.Tensor)
def slice_tensor(net: Network, self: Value, dim: int, start: int | None, end: int | None, step: int) -> Tensor:
    """slice.Tensor(Tensor(a) self, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1) -> Tensor(a)"""
    return net.slice(self, dim, first_of(net, self, dim, start), net.out.shape[dim], step)


@converter(aten.narrow.default, aten.narrow_copy.default)
def narrow(net: Network, self: Value, dim: int, start: int, length: int) -> Tensor:
    """narrow(Tensor(a) self, int dim, SymInt start, SymInt length) -> Tensor(a)"""
    return net.slice(self, dim, first_of(net, self, dim, start), length)


@converter(aten.select_scatter.default)
def select_scatter(net: Network, self: Value, src: Value, dim: int, index: int) -> Tensor:
    """select_scatter(Tensor self, Tensor src, int dim, SymInt index) -> Tensor"""
    dim %= self.ndim
    net.check_bounds(torch.tensor(max(index, -1 - index)), self.shape[dim])
    return net.overwrite_run(self, net.unsqueeze(src, dim), dim, first_of(net, self, dim, index), 1)


@converter(aten.slice_scatter.default)
def slice_scatter(net: Network, self: Value, src: Value, dim: int, start: int | None, end: int | None, step: int) -> Tensor:
    """slice_scatter(Tensor self, Tensor src, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1) -> Tensor"""
    dim %= self.ndim
    if step == 1 and any(map(is_symbolic, (self.shape[dim], src.shape[dim], start, end))):
        return net.overwrite_run(self, src, dim, first_of(net, self, dim, start), src.shape[dim])
    size = net.concrete(self.shape[dim], "the size of an axis of which every second or third element is written")
    chosen = positions(size, start, end, step)
    shape = (*self.shape[: dim % self.ndim], len(chosen), *self.shape[dim % self.ndim + 1 :])
    return net.overwrite(self, net.expand(src, shape), dim, torch.tensor(chosen, dtype=torch.int64))


def diagonal_last(net: Network, x: Value, dim1: int, dim2: int) -> tuple[Tensor, list[int]]:
    """``x`` with ``dim1`` and ``dim2`` as its last axes, and the permutation that did it."""
    pair = [dim1 % x.ndim, dim2 % x.ndim]
    order = [d for d in range(x.ndim) if d not in pair] + pair
    return net.permute(x, order), order


@converter(aten.diagonal.default)
def diagonal(net: Network, self: Value, offset: int, dim1: int, dim2: int) -> Tensor:
    """diagonal(Tensor(a) self, int offset=0, int dim1=0, int dim2=1) -> Tensor(a)

    One slice: in the flattened matrix the diagonal's elements are ``width + 1`` apart.
    """
    x, _ = diagonal_last(net, self, dim1, dim2)
    *batch, height, width = x.shape
    flat = net.reshape(x, (*batch, height * width))
    return net.slice(flat, -1, offset if offset >= 0 else -offset * width, net.out.shape[-1], width + 1)


@converter(aten.diagonal_scatter.default)
def diagonal_scatter(net: Network, self: Value, src: Value, offset: int, dim1: int, dim2: int) -> Tensor:
    """diagonal_scatter(Tensor self, Tensor src, int offset=0, int dim1=0, int dim2=1) -> Tensor

    A constant mask selects between the matrix and ``src`` spread over its rows (or columns, below the diagonal).
    """
    x, order = diagonal_last(net, self, dim1, dim2)
    height, width = (net.concrete(n, "a matrix of which a diagonal is written") for n in x.shape[-2:])
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask.diagonal(offset).fill_(True)
    length = src.shape[-1]
    spread = net.pad(src, (0, (height if offset >= 0 else width) - length))
    spread = net.unsqueeze(spread, -1 if offset >= 0 else -2)
    return net.permute(net.select(mask, spread, x), torch.tensor(order).argsort().tolist())


@converter(aten.tril.default)
def tril(net: Network, self: Value, diagonal: int) -> Tensor:
    """tril(Tensor self, SymInt diagonal=0) -> Tensor"""
    height, width = self.shape[-2:]
    return net.select(net.triangle(height, width, diagonal), self, torch.zeros((), dtype=self.dtype))


@converter(aten.triu.default)
def triu(net: Network, self: Value, diagonal: int) -> Tensor:
    """triu(Tensor self, SymInt diagonal=0) -> Tensor"""
    height, width = self.shape[-2:]
    return net.select(net.triangle(height, width, diagonal, upper=True), self, torch.zeros((), dtype=self.dtype))


@converter(aten.flip.default)
def flip(net: Network, self: Value, dims: list[int]) -> Tensor:
    """flip(Tensor self, int[] dims) -> Tensor"""
    flipped = {d % self.ndim for d in dims if self.ndim}
    start = [n - 1 if d in flipped else 0 for d, n in enumerate(self.shape)]
    return net.strided(self, start, self.shape, [-1 if d in flipped else 1 for d in range(self.ndim)])


@converter(aten.roll.default)
def roll(net: Network, self: Value, shifts: list[int], dims: list[int]) -> Tensor:
    """roll(Tensor self, SymInt[1] shifts, int[1] dims=[]) -> Tensor"""
    x = net.tensor(self) if dims else net.reshape(self, (-1,))
    start = [0] * x.ndim
    for shift, dim in zip(shifts, dims or [0]):
        start[dim] = (start[dim] - shift) % x.shape[dim]
    return net.reshape(net.strided(x, start, x.shape, (1,) * x.ndim, "WRAP"), self.shape)


# ---- windows --------------------------------------------------------------------------------------------------------


@converter(aten.unfold.default)
def unfold(net: Network, self: Value, dimension: int, size: int, step: int) -> Tensor:
    """unfold(Tensor(a) self, int dimension, int size, int step) -> Tensor(a)"""
    x = net.tensor(ranked(net, self))
    dim = dimension % x.ndim
    windows = net.take(x, net.windows(net.out.shape[dim], step, size, 1), dim)
    windows = net.permute(windows, [d for d in range(x.ndim + 1) if d != dim + 1] + [dim + 1])
    return net.reshape(windows, net.out.shape)


@converter(aten.im2col.default)
def im2col(
    net: Network, self: Value, kernel_size: list[int], dilation: list[int], padding: list[int], stride: list[int]
) -> Tensor:
    """im2col(Tensor self, int[2] kernel_size, int[2] dilation, int[2] padding, int[2] stride) -> Tensor

    Rows, then columns, of all windows are gathered with constant indices; slices where windows neither overlap nor gap.
    """
    x = net.pad(self, [padding[1], padding[1], padding[0], padding[0]])
    n = x.ndim
    for axis, k, d, s in zip((n - 2, n), kernel_size, dilation, stride):
        reach = d * (k - 1) + 1
        x = net.take(x, net.windows((x.shape[axis] - reach) // s + 1, s, k, d), axis)
    order = [*range(n - 2), n - 1, n + 1, n - 2, n]
    return net.reshape(net.permute(x, order), net.out.shape)


# ---- index tensors --------------------------------------------------------------------------------------------------


def non_negative(net: Network, index: Value, size: int) -> Value:
    """``index`` with negative values counted from the end, as PyTorch does; on the spot where it is a constant."""
    if isinstance(index, torch.Tensor):
        index = index.cpu().long()
        if is_symbolic(size) and bool((index < 0).any()):
            net.check_bounds(-1 - index[index < 0], size)
            return net.add(index, net.mul((index < 0).long(), size))
        return index if is_symbolic(size) else torch.where(index < 0, index + size, index)
    return net.select(net.elementwise("LESS", index, 0), net.add(index, size), index)


def one_axis(net: Network, x: Value, indices: list[Value | None]) -> tuple[Tensor, Value, int, list[int]]:
    """``x[indices]`` as one index along one axis.

    Returns ``x`` with the indexed axes merged, the index into them, the merged axis, and the permutation of ``x`` that
    came before: indexed axes that are not adjacent go to the front, where PyTorch puts the axes of the index.
    """
    dims = [d for d, index in enumerate(indices) if index is not None]
    at = dims[0] if dims[-1] - dims[0] + 1 == len(dims) else 0
    rest = [d for d in range(x.ndim) if d not in dims]
    order = rest[:at] + dims + rest[at:]
    sizes = [x.shape[d] for d in dims]
    merged = net.permute(x, order)
    merged = net.reshape(merged, (*merged.shape[:at], math.prod(sizes), *merged.shape[at + len(dims) :]))
    fixed: torch.Tensor | None = None
    moving: Tensor | None = None
    for i, (dim, size) in enumerate(zip(dims, sizes)):
        index = non_negative(net, indices[dim], size)  # type: ignore[arg-type]
        pitch = math.prod(sizes[i + 1 :])
        if isinstance(index, torch.Tensor):
            net.check_bounds(index, size)
            if is_symbolic(pitch):
                index = net.mul(index, pitch)
                moving = index if moving is None else net.add(moving, index)
            else:
                fixed = index * pitch if fixed is None else fixed + index * pitch
        else:
            index = index if same(pitch, 1) else net.mul(index, pitch)
            moving = index if moving is None else net.add(moving, index)
    if moving is None:
        assert fixed is not None
        return merged, fixed, at, order
    return merged, moving if fixed is None else net.add(moving, fixed), at, order


def put(net: Network, x: Value, new: Value, dim: int, index: Value) -> Tensor:
    """``x`` with ``new`` in the place of the elements ``index`` (1-D) of axis ``dim``."""
    if isinstance(index, torch.Tensor):
        return net.overwrite(x, new, dim, index)
    shape = tuple(new.shape)
    index = net.reshape(index, [n if d == dim else 1 for d, n in enumerate(shape)])
    return net.scatter(x, net.expand(index, shape), new, dim)


def add_at(net: Network, x: Value, new: Value, dim: int, index: Value) -> Tensor:
    """``x`` plus every element of ``new`` where ``index`` (of new's rank, sizes equal or 1) points along ``dim``.

    TensorRT's scatter does not add. A comparison of the index with every position says which updates each element gets.
    """
    after = [1] * (len(new.shape) - 1 - dim)
    places = net.along(net.positions(x.shape[dim]), 0, 1 + len(after))
    hit = net.elementwise("EQUAL", net.unsqueeze(index, dim + 1), places)
    updates = net.select(hit, net.unsqueeze(new, dim + 1), torch.zeros((), dtype=x.dtype))
    return net.elementwise("SUM", x, net.reduce(updates, "SUM", [dim], False))


@converter(aten.index.Tensor)
def index(net: Network, self: Value, indices: list[Value | None]) -> Tensor:
    """index.Tensor(Tensor self, Tensor?[] indices) -> Tensor"""
    x, where, dim, _ = one_axis(net, self, indices)
    return net.take(x, where, dim)


def index_put_supports(self: Any, indices: list[Any], values: Any, accumulate: bool) -> str:
    """Adding up needs an intermediate of updates times elements."""
    if not accumulate:
        return ""
    shapes = [i.shape for i in indices if i is not None]
    if symbols((shapes, self.shape)):
        return "it adds up at an index, where a size is dynamic: how large that gets is not known"
    count = math.prod(torch.broadcast_shapes(*shapes))
    return too_large(count * math.prod(self.shape))


def too_large(elements: int) -> str:
    """The reason against an intermediate of so many elements, or ""."""
    if elements <= _ONE_HOT_LIMIT:
        return ""
    return f"TensorRT cannot add into a tensor by index; comparing every index with every element takes {elements} elements"


@converter(aten.index_put.default, supports=index_put_supports)
def index_put(net: Network, self: Value, indices: list[Value | None], values: Value, accumulate: bool) -> Tensor:
    """index_put(Tensor self, Tensor?[] indices, Tensor values, bool accumulate=False) -> Tensor

    PyTorch leaves open which of several updates of one element wins, and so does TensorRT.
    """
    fixed = all(i is None or (isinstance(i, torch.Tensor) and not is_symbolic(n)) for n, i in zip(self.shape, indices))
    if not accumulate and fixed and same(math.prod(values.shape), 1):
        return net.select(mask_of(self, indices), net.reshape(values, ()), self)
    x, where, dim, order = one_axis(net, self, indices)
    before, after = x.shape[:dim], x.shape[dim + 1 :]
    count = math.prod(where.shape)
    new = net.reshape(net.expand(values, (*before, *where.shape, *after)), (*before, count, *after))
    where = where.reshape(-1) if isinstance(where, torch.Tensor) else net.reshape(where, (-1,))
    if accumulate:
        x = add_at(net, x, new, dim, net.reshape(where, [count if d == dim else 1 for d in range(x.ndim)]))
    else:
        x = put(net, x, new, dim, where)
    return net.permute(net.reshape(x, [self.shape[d] for d in order]), torch.tensor(order).argsort().tolist())


def mask_of(x: Value, indices: list[Any]) -> torch.Tensor:
    """Which elements ``x[indices]`` holds, for constant indices; axes without an index have size 1."""
    indices = indices + [None] * (x.ndim - len(indices))
    mask = torch.zeros([1 if i is None else n for i, n in zip(indices, x.shape)], dtype=torch.bool)
    mask[tuple(slice(None) if i is None else i.long().cpu() for i in indices)] = True
    return mask


@converter(aten.index_select.default)
def index_select(net: Network, self: Value, dim: int, index: Value) -> Tensor:
    """index_select(Tensor self, int dim, Tensor index) -> Tensor"""
    x = ranked(net, self)
    return net.reshape(net.take(x, index, dim), net.out.shape)


@converter(aten.index_copy.default)
def index_copy(net: Network, self: Value, dim: int, index: Value, source: Value) -> Tensor:
    """index_copy(Tensor self, int dim, Tensor index, Tensor source) -> Tensor"""
    index = index.reshape(-1) if isinstance(index, torch.Tensor) else net.reshape(index, (-1,))
    if self.ndim == 0:
        return net.reshape(source, ())
    return put(net, self, net.reshape(source, [*source.shape]), dim % self.ndim, index)


@converter(aten.index_fill.int_Scalar, aten.index_fill.int_Tensor)
def index_fill(net: Network, self: Value, dim: int, index: Value, value: Value | float | int | bool) -> Tensor:
    """index_fill.int_Scalar(Tensor self, int dim, Tensor index, Scalar value) -> Tensor"""
    fill = net.tensor(value if isinstance(value, (Tensor, torch.Tensor)) else torch.tensor(value), self.dtype)
    dim %= max(self.ndim, 1)
    if isinstance(index, torch.Tensor):
        net.concrete(self.shape[dim], "the size of an axis whose elements are filled by index")
        mask = mask_of(self, [None] * dim + [index])
        return net.select(mask, fill, self)
    index = net.reshape(non_negative(net, index, self.shape[dim]), (-1,))
    shape = (*self.shape[:dim], *index.shape, *self.shape[dim + 1 :])
    return put(net, self, net.expand(fill, shape), dim, index)


@converter(aten.take.default)
def take(net: Network, self: Value, index: Value) -> Tensor:
    """take(Tensor self, Tensor index) -> Tensor"""
    flat = net.reshape(self, (-1,))
    return net.take(flat, non_negative(net, index, flat.shape[0]), 0)


# ---- element by element ---------------------------------------------------------------------------------------------


def ranked(net: Network, x: Value) -> Value:
    """``x`` with at least one axis."""
    if len(x.shape):
        return x
    return x.reshape(1) if isinstance(x, torch.Tensor) else net.reshape(x, (1,))


def leading(net: Network, x: Value, shape: Sequence[int], dim: int = -1) -> Tensor:
    """The part of ``x`` that an index of ``shape`` reaches: its first elements on all axes but ``dim``; rank at least 1."""
    t = net.tensor(ranked(net, x))
    size = [n if d == dim else wanted for d, (n, wanted) in enumerate(zip(t.shape, shape))]
    return net.strided(t, (0,) * t.ndim, size, (1,) * t.ndim)


@converter(aten.gather.default)
def gather(net: Network, self: Value, dim: int, index: Value, sparse_grad: bool) -> Tensor:
    """gather(Tensor self, int dim, Tensor index, *, bool sparse_grad=False) -> Tensor

    TensorRT wants all axes but ``dim`` of one size; PyTorch reads the first elements of longer ones.
    """
    where = ranked(net, index)
    dim %= where.ndim
    return net.reshape(net.gather(leading(net, self, where.shape, dim), where, dim, "ELEMENT"), net.out.shape)


@converter(aten.scatter.src)
def scatter_src(net: Network, self: Value, dim: int, index: Value, src: Value) -> Tensor:
    """scatter.src(Tensor self, int dim, Tensor index, Tensor src) -> Tensor"""
    where = ranked(net, index)
    x = ranked(net, self)
    return net.reshape(net.scatter(x, where, leading(net, src, where.shape), dim), self.shape)


@converter(aten.scatter.value)
def scatter_value(net: Network, self: Value, dim: int, index: Value, value: float | int | bool) -> Tensor:
    """scatter.value(Tensor self, int dim, Tensor index, Scalar value) -> Tensor"""
    where = ranked(net, index)
    x = ranked(net, self)
    return net.reshape(net.scatter(x, where, net.filled(value, where.shape, self.dtype), dim), self.shape)


def scatter_add_supports(self: Any, dim: int, index: Any, src: Any) -> str:
    """See add_at."""
    if symbols((index.shape, self.shape)):
        return "it adds up at an index, where a size is dynamic: how large that gets is not known"
    return too_large(math.prod(index.shape) * (self.shape[dim] if self.shape else 1))


@converter(aten.scatter_add.default, supports=scatter_add_supports)
def scatter_add(net: Network, self: Value, dim: int, index: Value, src: Value) -> Tensor:
    """scatter_add(Tensor self, int dim, Tensor index, Tensor src) -> Tensor"""
    where = ranked(net, index)
    x = ranked(net, self)
    dim %= x.ndim
    zeros = torch.zeros([x.shape[d] if d == dim else n for d, n in enumerate(where.shape)], dtype=self.dtype)
    added = add_at(net, zeros, leading(net, src, where.shape), dim, where)
    missing = [pad for d in range(x.ndim - 1, -1, -1) for pad in (0, x.shape[d] - added.shape[d])]
    return net.reshape(net.elementwise("SUM", x, net.pad(added, missing)), self.shape)
