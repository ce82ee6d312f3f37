"""Models and helpers for the ONNX road."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torch2edge.lower import registry

aten = torch.ops.aten


def take_away(monkeypatch: Any, *targets: Any) -> None:
    """The converters of these ops are gone for a test."""
    for target in targets:
        assert registry().get(target) is not None
        monkeypatch.delitem(registry()._own, target)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        with torch.no_grad():
            self.bn.running_mean.normal_()
            self.bn.running_var.uniform_(0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x))) + x * 2


class Nested(nn.Module):
    """Nested inputs and outputs, an ignored input, an input that is an output, one result twice, constants."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(Block(), nn.Sequential(Block()))
        self.heads = nn.ModuleDict({"k": nn.Linear(4, 4), "j": nn.Linear(4, 4)})
        self.ln = nn.LayerNorm(4)

    def forward(self, batch: dict[str, torch.Tensor], mask: torch.Tensor, index: torch.Tensor, ignored: Any = None) -> Any:
        x = self.layer1(batch["x"]).mean((2, 3))
        x = self.heads["k"](self.heads["j"](x))
        soft = x.softmax(-1)
        ones = torch.ones(3, dtype=x.dtype, device=x.device)
        return {"a": self.ln(x), "b": (soft, index + 1, soft), "c": x.masked_fill(mask, 0.0), "same": (index, mask, ones)}


def nested_call(dtype: torch.dtype = torch.float32) -> tuple[list[Any], dict[str, Any]]:
    x = torch.randn(2, 4, 8, 8).to(dtype)
    args = [{"x": x}, torch.tensor([[True, False, False, True]]), torch.tensor([1, 2])]
    return args, {"ignored": torch.randn(2).to(dtype)}


def seeded(model: type[nn.Module], *args: Any) -> nn.Module:
    torch.manual_seed(0)
    return model(*args).eval()


def write(
    file: Path, nodes: Sequence[Any], inputs: dict[str, tuple[int, Any]], outputs: dict[str, tuple[int, Any]], **weights: Any
) -> Path:  # fmt: skip
    """An ONNX file of these nodes; inputs and outputs by name: type and dims."""
    import onnx
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        list(nodes), "test",
        [helper.make_tensor_value_info(n, *spec) for n, spec in inputs.items()],
        [helper.make_tensor_value_info(n, *spec) for n, spec in outputs.items()],
        [numpy_helper.from_array(value, n) for n, value in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file
