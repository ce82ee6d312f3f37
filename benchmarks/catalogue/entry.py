"""What the catalogue says of a model, and how random weights are made to count."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

__all__ = ["Entry", "Example", "alive", "calibrate"]


@dataclass(frozen=True)
class Example:
    """A model in eval mode, and what to call it with."""

    model: nn.Module
    inputs: list[Any]
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A model of the catalogue.

    Args:
        name: ``source:model``, as in ``torch2edge convert --model torchvision:resnet18``.
        task: classification, detection, ...
        make: builds it; the same weights and inputs each time.
    """

    name: str
    task: str
    make: Callable[[], Example]


def alive(make: Callable[[], nn.Module]) -> nn.Module:
    """A model in which every part counts: heads often start at 0, layer scales at 1e-6, batch norms at identity."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what constructors say of initialisation and of weights that were not loaded
        model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
        for parameter in module.parameters(recurse=False):
            if not parameter.dtype.is_floating_point:
                continue
            if not parameter.detach().any():
                nn.init.normal_(parameter, std=0.02)
            elif float(parameter.detach().abs().max()) < 1e-3:  # a layer scale
                nn.init.uniform_(parameter, 0.1, 0.5)
    return model


def calibrate(model: nn.Module, inputs: torch.Tensor) -> None:
    """Batch norms take the statistics of ``inputs``: with made-up ones, activations grow until rounding is all there is.

    (visformer_tiny: 4e-3 between PyTorch in float32 and in float64.)
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.train()
        norm.momentum = None
    with torch.no_grad():
        model(inputs)
    for norm in norms:
        norm.eval()
