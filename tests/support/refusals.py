"""What the tests of wrong calls share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROADS = ("error", "onnx", "torch")
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def convs() -> nn.Sequential:
    """A small model that converts."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3)).eval()


class Then(nn.Module):
    """Some layers, then something else."""

    def __init__(self, last: Callable[..., Any]) -> None:
        super().__init__()
        self.body, self.last = convs(), last

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.body(x))


class Two(nn.Module):
    """Two inputs."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


def told(call: Callable[[], Any], kind: type[Exception] | tuple[type[Exception], ...], *parts: str) -> str:
    """The message of a call that must be refused, with all ``parts`` in it."""
    with pytest.raises(kind) as caught:
        call()
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    return str(caught.value)


class Outside(torch.autograd.Function):
    """A function that no engine can follow."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.numpy() ** 2)  # leaves PyTorch

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


def line(cls: type, text: str) -> str:
    """``file.py:12``: where ``text`` stands in a class."""
    lines, first = inspect.getsourcelines(cls)
    return f"{Path(inspect.getfile(cls)).name}:{first + next(i for i, code in enumerate(lines) if text in code)}"
