"""Views of tensors whose sizes are symbolic: shape and strides in the place of PyTorch's rules, which ask a lot of questions.

See shape_rules.py. A rule gives the shape and the strides of a view of the same memory, a shape alone where the result is a
copy, or None where it cannot tell.
"""

from __future__ import annotations

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
    from sympy import Mul  # torch imports it on use too

    rest = [i for i, s in enumerate(size) if isinstance(s, int) and s == -1]
    if not rest:
        same = Mul(*map(sympy_of, tensor.shape)) == Mul(*map(sympy_of, size))
        return list(size) if same else None
    missing = _quotient(tensor.shape, [s for i, s in enumerate(size) if i not in rest])
    return None if missing is None else [missing if i in rest else s for i, s in enumerate(size)]


def _quotient(sizes: Sequence[Any], divisors: Sequence[Any]) -> Any:
    """The product of some sizes over that of others, where it is a whole number at a glance: sizes cancel, then numbers."""
    symbolic = [s for s in sizes if is_symbolic(s)]
    number = _product(s for s in sizes if not is_symbolic(s))
    for divisor in divisors:
        if not is_symbolic(divisor):
            continue
        twin = next((i for i, s in enumerate(symbolic) if agree(s, divisor)), None)
        if twin is None:
            return None
        symbolic.pop(twin)
    by = _product(s for s in divisors if not is_symbolic(s))
    if not by or number % by:
        return None
    return _product([number // by, *symbolic])


def _product(sizes: Any) -> Any:
    result: Any = 1
    for size in sizes:
        size = settle(size)
        result = size if isinstance(result, int) and result == 1 else result * size
    return result


def _merged(shape: Sequence[Any], strides: Sequence[Any], size: Sequence[Any]) -> Shape | None:
    """The strides with which neighbouring axes seen as one give ``size``; [] where only a copy does, None where unclear.

    Two axes are one where the outer stride is the inner size times the inner stride. PyTorch takes sizes that vary for at
    least 2, and expressions that differ for different numbers, as long as nothing is known of them.
    """
    result: Shape = []
    copy, axis = False, 0
    for wanted in size:
        start = axis
        while axis < len(shape) and (axis == start or not agree(_product(shape[start:axis]), wanted)):
            axis += 1
        if axis == start or not agree(_product(shape[start:axis]), wanted):
            return None
        for outer in range(start, axis - 1):
            copy = copy or not agree(strides[outer], strides[outer + 1] * shape[outer + 1])
        result.append(strides[axis - 1])
    return None if axis < len(shape) else [] if copy else result


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
