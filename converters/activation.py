"""Activations: PyTorch's torch.nn, "Non-linear Activations"."""

from __future__ import annotations

import math
from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Number = float | int


@converter(aten.relu.default)
def relu(net: Network, self: Tensor) -> Tensor:
    """relu(Tensor self) -> Tensor"""
    return net.activation(self, "RELU") if self.dtype.is_floating_point else net.elementwise("MAX", self, 0, self.dtype)


@converter(aten.hardtanh.default)
def hardtanh(net: Network, self: Tensor, min_val: Number, max_val: Number) -> Tensor:
    """hardtanh(Tensor self, Scalar min_val=-1, Scalar max_val=1) -> Tensor

    nn.ReLU6 is the one from 0 to 6. F.relu6 of integers arrives here too, and CLIP takes floats only.
    """
    if self.dtype.is_floating_point:
        return net.activation(self, "CLIP", alpha=float(min_val), beta=float(max_val))
    return net.elementwise("MIN", net.elementwise("MAX", self, int(min_val), self.dtype), int(max_val), self.dtype)


@converter(aten.leaky_relu.default)
def leaky_relu(net: Network, self: Tensor, negative_slope: Number) -> Tensor:
    """leaky_relu(Tensor self, Scalar negative_slope=0.01) -> Tensor"""
    return net.activation(self, "LEAKY_RELU", alpha=float(negative_slope))


@converter(aten.rrelu.default)
def rrelu(net: Network, self: Tensor, lower: Number, upper: Number, training: bool, generator: Any) -> Tensor:
    """rrelu(Tensor self, Scalar lower=0.125, Scalar upper=0.3333333333333333, bool training=False,
    Generator? generator=None) -> Tensor

    Tracing has refused the random slopes of training.
    """
    return net.activation(self, "LEAKY_RELU", alpha=(lower + upper) / 2)


@converter(aten.prelu.default, aten._prelu_kernel.default)
def prelu(net: Network, self: Tensor, weight: Tensor | torch.Tensor) -> Tensor:
    """prelu(Tensor self, Tensor weight) -> Tensor"""
    x, channels = net.tensor(self), math.prod(weight.shape)
    shape = [channels if channels > 1 and axis == 1 else 1 for axis in range(x.ndim)]
    return net.parametric_relu(x, net.parameter(weight, shape, x.dtype))


@converter(aten.elu.default, supports=lambda input_scale, **_: "" if input_scale > 0 else f"input_scale is {input_scale}")
def elu(net: Network, self: Tensor, alpha: Number, scale: Number, input_scale: Number) -> Tensor:
    """elu(Tensor self, Scalar alpha=1, Scalar scale=1, Scalar input_scale=1) -> Tensor

    The ELU of TensorRT does not scale its input: where that is wanted, the two sides of 0 are summed, so that no large
    positive x overflows on its way.
    """
    if input_scale == 1:
        result = net.activation(self, "ELU", alpha=float(alpha))
    else:
        below = net.mul(net.elementwise("MIN", self, 0.0, net.out.dtype), float(input_scale))
        result = net.add(net.activation(self, "RELU"), net.activation(below, "ELU", alpha=float(alpha)))
    return result if scale == 1 else net.mul(result, float(scale))


@converter(aten.celu.default, supports=lambda alpha, **_: "" if alpha > 0 else f"alpha is {alpha}; it must be positive")
def celu(net: Network, self: Tensor, alpha: Number) -> Tensor:
    """celu(Tensor self, Scalar alpha=1.0) -> Tensor"""
    return elu(net, self, alpha, 1, 1 / alpha)


@converter(aten.selu.default)
def selu(net: Network, self: Tensor) -> Tensor:
    """selu(Tensor self) -> Tensor"""
    return net.activation(self, "SELU", alpha=1.6732632423543772848170429916717, beta=1.0507009873554804934193349852946)


@converter(aten.gelu.default)
def gelu(net: Network, self: Tensor, approximate: str) -> Tensor:
    """gelu(Tensor self, *, str approximate='none') -> Tensor"""
    if net.capabilities.gelu:
        return net.activation(self, "GELU_TANH" if approximate == "tanh" else "GELU_ERF")
    if approximate == "tanh":
        cubic = net.add(net.mul(net.mul(self, self), 0.044715), 1.0)
        inner = net.activation(net.mul(net.mul(self, math.sqrt(2 / math.pi)), cubic), "TANH")
    else:
        inner = net.unary(net.mul(self, math.sqrt(0.5)), "ERF")
    return net.mul(net.mul(self, 0.5), net.add(inner, 1.0))


@converter(aten.sigmoid.default)
def sigmoid(net: Network, self: Tensor) -> Tensor:
    """sigmoid(Tensor self) -> Tensor"""
    return net.activation(net.cast(self, net.out.dtype), "SIGMOID")


