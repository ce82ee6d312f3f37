"""What convert() takes besides a module: an ExportedProgram. (Files: tests/lower/test_onnx_file.py.)"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.onnx_models import Block, aten, seeded, take_away
from support.torch_features import EXPORTERS
from torch import nn

import torch2edge
from torch2edge import RandomOpError, TraceError
from torch2edge.graph import Constant
from torch2edge.lower import registry
from torch2edge.trace import names_of, trace

pytestmark = pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
X = torch.randn(1, 4, 6, 6)


def exported(model: nn.Module, *args: Any) -> torch.export.ExportedProgram:
    return torch.export.export(model, args)


def test_an_exported_program() -> None:
    model = seeded(Block)
    module = torch2edge.convert(exported(model, X), [X])
    torch.testing.assert_close(module(X), model(X), rtol=1e-4, atol=1e-5)
    assert module.report.notes == ["note: 1 batch norm is part of the convolution before"]


def test_nested_inputs_of_an_exported_program() -> None:
    class Pair(nn.Module):
        def forward(self, batch: dict[str, torch.Tensor], *, y: torch.Tensor) -> Any:
            return {"sum": batch["x"] + y, "both": (batch["x"], y * 2)}

    batch, y = {"x": torch.randn(2)}, torch.randn(2)
    program = torch.export.export(Pair().eval(), (batch,), {"y": y})
    torch.testing.assert_close(torch2edge.convert(program, [batch], {"y": y})(batch, y=y), Pair()(batch, y=y))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_exported_program_by_onnx(exporter: str, monkeypatch: Any) -> None:
    pytest.importorskip("onnxslim")
    pytest.importorskip("onnxscript")
    take_away(monkeypatch, aten.relu.default)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()).eval()  # torch 2.4 exports a batch norm that its TorchScript lacks
    report = torch2edge.convert(exported(model, X), [X], fallback="onnx", onnx_exporter=exporter).report
    assert "aten.relu.default" in report.notes[0]


def test_a_program_that_was_exported_in_training_mode() -> None:
    with pytest.raises(RandomOpError, match="dropout"):
        torch2edge.convert(exported(nn.Dropout().train(), X), [X])


def test_a_program_that_gives_no_module(monkeypatch: Any) -> None:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("not in this dialect")

    program = exported(seeded(Block), X)
    monkeypatch.setattr(type(program), "module", refuse)
    with pytest.raises(TraceError, match=r"the ExportedProgram gives no module: RuntimeError: not in this dialect"):
        torch2edge.convert(program, [X])


def test_a_weight_under_several_names_goes_by_its_first() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight
            self.register_buffer("again", self.first.bias)  # a parameter that is a buffer too
            self.register_buffer("scale", torch.rand(6))
            self.second.register_buffer("scale", self.scale)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x) * self.second.scale) + self.again

    model = Tied().eval()
    names = names_of(model)
    graph = trace(model, [X], is_leaf=registry().is_leaf)
    traced = {arg.name for op in graph.ops for arg in op.args if isinstance(arg, Constant)}
    kept = torch2edge.convert(model, [X], keep_network=True)._kept
    assert kept is not None
    lowered = set(kept.road.lowered.network.weights_by_name)
    assert set(names.values()) == traced == lowered == {"first.weight", "first.bias", "second.bias", "scale"}
