"""Complex numbers while a model is traced: pairs of real tensors, for an engine has none.

A complex tensor that depends on an input is a ``Pair``; each op on it becomes real ops on its parts, which are recorded as
any others. A Fourier transform is a product with a constant matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch

from ..errors import InplaceError, TraceError
from .functional import core_decompositions, functional_form, schema_of
from .tensor import Buffer, Traced

__all__ = ["Pair", "complex_form"]

aten = torch.ops.aten
_LONGEST = 4096  # elements of an axis that is transformed: its matrix has as many squared
Rule = Callable[..., Any]


class Pair(Traced):
    """A complex tensor, ``re + 1j * im``."""

    re: Tensor
    im: Tensor

    @staticmethod
    def __new__(cls, re: Tensor, im: Tensor) -> Pair:
        """Of two real tensors of one shape."""
        meta = torch.empty_strided(re.shape, re.stride(), dtype=re.dtype.to_complex(), device="meta")
        return Tensor._make_wrapper_subclass(cls, meta.shape, strides=meta.stride(), dtype=meta.dtype, device=re.device)

    def __init__(self, re: Tensor, im: Tensor) -> None:
        meta = torch.empty_strided(re.shape, re.stride(), dtype=re.dtype.to_complex(), device="meta")
        traced = re if isinstance(re, Traced) else im
        value = traced.value  # type: ignore[attr-defined]
        super().__init__(meta, value, Buffer(value, meta, re.device))
        self.re, self.im = re, im


def complex_form(func: Any, args: Any, kwargs: Any, tensors: list[Tensor], here: Callable[[], str]) -> Rule | None:
    """What gives the result of ``func`` by real ops; None where there are no complex numbers, or PyTorch takes it apart.

    Raises:
        TraceError: it has no form in real numbers.
    """
    dtype = kwargs.get("dtype")
    if not (
        func in _MAKERS or any(t.is_complex() for t in tensors) or any(isinstance(a, complex) for a in args)
        or (dtype is not None and dtype.is_complex)
    ):  # fmt: skip
        return None
    if func in _PARTWISE:
        return lambda *a, **kw: _by_parts(func, a, kw)
    if torch.Tag.inplace_view in func.tags:
        return lambda *a, **kw: _turned(func, a, kw)
    rule = _RULES.get(func)
    if rule is None and schema_of(func).is_mutable:
        raise InplaceError(f"{func} {here()}: it writes to a complex tensor. Use the form that returns a new tensor.")
    if rule is None and not schema_of(func).composite and func not in core_decompositions():
        raise TraceError(
            f"{func} {here()}: TensorRT has no complex numbers, and this op of them no form in real ones here. Write it with "
            ".real, .imag, .abs() or torch.view_as_real."
        )
    if rule is None and any(isinstance(t, Pair) for t in tensors):  # a converter would take it whole
        return func.decompose if schema_of(func).composite else core_decompositions()[func]
    return rule


def parts(x: Any) -> tuple[Any, Any]:
    """Real and imaginary part of anything."""
    if isinstance(x, Pair):
        return x.re, x.im
    if isinstance(x, Traced) and x.is_complex():
        raise NotImplementedError("the complex result of an op that has no form in real numbers")
    if isinstance(x, Tensor):
        re, im = torch.view_as_real(x.resolve_conj()).unbind(-1) if x.is_complex() else (x, torch.zeros_like(x))
        return re, im
    return (x.real, x.imag) if isinstance(x, complex) else (x, 0.0)


def is_real(x: Any) -> bool:
    """Whether it has no imaginary part."""
    return not x.is_complex() if isinstance(x, Tensor) else not isinstance(x, complex)


def _by_parts(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An op that only moves elements, done to both parts."""

    def half(index: int) -> Any:
        first = args[0]
        chosen = [parts(t)[index] for t in first] if isinstance(first, (list, tuple)) else parts(first)[index]
        return func(chosen, *args[1:], **kwargs)

    re, im = half(0), half(1)
    return [Pair(a, b) for a, b in zip(re, im)] if isinstance(re, (list, tuple)) else Pair(re, im)


