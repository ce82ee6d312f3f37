"""A call of each of the ATen ops in 180 models of torchvision and timm, as PyTorch 2.11's functionalisation leaves them.

Name of the overload -> a function of tensors and how to draw them: shapes, or Specs. Overloads are called as they are; a
model reaches the converters through higher ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from support.rows import Spec
from support.torch_features import where_torch_has

__all__ = ["CALLS", "NAMES"]

NAMES = """
_adaptive_avg_pool2d.default _safe_softmax.default _softmax.default _to_copy.default _unsafe_view.default
_upsample_bicubic2d_aa.default adaptive_max_pool2d.default add.Tensor add_.Scalar add_.Tensor addcmul.default
addmm.default alias.default amax.default arange.default arange.start as_strided_.default avg_pool2d.default
avg_pool3d.default bitwise_not.default bmm.default cat.default clamp.Tensor clamp.default clamp_min.default clone.default
col2im.default constant_pad_nd.default convolution.default copy.default cos.default cumsum.default detach.default
div.Tensor div.Tensor_mode empty.memory_format eq.Scalar eq.Tensor exp.default expand.default eye.m flip.default
gelu.default grid_sampler_2d.default hardsigmoid.default hardswish.default hardtanh.default im2col.default index.Tensor
leaky_relu.default lift_fresh.default linalg_vector_norm.default linspace.default masked_fill.Scalar max.dim
max_pool2d_with_indices.default max_pool3d_with_indices.default mean.dim mm.default mul.Scalar mul.Tensor
native_batch_norm.default native_group_norm.default native_layer_norm.default ne.Scalar neg.default new_zeros.default
ones.default permute.default pow.Scalar pow.Tensor_Scalar reflection_pad2d.default relu.default relu_.default
repeat.default roll.default rsqrt.default rsub.Scalar scalar_tensor.default select.int select_scatter.default
sigmoid.default sigmoid_.default silu.default sin.default slice.Tensor slice_scatter.default split.Tensor
split_with_sizes.default sqrt.default squeeze.dim stack.default sub.Tensor sum.dim_IntList t.default tanh.default
tanh_.default transpose.int unbind.int unsafe_split.Tensor unsqueeze.default upsample_bicubic2d.default
upsample_bilinear2d.default upsample_nearest2d.default view.default zero_.default zeros.default
""".split()  # noqa: SIM905 (a hundred quoted names say no more)

aten = torch.ops.aten
M, ROWS3, I4, VOLUME = (3, 4), (2, 3, 6), (2, 3, 6, 6), (1, 2, 4, 5, 6)
INTS, BOOLS, POSITIVE = Spec(M, torch.int64, -9, 9), Spec(M, torch.bool), Spec(M, positive=True)
STATISTICS = (torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 0.5]))
WEIGHT = torch.linspace(-1, 1, 3 * 4 * 9).reshape(4, 3, 3, 3)


def op(name: str) -> Any:
    """The overload of that name."""
    packet, overload = name.split(".")
    return getattr(getattr(aten, packet), overload)


def plain(names: str, *inputs: Any, rest: tuple[Any, ...] = ()) -> dict[str, tuple[Any, ...]]:
    """Ops that take the inputs, and then ``rest``."""
    return {name: (call(op(name), rest), *inputs) for name in names.split()}


def call(func: Any, rest: tuple[Any, ...]) -> Callable[..., Any]:
    """The op on its inputs; one that writes gets a clone."""
    if func._schema.is_mutable:
        return lambda x, *others: func(x.clone(), *others, *rest)
    return lambda *tensors: func(*tensors, *rest)


def made(name: str, *arguments: Any) -> dict[str, tuple[Any, ...]]:
    """An op that makes a tensor (4,) or (3, 4) from no other; it is added to the input."""
    return {name: (lambda x: x + op(name)(*arguments), M)}


CALLS: dict[str, tuple[Any, ...]] = {
    **plain(" ".join(where_torch_has("aten._safe_softmax.default", "", ["_safe_softmax.default"])), ROWS3, rest=(-1,)),
    **plain("_softmax.default", ROWS3, rest=(1, False)),
    **plain("cos.default exp.default gelu.default hardsigmoid.default hardswish.default hardtanh.default relu.default", M),
    **plain("leaky_relu.default neg.default sigmoid.default silu.default sin.default tanh.default alias.default", M),
    **plain("clone.default detach.default lift_fresh.default t.default relu_.default sigmoid_.default tanh_.default", M),
    **plain("zero_.default", M),
    **plain("rsqrt.default sqrt.default", POSITIVE),
    **plain("add.Tensor add_.Tensor sub.Tensor mul.Tensor copy.default", M, M),
    **plain("div.Tensor", M, POSITIVE),
    **plain("addcmul.default", M, M, M),
    **plain("add_.Scalar mul.Scalar clamp_min.default rsub.Scalar ne.Scalar eq.Scalar pow.Tensor_Scalar", M, rest=(2,)),
    **plain("eq.Tensor", INTS, INTS),
    **plain("bitwise_not.default", BOOLS),
    **plain("clamp.default", M, rest=(-0.5, 0.5)),
    "clamp.Tensor": (lambda x, high: aten.clamp.Tensor(x, None, high), M, (4,)),
    "div.Tensor_mode": (lambda x, y: aten.div.Tensor_mode(x, y, rounding_mode="floor"), M, POSITIVE),
    "pow.Scalar": (lambda x: aten.pow.Scalar(2, x), M),
    "masked_fill.Scalar": (lambda x, m: aten.masked_fill.Scalar(x, m, -100.0), M, BOOLS),
    "_to_copy.default": (lambda x: aten._to_copy.default(x, dtype=torch.int32), M),
    # reductions, products
    **plain("amax.default mean.dim sum.dim_IntList", ROWS3, rest=([-1, 0],)),
    **plain("max.dim", ROWS3, rest=(1,)),
    **plain("cumsum.default", ROWS3, rest=(-1,)),
    **plain("linalg_vector_norm.default", ROWS3, rest=(2, [-1], True)),
    **plain("addmm.default", (5,), M, (4, 5)),
    **plain("bmm.default", (2, 3, 4), (2, 4, 5)),
    **plain("mm.default", M, (4, 5)),
    # poolings, convolutions, normalizations, resampling
    **plain("_adaptive_avg_pool2d.default", I4, rest=([4, 1],)),
    "adaptive_max_pool2d.default": (lambda x: aten.adaptive_max_pool2d.default(x, [4, 1])[0], I4),
    **plain("avg_pool2d.default", I4, rest=([3, 3], [2, 2], [1, 1])),
    **plain("avg_pool3d.default", VOLUME, rest=([2, 2, 2],)),
    "max_pool2d_with_indices.default": (lambda x: aten.max_pool2d_with_indices.default(x, [3, 3], [2, 2], [1, 1])[0], I4),
    "max_pool3d_with_indices.default": (lambda x: aten.max_pool3d_with_indices.default(x, [2, 2, 2])[0], VOLUME),
    **plain("convolution.default", I4, rest=(WEIGHT, None, [2, 2], [1, 1], [1, 1], False, [0, 0], 1)),
    "native_batch_norm.default": (
        lambda x: aten.native_batch_norm.default(x, None, None, *STATISTICS, False, 0.1, 1e-5)[0], I4
    ),
    "native_group_norm.default": (lambda x: aten.native_group_norm.default(x, None, None, 2, 3, 36, 3, 1e-5)[0], I4),
    "native_layer_norm.default": (lambda x: aten.native_layer_norm.default(x, [6], None, None, 1e-5)[0], I4),
    **plain("upsample_nearest2d.default", I4, rest=([9, 12],)),
    **plain("upsample_bilinear2d.default upsample_bicubic2d.default _upsample_bicubic2d_aa.default", I4, rest=([9, 4], False)),
    **plain("grid_sampler_2d.default", I4, (2, 4, 5, 2), rest=(0, 0, False)),
    **plain("constant_pad_nd.default", I4, rest=([1, 2, 0, -1], 0.5)),
    **plain("reflection_pad2d.default", I4, rest=([1, 2, 0, 1],)),
    **plain("im2col.default", I4, rest=([3, 2], [1, 1], [1, 1], [2, 2])),
    **plain("col2im.default", (2, 12, 9), rest=([5, 6], [2, 3], [1, 1], [1, 1], [2, 2])),
    # shapes, indexing
    **plain("view.default _unsafe_view.default", M, rest=([2, 6],)),
    **plain("expand.default", (3, 1), rest=([2, 3, 4],)),
    **plain("flip.default", ROWS3, rest=([0, 2],)),
    **plain("permute.default", ROWS3, rest=([2, 0, 1],)),
    **plain("repeat.default", M, rest=([2, 1, 3],)),
    **plain("roll.default", M, rest=([1, -1], [0, 1])),
    **plain("select.int", ROWS3, rest=(1, -1)),
    **plain("slice.Tensor", ROWS3, rest=(2, 1, -1, 2)),
    **plain("split.Tensor unsafe_split.Tensor", ROWS3, rest=(4, 2)),
    **plain("split_with_sizes.default", ROWS3, rest=([1, 5], 2)),
    **plain("squeeze.dim", (3, 1, 4), rest=(1,)),
    **plain("transpose.int", ROWS3, rest=(0, 2)),
    **plain("unbind.int", ROWS3, rest=(1,)),
    **plain("unsqueeze.default", M, rest=(1,)),
    **plain("select_scatter.default", M, (4,), rest=(0, 1)),
    **plain("slice_scatter.default", M, (3, 2), rest=(1, 0, 4, 2)),
    "as_strided_.default": (lambda x: aten.as_strided_.default(x.clone(), [2, 2], [4, 1]), M),
    "cat.default": (lambda x, y: aten.cat.default([x, y], 1), M, (3, 2)),
    "stack.default": (lambda x, y: aten.stack.default([x, y], 1), M, M),
    "index.Tensor": (lambda x, i: aten.index.Tensor(x, [None, i]), M, Spec((2, 2), torch.int64, -4, 4)),
    # made in the forward
    **made("arange.default", 4),
    **made("arange.start", 1, 5),
    **made("eye.m", 3, 4),
    **made("linspace.default", 0, 1, 4),
    **made("ones.default", [4]),
    **made("zeros.default", [4]),
    **made("scalar_tensor.default", 2.5),
    "empty.memory_format": (lambda x: aten.empty.memory_format([3, 4]).copy_(x), M),
    "new_zeros.default": (lambda x: x + aten.new_zeros.default(x, [4]), M),
}  # fmt: skip
