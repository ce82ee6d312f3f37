"""Batch norms behind convolutions of fake-quantized weights: into the bias, and into the scales of the weights.

torch.ao's ConvBn2d and its kin quantize the weights times ``s = gamma / sqrt(var + eps)``, then divide the convolution by
``s``, add its bias and normalize, so that training sees the statistics. In eval mode ``s`` comes back as it went, and what
is left of the three is a bias. Elsewhere (ModelOpt, modules prepared without fusing) ``s`` stays, and multiplies the scales
with which the weights are dequantized: the INT8 weights are the same. Then nothing stands between a convolution and the
quantization behind it, which TensorRT makes one kernel of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..graph import Constant, Op, Value, map_tensors
from .check import bind
from .fold import BATCH_NORMS, affine, host, is_own
from .registry import Registry

__all__ = ["fold_prepared"]

aten = torch.ops.aten
PER_CHANNEL = aten.fake_quantize_per_channel_affine.default
PER_TENSOR = {aten.fake_quantize_per_tensor_affine.default, aten.fake_quantize_per_tensor_affine.tensor_qparams}
# How far the scales may be from cancelling: float32 has them from a square root, a quotient and a product.
CANCELLED = 1e-6


@dataclass
class _Chain:
    """What lies before a batch norm, and nothing else uses."""

    weight: Op
    convolution: Op
    divided: Op | None
    added: Op | None
    norm: Op

    def ops(self) -> list[Op]:
        return [op for op in (self.weight, self.convolution, self.divided, self.added, self.norm) if op is not None]


def fold_prepared(
    ops: Sequence[Op], outputs: Sequence[Any], registry: Registry, device_of: Callable[[str], Any] = lambda path: None,
    may: Container[str] | None = None,
) -> tuple[list[Op], list[str]]:  # fmt: skip
    """``ops`` with what folds folded, and the paths of the modules whose batch norms are gone.

    A batch norm folds where nothing else uses what lies between, all of it is on one device and converted by torch2edge's
    own converters, and the new weights have the same codes; ``may`` as for ``fold_batch_norms``.
    """
    uses = Counter(v.index for v in outputs if isinstance(v, Value))
    uses.update(v.index for op in ops for v in op.inputs())
    made = {v.index: op for op in ops for v in op.outputs if v is not None}
    places: dict[int, Op | None] = {}  # id of an op -> what stands in its place
    folded = []
    for norm in ops:
        chain = _chain(norm, made, uses) if norm.target in BATCH_NORMS and (may is None or norm.module in may) else None
        if chain is None or not all(is_own(op, registry) for op in chain.ops()):
            continue
        if len({device_of(op.module) for op in (chain.convolution, norm)}) > 1:
            continue
        merged = _merged(chain)
        if merged is not None:
            places |= {id(op): None for op in chain.ops()}
            places |= {id(chain.weight): merged[0], id(chain.convolution): merged[1]}
            folded.append(norm.module)
    return [new for op in ops if (new := places.get(id(op), op)) is not None], folded


def _chain(norm: Op, made: dict[int, Op], uses: Counter[int]) -> _Chain | None:
    """From a batch norm back to a weight."""

    def before(value: Any) -> Op | None:
        return made.get(value.index) if isinstance(value, Value) and uses[value.index] == 1 else None

    op, found = before(bind(norm)["input"]), {}
    for target in (aten.add.Tensor, aten.div.Tensor):
        if op is not None and op.target is target:
            found[target] = op
            op = before(op.args[0])
    if op is None or op.target is not aten.convolution.default:
        return None
    weight = before(bind(op)["weight"])
    if weight is None or weight.target not in {PER_CHANNEL, *PER_TENSOR}:
        return None
    return _Chain(weight, op, found.get(aten.div.Tensor), found.get(aten.add.Tensor), norm)


def _merged(chain: _Chain) -> tuple[Op, Op] | None:
    """The weight and the convolution that compute all, or None where they cannot, or not as exactly."""
    given, told, after = bind(chain.convolution), bind(chain.norm), chain.norm.outputs[0]
    others = [op.args[1] for op in (chain.divided, chain.added) if op is not None]
    optional = [p for p in (given["bias"], told["weight"], told["bias"]) if p is not None]
    if not all(isinstance(v, Constant) for v in (told["running_mean"], told["running_var"], *optional, *others)):
        return None
    if told.get("training") or any(chain.norm.outputs[1:]) or after is None or after.dtype != torch.float32:
        return None
    if chain.added is not None and bind(chain.added)["alpha"] != 1:
        return None
    scale, shift = affine(None, told)
    divisor = torch.ones_like(scale) if chain.divided is None else _per_channel(chain.divided.args[1], len(scale))
    added = torch.zeros_like(scale) if chain.added is None else _per_channel(chain.added.args[1], len(scale))
    if divisor is None or added is None:
        return None
    bias = added if given["bias"] is None else host(given["bias"]).double() / divisor + added
    bias = bias * scale + shift
    weight = _rescaled(chain.weight, scale / divisor, bool(given["transposed"]))
    if weight is None or not bias.isfinite().all():
        return None
    arguments = {**given, "bias": Constant(bias.float())}
    return weight, Op(
        chain.convolution.target, (), arguments, [after], chain.convolution.module, chain.convolution.source
    )  # fmt: skip


def _per_channel(constant: Constant, channels: int) -> torch.Tensor | None:
    """(1, channels, 1, ...) as float64 (channels,)."""
    tensor = host(constant).double()
    fits = tensor.ndim > 1 and tensor.shape[1] == tensor.numel() == channels
    return tensor.reshape(-1) if fits else None


def _rescaled(weight: Op, factor: torch.Tensor, transposed: bool) -> Op | None:
    """The fake quantization of a weight, times a factor per output channel: the same codes of other scales.

    A negative factor turns the codes around, for scales are positive; -128 has no counterpart.
    """
    if bool(((factor - 1).abs() <= CANCELLED).all()):
        return weight
    given = bind(weight)
    held = [given["self"], *(v for v in (given["scale"], given["zero_point"]) if not isinstance(v, (int, float)))]
    along = given.get("axis", 0)
    if transposed or along != 0 or not all(isinstance(v, Constant) for v in held) or bool((factor == 0).any()):
        return None
    args, kwargs = map_tensors((weight.args, weight.kwargs), host)
    values = weight.target(*args, **kwargs)
    column = (-1, *[1] * (values.ndim - 1))
    steps = torch.as_tensor(host(given["scale"]) if isinstance(given["scale"], Constant) else given["scale"]).double()
    codes = (values.double() / steps.reshape(column if steps.numel() > 1 else ())).round() * factor.sign().reshape(column)
    scales = (steps.reshape(-1) * factor.abs()).float()
    if codes.max() > 127 or codes.min() < -128 or not bool((scales > 0).all() and scales.isfinite().all()):
        return None
    changed = (codes * scales.double().reshape(column)).to(values.dtype)
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    arguments = (Constant(changed), Constant(scales), Constant(zeros), 0, -128, 127)
    return Op(PER_CHANNEL, arguments, {}, weight.outputs, weight.module, weight.source)
