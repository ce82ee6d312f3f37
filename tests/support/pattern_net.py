"""A small CNN that learns noisy patterns in seconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torch2edge.check.tf32 import tf32

__all__ = ["Net", "accuracy", "drawn", "error", "example", "loader", "train", "trained_net"]


class Net(nn.Module):
    """Convolutions with batch norms, a residual addition, pooling, a linear layer."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.stem(x))
        x = (x + self.block(x)).relu()
        return self.head(x.mean((2, 3)))


PATTERNS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy patterns, and which pattern each is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return PATTERNS[labels] * 0.5 + torch.randn(count, 3, 8, 8, generator=generator), labels


def train(net: nn.Module, steps: int) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for step in range(steps):
        images, labels = drawn(64, 1000 + step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()


def trained_net() -> Net:
    """Some seconds of training: better than chance by far, worse than perfect."""
    torch.manual_seed(0)
    net = Net().train()
    train(net, 120)
    return net.eval()


def accuracy(module: Any, device: str, batch: int = 32, count: int = 1024) -> float:
    images, labels = drawn(count, 7)
    with torch.no_grad():
        guesses = torch.cat([module(part.to(device)).argmax(1).cpu() for part in images.split(batch)])
    return float((guesses == labels).double().mean())


def error(module: Any, net: nn.Module, device: str) -> float:
    """Relative L2 error on fresh images of the kind that the net was trained on."""
    images, _ = drawn(32, 11)
    with torch.no_grad(), tf32(False):
        given, expected = module(images.to(device)), net(images.to(device))
    assert given.dtype == expected.dtype == torch.float32
    return float((given - expected).norm() / expected.norm())


def example(device: str) -> list[torch.Tensor]:
    return [drawn(32, 1)[0].to(device)]


def loader(count: int = 512, batch: int = 32) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*drawn(count, 3)), batch_size=batch)
