"""Normalizations: PyTorch's torch.nn, "Normalization Layers"."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Parameter = Tensor | torch.Tensor | None


def _no_running_update(running_mean: Any, **call: Any) -> str:
    if running_mean is not None and call.get("training", call.get("use_input_stats")):
        return "it is in training mode and updates its running statistics; call eval() on the model first"
    return ""


@converter(aten.batch_norm.default, supports=_no_running_update)
def batch_norm(
    net: Network, input: Tensor, weight: Parameter, bias: Parameter, running_mean: Parameter, running_var: Parameter,
    training: bool, momentum: float, eps: float, cudnn_enabled: bool,
) -> Tensor:  # fmt: skip
    """batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool training,
    float momentum, float eps, bool cudnn_enabled) -> Tensor

    With constant statistics one scale layer; without statistics of its own it takes those of the batch.
    """
    channels = [1, input.shape[1], *[1] * (input.ndim - 2)]
    parameters = (weight, bias, running_mean, running_var)
    if running_mean is None:
        result = net.standardize(input, [0, *range(2, input.ndim)], eps)
    elif any(isinstance(p, Tensor) for p in parameters):
        return _computed_batch_norm(net, input, parameters, eps)
    else:
        return _folded_batch_norm(net, input, parameters, eps)
    return net.cast(net.weighted(result, weight, bias, channels), input.dtype)


def _folded_batch_norm(net: Network, input: Tensor, parameters: tuple[Any, ...], eps: float) -> Tensor:
    weight, bias, mean, var = parameters
    scale = (var.double() + eps).rsqrt() * (1 if weight is None else weight)
    shift = -mean.double() * scale + (0 if bias is None else bias)
    fits = all(t.to(input.dtype).isfinite().all() for t in (scale, shift))  # FP16 ends at 65504
    x = net.cast(input, input.dtype if fits else torch.float32)
    return net.cast(net.scale(x, shift, scale), input.dtype)


def _computed_batch_norm(net: Network, input: Tensor, parameters: tuple[Any, ...], eps: float) -> Tensor:
    """Statistics or parameters that depend on an input."""
    weight, bias, mean, var = parameters
    channels = [1, input.shape[1], *[1] * (input.ndim - 2)]
    centered = net.sub(net.cast(input, torch.float32), net.parameter(mean, channels, torch.float32))
    deviation = net.unary(net.add(net.parameter(var, channels, torch.float32), eps), "SQRT")
    return net.cast(net.weighted(net.div(centered, deviation), weight, bias, channels), input.dtype)


@converter(aten._native_batch_norm_legit_no_training.default)
def native_batch_norm(
    net: Network, input: Tensor, weight: Parameter, bias: Parameter, running_mean: Parameter, running_var: Parameter,
    momentum: float, eps: float,
) -> tuple[Tensor, None, None]:  # fmt: skip
    """_native_batch_norm_legit_no_training(Tensor input, Tensor? weight, Tensor? bias, Tensor running_mean,
    Tensor running_var, float momentum, float eps) -> (Tensor, Tensor, Tensor)"""
    return batch_norm(net, input, weight, bias, running_mean, running_var, False, momentum, eps, False), None, None


@converter(aten.native_batch_norm.default, supports=_no_running_update)
def native_batch_norm_training(
    net: Network, input: Tensor, weight: Parameter, bias: Parameter, running_mean: Parameter, running_var: Parameter,
    training: bool, momentum: float, eps: float,
) -> tuple[Tensor, None, None]:  # fmt: skip
    """native_batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var,
    bool training, float momentum, float eps) -> (Tensor, Tensor, Tensor)"""
    return batch_norm(net, input, weight, bias, running_mean, running_var, training, momentum, eps, False), None, None


@converter(aten._native_batch_norm_legit.no_stats)
def native_batch_norm_no_stats(
    net: Network, input: Tensor, weight: Parameter, bias: Parameter, training: bool, momentum: float, eps: float
) -> tuple[Tensor, None, None]:
    """_native_batch_norm_legit.no_stats(Tensor input, Tensor? weight, Tensor? bias, bool training, float momentum, float eps)
    -> (Tensor, Tensor, Tensor)"""
    return batch_norm(net, input, weight, bias, None, None, training, momentum, eps, False), None, None


@converter(aten.instance_norm.default, supports=_no_running_update)
def instance_norm(
    net: Network, input: Tensor, weight: Parameter, bias: Parameter, running_mean: Parameter, running_var: Parameter,
    use_input_stats: bool, momentum: float, eps: float, cudnn_enabled: bool,
) -> Tensor:  # fmt: skip
    """instance_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var,
    bool use_input_stats, float momentum, float eps, bool cudnn_enabled) -> Tensor"""
    if not use_input_stats:
        return batch_norm(net, input, weight, bias, running_mean, running_var, False, momentum, eps, cudnn_enabled)
    x = net.image(input, input.ndim - 2)
    shape = [1, x.shape[1], *[1] * (x.ndim - 2)]
    return net.reshape(net.normalization(x, range(2, x.ndim), weight, bias, shape, eps), input.shape)


@converter(aten.group_norm.default)
def group_norm(
    net: Network, input: Tensor, num_groups: int, weight: Parameter, bias: Parameter, eps: float, cudnn_enabled: bool
) -> Tensor:
    """group_norm(Tensor input, int num_groups, Tensor? weight=None, Tensor? bias=None, float eps=1e-05,
    bool cudnn_enabled=True) -> Tensor

    TensorRT's first normalization layer has a scale per group: there the groups become channels of an instance
    normalization, and the scale per channel comes after it.
    """
    x = net.reshape(input, (*input.shape, *[1] * (4 - input.ndim)))
    shape = [1, x.shape[1], *[1] * (x.ndim - 2)]
    if num_groups > 1 and net.capabilities.group_normalization:
        result = net.normalization(x, range(2, x.ndim), weight, bias, shape, eps, num_groups)
    else:
        rows = net.reshape(x, (x.shape[0], num_groups, 1, -1))
        result = net.reshape(net.normalization(rows, [2, 3], None, None, [1, num_groups, 1, 1], eps), x.shape)
        result = net.weighted(result, weight, bias, shape)
    return net.reshape(result, input.shape)


@converter(aten.native_group_norm.default)
def native_group_norm(
    net: Network, input: Tensor, weight: Parameter, bias: Parameter, N: int, C: int, HxW: int, group: int, eps: float
) -> tuple[Tensor, None, None]:
    """native_group_norm(Tensor input, Tensor? weight, Tensor? bias, SymInt N, SymInt C, SymInt HxW, int group,
    float eps) -> (Tensor, Tensor, Tensor)"""
    return group_norm(net, input, group, weight, bias, eps, False), None, None


@converter(aten.layer_norm.default)
def layer_norm(
    net: Network, input: Tensor, normalized_shape: list[int], weight: Parameter, bias: Parameter, eps: float,
    cudnn_enable: bool,
) -> Tensor:  # fmt: skip
    """layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, Tensor? bias=None, float eps=1e-05,
    bool cudnn_enable=True) -> Tensor"""
    x = net.unsqueeze(input, 0) if len(normalized_shape) == net.tensor(input).ndim else net.tensor(input)
    dims = range(x.ndim - len(normalized_shape), x.ndim)
    shape = [*[1] * dims.start, *normalized_shape]
    return net.reshape(net.normalization(x, dims, weight, bias, shape, eps), net.outputs[0].shape)


@converter(aten.native_layer_norm.default)
def native_layer_norm(
    net: Network, input: Tensor, normalized_shape: list[int], weight: Parameter, bias: Parameter, eps: float
) -> tuple[Tensor, None, None]:
    """native_layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight, Tensor? bias, float eps)
    -> (Tensor, Tensor, Tensor)"""
    return layer_norm(net, input, normalized_shape, weight, bias, eps, False), None, None


@converter(aten.rms_norm.default)
def rms_norm(net: Network, input: Tensor, normalized_shape: list[int], weight: Parameter, eps: float | None) -> Tensor:
    """rms_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, float? eps=None) -> Tensor"""
    x = net.tensor(input)
    dims = range(x.ndim - len(normalized_shape), x.ndim)
    result = net.root_mean_square(x, dims, torch.finfo(x.dtype).eps if eps is None else eps)
    return net.cast(net.weighted(result, weight, None, [*[1] * dims.start, *normalized_shape]), net.out.dtype)


@converter(nn.LocalResponseNorm)
def local_response_norm(net: Network, module: nn.LocalResponseNorm, input: Tensor) -> Tensor:
    """nn.LocalResponseNorm; F.local_response_norm is traced as the operations it is made of."""
    return net.local_response(input, module.size, module.alpha, module.beta, module.k)
