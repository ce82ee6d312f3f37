"""Shapes of results where sizes are symbolic: rules in the place of PyTorch's, for the ops that models are full of.

PyTorch's own rules take an op apart and ask, step by step, whether strides of symbolic sizes agree: milliseconds an op,
and questions that make no difference to an engine. A rule here gives the shape from the shapes of the arguments, or None
where it cannot tell; then PyTorch's rule decides. ``Symbols.call`` holds each answer against PyTorch's at the example's sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..sizes import SYMBOLIC, bounds, is_symbolic, sympy_of
from .quantized import SAME_SHAPE

__all__ = ["CONVOLUTIONS", "OTHER_FORMS", "Shape", "agree", "as_convolution", "hint", "in_order", "map_sizes", "rule_of"]

aten = torch.ops.aten
Shape = list[Any]  # ints and symbolic ints
Rule = Callable[..., "Shape | None"]


def rule_of(func: Any) -> Rule | None:
    """The rule for the shape of what ``func`` gives, a single tensor; None where there is none."""
    rule = _RULES.get(func)
    if rule is None and torch.Tag.pointwise in getattr(func, "tags", ()) and len(func._schema.returns) == 1:
        return _pointwise
    return rule


def hint(size: Any) -> Any:
    """The example's value of a symbolic number; anything else as it is."""
    return size.node.hint if isinstance(size, SYMBOLIC) else size


def map_sizes(tree: Any) -> Any:
    """Nested lists, tuples and dicts with each symbolic number at the example's value."""
    if isinstance(tree, (tuple, list)):
        return type(tree)([map_sizes(item) for item in tree])
    if isinstance(tree, dict):
        return {key: map_sizes(item) for key, item in tree.items()}
    return hint(tree)


def in_order(shape: Sequence[Any]) -> Shape:
    """The strides of a tensor whose elements lie in memory in the order of its axes."""
    symbolic = next((size for size in shape[1:] if isinstance(size, SYMBOLIC)), None)
    if symbolic is None:
        return _in_order(shape)
    # a product of sizes takes PyTorch long, and layers repeat; what is known lives as long as the sizes
    known = vars(symbolic.node.shape_env).setdefault("_torch2edge_in_order", {})
    key = tuple(size.node._expr if isinstance(size, SYMBOLIC) else size for size in shape[1:])
    if key not in known:
        known[key] = _in_order(shape)
    return list(known[key])


def _in_order(shape: Sequence[Any]) -> Shape:
    strides: Shape = []
    step: Any = 1
    for size in reversed(shape):
        strides.append(step)
        step = size if isinstance(step, int) and step == 1 else step if isinstance(size, int) and size == 1 else step * size
    return strides[::-1]


def agree(a: Any, b: Any) -> bool:
    """Whether two sizes are the same expression. They may be equal in other ways: that is for PyTorch to ask."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return sympy_of(a) == sympy_of(b)  # type: ignore[no-any-return]


def all_agree(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(map(agree, first, second))


def broadcast(*shapes: Sequence[Any]) -> Shape | None:
    """The shape that tensors of these shapes have together; None where that hangs on a symbolic size."""
    rank = max(map(len, shapes), default=0)
    result: Shape = [1] * rank
    for shape in shapes:
        for axis, size in enumerate(shape, rank - len(shape)):
            if agree(size, 1) or agree(size, result[axis]):
                continue
            if not agree(result[axis], 1):
                return None
            result[axis] = size
    return result


def _pointwise(*args: Any, **kwargs: Any) -> Shape | None:
    return broadcast(*(a.shape for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)))


def _same(self: torch.Tensor, *args: Any, **kwargs: Any) -> Shape | None:
    return list(self.shape)


def _channels_are_fixed(self: torch.Tensor, *args: Any, **kwargs: Any) -> Shape | None:
    """The parameters of a normalization must fit the channels: PyTorch's own rule asks where their number varies."""
    return None if is_symbolic(self.shape[1]) else list(self.shape)


