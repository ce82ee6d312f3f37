"""Models to refit, and other weights for them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

import torch2edge
from torch2edge.modules import flatten_recurrent

__all__ = ["MODELS", "Tied", "first", "gap", "image_net", "trained"]


class Scaled(nn.Module):
    """A parameter that is a tensor of the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4) + 0.5)
        self.register_buffer("shift", torch.randn(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x * self.scale.exp() + self.shift)


class Tied(nn.Module):
    """One weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


class Fused(nn.Module):
    """Two weights that are joined before they meet the input, as fused projections do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, torch.cat([self.a.weight, self.b.weight]), torch.cat([self.a.bias, self.b.bias]))


def image_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, 2, bias=False),
        nn.BatchNorm2d(4), nn.PReLU(4), nn.GroupNorm(2, 4), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def attention() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "image": (image_net, (2, 3, 8, 8)),
    "attention": (attention, (2, 5, 8)),
    "parameters": (Scaled, (3, 4)),
    "tied": (Tied, (3, 4)),
    "fused": (Fused, (3, 4)),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(4, 3)), (2, 4)),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(4, 3)), (2, 4)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.SiLU()), (2, 3, 9)),
    "gru": (lambda: nn.GRU(4, 5, batch_first=True), (2, 6, 4)),
    "lone norm": (lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)), (2, 3, 4, 4)),
}


def trained(model: nn.Module, spread: float = 0.3) -> nn.Module:
    """A copy with other weights and statistics."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
        for name, buffer in other.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(torch.rand_like(buffer) + 0.5)
            elif buffer.is_floating_point() and not name.endswith(("_u", "_v")):
                buffer.add_(torch.randn_like(buffer) * spread)
    flatten_recurrent(other)
    return other.eval()


def first(result: Any) -> torch.Tensor:
    return result[0] if isinstance(result, tuple) else result


def gap(module: nn.Module, model: nn.Module, *shape: int) -> float:
    """The relative error on inputs that nobody has seen."""
    x = torch.randn(*shape)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch2edge.ReferenceWarning)
        given, expected = first(module(x)), first(model(x))
    return float((given - expected).norm() / expected.norm())
