"""Linear layers behind an image: convolutions, and the reshape behind them."""

from __future__ import annotations

from typing import Any

import torch

from ...graph import Constant, Op, Value
from .editor import CHANNELS, Editor, is_parameter

__all__ = ["activation_before_reshape", "linear_of_image"]

aten = torch.ops.aten
LARGEST_KERNEL = 32  # of a convolution (facts.md 3.2)
ELEMENTWISE = {
    aten.relu.default, aten.hardtanh.default, aten.hardswish.default, aten.hardsigmoid.default, aten.silu.default,
    aten.sigmoid.default, aten.tanh.default, aten.leaky_relu.default, aten.gelu.default, aten.elu.default,
    aten.clamp.default, aten.clone.default,
}  # fmt: skip
WITH_NUMBER = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor}


def linear_of_image(op: Op, to: Editor) -> bool:
    """Replaces a linear layer of a flattened image by a convolution with a kernel as large as the image, and a reshape.

    Exact because flattening orders the numbers by channel, row and column, as a kernel does: the weights (out, C * H * W) are
    the kernels (out, C, H, W) of a single window. Behind a global pooling that is a 1x1 convolution, and so it is for each
    layer of a head whose layers have nothing but activations between them.

    Serves facts.md 3.2: "Flatten/Squeeze/Unsqueeze never"; "MatMul/Gemm: ... use Convolution layer instead"; "Convolution:
    kernel each [1,32]; output maps [1,8192]", "Squeeze+MatMul+Add head -> 1x1 Conv".
    """
    if op.target is not aten.linear.default:
        return False
    given = op.arguments()
    image = _image_of(given["input"], to)
    weight, bias, result = given["weight"], given["bias"], op.outputs[0]
    if image is None or result is None or not is_parameter(weight, 2) or not (bias is None or is_parameter(bias, 1)):
        return False
    kernel = image.shape[1:]
    if max(kernel[1:]) > LARGEST_KERNEL or max(kernel[0], weight.shape[0]) > CHANNELS:
        shown = "x".join(map(str, kernel))
        to.note(op, f"linear of {shown} stays as it is: no convolution of a DLA has a kernel as large")
        return False
    kernels = Constant(weight.tensor.detach().reshape(-1, *kernel), weight.name)
    arguments = (image, kernels, bias, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    made = to.add(op, aten.convolution.default, arguments, (*result.shape, 1, 1))
    to.add(op, aten.reshape.default, (made, list(result.shape)), result)
    to.note(op, f"linear became a {kernel[1]}x{kernel[2]} convolution, before the reshape")
    return True


def activation_before_reshape(op: Op, to: Editor) -> bool:
    """Replaces an activation (or a sum or product with a number, or a batch norm) of a flattened image by the same of the
    image, and a reshape.

    Exact because it looks at one element at a time; a batch norm at its channel, which is the second axis of both where the
    image has one pixel.

    Serves facts.md 3.2: "Activation: 2D" (an image), and the convolutions of a head behind it.
    """
    argument = "input" if op.target is aten.batch_norm.default else "self"
    value = op.arguments().get(argument)
    image = _image_of(value, to)
    if image is None or not _each_alone(op, image):
        return False
    result = op.outputs[0]
    assert result is not None
    arguments = tuple({**op.arguments(), argument: image}[a.name] for a in op.target._schema.arguments if not a.kwarg_only)
    made = to.add(op, op.target, arguments, image.shape)
    to.add(op, aten.reshape.default, (made, list(result.shape)), result)
    to.note(op, f"{op.short_name} is now before the reshape")
    return True


def _each_alone(op: Op, image: Value) -> bool:
    """Whether ``op`` computes each element of its data for itself, or each channel of an image of one pixel."""
    if op.target in ELEMENTWISE:
        return not any(op.kwargs.values())  # what an op has beside its numbers: gelu's approximation, clone's memory format
    if op.target in WITH_NUMBER:
        return isinstance(op.args[1], (int, float)) and not op.kwargs
    if op.target is not aten.batch_norm.default:
        return False
    given = op.arguments()
    held = [given[name] for name in ("weight", "bias", "running_mean", "running_var")]
    constant = all(v is None or isinstance(v, Constant) for v in held)
    return constant and not given["training"] and image.shape[2:] == (1, 1)


def _image_of(value: Any, to: Editor) -> Value | None:
    """The image (N, C, H, W) of which ``value`` is the flattened form (N, C * H * W)."""
    if not isinstance(value, Value) or len(value.shape) != 2:
        return None
    image = to.image_behind(value)
    return image if image is not None and image.shape[0] == value.shape[0] else None
