"""A small real network per test, built with TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from torch2edge.check.reference import ReferenceExecutor


class Bench:
    """A network under construction; `run` marks outputs and hands it to the executor."""

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        self.network = self.builder.create_network(0)
        self.values: dict[str, torch.Tensor] = {}
        self.alive: list[Any] = []  # weights are not copied by TensorRT

    def input(self, value: torch.Tensor, shape: Sequence[int] | None = None) -> Any:
        """A network input that will get this value."""
        trt = self.trt
        kinds = {
            torch.float32: trt.float32,
            torch.float16: trt.float16,
            torch.bfloat16: trt.bfloat16,
            torch.int32: trt.int32,
            torch.int64: trt.int64,
            torch.int8: trt.int8,
            torch.bool: trt.bool,
        }
        name = f"in{len(self.values)}"
        self.values[name] = value
        return self.network.add_input(name, kinds[value.dtype], tuple(value.shape if shape is None else shape))

    def constant(self, value: Any, dtype: Any = np.float32) -> Any:
        """A constant's tensor."""
        array = np.array(value, dtype=dtype)
        self.alive.append(array)
        return self.network.add_constant(array.shape, array).get_output(0)

    def run(self, *tensors: Any, **options: Any) -> list[torch.Tensor]:
        """The values of tensors."""
        for tensor in tensors:
            self.network.mark_output(tensor)
        results: Mapping[str, torch.Tensor] = ReferenceExecutor(self.network, self.trt).run(self.values, **options)
        return [results[tensor.name] for tensor in tensors]

    def one(self, layer: Any) -> np.ndarray[Any, Any]:
        """The first output of a layer, as numpy."""
        return self.run(layer.get_output(0))[0].numpy()


@pytest.fixture
def bench() -> Bench:
    """An empty network. Skips where TensorRT-RTX is missing, here and not on import: others share this file."""
    trt = pytest.importorskip("tensorrt_rtx")
    torch.manual_seed(0)
    return Bench(trt)
