"""plan_dla() of networks and ONNX files."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from support.dla_networks import Two
from support.dla_published import export
from torch import nn

import torch2edge
from torch2edge import ConfigError, ConversionError, InputError, plan_dla

X = torch.randn(2, 3, 10, 12)


@pytest.fixture
def model():
    return Two().eval()


def devices(plan):
    return {row.name: row.device for row in plan.layers}


def test_a_finished_network(model):
    module = torch2edge.convert(model, [X], keep_network=True, verify=False)
    plan = plan_dla(module.network)
    assert plan.loadables == plan_dla(model, [X]).loadables
    assert [row.module for row in plan.layers][:2] == ["first.0", "first.1"]
    plan = plan_dla(module.network, device_types={"third": "dla", "third.1/sigmoid": "gpu"})
    assert plan.loadables == [["third.0/convolution"]]


def test_an_exported_program(model):
    plan = plan_dla(torch.export.export(model, (X,)), [X])
    assert [row.type for row in plan.layers] == [row.type for row in plan_dla(model, [X]).layers]
    assert len(plan.loadables) == 2


def test_what_is_no_model():
    with pytest.raises(InputError, match=r"must be a torch\.nn\.Module"):
        plan_dla(lambda x: x, [X])
    with pytest.raises(InputError, match=r"must be a torch\.nn\.Module"):
        plan_dla(SimpleNamespace(num_layers=3), [X])


def test_an_onnx_file_has_its_own_names(model, tmp_path):
    file = export(model, X, tmp_path / "two.onnx", numbered=False)
    plan = plan_dla(str(file), device_types={"/second/second.0/Conv": "gpu"}, default_device_type="dla")
    assert devices(plan)["/second/second.0/Conv"] == "GPU"
    assert [row.module for row in plan.layers][:2] == ["first.0", "first.1"]
    assert plan.loadables[0] == ["/first/first.0/Conv", "/first/first.1/Relu"]


def test_files_that_cannot_be_planned(model, tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        plan_dla(tmp_path / "no.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(ConversionError, match="refuses"):
        plan_dla(tmp_path / "bad.onnx")
    with pytest.raises(InputError, match=r"must be an \.onnx file"):
        plan_dla(tmp_path / "model.engine")
    file = export(model, X[:1], tmp_path / "open.onnx", dynamic=True)
    with pytest.raises(ConfigError, match=r"leaves sizes of the input input open.*--shape"):
        plan_dla(file)
    with pytest.raises(InputError, match="takes 1 inputs"):
        plan_dla(file, [X, X])
    assert plan_dla(file, [X]).loadables[0][0] == "Conv_0"


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Linear(8 * 8 * 10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).flatten(1))


@pytest.mark.parametrize("open_sizes", [False, True])
@pytest.mark.parametrize("shape", [(1, 4, 10, 12), (3, 10, 12), (1, 3, 9, 12), (1, 3, 0, 12)])
def test_shapes_that_a_file_does_not_take(tmp_path, shape, open_sizes):
    pytest.importorskip("onnx")
    file, axes = tmp_path / "flat.onnx", {"x": {0: "n", 2: "h", 3: "w"}} if open_sizes else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Flat().eval(), (X[:1],), file, input_names=["x"], dynamic_axes=axes, dynamo=False)
    assert plan_dla(file, [X[:1]]).loadables[0][0] == "/body/body.0/Conv"
    why = "is declared as|cannot be computed for inputs of 1x3x9x12" if open_sizes else "is declared as 1x3x10x12"
    with pytest.raises(InputError, match=why):
        plan_dla(file, [torch.randn(shape)])


def test_what_a_file_or_a_network_has_no_use_for(model, tmp_path):
    file = export(model, X, tmp_path / "two.onnx")
    network = torch2edge.convert(model, [X], keep_network=True, verify=False).network
    own = {torch.ops.aten.relu.default: lambda net, self: self}
    for known in (file, network):
        for option in ({"kwargs": {"x": X}}, {"converters": own}, {"dla_rewrites": True}):
            with pytest.raises(ConfigError, match=next(iter(option))):
                plan_dla(known, **option)
    with pytest.raises(ConfigError, match="inputs are given, but the model is a network"):
        plan_dla(network, [X])
    with pytest.raises(InputError, match=r"inputs\[0\] is a str"):
        plan_dla(file, ["x"])
    with pytest.raises(ConfigError, match="the DLA takes no dynamic shapes, but batch"):
        plan_dla(file, [torch2edge.Input(("batch", 3, 10, 12), dims={"batch": (1, 2, 4)})])
    assert plan_dla(file, [torch2edge.Input((2, 3, 10, 12))]).loadables == plan_dla(file, X).loadables


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="0 inputs, 0 outputs and 0 layers: it is empty or damaged"):
        plan_dla(tmp_path / "empty.onnx")
