"""A call of each of the 211 functions that torch2trt 4e820ae converts, under the name that it registers.

Name -> a function of tensors and how to draw them: shapes, or Specs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from support.rows import Spec

__all__ = ["CALLS"]

V, M, ROWS3, I4, VOLUME = (5,), (3, 4), (2, 3, 6), (2, 3, 6, 6), (1, 2, 4, 5, 6)
POSITIVE = Spec(M, positive=True)


def weight(*shape: int) -> torch.Tensor:
    """Numbers from -1 to 1."""
    return torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)


def same(names: str, *inputs: Any, prefixes: str = "F", **options: Any) -> dict[str, tuple[Any, ...]]:
    """Functions with the same inputs and options, from each of the namespaces ``prefixes`` (F, torch, Tensor)."""
    spaces = {"F": F, "torch": torch, "Tensor": Tensor}
    return {
        f"{prefix}.{name}": (call(getattr(spaces[prefix], name), options, name.endswith("_") and "__" not in name), *inputs)
        for prefix in prefixes.split()
        for name in names.split()
    }


def call(fn: Callable[..., Any], options: dict[str, Any], in_place: bool) -> Callable[..., Any]:
    """``fn`` with ``options``; what writes in place gets a tensor of its own, which is looked at afterwards."""

    def called(x: torch.Tensor, *rest: torch.Tensor) -> Any:
        if not in_place:
            return fn(x, *rest, **options)
        x = x.clone()
        fn(x, *rest, **options)
        return x

    return called


def dunder(name: str, other: Any = None, first: Any = M) -> dict[str, tuple[Any, ...]]:
    """A special method of Tensor with a second tensor, or with the number ``other``; one that writes does so to a clone."""
    method = getattr(Tensor, name)
    in_place = name.startswith("__i") or name.endswith("l_")
    if other is None:
        return {f"Tensor.{name}": (call(method, {}, in_place), first, POSITIVE)}
    return {f"Tensor.{name}": (lambda x: call(method, {}, in_place)(x, other), first)}


CALLS: dict[str, tuple[Any, ...]] = {
    # activations
    **same("leaky_relu leaky_relu_ elu elu_ selu selu_ softsign softplus relu relu_ relu6 sigmoid silu tanh gelu", M),
    **same("softmax log_softmax", M, dim=1),
    "F.prelu": (lambda x: F.prelu(x, weight(3)), I4),
    **same("relu relu_ selu selu_ sigmoid tanh", M, prefixes="torch"),
    **same("relu sigmoid", M, prefixes="Tensor"),
    **same("softmax", M, prefixes="Tensor", dim=0),
    # poolings
    **same("adaptive_avg_pool1d adaptive_max_pool1d", ROWS3, output_size=4),
    **same("adaptive_avg_pool2d adaptive_max_pool2d", I4, output_size=(4, 1)),
    **same("adaptive_avg_pool3d adaptive_max_pool3d", VOLUME, output_size=(2, 3, 3)),
    **same("max_pool1d avg_pool1d", ROWS3, prefixes="F torch", kernel_size=3, stride=2, padding=1),
    **same("max_pool2d", I4, prefixes="F torch", kernel_size=2),
    **same("max_pool3d", VOLUME, prefixes="F torch", kernel_size=3, dilation=(1, 2, 1)),
    **same("avg_pool2d", I4, kernel_size=3, stride=2, padding=1, ceil_mode=True),
    **same("avg_pool3d", VOLUME, kernel_size=(2, 3, 1)),
    # convolutions, products
    "F.conv1d": (lambda x: F.conv1d(x, weight(4, 3, 3), weight(4), 2, 1), ROWS3),
    "F.conv2d": (lambda x: F.conv2d(x, weight(6, 1, 3, 3), groups=3, dilation=2), I4),
    "F.conv3d": (lambda x: F.conv3d(x, weight(3, 2, 1, 3, 2), padding="same"), VOLUME),
    "F.conv_transpose1d": (lambda x: F.conv_transpose1d(x, weight(3, 2, 3), stride=2, output_padding=1), ROWS3),
    "F.conv_transpose2d": (lambda x: F.conv_transpose2d(x, weight(3, 2, 3, 3), weight(2), 1, 1, dilation=2), I4),
    "F.conv_transpose3d": (lambda x: F.conv_transpose3d(x, weight(2, 2, 2, 2, 2), stride=2), VOLUME),
    "F.linear": (lambda x: F.linear(x, weight(5, 4), weight(5)), M),
    "torch.matmul": (torch.matmul, ROWS3, (6, 2)),
    "Tensor.__matmul__": (lambda x, y: x @ y, M, (4,)),
    "torch.einsum": (lambda x, y: torch.einsum("bij,kj->bik", x, y), ROWS3, (4, 6)),
    # normalizations
    "F.batch_norm": (lambda x: F.batch_norm(x, weight(3), weight(3).exp(), weight(3), weight(3)), I4),
    "F.group_norm": (lambda x: F.group_norm(x, 2, weight(4), weight(4)), (2, 4, 5)),
    "F.layer_norm": (lambda x: F.layer_norm(x, (3, 6), weight(3, 6)), ROWS3),
    "F.normalize": (lambda x: F.normalize(x, 2.0, 1), ROWS3),
    "F.instance_norm": (lambda x: F.instance_norm(x, weight=weight(3), bias=weight(3)), I4),
    "torch.instance_norm": (
        lambda x: torch.instance_norm(x, weight(3), None, None, None, True, 0.1, 1e-5, False), I4
    ),
    # images
    "F.interpolate": (lambda x: F.interpolate(x, (9, 4), mode="bilinear", antialias=True), I4),
    "F.upsample": (lambda x: F.upsample(x, scale_factor=2, mode="bilinear", align_corners=True), I4),
    "F.pad": (lambda x: F.pad(x, (1, 2, 0, 1), "reflect"), I4),
    **same("dropout dropout2d dropout3d", VOLUME, training=False),
    # arithmetic
    "torch.add": (lambda x, y: torch.add(x, y, alpha=3), M, M),
    "torch.sub": (lambda x, y: torch.sub(x, y, alpha=3), M, M),
    "torch.mul": (torch.mul, M, (4,)),
    "torch.div": (lambda x, y: torch.div(x, y, rounding_mode="floor"), M, POSITIVE),
    "torch.floor_divide": (torch.floor_divide, M, POSITIVE),
    "torch.fmod": (torch.fmod, M, POSITIVE),
    "torch.pow": (torch.pow, POSITIVE, M),
    **dunder("__add__"), **dunder("__iadd__"), **dunder("__radd__", 2),
    **dunder("__sub__"), **dunder("__isub__"), **dunder("__rsub__", 2),
    **dunder("__mul__"), **dunder("__imul__"), **dunder("__rmul__", 3), **dunder("mul_"),
    **dunder("__div__"), **dunder("__idiv__"), **dunder("__rdiv__", 2, POSITIVE),
    **dunder("__truediv__"), **dunder("__itruediv__"), **dunder("__rtruediv__", 2, POSITIVE),
    **dunder("__floordiv__"), **dunder("__ifloordiv__"), **dunder("__mod__"), **dunder("__imod__"),
    **dunder("__pow__", 3), **dunder("__ipow__", 2), **dunder("__rpow__", 2),
    # comparisons, bounds
    **same("gt lt eq ne", M, M, prefixes="torch"),
    **same("__gt__ __lt__ __eq__ __ne__", M, M, prefixes="Tensor"),
    **same("clamp", M, prefixes="torch Tensor", min=-0.5, max=0.5),
    **same("clamp_min", M, prefixes="torch Tensor", min=-0.5),
    **same("clamp_max", M, prefixes="torch Tensor", max=0.5),
    # reductions
    **same("max min", ROWS3, prefixes="torch", dim=-2, keepdim=True),
    **same("max min", ROWS3, prefixes="Tensor"),
    **same("mean sum", ROWS3, prefixes="torch", dim=(-1, 0)),
    **same("mean sum prod", ROWS3, prefixes="Tensor"),
    **same("prod", ROWS3, prefixes="torch", dim=-2),
    # shapes
    "torch.cat": (lambda x, y: torch.cat((x, y), -1), M, M),
    "torch.stack": (lambda x, y: torch.stack((x, y), -2), M, M),
    **same("chunk", ROWS3, prefixes="torch Tensor", chunks=4, dim=-1),
    **same("split", ROWS3, prefixes="torch", split_size_or_sections=4, dim=-1),
    **same("split", ROWS3, prefixes="Tensor", split_size=[1, 3, 2], dim=-1),
    **same("narrow", ROWS3, prefixes="torch Tensor", dim=-1, start=2, length=3),
    **same("flatten", I4, prefixes="torch Tensor", start_dim=1, end_dim=-2),
    **same("squeeze", (3, 1, 2, 1), prefixes="torch Tensor", dim=-1),
    **same("unsqueeze", M, prefixes="torch Tensor", dim=-1),
    **same("transpose", ROWS3, prefixes="torch Tensor", dim0=-1, dim1=0),
    **same("roll", ROWS3, prefixes="torch Tensor", shifts=(2, -1), dims=(0, 2)),
    **same("clone", M, prefixes="torch Tensor"),
    "torch.tensor": (lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0]), M),
    "Tensor.expand": (lambda x: x.expand(2, 3, -1), (3, 1)),
    "Tensor.permute": (lambda x: x.permute(1, -1, 0), ROWS3),
    "Tensor.view": (lambda x: x.view(x.size(0), -1), ROWS3),
    "Tensor.reshape": (lambda x: x.reshape(-1, 2), ROWS3),
    "Tensor.contiguous": (lambda x: x.transpose(0, 1).contiguous(), M),
    "Tensor.__getitem__": (lambda x: (x[0], x[..., -1], x[:, 1:, ::2], x[None, 1, [2, 0]], x[:, torch.tensor([0, 2])]), ROWS3),
    # one tensor
    **same("exp abs neg sin cos tan sinh cosh atan ceil floor", M, prefixes="torch Tensor"),
    **same("exp_ abs_ neg_ sin_ cos_ tan_ sinh_ cosh_ atan_ ceil_ floor_", M, prefixes="torch Tensor"),
    **same("log sqrt reciprocal log_ sqrt_ reciprocal_", POSITIVE, prefixes="torch Tensor"),
    **same("asin acos asin_ acos_", Spec(M, scale=0.2), prefixes="torch Tensor"),
    **same("__neg__", M, prefixes="Tensor"),
}  # fmt: skip
