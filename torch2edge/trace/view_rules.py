"""Views of tensors whose sizes are symbolic: shape and strides in the place of PyTorch's rules, which ask a lot of questions.

See shape_rules.py. A rule gives the shape and the strides of a view of the same memory, a shape alone where the result is a
copy, or None where it cannot tell.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..sizes import is_symbolic, settle, sympy_of
from .shape_rules import Shape, agree, in_order

__all__ = ["VIEW_RULES"]

aten = torch.ops.aten
Layout = tuple[Shape, "Shape | None"]  # the shape, and the strides; none for a copy


def _is_in_order(tensor: torch.Tensor) -> bool:
    """Whether a tensor's elements lie in memory in the order of its axes, at a glance."""
    return all(map(agree, tensor.stride(), in_order(tensor.shape)))


def _reshape(self: torch.Tensor, shape: Sequence[Any]) -> Layout | None:
    size = _completed(self, shape)
    if size is None:
        return None
    if _is_in_order(self):
        return size, in_order(size)
    strides = _merged(self.shape, self.stride(), size)
    return None if strides is None else (size, strides or None)


def _view(self: torch.Tensor, size: Sequence[Any]) -> Layout | None:
    layout = _reshape(self, size)
    return layout if layout is not None and layout[1] is not None else None


def _flatten(self: torch.Tensor, start_dim: int = 0, end_dim: int = -1) -> Layout | None:
    if not self.dim():
        return None
    start, end = start_dim % self.dim(), end_dim % self.dim()
    return _reshape(self, [*self.shape[:start], _product(self.shape[start : end + 1]), *self.shape[end + 1 :]])


def _completed(tensor: torch.Tensor, size: Sequence[Any]) -> Shape | None:
    """A size with its -1 worked out; only the number of elements matters, the product of the sizes as an expression."""
    rest = [i for i, s in enumerate(size) if isinstance(s, int) and s == -1]
    if not rest:
        return list(size) if _factors(tensor.shape) == _factors(size) else None
    missing = _quotient(tensor.shape, [s for i, s in enumerate(size) if i not in rest])
    return None if missing is None else [missing if i in rest else s for i, s in enumerate(size)]


def _factors(sizes: Sequence[Any]) -> tuple[int, Counter[Any]]:
    """The product of sizes, for comparison: its number, and how often each symbolic factor occurs."""
    number, symbolic = 1, Counter[Any]()
    for size in sizes:
        if isinstance(size, int):
            number *= size
        else:
            content, factors = _factors_of(sympy_of(size))
            number *= content
            for factor, times in factors:
                symbolic[factor] += times
    return number, symbolic


@functools.lru_cache(maxsize=4096)  # sympy takes an expression apart slowly
def _factors_of(expr: Any) -> tuple[int, tuple[tuple[Any, int], ...]]:
    from sympy import Mul  # torch imports it on use too

    number, factors = 1, []
    for part in Mul.make_args(expr):
        content, rest = part.primitive()  # sympy writes 2 * (h + 1) as 2 * h + 2
        base, times = rest.as_base_exp()
        number *= int(content)
        factors.append((base, int(times)) if times.is_Integer and times > 0 else (rest, 1))
    return number, tuple((factor, times) for factor, times in factors if factor != 1)


def _quotient(sizes: Sequence[Any], divisors: Sequence[Any]) -> Any:
    """The product of some sizes over that of others, where it is a whole number at a glance: what is left are sizes."""
    (number, left), (by, gone) = _factors(sizes), _factors(divisors)
    left.subtract(gone)
    if not by or number % by or any(count < 0 for count in left.values()):
        return None
    number //= by
    whole = []
    for size in filter(is_symbolic, sizes):
        own, factors = _factors([size])
        if number % own == 0 and factors and all(left[f] >= n for f, n in factors.items()):
            left.subtract(factors)
            number //= own
            whole.append(size)
    return None if any(left.values()) else _product([number, *whole])


def _product(sizes: Any) -> Any:
    result: Any = 1
    for size in sizes:
        size = settle(size)
        result = size if isinstance(result, int) and result == 1 else result * size
    return result


def _merged(shape: Sequence[Any], strides: Sequence[Any], size: Sequence[Any]) -> Shape | None:
    """The strides with which a tensor is seen in ``size``; [] where only a copy does, None where unclear.

    Where the products of the first axes of both agree, a group of axes ends. A group is seen in other sizes where each of
    its outer strides is the inner size times the inner stride. PyTorch takes sizes that vary for at least 2, and
    expressions that differ for different numbers, as long as nothing is known of them.
    """
    old_axes = [i for i, n in enumerate(shape) if not _is_one(n)]
    new = [n for n in size if not _is_one(n)]
    shape, strides = [shape[i] for i in old_axes], [strides[i] for i in old_axes]
    groups = _groups(shape, new)
    if not groups:
        return None
    result: Shape = []
    for before, after in groups:
        if any(not agree(strides[i], strides[i + 1] * shape[i + 1]) for i in before[:-1]):
            return []
        inner = [strides[before[-1]]]
        for axis in reversed(after[1:]):
            inner.append(inner[-1] * new[axis])
        result += reversed(inner)
    full: Shape = []
    for n in reversed(size):  # of one element any stride is right; this one keeps what is in order in order
        full.insert(0, result.pop() if not _is_one(n) else full[0] * size[len(size) - len(full)] if full else 1)
    return full


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _groups(shape: Sequence[Any], size: Sequence[Any]) -> list[tuple[range, range]]:
    """The smallest runs of axes of ``shape`` and of ``size`` with equal products; [] where the last ones have none."""
    ends = [_factors(shape[: i + 1]) for i in range(len(shape))]
    groups, old, new = [], 0, 0
    for j in range(len(size)):
        product = _factors(size[: j + 1])
        i = next((i for i in range(old, len(shape)) if ends[i] == product), None)
        if i is not None:
            groups.append((range(old, i + 1), range(new, j + 1)))
            old, new = i + 1, j + 1
    return groups if (old, new) == (len(shape), len(size)) else []


def _permute(self: torch.Tensor, dims: Sequence[int]) -> Layout | None:
    order = [d % self.dim() for d in dims]
    return [self.shape[d] for d in order], [self.stride()[d] for d in order]


def _transpose(self: torch.Tensor, dim0: int, dim1: int) -> Layout | None:
    if not self.dim():
        return None
    order = list(range(self.dim()))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return _permute(self, order)


def _unsqueeze(self: torch.Tensor, dim: int) -> Layout | None:
    shape, strides = list(self.shape), list(self.stride())
    dim %= self.dim() + 1
    step = shape[dim] * strides[dim] if dim < self.dim() else 1
    return [*shape[:dim], 1, *shape[dim:]], [*strides[:dim], step, *strides[dim:]]


def _contiguous(self: torch.Tensor, *, memory_format: Any = torch.contiguous_format) -> Layout | None:
    if memory_format != torch.contiguous_format:
        return None
    return list(self.shape), in_order(self.shape) if _is_in_order(self) else None


VIEW_RULES: dict[Any, Callable[..., Layout | None]] = {
    aten.view.default: _view, aten.reshape.default: _reshape, aten.flatten.using_ints: _flatten,
    aten.permute.default: _permute, aten.transpose.int: _transpose, aten.unsqueeze.default: _unsqueeze,
    aten.contiguous.default: _contiguous,
}  # fmt: skip
