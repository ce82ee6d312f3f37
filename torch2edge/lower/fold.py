"""Batch norms with constant statistics become part of the convolutions before them, as TensorRT and ONNX's exporter do.

``gamma * (conv(x, w) + b - mean) / sqrt(var + eps) + beta`` is a convolution with the weights ``w * s`` and the bias
``(b - mean) * s + beta``, ``s = gamma / sqrt(var + eps)`` per output channel (torch.nn.BatchNorm2d's formula).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from typing import Any

import torch

from ..graph import Constant, Graph, Op, Value
from .check import bind
from .registry import Registry

__all__ = ["BATCH_NORMS", "affine", "fold_batch_norms", "host", "is_own"]

aten = torch.ops.aten
CONVOLUTIONS = {aten.convolution.default, aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding}
BATCH_NORMS = {aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default}
# The largest weight of a channel that may be folded into half weights: below it they would lose digits as subnormals.
LEAST_HALF = 2.0**-10
MOST_HALF = torch.finfo(torch.float16).max


def fold_batch_norms(
    graph: Graph, registry: Registry, device_of: Callable[[str], Any] = lambda path: None,
    float_of: Callable[[str], torch.dtype] = lambda path: torch.float32, may: Container[str] | None = None,
) -> tuple[list[Op], list[str]]:  # fmt: skip
    """The ops of ``graph`` with what folds folded, and the paths of the modules whose batch norms are gone.

    A batch norm folds where nothing else uses the convolution's result, both are on one device, in one dtype and converted
    by torch2edge's own converters, and the new weights keep their digits in the dtype that they are to have at last: their
    own, or ``float_of`` their module; and where the norm's module is in ``may``, if that is given. The graph stays as it is.
    """
    uses = Counter(v.index for v in graph.outputs if isinstance(v, Value))
    uses.update(v.index for op in graph.ops for v in op.inputs())
    convolutions: dict[int, int] = {}  # index of the result -> position among the ops
    ops: list[Op | None] = list(graph.ops)
    folded = []
    for i, op in enumerate(graph.ops):
        if op.target in CONVOLUTIONS and is_own(op, registry):
            convolutions[op.outputs[0].index] = i  # type: ignore[union-attr]
        elif op.target in BATCH_NORMS and is_own(op, registry) and (may is None or op.module in may):
            given = bind(op)["input"]
            place = convolutions.get(given.index) if isinstance(given, Value) and uses[given.index] == 1 else None
            if place is None or device_of(graph.ops[place].module) != device_of(op.module):
                continue
            merged = _merged(graph.ops[place], op, float_of(graph.ops[place].module))
            if merged is not None:
                ops[place], ops[i] = merged, None
                folded.append(op.module)
    return [op for op in ops if op is not None], folded


def is_own(op: Op, registry: Registry) -> bool:
    """Whether torch2edge's own converter converts ``op``."""
    entry = registry.get(op.target)
    return entry is not None and entry.function.__module__.startswith("torch2edge.converters.")


def _merged(convolution: Op, norm: Op, last: torch.dtype) -> Op | None:
    """The convolution that computes both, or None where it cannot be, or not as exactly."""
    given, told = bind(convolution), bind(norm)
    optional = [p for p in (given["bias"], told["weight"], told["bias"]) if p is not None]
    held = [given["weight"], told["running_mean"], told["running_var"], *optional]
    before, after = convolution.outputs[0], norm.outputs[0]
    if not all(isinstance(value, Constant) for value in held) or told.get("training") or any(norm.outputs[1:]):
        return None
    if before is None or after is None or not before.dtype == after.dtype == given["weight"].dtype:
        return None
    transposed = bool(given.get("transposed"))
    scale, bias = affine(given["bias"], told)
    weight = _scaled(host(given["weight"]), scale, given["groups"] if transposed else 0)
    bias = bias.to(weight.dtype)
    if not _keep_their_digits(weight, bias, 1 if transposed else 0, torch.float16 in (last, weight.dtype)):
        return None
    arguments = {**given, "weight": Constant(weight), "bias": Constant(bias)}
    return Op(convolution.target, (), arguments, [after], convolution.module, convolution.source)


def host(constant: Constant) -> torch.Tensor:
    """TensorRT takes its weights from there; and a GPU's first use of a kernel can take seconds."""
    return constant.tensor.detach().cpu()


def affine(bias: Constant | None, told: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """By what the convolution's weights are multiplied, and the new bias; in float64."""
    tensors = {name: host(value).double() for name, value in told.items() if isinstance(value, Constant)}
    scale = (tensors["running_var"] + told["eps"]).rsqrt() * tensors.get("weight", 1)
    shift = (0 if bias is None else host(bias).double()) - tensors["running_mean"]
    return scale, shift * scale + tensors.get("bias", 0)


def _scaled(weight: torch.Tensor, scale: torch.Tensor, groups: int) -> torch.Tensor:
    """``weight`` times ``scale`` per output channel; ``groups`` of a transposed one, (in, out / groups, ...), else 0."""
    if groups:  # the input channels of a group meet its output channels only
        scale = scale.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1).reshape(weight.shape[:2])
    wide = torch.promote_types(weight.dtype, torch.float32)
    return (weight.to(wide) * scale.to(wide).reshape(*scale.shape, *[1] * (weight.ndim - scale.ndim))).to(weight.dtype)


def _keep_their_digits(weight: torch.Tensor, bias: torch.Tensor, axis: int, half: bool) -> bool:
    if not (weight.isfinite().all() and bias.isfinite().all()):
        return False
    if not half:
        return True
    largest = weight.abs().amax([d for d in range(weight.ndim) if d != axis])
    fits = float(largest.max()) <= MOST_HALF and float(bias.abs().max()) <= MOST_HALF
    return fits and bool(((largest == 0) | (largest >= LEAST_HALF)).all())
