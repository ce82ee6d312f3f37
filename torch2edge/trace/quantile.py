"""Quantiles, written out: from torch 2.15 on PyTorch's own form computes ranks in float64, which no TensorRT engine holds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from .tensor import Traced

__all__ = ["QUANTILES"]

aten = torch.ops.aten
_WHOLE: dict[str, Callable[..., torch.Tensor]] = {
    "lower": torch.floor,
    "higher": torch.ceil,
    "nearest": torch.round,
}


def _quantile(
    self: torch.Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear",
    skip_nan: bool,
) -> torch.Tensor:  # fmt: skip
    """``torch.quantile`` and ``torch.nanquantile``: sorted elements at the ranks ``q * (length - 1)``."""
    at = q if isinstance(q, torch.Tensor) else torch.tensor(q, dtype=self.dtype, device=self.device)
    if not isinstance(at, Traced) and not bool(((at >= 0) & (at <= 1)).all()):
        raise RuntimeError("quantile() q values must be in the range [0, 1]")
    rows = self.flatten() if dim is None else self.movedim(dim, -1)
    ordered, last, holes = rows.sort(-1)[0], rows.shape[-1] - 1, rows.isnan()  # NaN is the largest
    ranks = at.reshape(-1) * last
    if skip_nan:
        ranks = at.reshape(-1) * ((~holes).sum(-1, keepdim=True) - 1).clamp(min=0).to(self.dtype)
    if interpolation in _WHOLE:
        ranks = _WHOLE[interpolation](ranks)
    below = ranks.floor()
    result = _pick(ordered, below)
    if interpolation not in _WHOLE:
        weight = torch.full_like(ranks, 0.5) if interpolation == "midpoint" else ranks - below
        result = torch.lerp(result, _pick(ordered, ranks.ceil()), weight.expand_as(result))
    if not skip_nan:
        result = result.masked_fill(holes.any(-1, keepdim=True), float("nan"))
    result = result.movedim(-1, 0)
    if keepdim:
        result = result.reshape([-1] + [1] * self.dim()) if dim is None else result.unsqueeze(dim + 1 if dim >= 0 else dim)
    return result if at.dim() else result.squeeze(0)


def _pick(ordered: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """The elements at these ranks of each row."""
    index = ranks.long()
    return ordered.gather(-1, index.expand(*ordered.shape[:-1], index.shape[-1]))


_plain, _skipping = (functools.partial(_quantile, skip_nan=skip) for skip in (False, True))
QUANTILES: dict[Any, Callable[..., torch.Tensor]] = {
    aten.quantile.default: _plain, aten.quantile.scalar: _plain,
    aten.nanquantile.default: _skipping, aten.nanquantile.scalar: _skipping,
}  # fmt: skip
