"""Activations that a DLA lacks: products of those that it has, each with a range of its own in INT8."""

from __future__ import annotations

import torch

from ...graph import Op
from .editor import Editor, is_image

__all__ = ["activation_of_products"]

aten = torch.ops.aten


def activation_of_products(op: Op, to: Editor) -> bool:
    """Replaces hardsigmoid by ``relu6(x + 3) / 6``, hardswish by ``x`` times that, SiLU by ``x * sigmoid(x)``, of images.

    For INT8 alone: as ops of their own, each of the parts has a range, without which a DLA computes it in half. In half the
    layers that their converters make of an image (a scale, a clip from 0 to 1, a product) are the DLA's already, and fewer.

    Exact because PyTorch defines them so. hardswish divides before it multiplies, so that half does not overflow. relu6
    becomes a clip from 0 to 6, sums and products with numbers scale layers.

    Serves facts.md 3.2: "Activation: Sigmoid, Clipped ReLU (values in [1,127]); not HardSigmoid, HardSwish".
    """
    x = op.args[0] if op.args else None
    if op.target not in FORMS or not is_image(x):
        return False
    result = op.outputs[0]
    if op.target is aten.silu.default:
        gate = to.add(op, aten.sigmoid.default, (x,), x.shape)  # type: ignore[union-attr]
    else:
        clipped = to.add(op, aten.hardtanh.default, (_shifted(op, to), 0, 6), x.shape)  # type: ignore[union-attr]
        last = op.target is aten.hardsigmoid.default
        gate = to.add(op, aten.mul.Tensor, (clipped, 1 / 6), result if last else x.shape)  # type: ignore[union-attr, arg-type]
    if op.target is not aten.hardsigmoid.default:
        to.add(op, aten.mul.Tensor, (x, gate), result)  # type: ignore[arg-type]
    to.note(op, f"{op.short_name} became {FORMS[op.target]}")
    return True


FORMS = {
    aten.hardsigmoid.default: "relu6(x + 3) / 6",
    aten.hardswish.default: "x * relu6(x + 3) / 6",
    aten.silu.default: "x * sigmoid(x)",
}


def _shifted(op: Op, to: Editor) -> object:
    x = op.args[0]
    return to.add(op, aten.add.Tensor, (x, 3.0), x.shape)
