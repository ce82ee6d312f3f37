"""A model that is cut in two."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Cut", "convs"]


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