@converter(aten.tanh.default)
def tanh(net: Network, self: Tensor) -> Tensor:
    """tanh(Tensor self) -> Tensor"""
    return net.activation(net.cast(self, net.out.dtype), "TANH")


@converter(aten.silu.default)
def silu(net: Network, self: Tensor) -> Tensor:
    """silu(Tensor self) -> Tensor"""
    return net.mul(self, net.activation(self, "SIGMOID"))


@converter(aten.mish.default)
def mish(net: Network, self: Tensor) -> Tensor:
    """mish(Tensor self) -> Tensor"""
    return net.mul(self, net.activation(net.softplus(self), "TANH"))


@converter(aten.hardsigmoid.default)
def hardsigmoid(net: Network, self: Tensor) -> Tensor:
    """hardsigmoid(Tensor self) -> Tensor"""
    return net.hard_sigmoid(self)


@converter(aten.hardswish.default)
def hardswish(net: Network, self: Tensor) -> Tensor:
    """hardswish(Tensor self) -> Tensor"""
    return net.mul(self, net.hard_sigmoid(self))


@converter(aten.softplus.default, supports=lambda beta, **_: "" if beta else "beta is 0, so every result is infinite")
def softplus(net: Network, self: Tensor, beta: Number, threshold: Number) -> Tensor:
    """softplus(Tensor self, Scalar beta=1, Scalar threshold=20) -> Tensor

    Beyond a threshold of 20 the exact form and PyTorch's linear one are the same float32.
    """
    result = net.softplus(self, float(beta))
    if threshold >= 20:
        return result
    edge = self if beta == 1 else net.mul(self, float(beta))
    return net.select(net.elementwise("GREATER", edge, float(threshold), self.dtype), self, result)


@converter(aten.log_sigmoid.default)
def log_sigmoid(net: Network, self: Tensor) -> Tensor:
    """log_sigmoid(Tensor self) -> Tensor"""
    return net.softplus(self, beta=-1.0)


@converter(aten.threshold.default)
def threshold(net: Network, self: Tensor, threshold: Number, value: Number) -> Tensor:
    """threshold(Tensor self, Scalar threshold, Scalar value) -> Tensor"""
    number = float if self.dtype.is_floating_point else int
    above = net.elementwise("GREATER", self, number(threshold), self.dtype)
    return net.select(above, self, net.constant(number(value), self.dtype))


@converter(aten.softshrink.default)
def softshrink(net: Network, self: Tensor, lambd: Number) -> Tensor:
    """softshrink(Tensor self, Scalar lambd=0.5) -> Tensor"""
    return net.sub(self, net.activation(self, "CLIP", alpha=-float(lambd), beta=float(lambd)))


@converter(aten.hardshrink.default)
def hardshrink(net: Network, self: Tensor, lambd: Number) -> Tensor:
    """hardshrink(Tensor self, Scalar lambd=0.5) -> Tensor"""
    outside = net.elementwise("GREATER", net.unary(self, "ABS"), float(lambd), self.dtype)
    return net.select(outside, self, net.constant(0.0, self.dtype))


@converter(aten.glu.default)
def glu(net: Network, self: Tensor, dim: int) -> Tensor:
    """glu(Tensor self, int dim=-1) -> Tensor"""
    half = self.shape[dim] // 2
    gate = net.activation(net.slice(self, dim, half, half), "SIGMOID")
    return net.mul(net.slice(self, dim, 0, half), gate)


@converter(aten.softmax.int)
def softmax(net: Network, self: Tensor, dim: int, dtype: torch.dtype | None) -> Tensor:
    """softmax.int(Tensor self, int dim, ScalarType? dtype=None) -> Tensor"""
    return _along(net, "softmax", self, dim)


@converter(aten._softmax.default)
def _softmax(net: Network, self: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """_softmax(Tensor self, int dim, bool half_to_float) -> Tensor"""
    return _along(net, "softmax", self, dim)


@converter(aten.log_softmax.int)
def log_softmax(net: Network, self: Tensor, dim: int, dtype: torch.dtype | None) -> Tensor:
    """log_softmax.int(Tensor self, int dim, ScalarType? dtype=None) -> Tensor"""
    return _along(net, "log_softmax", self, dim)


@converter(aten._log_softmax.default)
def _log_softmax(net: Network, self: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """_log_softmax(Tensor self, int dim, bool half_to_float) -> Tensor"""
    return _along(net, "log_softmax", self, dim)


def _along(net: Network, method: str, x: Tensor, dim: int) -> Tensor:
    """A softmax in the result's dtype, over at least two axes: a single number is a row of one."""
    t = net.cast(x, net.out.dtype)
    rows = net.reshape(t, (*(1,) * (2 - t.ndim), *t.shape))
    return net.reshape(getattr(net, method)(rows, dim % max(t.ndim, 1) - max(t.ndim, 1)), t.shape)
