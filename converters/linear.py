"""Linear algebra: PyTorch's torch.nn, "Linear Layers", and torch, "BLAS and LAPACK Operations"."""

from __future__ import annotations

from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def _sums(*values: Any, **arguments: Any) -> str:
    """TensorRT adds up floats, int32 and int64; PyTorch's products of int8 and uint8 wrap around."""
    for value in (*values, *arguments.values()):
        dtype = getattr(value, "dtype", torch.float32)
        if dtype not in (*_FLOATS, torch.int32, torch.int64):
            return f"a product of {dtype}; cast to float first"
    return ""


def _einsum_sums(equation: str, tensors: Any, path: Any) -> str:
    """IEinsumLayer, which more than one operand needs, takes floats only."""
    dtypes = [t.dtype for t in tensors if t.dtype not in _FLOATS]
    return f"an einsum of {dtypes[0]}; cast to float first" if dtypes and len(tensors) > 1 else ""


@converter(aten.linear.default)
def linear(net: Network, input: Tensor, weight: Tensor | torch.Tensor, bias: Tensor | torch.Tensor | None) -> Tensor:
    """linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor"""
    rows = net.reshape(input, (1, -1)) if input.ndim == 1 else input
    product = net.reshape(net.matmul(rows, weight, transpose_b=True), net.out.shape)
    return product if bias is None else net.add(product, bias)


@converter(aten.bilinear.default)
def bilinear(
    net: Network, input1: Tensor, input2: Tensor, weight: Tensor | torch.Tensor, bias: Tensor | torch.Tensor | None
) -> Tensor:
    """bilinear(Tensor input1, Tensor input2, Tensor weight, Tensor? bias=None) -> Tensor"""
    left = net.matmul(net.reshape(input1, (-1, 1, 1, weight.shape[1])), weight)  # (rows, out, 1, in2)
    product = net.matmul(left, net.reshape(input2, (-1, 1, weight.shape[2], 1)))
    product = net.reshape(product, net.out.shape)
    return product if bias is None else net.add(product, bias)


@converter(aten.mm.default, aten.bmm.default, supports=_sums)
def mm(net: Network, self: Tensor, mat2: Tensor) -> Tensor:
    """mm(Tensor self, Tensor mat2) -> Tensor"""
    return net.matmul(self, mat2)


@converter(aten.matmul.default, supports=_sums)
def matmul(net: Network, self: Tensor, other: Tensor) -> Tensor:
    """matmul(Tensor self, Tensor other) -> Tensor"""
    rows = net.reshape(self, (1, -1)) if self.ndim == 1 else self
    columns = net.reshape(other, (-1, 1)) if other.ndim == 1 else other
    return net.reshape(net.matmul(rows, columns), net.out.shape)


@converter(aten.mv.default, supports=_sums)
def mv(net: Network, self: Tensor, vec: Tensor) -> Tensor:
    """mv(Tensor self, Tensor vec) -> Tensor"""
    return matmul(net, self, vec)


@converter(aten.dot.default, supports=_sums)
def dot(net: Network, self: Tensor, tensor: Tensor) -> Tensor:
    """dot(Tensor self, Tensor tensor) -> Tensor"""
    return matmul(net, self, tensor)


@converter(aten.addmm.default, supports=_sums)
def addmm(net: Network, self: Tensor, mat1: Tensor, mat2: Tensor, beta: float, alpha: float) -> Tensor:
    """addmm(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1) -> Tensor"""
    return _weighted_sum(net, self, net.matmul(mat1, mat2), beta, alpha)


@converter(aten.addmv.default, supports=_sums)
def addmv(net: Network, self: Tensor, mat: Tensor, vec: Tensor, beta: float, alpha: float) -> Tensor:
    """addmv(Tensor self, Tensor mat, Tensor vec, *, Scalar beta=1, Scalar alpha=1) -> Tensor"""
    return _weighted_sum(net, self, matmul(net, mat, vec), beta, alpha)


@converter(aten.baddbmm.default, supports=_sums)
def baddbmm(net: Network, self: Tensor, batch1: Tensor, batch2: Tensor, beta: float, alpha: float) -> Tensor:
    """baddbmm(Tensor self, Tensor batch1, Tensor batch2, *, Scalar beta=1, Scalar alpha=1) -> Tensor"""
    return _weighted_sum(net, self, net.matmul(batch1, batch2), beta, alpha)


@converter(aten.addbmm.default, supports=_sums)
def addbmm(net: Network, self: Tensor, batch1: Tensor, batch2: Tensor, beta: float, alpha: float) -> Tensor:
    """addbmm(Tensor self, Tensor batch1, Tensor batch2, *, Scalar beta=1, Scalar alpha=1) -> Tensor"""
    return _weighted_sum(net, self, net.reduce(net.matmul(batch1, batch2), "SUM", [0], keepdim=False), beta, alpha)


def _weighted_sum(net: Network, summand: Tensor, product: Tensor, beta: float, alpha: float) -> Tensor:
    """beta * summand + alpha * product; a summand with beta 0 is not read, so its NaNs stay out, as in PyTorch."""
    product = product if alpha == 1 else net.mul(product, alpha)
    if beta == 0:
        return product
    return net.add(product, summand if beta == 1 else net.mul(summand, beta))


@converter(aten.einsum.default, supports=_einsum_sums)
def einsum(net: Network, equation: str, tensors: list[Tensor], path: list[int] | None) -> Tensor:
    """einsum(str equation, Tensor[] tensors, *, int[]? path=None) -> Tensor

    Operands are combined from left to right, whatever the path: it changes the work, not the result.
    """
    return net.reshape(net.einsum(equation, tensors), net.out.shape)


@converter(aten._cdist_forward.default)
def cdist(net: Network, x1: Tensor, x2: Tensor, p: float, compute_mode: int | None) -> Tensor:
    """_cdist_forward(Tensor x1, Tensor x2, float p, int? compute_mode) -> Tensor"""
    return _norm(net, net.sub(net.unsqueeze(x1, -2), net.unsqueeze(x2, -3)), p)


@converter(aten._pdist_forward.default)
def pdist(net: Network, self: Tensor, p: float) -> Tensor:
    """_pdist_forward(Tensor self, float p=2) -> Tensor"""
    first, second = torch.triu_indices(self.shape[0], self.shape[0], 1).int()
    return _norm(net, net.sub(net.gather(self, first, 0), net.gather(self, second, 0)), p)


@converter(aten.dist.default)
def dist(net: Network, self: Tensor, other: Tensor, p: float) -> Tensor:
    """dist(Tensor self, Tensor other, Scalar p=2) -> Tensor"""
    return net.vector_norm(net.sub(self, other), p, [], False, net.out.dtype)


def _norm(net: Network, difference: Tensor, p: float) -> Tensor:
    """Over the last axis."""
    return net.vector_norm(difference, p, [-1], False, net.out.dtype)