def _layer_norm(input: torch.Tensor, normalized_shape: Sequence[Any], *args: Any, **kwargs: Any) -> Shape | None:
    fits = all_agree(input.shape[len(input.shape) - len(normalized_shape) :], normalized_shape)
    return list(input.shape) if fits else None


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Shape | None:
    torch._check(input.shape[-1] == weight.shape[-1])
    return [*input.shape[:-1], *weight.shape[:-1]]


def _matmul(self: torch.Tensor, other: torch.Tensor) -> Shape | None:
    if self.dim() < 2 or other.dim() < 2:
        return None
    torch._check(self.shape[-1] == other.shape[-2])
    batch = broadcast(self.shape[:-2], other.shape[:-2])
    return None if batch is None else [*batch, self.shape[-2], other.shape[-1]]


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None, *args: Any,
    **kwargs: Any,
) -> Shape | None:  # fmt: skip
    scores = [*query.shape[:-1], key.shape[-2]]
    fits = all_agree(key.shape[:-1], value.shape[:-1]) and all_agree(query.shape[:-2], key.shape[:-2])
    if attn_mask is not None:
        together = broadcast(attn_mask.shape, scores)
        fits = fits and together is not None and all_agree(together, scores)
    return [*query.shape[:-1], value.shape[-1]] if fits and agree(query.shape[-1], key.shape[-1]) else None


