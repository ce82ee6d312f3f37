"""The models of NVIDIA's DLA tutorial, exported as its logs have them."""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

CHANNELS = (3, 64, 128, 256, 512)


class Tutorial(nn.Module):
    """Four convolutions, each with a normalization and a ReLU; pooling; a linear layer."""

    def __init__(self, norm: str, window: int | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(CHANNELS):
            normal = nn.GroupNorm(8, after) if norm == "group" else nn.BatchNorm2d(after)
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), normal, nn.ReLU()]
        self.cnn = nn.Sequential(*layers)
        self.pool = nn.AvgPool2d(window) if window else nn.AdaptiveAvgPool2d((1, 1))
        self.linear = nn.Linear(CHANNELS[-1], 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.cnn(x))
        return self.linear(x.view(x.shape[0], -1))


def export(model: nn.Module, x: torch.Tensor, file: Path, numbered: bool = True, dynamic: bool = False) -> Path:
    """The model as ONNX; with ``numbered`` nodes have the names of torch 1.11: operator and number."""
    import onnx

    axes = {"input": {0: "batch"}, "output": {0: "batch"}} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (x,), str(file), dynamo=False, input_names=["input"], output_names=["output"], dynamic_axes=axes
        )
    proto = onnx.load(str(file))
    for number, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{number}" if numbered else node.name
    onnx.save(proto, str(file))
    return file
