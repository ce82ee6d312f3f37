"""Matrix products, softmax, reductions, einsum, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..._trt import trt
from .core import Tensor, Value
from .equation import Term, explicit
from .quantize import Quantize
from .symbols import broadcast, same, same_shape

__all__ = ["Matrix"]


def axes_mask(dims: Sequence[int], ndim: int) -> int:
    """TensorRT's bit mask of axes."""
    mask = 0
    for dim in dims:
        mask |= 1 << (dim % ndim)
    return mask


def _one_matrix_for_many(a: Value, b: Value) -> bool:
    """Whether a batch of matrices meets one matrix of weights: then all their rows are rows of one product.

    As a batch TensorRT 8.6.0 reads the weights once per matrix: (197, 1, 768) by (768, 2304) in half took 0.14 ms more on
    an H200 than (197, 768) did.
    """
    batch = a.shape[:-2] if isinstance(a, Tensor) else ()
    return isinstance(b, torch.Tensor) and b.ndim == 2 and b.numel() > 0 and not all(same(size, 1) for size in batch)


class Matrix(Quantize):
    """Layers that combine elements along axes."""

    def matmul(self, a: Value, b: Value, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
        """Matrix product of the last two axes with broadcast of the others; both at least 2-D."""
        dtype = self.result_type(a, b)
        if _one_matrix_for_many(a, b) and dtype.is_floating_point and not transpose_a:
            assert isinstance(a, Tensor)
            rows = self.matmul(self.reshape(a, (-1, a.shape[-1])), b, False, transpose_b)
            return self.reshape(rows, (*a.shape[:-1], rows.shape[-1]))
        rank = max(v.ndim for v in (a, b))  # type: ignore[union-attr]
        x, y = self._of_rank(a, rank, dtype), self._of_rank(b, rank, dtype)
        if not dtype.is_floating_point:
            return self._integer_matmul(x, y, transpose_a, transpose_b)
        op = trt.MatrixOperation
        layer = self.layer(
            self.raw.add_matrix_multiply(
                x.raw, op.TRANSPOSE if transpose_a else op.NONE, y.raw, op.TRANSPOSE if transpose_b else op.NONE
            )
        )
        batch = broadcast(x.shape[:-2], y.shape[:-2])
        return self.result(layer, x.dtype, (*batch, x.shape[-1 if transpose_a else -2], y.shape[-2 if transpose_b else -1]))

    def _of_rank(self, value: Value, rank: int, dtype: torch.dtype) -> Tensor:
        """``value`` with axes of size 1 in front; a constant gets them itself, so that it stays the operand."""
        if isinstance(value, torch.Tensor) and value.ndim < rank:
            tensor = self.constant(value.reshape((1,) * (rank - value.ndim) + tuple(value.shape)), dtype)
            self.note_weights(value, self.layers[-1].raw)
            return tensor
        t = self.tensor(value, dtype)
        missing = rank - t.ndim
        held = self.requantized(t, lambda w: w.reshape((1,) * missing + w.shape), missing) if missing else None
        return held or self.reshape(t, (1,) * missing + t.shape)

    def _integer_matmul(self, x: Tensor, y: Tensor, transpose_x: bool, transpose_y: bool) -> Tensor:
        """IMatrixMultiplyLayer takes floats only, and float32 holds no large integers: multiply, then add up."""
        swapped = [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2]
        x = self.permute(x, swapped) if transpose_x else x
        y = self.permute(y, swapped) if transpose_y else y
        return self.reduce(self.mul(self.unsqueeze(x, -1), self.unsqueeze(y, -3)), "SUM", [-2], keepdim=False)

    def reduce(self, x: Value, kind: str, dims: Sequence[int], keepdim: bool) -> Tensor:
        """IReduceLayer of ``kind`` (a name of trt.ReduceOperation) over ``dims``; all axes where ``dims`` is empty.

        MAX and MIN of bools and int8, which TensorRT does not reduce, are those of int32.
        """
        t = self.tensor(x)
        if t.ndim == 0:
            return t
        if t.dtype in (torch.bool, torch.int8):
            return self.cast(self.reduce(self.cast(t, torch.int32), kind, dims, keepdim), t.dtype)
        axes = [d % t.ndim for d in dims or range(t.ndim)]
        layer = self.layer(self.raw.add_reduce(t.raw, getattr(trt.ReduceOperation, kind), axes_mask(axes, t.ndim), keepdim))
        left = [1 if d in axes else n for d, n in enumerate(t.shape) if keepdim or d not in axes]
        return self.result(layer, t.dtype, left)

    def softmax(self, x: Value, dim: int) -> Tensor:
        """Softmax along ``dim``."""
        t = self.tensor(x)
        layer = self.layer(self.raw.add_softmax(t.raw))
        layer.axes = axes_mask([dim], t.ndim)
        return self.result(layer, t.dtype, t.shape)

    def einsum(self, equation: str, values: Sequence[Value]) -> Tensor:
        """torch.einsum. IEinsumLayer takes two operands, no ellipsis, no diagonal and no broadcast of size 1.

        So diagonals are cut out first, and more than two operands are combined from left to right.
        """
        dtype = self.result_type(*values)
        tensors = [self.tensor(v, dtype) for v in values]
        terms, output = explicit(equation, [t.ndim for t in tensors])
        operands = [self._diagonals(t, term) for t, term in zip(tensors, terms)]
        left, term = operands[0]
        for i, (right, other) in enumerate(operands[1:], 2):
            later = {label for _, rest in operands[i:] for label in rest} | set(output)
            kept = [label for label in dict.fromkeys([*term, *other]) if label in later]
            left, term = self._einsum_of_two(left, term, right, other, kept), kept
        summed = [axis for axis, label in enumerate(term) if label not in output]
        if summed:
            left, term = self.reduce(left, "SUM", summed, keepdim=False), [label for label in term if label in output]
        return self.permute(left, [term.index(label) for label in output])

    def _diagonals(self, x: Tensor, term: Term) -> tuple[Tensor, Term]:
        """A label that stands twice in one operand takes the diagonal of the two axes."""
        twice = next((label for label in term if term.count(label) > 1), None)
        if twice is None:
            return x, term
        first, second = [axis for axis, label in enumerate(term) if label == twice][:2]
        others = [axis for axis in range(x.ndim) if axis not in (first, second)]
        size = x.shape[first]
        flat = self.reshape(self.permute(x, [*others, first, second]), [*(x.shape[axis] for axis in others), size * size])
        return self._diagonals(self.slice(flat, -1, 0, size, size + 1), [*(term[axis] for axis in others), twice])

    def _einsum_of_two(self, a: Tensor, of_a: Term, b: Tensor, of_b: Term, output: Term) -> Tensor:
        sizes_a, sizes_b = dict(zip(of_a, a.shape)), dict(zip(of_b, b.shape))
        kept_a = [label for label in of_a if not same(sizes_a[label], 1) or same(sizes_b.get(label, 1), 1)]
        kept_b = [label for label in of_b if not same(sizes_b[label], 1) or same(sizes_a.get(label, 1), 1)]
        sizes = {n: sizes_b[n] for n in kept_b} | {n: sizes_a[n] for n in kept_a}
        x = self.reshape(a, [sizes_a[label] for label in kept_a])
        y = self.reshape(b, [sizes_b[label] for label in kept_b])
        letters = {label: chr(ord("a") + i) for i, label in enumerate(dict.fromkeys([*of_a, *of_b]))}
        left, right, result = ("".join(letters[label] for label in term) for term in (kept_a, kept_b, output))
        layer = self.layer(self.raw.add_einsum([x.raw, y.raw], f"{left},{right}->{result}"))
        return self.result(layer, a.dtype, [sizes[label] for label in output])

    def attention(self, query: Value, key: Value, value: Value, mask: Value | None, causal: bool) -> Tensor:
        """softmax(query keyᵀ + mask) value; true in a bool mask lets a position attend.

        ``causal`` without a mask lets position i see the positions up to i. A row that sees nothing gives zeros, as in
        PyTorch. IAttention where TensorRT has it and has kernels for the dtype, else the layers that it stands for.
        """
        q, k, v = self.promote(query, key, value)
        mask = self._additive(mask) if isinstance(mask, torch.Tensor) else mask
        blind = None if mask is None else self._blind_rows(mask)
        if self._has_attention_layer(q, k, v):
            result = self._attention_layer(q, k, v, mask, causal)
        else:
            if causal:
                mask = self.triangle(q.shape[-2], k.shape[-2])
                mask = self._additive(mask) if isinstance(mask, torch.Tensor) else self._of_rank(mask, q.ndim, torch.bool)
            k, v = (self._repeat_heads(t, q) for t in (k, v))
            scores = self.matmul(q, k, transpose_b=True)
            if isinstance(mask, Tensor) and mask.dtype == torch.bool:
                scores = self.select(mask, scores, self.tensor(-math.inf, scores.dtype))
            elif mask is not None:
                scores = self.add(scores, self._of_rank(mask, scores.ndim, scores.dtype))
            result = self.matmul(self.softmax(scores, -1), v)
        return result if blind is None else self.select(blind, self.tensor(0.0, result.dtype), result)

    def _repeat_heads(self, t: Tensor, query: Tensor) -> Tensor:
        """Keys or values whose heads are shared by several heads of the queries; one head for all broadcasts as it is."""
        if t.ndim < 3 or same(t.shape[-3], 1) or same(t.shape[-3], query.shape[-3]):
            return t
        shared = self.unsqueeze(t, -3)
        shared = self.expand(shared, (*t.shape[:-2], query.shape[-3] // t.shape[-3], *t.shape[-2:]))
        return self.reshape(shared, (*t.shape[:-3], query.shape[-3], *t.shape[-2:]))

    @staticmethod
    def _additive(mask: torch.Tensor) -> torch.Tensor:
        """A constant mask as what is added to the scores: 0 or minus infinity."""
        return (
            mask.new_zeros(mask.shape, dtype=torch.float32).masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else mask
        )

    def _blind_rows(self, mask: Value) -> Value | None:
        """Which rows see nothing, with an axis of size 1 in the place of the keys; None where it is known that none is."""
        if isinstance(mask, torch.Tensor):
            blind = (mask == -math.inf).all(-1, keepdim=True)
            return blind if blind.any() else None
        t = self.tensor(mask, torch.float32 if self.tensor(mask).dtype == torch.bool else None)
        best = self.reduce(t, "MAX", [-1], keepdim=True)
        return self.elementwise("EQUAL", best, 0.0 if self.tensor(mask).dtype == torch.bool else -math.inf)

    def _has_attention_layer(self, q: Tensor, k: Tensor, v: Tensor) -> bool:
        """IAttention takes rank 4, one shape of keys and values, and no broadcast; float32 has no kernels of its own."""
        return (
            self.capabilities.attention_v2
            and q.dtype in (torch.float16, torch.bfloat16)
            and q.ndim == 4
            and same_shape(k.shape, v.shape)
            and same_shape((q.shape[0], q.shape[3]), (k.shape[0], k.shape[3]))
            and same(q.shape[1] % k.shape[1], 0)
        )

    def _attention_layer(self, q: Tensor, k: Tensor, v: Tensor, mask: Value | None, causal: bool) -> Tensor:
        softmax = trt.AttentionNormalizationOp.SOFTMAX
        kind = trt.CausalMaskKind.UPPER_LEFT if causal else trt.CausalMaskKind.NONE
        attention = self.raw.add_attention_v2(q.raw, k.raw, v.raw, softmax, kind)
        count = self.raw.num_layers  # IAttention is no ILayer: two boundary layers stand for it in the network
        for boundary in (count - 2, count - 1):
            self.layer(attention and self.raw.get_layer(boundary))
        attention.decomposable = True  # a shape without a kernel of its own is built from other layers
        if mask is not None:
            t = self.tensor(mask)
            t = t if t.dtype == torch.bool else self.cast(t, q.dtype)
            t = self.reshape(t, (1,) * (4 - t.ndim) + t.shape)
            attention.mask = self.expand(t, (*t.shape[:2], q.shape[2], k.shape[2])).raw
        return self.result(attention, q.dtype, q.shape)
