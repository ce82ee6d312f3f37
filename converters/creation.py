"""Tensors made from sizes: PyTorch's torch page, "Creation Ops".

Tracing records them where an argument depends on a dynamic axis; all others are constants.
"""

from __future__ import annotations

import torch

from torch2edge.lower.network import Network, Tensor, is_symbolic
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Number = float | int | bool
Device = torch.device | None
Dtype = torch.dtype | None


@converter(aten.full.default)
def full(
    net: Network, size: list[int], fill_value: Number, dtype: Dtype, layout: torch.layout | None, device: Device,
    pin_memory: bool | None,
) -> Tensor:  # fmt: skip
    """full(SymInt[] size, Scalar fill_value, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None,
    bool? pin_memory=None) -> Tensor"""
    return net.filled(fill_value, size, net.out.dtype)


@converter(aten.scalar_tensor.default)
def scalar_tensor(
    net: Network, s: Number, dtype: Dtype, layout: torch.layout | None, device: Device, pin_memory: bool | None
) -> Tensor:
    """scalar_tensor(Scalar s, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None,
    bool? pin_memory=None) -> Tensor"""
    return net.constant(s, net.out.dtype)


@converter(aten.arange.default)
def arange(
    net: Network, end: Number, dtype: Dtype, layout: torch.layout | None, device: Device, pin_memory: bool | None
) -> Tensor:
    """arange(Scalar end, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None)
    -> Tensor"""
    return _steps(net, 0, 1)


@converter(aten.arange.start)
def arange_start(
    net: Network, start: Number, end: Number, dtype: Dtype, layout: torch.layout | None, device: Device,
    pin_memory: bool | None,
) -> Tensor:  # fmt: skip
    """arange.start(Scalar start, Scalar end, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None,
    bool? pin_memory=None) -> Tensor"""
    return _steps(net, start, 1)


@converter(aten.arange.start_step)
def arange_step(
    net: Network, start: Number, end: Number, step: Number, dtype: Dtype, layout: torch.layout | None, device: Device,
    pin_memory: bool | None,
) -> Tensor:  # fmt: skip
    """arange.start_step(Scalar start, Scalar end, Scalar step=1, *, ScalarType? dtype=None, Layout? layout=None,
    Device? device=None, bool? pin_memory=None) -> Tensor"""
    return _steps(net, start, step)


def _steps(net: Network, start: Number, step: Number) -> Tensor:
    """``start + i * step`` for as many elements as the op's result has; floats in float32."""
    out: torch.dtype = net.out.dtype
    dtype = torch.float32 if out.is_floating_point else torch.int64
    values = net.tensor(net.positions(net.out.shape[0]), dtype)
    if is_symbolic(step) or step != 1:
        values = net.elementwise("PROD", values, step, dtype)
    if is_symbolic(start) or start != 0:
        values = net.elementwise("SUM", values, start, dtype)
    return net.cast(values, out)


@converter(aten.eye.default)
def eye(net: Network, n: int, dtype: Dtype, layout: torch.layout | None, device: Device, pin_memory: bool | None) -> Tensor:
    """eye(SymInt n, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None, bool? pin_memory=None)
    -> Tensor"""
    return _diagonal_ones(net)


@converter(aten.eye.m)
def eye_m(
    net: Network, n: int, m: int, dtype: Dtype, layout: torch.layout | None, device: Device, pin_memory: bool | None
) -> Tensor:
    """eye.m(SymInt n, SymInt m, *, ScalarType? dtype=None, Layout? layout=None, Device? device=None,
    bool? pin_memory=None) -> Tensor"""
    return _diagonal_ones(net)


def _diagonal_ones(net: Network) -> Tensor:
    rows, columns = (net.along(net.positions(n), axis, 2) for axis, n in enumerate(net.out.shape))
    return net.cast(net.elementwise("EQUAL", rows, columns), net.out.dtype)
