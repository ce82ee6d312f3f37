"""Layers of engines under the names that TensorRT gives fused ones, and their sums by module."""

from __future__ import annotations

import json

import pytest
import torch
from support.gpu import FAST, needs_gpu
from torch import nn

import torch2edge
from torch2edge.bench import LayerProfile
from torch2edge.bench.layers import modules_of
from torch2edge.errors import ConfigError, ExecutionError, InputError
from torch2edge.run.layer_times import _recorder

KNOWN = ("", "layer1", "layer1.0", "layer1.0.conv1", "layer1.0.relu", "layer1.1.conv1", "fc")


@pytest.mark.parametrize(("layer", "modules"), [
    ("layer1.0.conv1/convolution", ["layer1.0.conv1"]),
    ("layer1.0.conv1/convolution + layer1.0.relu/relu", ["layer1.0.conv1", "layer1.0.relu"]),
    ("layer1.0.conv1/convolution + layer1.0/add_ + layer1.0.relu/relu_1", ["layer1.0.conv1", "layer1.0", "layer1.0.relu"]),
    ("layer1.0.conv1/convolution || layer1.1.conv1/convolution", ["layer1.0.conv1", "layer1.1.conv1"]),
    ("PWN(layer1.0/add, layer1.0.relu/relu)", ["layer1.0", "layer1.0.relu"]),
    ("{ForeignNode[layer1.0.relu/relu...fc/addmm/matrix_multiply]}", ["layer1.0.relu", "fc"]),
    ("Reformatting CopyNode for Input Tensor 0 to layer1.0.conv1/convolution", ["layer1.0.conv1"]),
    ("/add", [""]),
    ("PWN(PWN(/mul), /add_2)", [""]),
    ("[HostToDeviceCopy 0]", []),
    ("elsewhere/relu", []),
    ("(Unnamed Layer* 3) [Shuffle]", []),
])  # fmt: skip
def test_whose_ops_are_in_a_layer(layer, modules):
    assert modules_of(layer, KNOWN) == modules


TIMES = {
    "layer1.0.conv1/convolution + layer1.0.relu/relu": [2.0, 4.0, 3.0],
    "layer1.1.conv1/convolution": [1.0, 1.0, 1.0],
    "layer1.1.conv1/convolution + fc/addmm": [4.0, 4.0, 4.0],
    "[reformat]": [2.0, 2.0, 2.0],
}


def test_a_layer_counts_for_each_module_that_holds_all_of_it():
    profile = LayerProfile.of(TIMES, ["layer1.0.conv1", "layer1.0.relu", "layer1.1.conv1", "fc"])
    assert profile.calls == 3
    assert [(r.path, r.layers, r.mean, r.share) for r in profile.modules] == [
        ("", 4, 10.0, 100.0),
        ("layer1", 2, 4.0, 40.0),
        ("layer1.0", 1, 3.0, 30.0),
        ("layer1.1", 1, 1.0, 10.0),
        ("layer1.1.conv1", 1, 1.0, 10.0),
    ]
    assert [(r.median, r.mean, r.share) for r in profile.layers] == [
        (3.0, 3.0, 30.0), (1.0, 1.0, 10.0), (4.0, 4.0, 40.0), (2.0, 2.0, 20.0),
    ]  # fmt: skip


def test_it_prints_and_travels_as_json():
    profile = LayerProfile.of(TIMES, ["layer1.0.conv1", "layer1.0.relu", "layer1.1.conv1", "fc"])
    assert LayerProfile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile
    lines = str(profile).splitlines()
    assert any(line.startswith("layer1.0.conv1/convolution + layer1.0.relu/relu") and line.endswith("30.0") for line in lines)
    assert any(line.split() == ["(model)", "4", "10.0000", "100.0"] for line in lines)
    assert any(line.split() == ["layer1.0", "1", "3.0000", "30.0"] for line in lines)


@pytest.mark.parametrize("calls", [0, -1, 2.5, True, "10"])
def test_a_count_of_calls_that_is_none(calls):
    module = torch2edge.EdgeModule()
    with pytest.raises(ConfigError, match="calls is"):
        torch2edge.profile(module, [torch.randn(1)], calls=calls)


def test_only_an_engine_has_layers():
    with pytest.raises(ConfigError, match="profile: the module is a Linear"):
        torch2edge.profile(nn.Linear(2, 2).eval(), [torch.randn(1, 2)])  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs it")
def test_without_a_gpu_an_engine_has_no_times():
    module = torch2edge.convert(nn.Linear(3, 2).eval(), [torch.randn(1, 3)], verify=False)
    with pytest.raises(ExecutionError, match="no NVIDIA GPU"):
        torch2edge.profile(module, [torch.randn(1, 3)])


def test_the_recorder_adds_up_the_turns_of_a_loop():
    recorder = _recorder()
    for name, milliseconds in (("loop/add", 1.0), ("fc/addmm", 0.5), ("loop/add", 2.0)):
        recorder.report_layer_time(name, milliseconds)
    assert recorder.times == {"loop/add": 3.0, "fc/addmm": 0.5}


# ---- on a GPU -----------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + x)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.AdaptiveAvgPool2d(1)).eval().cuda()


@pytest.mark.gpu
@needs_gpu
def test_an_engines_layers_stand_under_its_modules():
    model, x = net(), torch.randn(2, 8, 32, 32, device="cuda")
    module = torch2edge.convert(model, [x], **FAST)
    profile = torch2edge.profile(module, [x], calls=7)
    assert profile.calls == 7
    assert all(row.mean >= 0 for row in profile.layers)
    assert sum(row.share for row in profile.layers) == pytest.approx(100)
    named = {path for row in profile.layers for path in row.modules}
    assert {"0.conv1", "0.conv2", "1.conv1", "1.conv2"} <= named
    sums = {row.path: row for row in profile.modules}
    assert {"", "0", "1"} <= set(sums)
    assert sums["0"].mean + sums["1"].mean <= sums[""].mean * (1 + 1e-9)
    with torch.no_grad():
        torch.testing.assert_close(module(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@needs_gpu
def test_layers_of_an_engine_with_dynamic_shapes():
    x = torch.randn(2, 8, 16, 16, device="cuda")
    module = torch2edge.convert(net(), [x], dynamic={0: {0: (1, 2, 4)}}, **FAST)
    assert torch2edge.profile(module, [torch.randn(3, 8, 16, 16)], calls=3).layers, "CPU inputs are taken to the GPU"
    with pytest.raises(InputError):
        torch2edge.profile(module, [torch.randn(5, 8, 16, 16, device="cuda")], calls=3)
