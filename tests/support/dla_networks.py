"""Small networks on the TensorRT that is here, for the rules of the DLA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from torch2edge._trt import logger, trt
from torch2edge.dla import DlaPlan, Setting, plan_network
from torch2edge.dla.plan import Row


class Net:
    """A network at hand; ``test`` names the layer that a test is about."""

    def __init__(self) -> None:
        self.builder = trt.Builder(logger())
        flags = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        self.raw = self.builder.create_network(0 if flags is None else 1 << int(flags))
        self._keep: list[Any] = []

    def input(self, *shape: int, dtype: str = "FLOAT") -> Any:
        return self.raw.add_input(f"input_{self.raw.num_inputs}", getattr(trt.DataType, dtype), shape)

    def constant(self, *shape: int) -> Any:
        return self.raw.add_constant(shape, self.weights(int(np.prod(shape)))).get_output(0)

    def weights(self, count: int) -> Any:
        array = np.random.default_rng(count).standard_normal(count).astype(np.float32)
        self._keep.append(array)
        return trt.Weights(array)

    def relu(self, x: Any) -> Any:
        return self.raw.add_activation(x, trt.ActivationType.RELU).get_output(0)

    def test(self, layer: Any, then_relu: bool = False) -> Any:
        """Name ``layer``, and make its result an output, after another layer for the DLA if asked."""
        assert layer is not None, "TensorRT refused the layer"
        layer.name = "tested"
        self.output(self.relu(layer.get_output(0)) if then_relu else layer.get_output(0))
        return layer

    def output(self, tensor: Any) -> None:
        self.raw.mark_output(tensor)

    def convolution(self, x: Any, maps: int = 1, kernel: Sequence[int] = (1, 1), groups: int = 1, bias: bool = False) -> Any:
        count = maps * (x.shape[1] // groups) * int(np.prod(kernel))
        rest = [self.weights(maps)] if bias else []
        layer = self.raw.add_convolution_nd(x, maps, tuple(kernel), self.weights(count), *rest)
        layer.num_groups = groups
        return layer

    def deconvolution(self, x: Any, maps: int = 1, kernel: Sequence[int] = (1, 1), groups: int = 1) -> Any:
        count = maps // groups * x.shape[1] * int(np.prod(kernel))
        layer = self.raw.add_deconvolution_nd(x, maps, tuple(kernel), self.weights(count))
        layer.num_groups = groups
        return layer

    def concat(self, x: Any) -> Any:
        """``x`` twice, on the third axis from the end."""
        layer = self.raw.add_concatenation([x, x])
        layer.axis = len(x.shape) - 3
        return layer

    def plan(self, **at: Any) -> DlaPlan:
        return plan_network(self.raw, Setting(**at))

    def row(self, **at: Any) -> Row:
        """The plan's row of the tested layer."""
        return next(row for row in self.plan(**at).layers if row.name == "tested")


class Two(nn.Module):
    """A block for the DLA, one that it has no activation for, one more."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ELU())
        self.third = nn.Sequential(nn.Conv2d(16, 8, 1), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(self.second(self.first(x)))