def _convolution(
    input: torch.Tensor, weight: torch.Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> Shape | None:  # fmt: skip
    """Where the result is never empty: the padding is no less than half a window, or the range of the sizes says so."""
    spatial = weight.dim() - 2
    if isinstance(padding, str) or input.dim() != weight.dim() or is_symbolic(input.shape[1]):
        return None
    shape: Shape = [input.shape[0], weight.shape[0]]
    for axis in range(spatial):
        s, p, d = (_at(v, axis) for v in (stride, padding, dilation))
        spare = 2 * p - d * (weight.shape[2 + axis] - 1)
        length = input.shape[2 + axis] + spare if spare else input.shape[2 + axis]
        if is_symbolic(length) and spare < 0 and not (bounds(length)[0] or 0) > 0:
            return None
        shape.append(length if s == 1 else (length - 1) // s + 1)
    return shape


def _any_convolution(
    input: torch.Tensor, weight: torch.Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Shape | None:  # fmt: skip
    return None if transposed else _convolution(input, weight, bias, stride, padding, dilation, groups)


def _at(value: Any, axis: int) -> int:
    """The argument of one axis; a single number is that of all."""
    if isinstance(value, int):
        return value
    return int(value[axis % len(value)])


CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default}


def as_convolution(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> tuple[Any, ...] | None:  # fmt: skip
    """What conv1d to conv3d give to aten.convolution, as PyTorch's C++ does, which asks symbolic sizes on the way.

    None where an axis for the batch has to be added, or the argument is none that it takes.
    """
    axes = weight.dim() - 2
    every = [[v] * axes if isinstance(v, int) else list(v) * (axes if len(v) == 1 else 1) for v in (stride, padding, dilation)]
    fits = input.dim() == weight.dim() and all(len(v) == axes for v in every) and input.dtype == weight.dtype
    return (input, weight, bias, *every, False, [0] * axes, groups) if fits else None


def _upsample(input: torch.Tensor, output_size: Any, *args: Any) -> Shape | None:
    """To a size that is given, or by a factor."""
    if output_size is not None:
        return [*input.shape[:2], *output_size]
    sizes = [size * int(f) if f == int(f) else torch.sym_int(size * f) for size, f in zip(input.shape[2:], args[-1])]
    return [*input.shape[:2], *sizes]


def _reduction(self: torch.Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Shape | None:
    gone = {d % self.dim() for d in ([dim] if isinstance(dim, int) else dim or range(self.dim()))} if self.dim() else set()
    kept = [1 if axis in gone else size for axis, size in enumerate(self.shape)]
    return kept if keepdim else [size for axis, size in enumerate(kept) if axis not in gone]


def _cat(tensors: Sequence[torch.Tensor], dim: int = 0) -> Shape | None:
    first = tensors[0]
    if any(t.dim() != first.dim() for t in tensors) or first.dim() == 0:
        return None
    dim %= first.dim()
    others = [[size for axis, size in enumerate(t.shape) if axis != dim] for t in tensors]
    if not all(all_agree(others[0], shape) for shape in others):
        return None
    result = list(first.shape)
    for tensor in tensors[1:]:
        result[dim] = result[dim] + tensor.shape[dim]
    return result


def _embedding(weight: torch.Tensor, indices: torch.Tensor, *args: Any, **kwargs: Any) -> Shape | None:
    return [*indices.shape, weight.shape[1]]


def _pad(self: torch.Tensor, pad: Sequence[Any], *args: Any, **kwargs: Any) -> Shape | None:
    result = list(self.shape)
    for i, axis in enumerate(range(len(result) - 1, len(result) - 1 - len(pad) // 2, -1)):
        before, after = pad[2 * i], pad[2 * i + 1]
        if is_symbolic(before) or is_symbolic(after) or before < 0 or after < 0:
            return None
        result[axis] = result[axis] + (before + after)
    return result


_RULES: dict[Any, Rule] = {
    aten.linear.default: _linear, aten.matmul.default: _matmul, aten.bmm.default: _matmul,
    aten.scaled_dot_product_attention.default: _attention, aten.embedding.default: _embedding,
    aten.layer_norm.default: _layer_norm, aten.cat.default: _cat, aten.constant_pad_nd.default: _pad,
    aten.convolution.default: _any_convolution,
    **dict.fromkeys((aten.conv1d.default, aten.conv2d.default, aten.conv3d.default), _convolution),
    **dict.fromkeys((aten.upsample_nearest2d.vec, aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec), _upsample),
    **dict.fromkeys((aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default), _reduction),
    **dict.fromkeys((aten.batch_norm.default, aten.group_norm.default, aten.instance_norm.default), _channels_are_fixed),
    **dict.fromkeys(
        (aten.softmax.int, aten.log_softmax.int, aten._softmax.default, aten._log_softmax.default, aten.clone.default,
         aten.to.dtype, aten._to_copy.default), _same,
    ),
}  # fmt: skip


def _max_pool1d(x: Any, *args: Any, **kwargs: Any) -> Any:
    """Its kernel in C++ reads the length as a plain integer; that of the form with indices does not."""
    return aten.max_pool1d_with_indices.default(x, *args, **kwargs)[0]


def _itself(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return self


def _one_step(func: Any) -> Callable[..., Any]:
    """PyTorch's rule of a recurrent op walks through all steps; one of them tells the shapes of the others."""

    def rule(input: Any, hx: Any, params: Any, *options: Any) -> Any:
        batch_first = options[-1]
        result = func(input.narrow(int(batch_first), 0, 1), hx, params, *options)
        width = result[0].shape[-1]
        if batch_first:  # in memory the steps come first
            output = result[0].new_empty((input.shape[1], input.shape[0], width)).transpose(0, 1)
        else:
            output = result[0].new_empty((*input.shape[:2], width))
        return (output, *result[1:])

    return rule


# What PyTorch is asked instead where its own rule is in the way, whether sizes are symbolic or not.
OTHER_FORMS: dict[Any, Callable[..., Any]] = {
    aten.max_pool1d.default: _max_pool1d,
    **{op: _one_step(op) for op in (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)},
    **dict.fromkeys(  # in eval mode, which is all that is traced
        (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.feature_alpha_dropout.default),
        _itself,
    ),
    **SAME_SHAPE,
}  # fmt: skip
