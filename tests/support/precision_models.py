"""Models that low precision hurts in one place."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Deep"]


class Deep(nn.Module):
    """``outer`` gives one channel that is a thousand times as large as the rest, to whose error ``mid`` is sensitive."""

    def __init__(self, outlier: float = 1000.0) -> None:
        super().__init__()
        self.first, self.outer = nn.Linear(16, 64), nn.Linear(64, 64)
        self.inner = nn.Sequential(nn.ReLU(), nn.Linear(64, 64))
        self.last = nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 16)])
        with torch.no_grad():
            self.outer.weight[5] *= outlier
            self.outer.bias[5] = 0.3 * outlier
            self.inner[1].weight[:, 5] /= outlier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(self.outer(self.first(x)))
        for layer in self.last:
            y = layer(y)
        return y
