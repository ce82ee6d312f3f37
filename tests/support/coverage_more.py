"""Functions of PyTorch that are in neither neighbour's list: name -> a function of tensors and how to draw them.

A name is PyTorch's, with the case after it where there are several.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from support.rows import Spec

__all__ = ["CALLS"]

aten = torch.ops.aten
V, M, ROWS3, I4, VOLUME = (5,), (3, 4), (2, 3, 6), (2, 3, 6, 6), (1, 2, 4, 5, 6)
POSITIVE = Spec(M, positive=True)
INTS, BOOLS = Spec(M, torch.int64, -9, 9), Spec(M, torch.bool)
COUNTS = Spec(M, torch.int64, 0, 4)
WEIGHT = torch.linspace(-1, 1, 3 * 4 * 9).reshape(4, 3, 3, 3)

CALLS: dict[str, tuple[Any, ...]] = {
    # pointwise
    "addcdiv": (lambda x, y: torch.addcdiv(x, x, y, value=2), M, POSITIVE),
    "addcmul": (lambda x, y: torch.addcmul(x, x, y, value=2), M, POSITIVE),
    "bitwise_left_shift": (lambda x: x << 3, INTS),
    "bitwise_right_shift": (lambda x: x >> 2, INTS),
    "clamp_tensors": (lambda x, y: torch.clamp(x, -y, y), M, POSITIVE),
    "copysign": (torch.copysign, M, M),
    "copysign_number": (lambda x: torch.copysign(x, -0.0), M),
    "deg2rad": (torch.deg2rad, M),
    "frac": (lambda x: torch.frac(x * 3), M),
    "erfc": (torch.erfc, M),
    "erfinv": (lambda x: torch.erfinv(torch.tanh(x)), M),
    "exp2": (torch.exp2, M),
    "fmax": (torch.fmax, M, M),
    "fmin": (torch.fmin, M, M),
    "heaviside": (lambda x, y: torch.heaviside(x.round(), y), M, M),
    "hypot": (torch.hypot, M, M),
    "isclose": (lambda x, y: torch.isclose(x, y, atol=0.5), M, M),
    "isin": (lambda x: torch.isin(x, torch.tensor([1, 3, 5])), INTS),
    "isneginf": (lambda x: torch.isneginf(x / 0), M),
    "isposinf": (lambda x: torch.isposinf(x / 0), M),
    "ldexp": (torch.ldexp, M, COUNTS),
    "lerp": (torch.lerp, M, M, M),
    "logaddexp": (torch.logaddexp, M, M),
    "logaddexp2": (torch.logaddexp2, M, M),
    "logit": (lambda x: torch.logit(torch.sigmoid(x), 1e-3), M),
    "nan_to_num": (lambda x: torch.nan_to_num(torch.log(x), 1.0, 2.0, -3.0), M),
    "rad2deg": (torch.rad2deg, M),
    "remainder": (lambda x: torch.remainder(x, -3), INTS),
    "round_decimals": (lambda x: torch.round(x, decimals=1), M),
    "rsub": (lambda x: torch.rsub(x, 2.0), M),
    "sgn": (torch.sgn, INTS),
    "signbit": (torch.signbit, M),
    "sinc": (torch.sinc, M),
    "special_entr": (torch.special.entr, M),
    "special_expit": (torch.special.expit, M),
    "special_log1p": (torch.special.log1p, POSITIVE),
    "special_ndtr": (torch.special.ndtr, M),
    "special_xlog1py": (torch.special.xlog1py, M, POSITIVE),
    "square": (torch.square, INTS),
    "true_divide": (torch.true_divide, INTS, POSITIVE),
    "xlogy": (lambda x, y: torch.xlogy(x.round(), y), M, POSITIVE),
    # activations
    "celu": (lambda x: F.celu(x, 0.7), M),
    "glu": (lambda x: F.glu(x, 0), (4, 3)),
    "hardshrink": (F.hardshrink, M),
    "hardswish": (F.hardswish, M),
    "logsigmoid": (F.logsigmoid, M),
    "mish": (F.mish, M),
    "softmin": (lambda x: F.softmin(x, -1), M),
    "softshrink": (F.softshrink, M),
    "tanhshrink": (F.tanhshrink, M),
    "threshold": (lambda x: F.threshold(x, 0.1, 20), M),
    # reductions
    "all": (lambda x: torch.all(x > -1, 1), ROWS3),
    "aminmax": (lambda x: torch.aminmax(x, dim=1), ROWS3),
    "any_dims": (lambda x: torch.any(x, (0, 1), keepdim=True), BOOLS),
    "count_nonzero": (lambda x: torch.count_nonzero(x, 1), INTS),
    "cosine_similarity": (lambda x, y: F.cosine_similarity(x, y, dim=1), M, M),
    "dist": (torch.dist, M, M),
    "linalg_matrix_norm": (torch.linalg.matrix_norm, ROWS3),
    "linalg_norm": (lambda x: torch.linalg.norm(x, 1, -1), ROWS3),
    "logsumexp": (lambda x: torch.logsumexp(x * 50, (0, 2)), ROWS3),
    "nanmean": (lambda x: torch.nanmean(torch.log(x), 1), M),
    "nansum": (lambda x: torch.nansum(torch.log(x), 1), M),
    "norm": (lambda x: torch.norm(x, dim=(1, 2)), ROWS3),
    "pairwise_distance": (F.pairwise_distance, M, M),
    "std": (lambda x: torch.std(x, -1), ROWS3),
    "std_mean": (lambda x: torch.std_mean(x, (0, 2), correction=0), ROWS3),
    "trace": (torch.trace, M),
    "var": (lambda x: torch.var(x, 1, unbiased=False), ROWS3),
    "var_mean": (torch.var_mean, ROWS3),
    # linear algebra
    "addbmm": (torch.addbmm, (3, 5), (2, 3, 4), (2, 4, 5)),
    "addr": (torch.addr, (5, 3), V, (3,)),
    "baddbmm": (torch.baddbmm, (2, 3, 5), (2, 3, 4), (2, 4, 5)),
    "bilinear": (lambda x, y: F.bilinear(x, y, torch.ones(2, 4, 5)), M, (3, 5)),
    "cross": (lambda x, y: torch.cross(x, y, dim=0), M, M),
    "inner": (torch.inner, M, (5, 4)),
    "kron": (torch.kron, M, (2, 2)),
    "multi_dot": (lambda x, y, z: torch.linalg.multi_dot((x, y, z)), M, (4, 2), (2, 5)),
    "outer": (torch.outer, V, (3,)),
    "tensordot": (lambda x, y: torch.tensordot(x, y, 2), ROWS3, (3, 6, 4)),
    "vecdot": (torch.linalg.vecdot, M, M),
    # shapes, indexing
    "block_diag": (torch.block_diag, M, (2, 2)),
    "broadcast_tensors": (torch.broadcast_tensors, M, (4,)),
    "cartesian_prod": (torch.cartesian_prod, V, (3,)),
    "diag": (lambda x: torch.diag(x, -1), V),
    "diag_embed": (lambda x: torch.diag_embed(x, 1), M),
    "diff": (lambda x: torch.diff(x, 2, 1), M),
    "fliplr": (torch.fliplr, M),
    "hstack": (lambda x, y: torch.hstack((x, y)), M, M),
    "index_add": (lambda x, i, y: torch.index_add(x, 0, i, y, alpha=2), M, Spec(V, torch.int64, 0, 3), (5, 4)),
    "masked_fill": (lambda x, m: x.masked_fill(m, 3.0), M, BOOLS),
    "meshgrid": (lambda x, y: torch.meshgrid(x, y, indexing="xy"), V, (3,)),
    "moveaxis": (lambda x: torch.moveaxis(x, 0, -1), ROWS3),
    "movedim": (lambda x: torch.movedim(x, (0, 2), (1, 0)), ROWS3),
    "narrow_copy": (lambda x: torch.narrow_copy(x, 1, 1, 2), M),
    "one_hot": (lambda i: F.one_hot(i, 5), COUNTS),
    "put": (lambda x, i: aten.put(x, i, torch.ones(5)), M, Spec(V, torch.int64, 0, 12)),
    "ravel": (torch.ravel, M),
    "repeat_interleave": (lambda x: torch.repeat_interleave(x, 3, 1), M),
    "repeat_interleave_tensor": (lambda x: torch.repeat_interleave(x, torch.tensor([1, 0, 2]), 0), M),
    "rot90": (lambda x: torch.rot90(x, 1, (1, 2)), ROWS3),
    "scatter_add": (lambda x, i, y: torch.scatter_add(x, 1, i, y), M, Spec((3, 2), torch.int64, 0, 4), (3, 2)),
    "scatter_reduce_amax": (
        lambda x, i, y: torch.scatter_reduce(x, 1, i, y, "amax"), M, Spec((3, 6), torch.int64, 0, 4), (3, 6)
    ),
    "scatter_reduce_amin": (
        lambda x, i, y: torch.scatter_reduce(x, 0, i, y, "amin", include_self=False), M, Spec((5, 4), torch.int64, 0, 3),
        (5, 4),
    ),
    "scatter_reduce_mean": (
        lambda x, i, y: torch.scatter_reduce(x, 1, i, y, "mean"), M, Spec((3, 6), torch.int64, 0, 4), (3, 6)
    ),
    "scatter_reduce_prod": (
        lambda x, i, y: torch.scatter_reduce(x, 1, i, y, "prod"), M, Spec((3, 2), torch.int64, 0, 4), (3, 2)
    ),
    "scatter_reduce_sum": (
        lambda x, i, y: torch.scatter_reduce(x, 1, i, y, "sum", include_self=False), M, Spec((3, 2), torch.int64, 0, 4), (3, 2)
    ),
    "index_reduce": (
        lambda x, i, y: torch.index_reduce(x, 0, i, y, "amax"), M, Spec(V, torch.int64, 0, 3), (5, 4)
    ),
    "swapaxes": (lambda x: torch.swapaxes(x, 0, 2), ROWS3),
    "take": (torch.take, M, Spec((2, 2), torch.int64, -12, 12)),
    "take_along_dim": (lambda x, i: torch.take_along_dim(x, i, 1), M, COUNTS),
    "tensor_split": (lambda x: torch.tensor_split(x, 4, -1), ROWS3),
    "tensor_split_at": (lambda x: torch.tensor_split(x, (1, 4), -1), ROWS3),
    "tril": (lambda x: torch.tril(x, -1), M),
    "tril_of_ones": (lambda x: x.masked_fill(torch.ones(3, 4, dtype=torch.bool).tril(), -torch.inf), M),
    "triu": (lambda x: torch.triu(x, 1), ROWS3),
    "unfold": (lambda x: x.unfold(2, 3, 2), ROWS3),
    "unbind": (lambda x: torch.unbind(x, -1), M),
    "vstack": (lambda x, y: torch.vstack((x, y)), M, M),
    # images
    "affine_grid_3d": (lambda t: F.affine_grid(t, [1, 2, 3, 4, 5], align_corners=True), (1, 3, 4)),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 3), I4),
    "fold": (lambda x: F.fold(x, (5, 6), (2, 3), padding=1, stride=2), (2, 12, 9)),
    "grid_sample_3d": (lambda x, g: F.grid_sample(x, g, align_corners=False), VOLUME, (1, 2, 3, 4, 3)),
    "local_response_norm": (lambda x: F.local_response_norm(x, 3), I4),
    "lp_pool2d": (lambda x: F.lp_pool2d(x, 2.0, 2), I4),
    "max_unpool2d": (
        lambda x: F.max_unpool2d(x, torch.arange(0, 36, 2).reshape(1, 2, 3, 3) % 36, 2), (1, 2, 3, 3)
    ),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), (8, 3, 2)),
    "rms_norm": (lambda x: F.rms_norm(x, (4,)), M),
    "F.unfold": (lambda x: F.unfold(x, 3, 1, 1, 2), I4),
}  # fmt: skip
