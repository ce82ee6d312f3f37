"""Batch norms of modules that are prepared for quantization become the bias of their convolutions.

torch.ao's ConvBn2d and its kin quantize the weights times ``s = gamma / sqrt(var + eps)``, then divide the convolution by
``s``, add its bias and normalize, so that training sees the statistics. In eval mode ``s`` comes back as it went: what is
left of the three is a constant for each channel. As a bias it lets TensorRT quantize what the convolution gives at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..graph import Constant, Op, Value
from .check import bind
from .fold import BATCH_NORMS, affine, host, is_own
from .registry import Registry

__all__ = ["fold_prepared"]

aten = torch.ops.aten
# How far the scales may be from cancelling: float32 has them from a square root, a quotient and a product.
CANCELLED = 1e-6


def fold_prepared(
    ops: Sequence[Op], outputs: Sequence[Any], registry: Registry, device_of: Callable[[str], Any] = lambda path: None
) -> tuple[list[Op], list[str]]:
    """``ops`` with what folds folded, and the paths of the modules whose batch norms are gone.

    Where a convolution whose weight is no constant is divided by a constant per channel, perhaps added to, and normalized;
    where nothing else uses what lies between, all of it is on one device, and the scales cancel.
    """
    uses = Counter(v.index for v in outputs if isinstance(v, Value))
    uses.update(v.index for op in ops for v in op.inputs())
    made = {v.index: op for op in ops for v in op.outputs if v is not None}
    gone: dict[int, Op | None] = {}  # id of an op -> what stands in its place
    folded = []
    for norm in ops:
        chain = _chain(norm, made, uses) if norm.target in BATCH_NORMS and is_own(norm, registry) else None
        if chain is None or len({device_of(op.module) for op in (*chain, norm)}) > 1 or not is_own(chain[-1], registry):
            continue
        merged = _merged(chain, norm)
        if merged is not None:
            gone |= {id(op): None for op in (*chain, norm)} | {id(chain[-1]): merged}
            folded.append(norm.module)
    return [new for op in ops if (new := gone.get(id(op), op)) is not None], folded


def _chain(norm: Op, made: dict[int, Op], uses: Counter[int]) -> list[Op] | None:
    """The ops before a batch norm, nearest first: perhaps an addition, a division, the convolution."""
    chain: list[Op] = []
    value = bind(norm)["input"]
    for target in (aten.add.Tensor, aten.div.Tensor, aten.convolution.default):
        op = made.get(value.index) if isinstance(value, Value) and uses[value.index] == 1 else None
        if op is None or op.target is not target:
            if target is aten.add.Tensor:
                continue
            return None
        chain.append(op)
        value = op.args[0]
    return chain


def _merged(chain: Sequence[Op], norm: Op) -> Op | None:
    """The convolution with the constants of all as its bias, or None where they are no constants or do not cancel."""
    given, told, after = bind(chain[-1]), bind(norm), norm.outputs[0]
    optional = [p for p in (given["bias"], told["weight"], told["bias"]) if p is not None]
    held = [told["running_mean"], told["running_var"], *optional, *(op.args[1] for op in chain[:-1])]
    if not isinstance(given["weight"], Value) or not all(isinstance(value, Constant) for value in held):
        return None
    if told.get("training") or any(norm.outputs[1:]) or after is None or after.dtype != torch.float32:
        return None
    if len(chain) == 3 and bind(chain[0])["alpha"] != 1:
        return None
    scale, shift = affine(None, told)
    divisor, *added = (_per_channel(op.args[1], len(scale)) for op in reversed(chain[:-1]))
    if divisor is None or None in added or bool(((scale / divisor - 1).abs() > CANCELLED).any()):
        return None
    before = torch.zeros(()) if given["bias"] is None else host(given["bias"]).double() / divisor
    bias = (before + sum(added)) * scale + shift
    if not bias.isfinite().all():
        return None
    arguments = {**given, "bias": Constant(bias.float())}
    return Op(chain[-1].target, (), arguments, [after], chain[-1].module, chain[-1].source)


def _per_channel(constant: Constant, channels: int) -> torch.Tensor | None:
    """(1, channels, 1, ...) as float64 (channels,)."""
    tensor = host(constant).double()
    fits = tensor.ndim > 1 and tensor.shape[1] == tensor.numel() == channels
    return tensor.reshape(-1) if fits else None