def _turned(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``transpose_`` and the like: the object becomes another view."""
    target = args[0]
    turned = _by_parts(functional_form(func), args, kwargs)
    with no_dispatch():
        func(*args, **kwargs)
    target.meta, target.re, target.im = turned.meta, turned.re, turned.im
    return target


# ---- arithmetic ---------------------------------------------------------------------------------------------------------


def _add(self: Any, other: Any, alpha: float = 1) -> Pair:
    (a, b), (c, d) = parts(self), parts(other)
    if alpha != 1:
        c, d = c * alpha, d * alpha
    return Pair(a + c, b + d)


def _sub(self: Any, other: Any, alpha: float = 1) -> Pair:
    return _add(self, other, -alpha)


def _mul(self: Any, other: Any) -> Pair:
    (a, b), (c, d) = parts(self), parts(other)
    if is_real(other):
        return Pair(a * c, b * c)
    if is_real(self):
        return Pair(a * c, a * d)
    return Pair(a * c - b * d, a * d + b * c)


def _div(self: Any, other: Any) -> Pair:
    if is_real(other):
        a, b = parts(self)
        return Pair(a / other, b / other)
    c, d = parts(other)
    return _div(_mul(self, _conj(other)), c * c + d * d)


def _conj(self: Any) -> Any:
    if not isinstance(self, Pair):
        return self.conj().resolve_conj() if isinstance(self, Tensor) else self.conjugate()
    return Pair(self.re, -self.im)


def _interleaved(self: Any) -> Tensor:
    """The parts side by side: not a view as PyTorch's, so it must not be written to."""
    result = torch.stack(parts(self), -1)
    if isinstance(result, Traced):
        result.buffer.frozen = "the memory of a complex tensor"
    return result


def _sum(self: Any, *args: Any, **kwargs: Any) -> Pair:
    a, b = parts(self)
    return Pair(aten.sum.dim_IntList(a, *args, **kwargs), aten.sum.dim_IntList(b, *args, **kwargs))


def _pad(self: Any, pad: list[int], value: float = 0) -> Pair:
    a, b = parts(self)
    return Pair(aten.constant_pad_nd(a, pad, value), aten.constant_pad_nd(b, pad, 0))


# ---- Fourier transforms -------------------------------------------------------------------------------------------------


def _scale(normalization: int, sizes: list[int]) -> float:
    """What PyTorch's normalization (0 none, 1 by the root of the size, 2 by the size) multiplies with."""
    return float(math.prod(sizes) ** (0.0, -0.5, -1.0)[normalization])


def _waves(size: int, kept: int, scale: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (size, kept): element n, frequency k; computed in float64."""
    if size > _LONGEST:
        raise NotImplementedError(f"a Fourier transform of {size} elements; as a matrix product at most {_LONGEST}")
    places = torch.arange(size, device=x.device)
    turns = (places[:, None] * places[None, :kept]) % size
    angle = turns.double() * (2 * math.pi / size)
    return (angle.cos() * scale).to(x.dtype), (angle.sin() * scale).to(x.dtype)


def _r2c(self: Tensor, dim: list[int], normalization: int, onesided: bool) -> Pair:
    *others, last = dim
    size, x = self.shape[last], self.movedim(last, -1)
    kept = size // 2 + 1 if onesided else size
    cosines, sines = _waves(size, kept, _scale(normalization, [self.shape[d] for d in dim]), x)
    result = Pair((x @ cosines).movedim(-1, last), (x @ -sines).movedim(-1, last))
    return _c2c(result, others, 0, True) if others else result


def _c2c(self: Any, dim: list[int], normalization: int, forward: bool) -> Pair:
    re, im = parts(self)
    scale = _scale(normalization, [re.shape[d] for d in dim])
    for place, d in enumerate(dim):
        a, b = re.movedim(d, -1), im.movedim(d, -1)
        cosines, sines = _waves(a.shape[-1], a.shape[-1], 1.0 if place else scale, a)
        sines = -sines if forward else sines
        re, im = ((a @ cosines - b @ sines).movedim(-1, d), (a @ sines + b @ cosines).movedim(-1, d))
    return Pair(re, im)


def _c2r(self: Any, dim: list[int], normalization: int, last_dim_size: int) -> Tensor:
    """The frequencies above the middle are the conjugates of those below; the first's imaginary part counts for nothing."""
    *others, last = dim
    x = _c2c(self, others, 0, False) if others else self
    a, b = (t.movedim(last, -1) for t in parts(x))
    sizes = [last_dim_size, *(a.movedim(-1, last).shape[d] for d in others)]
    kept = last_dim_size // 2 + 1
    cosines, sines = (w.T for w in _waves(last_dim_size, kept, _scale(normalization, sizes), a))
    twice = torch.full((kept, 1), 2.0, dtype=a.dtype, device=a.device)
    twice[0] = 1.0
    if last_dim_size % 2 == 0:
        twice[-1] = 1.0
    result: Tensor = a[..., :kept] @ (cosines * twice) - b[..., :kept] @ (sines * twice)
    return result.movedim(-1, last)


_MAKERS = {aten._fft_r2c.default, aten.view_as_complex.default, aten.complex.default, aten.polar.default}

_PARTWISE = {
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.permute.default, aten.transpose.int,
    aten.t.default, aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims,
    aten.expand.default, aten.slice.Tensor, aten.select.int, aten.narrow.default, aten.flip.default, aten.roll.default,
    aten.cat.default, aten.stack.default, aten.unbind.int, aten.split.Tensor, aten.split_with_sizes.default,
    aten.chunk.default, aten.clone.default, aten.contiguous.default, aten.alias.default, aten.detach.default,
    aten.neg.default, aten.movedim.intlist, aten.flatten.using_ints, aten.unflatten.int,
}  # fmt: skip

_RULES: dict[Any, Rule] = {
    aten.real.default: lambda self: parts(self)[0],
    aten.imag.default: lambda self: parts(self)[1],
    aten.view_as_real.default: lambda self: _interleaved(self),
    aten.view_as_complex.default: lambda self: Pair(self[..., 0], self[..., 1]),
    aten.complex.default: lambda real, imag: Pair(real, imag),
    aten.polar.default: lambda abs, angle: Pair(abs * angle.cos(), abs * angle.sin()),
    aten.abs.default: lambda self: torch.hypot(*parts(self)),
    aten.angle.default: lambda self: torch.atan2(*reversed(parts(self))),
    aten._conj.default: _conj,
    aten._conj_physical.default: _conj,
    aten.conj_physical.default: _conj,
    aten.reciprocal.default: lambda self: _div(1.0, self),
    aten.resolve_conj.default: lambda self: self,
    aten.add.Tensor: _add,
    aten.sub.Tensor: _sub,
    aten.mul.Tensor: _mul,
    aten.div.Tensor: _div,
    aten.add.Scalar: _add,
    aten.sub.Scalar: _sub,
    aten.mul.Scalar: _mul,
    aten.div.Scalar: _div,
    aten.sum.dim_IntList: _sum,
    aten.constant_pad_nd.default: _pad,
    aten._fft_r2c.default: _r2c,
    aten._fft_c2c.default: _c2c,
    aten._fft_c2r.default: _c2r,
    aten._to_copy.default: lambda self, dtype=None, **_: _to(self, dtype),
}


def _to(self: Any, dtype: torch.dtype | None) -> Any:
    """Real to complex, or another place of the same type."""
    a, b = parts(self)
    if dtype in (None, torch.complex64):
        return Pair(a, b)
    raise NotImplementedError(f"a cast of a complex tensor to {dtype}; take its .real or .abs() first")
