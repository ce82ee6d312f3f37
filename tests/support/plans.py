"""Plans as others build them: with TensorRT's own API and none of ours, and the files that they put them into."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torch2edge._trt import capabilities, logger, trt
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.run.plain import Facts, Tensor

__all__ = ["SHAPES", "Images", "Plan", "images", "nonzero", "totals", "ultralytics_file"]

Ranges = Mapping[str, tuple[Sequence[int], Sequence[int], Sequence[int]]]
# Two optimization profiles of ``images``: the batch is 1, then 2 to 8; heights are 8 to 24.
SHAPES: list[Ranges] = [
    {"images": ((1, 3, 8, 16), (1, 3, 16, 16), (1, 3, 24, 16)), "scale": ((1, 1, 1, 1),) * 3},
    {
        "images": ((2, 3, 8, 16), (4, 3, 16, 16), (8, 3, 24, 16)),
        "scale": ((2, 1, 1, 1), (4, 1, 1, 1), (8, 1, 1, 1)),
    },
]


class Images(nn.Module):
    """What ``images`` computes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, images: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.relu(self.conv(images)) * scale
        return features, features.mean((2, 3))


@dataclass
class Plan:
    """A plan, and what it was built from."""

    data: bytes
    network: Any
    ranges: Sequence[Ranges]
    kept: Any  # the builder and the weights

    def facts(self) -> Facts:
        """What TensorRT tells of the deserialised engine, from the network."""
        net = self.network
        inputs = [net.get_input(i) for i in range(net.num_inputs)]
        outputs = [net.get_output(i) for i in range(net.num_outputs)]
        dtypes = {"FLOAT": "float32", "INT32": "int32"}
        rows = [
            Tensor(t.name, t.is_network_input, dtypes[t.dtype.name], tuple(t.shape),
                   tuple(tuple(map(tuple, r[t.name])) for r in self.ranges) if t.is_network_input and -1 in t.shape else ())
            for t in (*inputs, *outputs)
        ]  # fmt: skip
        return Facts(tuple(rows))

    def reference(self, outputs: Sequence[str]) -> Any:
        """The network by the reference executor, from tensors to tensors, in the order of ``outputs``."""
        executor = ReferenceExecutor(self.network, trt)
        names = [self.network.get_input(i).name for i in range(self.network.num_inputs)]

        def run(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            given = executor.run(executor.feed(names, tensors))
            return [given[name] for name in outputs]

        return run


class _Building:
    """TensorRT's builder, as a program of its own would use it."""

    def __init__(self) -> None:
        explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        self.builder = trt.Builder(logger())
        self.network = self.builder.create_network(0 if explicit is None else 1 << int(explicit))
        self.config = self.builder.create_builder_config()
        self.config.clear_flag(trt.BuilderFlag.TF32)
        self.config.builder_optimization_level = 0
        if capabilities().tactic_sources:
            self.config.set_tactic_sources(0)
        self.kept: list[Any] = [self.builder, self.config]

    def output(self, tensor: Any, name: str) -> None:
        tensor.name = name
        self.network.mark_output(tensor)

    def finish(self, ranges: Sequence[Ranges] = ()) -> Plan:
        for shapes in ranges:
            profile = self.builder.create_optimization_profile()
            for name, (low, opt, high) in shapes.items():
                profile.set_shape(name, tuple(low), tuple(opt), tuple(high))
            self.config.add_optimization_profile(profile)
        serialized = self.builder.build_serialized_network(self.network, self.config)
        assert serialized is not None
        return Plan(bytes(serialized), self.network, ranges, self.kept)


def images(model: Images, ranges: Sequence[Ranges] = (), layout: str = "") -> Plan:
    """Inputs ``images`` and ``scale``, outputs ``features`` and ``mean``; of batch 2 and height 16 where no ranges are given.

    Args:
        layout: of ``images`` in memory, a ``trt.TensorFormat``.
    """
    make = _Building()
    n, height = (-1, -1) if ranges else (2, 16)
    x = make.network.add_input("images", trt.DataType.FLOAT, (n, 3, height, 16))
    scale = make.network.add_input("scale", trt.DataType.FLOAT, (n, 1, 1, 1))
    if layout:
        x.allowed_formats = 1 << int(getattr(trt.TensorFormat, layout))
    weights = [p.detach().cpu().contiguous().numpy() for p in (model.conv.weight, model.conv.bias)]
    make.kept += weights
    conv = make.network.add_convolution_nd(x, 8, (3, 3), trt.Weights(weights[0]), trt.Weights(weights[1]))
    conv.padding_nd = (1, 1)
    relu = make.network.add_activation(conv.get_output(0), trt.ActivationType.RELU)
    scaled = make.network.add_elementwise(relu.get_output(0), scale, trt.ElementWiseOperation.PROD)
    mean = make.network.add_reduce(scaled.get_output(0), trt.ReduceOperation.AVG, (1 << 2) | (1 << 3), False)
    make.output(scaled.get_output(0), "features")
    make.output(mean.get_output(0), "mean")
    return make.finish(ranges)


def totals() -> Plan:
    """One input ``ids:0``, int32 of shape (3, 4), and one output ``twice``."""
    make = _Building()
    ids = make.network.add_input("ids:0", trt.DataType.INT32, (3, 4))
    make.output(make.network.add_elementwise(ids, ids, trt.ElementWiseOperation.SUM).get_output(0), "twice")
    return make.finish()


def nonzero() -> Plan:
    """An output whose size hangs on the values of the input ``x``."""
    make = _Building()
    x = make.network.add_input("x", trt.DataType.FLOAT, (3, 4))
    make.output(make.network.add_non_zero(x).get_output(0), "places")
    return make.finish()


def ultralytics_file(path: Path, plan: bytes, **header: Any) -> Path:
    """As ultralytics writes it."""
    text = json.dumps({"description": "Ultralytics YOLO11n model", "version": "8.4.190", "stride": 32, **header}).encode()
    path.write_bytes(len(text).to_bytes(4, "little", signed=True) + text + plan)
    return path
