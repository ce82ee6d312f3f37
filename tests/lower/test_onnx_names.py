"""Module paths on the ONNX road: through either exporter, the simplifier and the parser."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.onnx_models import Block, seeded
from support.torch_features import DYNAMO, EXPORTERS
from torch import nn

from torch2edge._trt import from_trt_dtype
from torch2edge.build import BuildSession
from torch2edge.errors import ConversionError
from torch2edge.lower import lower_by_onnx, registry
from torch2edge.lower.onnx_export import export
from torch2edge.lower.onnx_names import rename, scoped_path
from torch2edge.options import Options
from torch2edge.structure import flatten_call
from torch2edge.trace import trace

pytest.importorskip("onnxslim")


def layers(model: nn.Module, x: torch.Tensor, exporter: str) -> list[Any]:
    """The layers of the network that the ONNX road gives; a session that is gone takes them along."""
    if exporter == "dynamo":
        pytest.importorskip("onnxscript")
    graph = trace(model, [x], {}, is_leaf=registry().is_leaf)
    session = BuildSession(Options())
    lowered, _ = lower_by_onnx(model, [x], graph, session.network, ConversionError("test"), exporter=exporter)
    lowered.network.keep(session)
    return [(layer, lowered) for layer in lowered.network.layers]


class Winding(nn.Module):
    """Modules that are shared, called past their parent, called from a list or a dict, or named like another."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.a = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 4))
        self.b = nn.ModuleDict({"k": nn.ModuleList([nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))])})
        self.c = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
        self.d = nn.Sequential(self.shared, nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c[0](self.a(x))
        for module in self.b["k"]:
            x = module(x)
        return self.shared(self.d(x)) * 3


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_paths_of_winding_calls(exporter: str) -> None:
    found = {layer.module for layer, _ in layers(seeded(Winding), torch.randn(2, 4), exporter)}
    wanted = {"shared", "a.0.0", "a.0.1", "a.1", "b.k.0", "b.k.1.0", "c.0.0", "c.0.1", "d.1", ""}
    assert found == wanted


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_layers_are_named_after_their_modules(exporter: str) -> None:
    model = nn.Sequential(seeded(Block), Block()).eval()
    for layer, _ in layers(model, torch.randn(1, 4, 6, 6), exporter):
        assert layer.raw.name.startswith(f"{layer.module}/"), layer.raw.name
        assert layer.op in layer.raw.name
        assert layer.dtype == from_trt_dtype(layer.raw.get_output(0).dtype)
    names = [layer.raw.name for layer, _ in layers(model, torch.randn(1, 4, 6, 6), exporter)]
    assert len(set(names)) == len(names)
    assert "0.conv/Conv" in names
    assert "1.conv/Conv" in names


@DYNAMO
def test_a_convolution_with_the_weights_of_another_keeps_its_place() -> None:
    """The dynamo exporter merges equal weights and folds batch norms; the second one is then known as its batch norm."""
    model = nn.Sequential(seeded(Block), seeded(Block)).eval()
    found = [layer.module for layer, _ in layers(model, torch.randn(1, 4, 6, 6), "dynamo") if "Conv" in layer.raw.name]
    assert found == ["0.conv", "1.bn"]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_paths_are_those_of_the_traced_ops(exporter: str) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x)

    model, x = seeded(Attention), torch.randn(1, 3, 8)
    graph = trace(model, [x], {}, is_leaf=registry().is_leaf)
    found = {layer.module for layer, _ in layers(model, x, exporter)}
    assert found <= {op.module for op in graph.ops}
    assert {"block.self_attn", "block.linear1", "block.linear2", "block.norm1", "block.norm2", "block"} <= found


def test_shared_weights_and_scopes_leave_no_hooks(tmp_path: Path) -> None:
    model = seeded(Winding)
    args = [torch.randn(2, 4)]
    export(model, flatten_call(args, {})[1], args, 1, tmp_path / "m.onnx", exporter="torchscript", opset=17)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def test_hooks_are_gone_after_a_failed_export(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    args = [torch.randn(2, 5)]
    with pytest.raises(RuntimeError):
        export(model, flatten_call(args, {})[1], args, 1, tmp_path / "m.onnx", exporter="torchscript", opset=17)
    assert not model[0]._forward_hooks
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/a/seq/seq.1/seq.1.0/seq.1.0.0/Gemm", "a.seq.1.0.0"),
        ("/a/ml.1/ml.1.0/Gemm", "a.ml.1.0"),
        ("/fc/Gemm", "fc"),
        ("/Add_1", ""),
        ("Add_1", ""),
        ("", ""),
    ],
)
def test_paths_in_the_names_of_a_file(name: str, path: str) -> None:
    assert scoped_path(SimpleNamespace(name=name)) == path


def test_nodes_that_the_simplifier_made() -> None:
    """Known by their result, else they belong where their inputs come from."""
    from onnx import helper

    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="kept"),
        helper.make_node("Relu", ["x"], ["b"], name="new"),
        helper.make_node("Add", ["a", "b"], ["c"], name="newer"),
        helper.make_node("Add", ["c", "stranger"], ["d"], name="newest"),
        helper.make_node("Relu", ["w"], ["e"], name=""),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    names = rename(model, {"kept": "m.a", "b": "m.b"})
    assert list(names) == ["m.a/Relu", "m.b/Relu", "m/Add", "m/Add_1", "/Relu"]
    assert [node.name for node in model.graph.node] == list(names)
    assert list(names.values()) == ["m.a", "m.b", "m", "m", ""]
