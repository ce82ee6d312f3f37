"""A call of each of the 178 ATen base ops that Torch-TensorRT converts (Torch-TensorRT d7f2062810, 2026-08-22).

Name of the op -> a function of tensors and how to draw them: shapes, or Specs. Ops that no public function of PyTorch
reaches as such are called by their ATen name. What is not here stands in converters/unsupported.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from support.rows import Spec

__all__ = ["CALLS", "NAMES"]

aten = torch.ops.aten

NAMES = """
_adaptive_avg_pool2d _adaptive_avg_pool3d _cdist_forward _embedding_bag _native_batch_norm_legit
_native_batch_norm_legit_no_training _pad_circular _pdist_forward _prelu_kernel _reshape_copy
_scaled_dot_product_cudnn_attention _scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention _softmax
_to_copy abs acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d add addmm amax amin any arange argmax
argmin as_strided asin asinh atan atan2 atanh avg_pool1d avg_pool2d avg_pool3d batch_norm bitwise_and bitwise_not bitwise_or
bitwise_xor bmm cat ceil clamp clip clone constant_pad_nd convolution copy cos cosh cumsum detach diagonal div dot elu
embedding embedding_bag empty eq erf exp expand expm1 flip floor floor_divide fmod full gather ge gelu grid_sampler
grid_sampler_2d gt hardsigmoid hardtanh index index_copy index_put index_select isinf isnan le leaky_relu linalg_cross linear
log log10 log1p log2 logical_and logical_not logical_or logical_xor lt matmul max max_pool1d max_pool2d max_pool3d maximum
mean min minimum mm mul mv native_batch_norm native_dropout native_group_norm native_layer_norm ne neg nonzero pad permute
pixel_shuffle pixel_unshuffle pow prod rand randn randperm reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu
remainder repeat replication_pad1d replication_pad2d replication_pad3d reshape resize_ roll round rsqrt scalar_tensor
scaled_dot_product_attention scatter select sigmoid sign sin sinh slice slice_scatter softplus sort split split_with_sizes
sqrt squeeze sub sum sym_numel sym_size tan tanh tile topk trunc unsqueeze upsample_bicubic2d upsample_bilinear2d
upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d view where
""".split()  # noqa: SIM905 (a hundred quoted names say no more)

V, M, I4 = (5,), (3, 4), (2, 3, 6, 6)
ROWS3, VOLUME = (2, 3, 6), (1, 2, 4, 5, 6)
POSITIVE = Spec(M, positive=True)
INTS, MORE_INTS = Spec(M, torch.int64, -9, 9), Spec(M, torch.int64, 1, 9)
BOOLS = Spec(M, torch.bool)
HEADS = (1, 2, 4, 8)
WEIGHT = torch.linspace(-1, 1, 3 * 4 * 9).reshape(4, 3, 3, 3)
TABLE = torch.linspace(-2, 2, 40).reshape(10, 4)
STATISTICS = (torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 0.5]))

CALLS: dict[str, tuple[Any, ...]] = {
    # poolings, convolution, normalization
    "_adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (3, 4)), I4),
    "_adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, (2, 3, 1)), VOLUME),
    "adaptive_avg_pool1d": (lambda x: F.adaptive_avg_pool1d(x, 4), ROWS3),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (5, 2)), I4),
    "adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, 2), VOLUME),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 3, 2, 1), ROWS3),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False), I4),
    "avg_pool3d": (lambda x: F.avg_pool3d(x, 2), VOLUME),
    "max_pool1d": (lambda x: F.max_pool1d(x, 3, 2, 1), ROWS3),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), I4),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2, dilation=2), VOLUME),
    "convolution": (lambda x: F.conv2d(x, WEIGHT, padding=1, stride=2), I4),
    "batch_norm": (lambda x: F.batch_norm(x, *STATISTICS), I4),
    "native_batch_norm": (lambda x: torch.native_batch_norm(x, None, None, *STATISTICS, False, 0.1, 1e-5)[0], I4),
    "_native_batch_norm_legit": (
        lambda x: aten._native_batch_norm_legit.no_stats(x, None, None, True, 0.1, 1e-5)[0], I4
    ),
    "_native_batch_norm_legit_no_training": (
        lambda x: aten._native_batch_norm_legit_no_training(x, None, None, *STATISTICS, 0.1, 1e-5)[0], I4
    ),
    "native_dropout": (lambda x: torch.native_dropout(x, 0.5, False)[0], M),
    "native_group_norm": (lambda x: torch.native_group_norm(x, None, None, 2, 4, 9, 2, 1e-5)[0], (2, 4, 3, 3)),
    "native_layer_norm": (lambda x: F.layer_norm(x, (4,)), M),
    # padding and resampling
    "_pad_circular": (lambda x: F.pad(x, (1, 2, 0, 1), "circular"), I4),
    "constant_pad_nd": (lambda x: F.pad(x, (1, 2, -1, 1), value=3.0), I4),
    "pad": (lambda x: F.pad(x, (1, 2), "reflect"), ROWS3),
    "reflection_pad1d": (lambda x: F.pad(x, (1, 2), "reflect"), ROWS3),
    "reflection_pad2d": (lambda x: F.pad(x, (1, 2, 0, 1), "reflect"), I4),
    "reflection_pad3d": (lambda x: F.pad(x, (1, 2, 0, 1, 1, 1), "reflect"), VOLUME),
    "replication_pad1d": (lambda x: F.pad(x, (1, 2), "replicate"), ROWS3),
    "replication_pad2d": (lambda x: F.pad(x, (1, 2, 0, 1), "replicate"), I4),
    "replication_pad3d": (lambda x: F.pad(x, (1, 2, 0, 1, 1, 1), "replicate"), VOLUME),
    "grid_sampler": (lambda x, g: F.grid_sample(x, g, align_corners=False), I4, (2, 4, 5, 2)),
    "grid_sampler_2d": (lambda x, g: aten.grid_sampler_2d(x, g, 0, 1, True), I4, (2, 4, 5, 2)),
    "upsample_bicubic2d": (lambda x: F.interpolate(x, (9, 7), mode="bicubic"), I4),
    "upsample_bilinear2d": (lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"), I4),
    "upsample_linear1d": (lambda x: F.interpolate(x, 9, mode="linear", align_corners=True), ROWS3),
    "upsample_nearest1d": (lambda x: F.interpolate(x, 9), ROWS3),
    "upsample_nearest2d": (lambda x: F.interpolate(x, scale_factor=2), I4),
    "upsample_nearest3d": (lambda x: F.interpolate(x, (8, 5, 3)), VOLUME),
    "upsample_trilinear3d": (lambda x: F.interpolate(x, (8, 5, 3), mode="trilinear"), VOLUME),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), (1, 8, 3, 2)),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 3), I4),
    # activations, attention
    "_prelu_kernel": (lambda x: F.prelu(x, torch.tensor([0.1, 0.2, -0.3])), I4),
    "_softmax": (lambda x: F.softmax(x, 1), I4),
    "elu": (lambda x: F.elu(x, 0.7), M),
    "gelu": (lambda x: F.gelu(x, approximate="tanh"), M),
    "hardsigmoid": (lambda x: F.hardsigmoid(x * 4), M),
    "hardtanh": (lambda x: F.hardtanh(x, -0.5, 0.7), M),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), M),
    "relu": (torch.relu, M),
    "sigmoid": (torch.sigmoid, M),
    "softplus": (lambda x: F.softplus(x, 2.0, 5.0), M),
    "tanh": (torch.tanh, M),
    "scaled_dot_product_attention": (lambda q, k: F.scaled_dot_product_attention(q, k, k, is_causal=True), HEADS, HEADS),
    "_scaled_dot_product_cudnn_attention": (
        lambda q, k: aten._scaled_dot_product_cudnn_attention(q, k, k, None, False, 0.0, True)[0], HEADS, HEADS
    ),
    "_scaled_dot_product_efficient_attention": (
        lambda q, k: aten._scaled_dot_product_efficient_attention(q, k, k, None, False, 0.0, True)[0], HEADS, HEADS
    ),
    "_scaled_dot_product_flash_attention": (
        lambda q, k: aten._scaled_dot_product_flash_attention(q, k, k, 0.0, True)[0], HEADS, HEADS
    ),
    # linear algebra
    "_cdist_forward": (lambda x, y: torch.cdist(x, y, 3.0), (2, 3, 4), (2, 5, 4)),
    "_pdist_forward": (lambda x: F.pdist(x, 1.5), (5, 4)),
    "addmm": (lambda b, x, y: torch.addmm(b, x, y, beta=0.5, alpha=2), V, M, (4, 5)),
    "bmm": (torch.bmm, (2, 3, 4), (2, 4, 5)),
    "dot": (torch.dot, V, V),
    "linalg_cross": (torch.linalg.cross, (2, 4, 3), (1, 4, 3)),
    "linear": (lambda x: F.linear(x, TABLE), M),
    "matmul": (torch.matmul, (2, 1, 3, 4), (5, 4, 2)),
    "mm": (torch.mm, M, (4, 2)),
    "mv": (torch.mv, M, (4,)),
    # pointwise
    "abs": (torch.abs, M),
    "acos": (lambda x: torch.acos(torch.tanh(x)), M),
    "acosh": (lambda x: torch.acosh(1 + x), POSITIVE),
    "add": (lambda x, y: torch.add(x, y, alpha=2), M, (4,)),
    "asin": (lambda x: torch.asin(torch.tanh(x)), M),
    "asinh": (torch.asinh, M),
    "atan": (torch.atan, M),
    "atan2": (torch.atan2, M, M),
    "atanh": (lambda x: torch.atanh(torch.tanh(x)), M),
    "bitwise_and": (torch.bitwise_and, INTS, MORE_INTS),
    "bitwise_not": (torch.bitwise_not, INTS),
    "bitwise_or": (torch.bitwise_or, INTS, MORE_INTS),
    "bitwise_xor": (lambda x: x ^ 5, INTS),
    "ceil": (torch.ceil, M),
    "clamp": (lambda x: torch.clamp(x, -0.5, 1), M),
    "clip": (lambda x: torch.clip(x, max=0.3), M),
    "cos": (torch.cos, M),
    "cosh": (torch.cosh, M),
    "div": (lambda x, y: torch.div(x, y, rounding_mode="trunc"), M, POSITIVE),
    "eq": (torch.eq, INTS, MORE_INTS),
    "erf": (torch.erf, M),
    "exp": (torch.exp, M),
    "expm1": (torch.expm1, M),
    "floor": (torch.floor, M),
    "floor_divide": (torch.floor_divide, INTS, MORE_INTS),
    "fmod": (torch.fmod, INTS, MORE_INTS),
    "ge": (lambda x: x >= 0, M),
    "gt": (torch.gt, M, M),
    "isinf": (lambda x: torch.isinf(x / 0), M),
    "isnan": (lambda x: torch.isnan(torch.sqrt(x)), M),
    "le": (torch.le, M, (1, 4)),
    "log": (torch.log, POSITIVE),
    "log10": (torch.log10, POSITIVE),
    "log1p": (torch.log1p, POSITIVE),
    "log2": (torch.log2, POSITIVE),
    "logical_and": (torch.logical_and, BOOLS, INTS),
    "logical_not": (torch.logical_not, INTS),
    "logical_or": (torch.logical_or, BOOLS, BOOLS),
    "logical_xor": (torch.logical_xor, BOOLS, BOOLS),
    "lt": (lambda x: x < 0.5, M),
    "maximum": (torch.maximum, M, M),
    "minimum": (torch.minimum, INTS, MORE_INTS),
    "mul": (torch.mul, M, (3, 1)),
    "ne": (torch.ne, INTS, MORE_INTS),
    "neg": (torch.neg, INTS),
    "pow": (torch.pow, POSITIVE, M),
    "reciprocal": (torch.reciprocal, POSITIVE),
    "remainder": (torch.remainder, INTS, MORE_INTS),
    "round": (torch.round, M),
    "rsqrt": (torch.rsqrt, POSITIVE),
    "sign": (torch.sign, M),
    "sin": (torch.sin, M),
    "sinh": (torch.sinh, M),
    "sqrt": (torch.sqrt, POSITIVE),
    "sub": (lambda x: torch.sub(x, 2, alpha=3), M),
    "tan": (torch.tan, M),
    "trunc": (torch.trunc, M),
    "where": (torch.where, BOOLS, M, (4,)),
    # reductions
    "amax": (lambda x: torch.amax(x, (0, 2)), ROWS3),
    "amin": (lambda x: torch.amin(x, -1, keepdim=True), ROWS3),
    "any": (lambda x: torch.any(x > 1, 1), ROWS3),
    "argmax": (lambda x: torch.argmax(x, -1), ROWS3),
    "argmin": (torch.argmin, ROWS3),
    "cumsum": (lambda x: torch.cumsum(x, 1), INTS),
    "max": (lambda x: torch.max(x, 1), ROWS3),
    "mean": (lambda x: torch.mean(x, (0, 2), keepdim=True), ROWS3),
    "min": (torch.min, ROWS3),
    "prod": (lambda x: torch.prod(x, 1), ROWS3),
    "sort": (lambda x: torch.sort(x, 1), ROWS3),
    "sum": (lambda x: torch.sum(x, 1), INTS),
    "topk": (lambda x: torch.topk(x, 3, -1), ROWS3),
    # shapes, indexing, joining
    "_reshape_copy": (lambda x: aten._reshape_copy(x, [4, 3]), M),
    "_to_copy": (lambda x: x.to(torch.int32), M),
    "as_strided": (lambda x: torch.as_strided(x, (2, 2), (4, 2), 1), M),
    "cat": (lambda x, y: torch.cat([x, y, x], 1), M, (3, 2)),
    "clone": (torch.clone, M),
    "copy": (lambda x, y: aten.copy(x, y), M, INTS),
    "detach": (torch.detach, M),
    "diagonal": (lambda x: torch.diagonal(x, 1, -1, 0), ROWS3),
    "embedding": (lambda i: F.embedding(i, TABLE), Spec(M, torch.int64)),
    "embedding_bag": (lambda i: F.embedding_bag(i, TABLE, mode="mean"), Spec(M, torch.int64)),
    "_embedding_bag": (
        lambda i, w: aten._embedding_bag(TABLE, i, torch.tensor([0, 3, 3]), False, 0, False, w)[0], Spec(V, torch.int64), V
    ),
    "expand": (lambda x: x.expand(2, -1, 4), (3, 1)),
    "flip": (lambda x: torch.flip(x, (0, -1)), ROWS3),
    "gather": (lambda x, i: torch.gather(x, 1, i), M, Spec((3, 2), torch.int64, 0, 4)),
    "index": (lambda x, i: x[:, i], M, Spec(V, torch.int64, -4, 4)),
    "index_copy": (lambda x, y: torch.index_copy(x, 1, torch.tensor([2, 0]), y), M, (3, 2)),
    "index_put": (lambda x, i, y: torch.index_put(x, (i,), y, accumulate=True), M, Spec(V, torch.int64, 0, 3), (5, 4)),
    "index_select": (lambda x, i: torch.index_select(x, 0, i), M, Spec(V, torch.int64, 0, 3)),
    "permute": (lambda x: torch.permute(x, (2, 0, 1)), ROWS3),
    "repeat": (lambda x: x.repeat(2, 1, 3), M),
    "reshape": (lambda x: torch.reshape(x, (2, -1)), M),
    "roll": (lambda x: torch.roll(x, (1, -2), (0, 1)), M),
    "scatter": (lambda x, i: torch.scatter(x, 1, i, 2.0), M, Spec((3, 2), torch.int64, 0, 4)),
    "select": (lambda x: torch.select(x, 1, -2), ROWS3),
    "slice": (lambda x: x[:, 1:-1, ::2], ROWS3),
    "slice_scatter": (lambda x, y: torch.slice_scatter(x, y, 1, 0, 4, 2), M, (3, 2)),
    "split": (lambda x: torch.split(x, 4, -1), ROWS3),
    "split_with_sizes": (lambda x: torch.split(x, [1, 3, 2], -1), ROWS3),
    "squeeze": (lambda x: torch.squeeze(x, (0, 2)), (1, 3, 1)),
    "tile": (lambda x: torch.tile(x, (2, 2)), M),
    "unsqueeze": (lambda x: torch.unsqueeze(x, -2), M),
    "view": (lambda x: x.view(2, -1), M),
    # made in the forward
    "arange": (lambda x: x + torch.arange(x.shape[1]), M),
    "empty": (lambda x: torch.empty(3, 4).copy_(x), M),
    "full": (lambda x: x + torch.full((4,), 2.5), M),
    "scalar_tensor": (lambda x: x * torch.scalar_tensor(2.5), M),
    "sym_numel": (lambda x: x / x.numel(), M),
    "sym_size": (lambda x: x / x.size(1), M),
}  # fmt: skip
