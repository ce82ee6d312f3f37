"""A model that is cut in two, and its INT8 calibration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

import torch2edge
from torch2edge import Calibration

__all__ = ["Cut", "Tail", "batches", "cached", "convert", "convs", "error", "largest", "ranges"]


def convs(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, outside, 3, padding=1))


class Cut(nn.Module):
    """Two parts around an op that has no converter; what the second gets is not what the model gets."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = convs(3, 6), convs(6, 4)

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x * (2 + torch.special.bessel_j0(x)) * 7 + 5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.between(self.first(x)))


class Tail(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() < 1e9 else x


def batches(count: int = 16, size: int = 2) -> list[torch.Tensor]:
    """Each of another magnitude, the largest somewhere in the middle."""
    return [torch.randn(size, 3, 8, 8) * (1 + (5 * i) % count / 4) for i in range(count)]


def convert(model: nn.Module, inputs: list[Any], calibration: Any, kwargs: Any = None, **options: Any) -> Any:
    if not isinstance(calibration, Calibration):
        calibration = Calibration(calibration, "minmax", progress=False)
    options = {"int8": True, **options}
    return torch2edge.convert(model, inputs, kwargs, calibration=calibration, fallback="torch", **options)


def ranges(folder: Path, path: str) -> dict[str, float]:
    """amax by point, of a part's cache ``calib.json`` in ``folder``."""
    return dict(json.loads((folder / f"calib.{path}.json").read_text())["amax"])


def cached(folder: Path, data: Any, **settings: Any) -> Calibration:
    return Calibration(data, "minmax", cache=folder / "calib.json", progress=False, **settings)


def largest(tensors: Any) -> float:
    return max(float(t.abs().max()) for t in tensors)


def error(module: nn.Module, model: nn.Module, inputs: list[torch.Tensor]) -> float:
    with torch.no_grad():
        pairs = [(module(x), model(x)) for x in inputs]
    return float(sum((a - b).norm() for a, b in pairs) / sum(b.norm() for _, b in pairs))
