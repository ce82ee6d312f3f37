"""device_types: what reaches TensorRT, and what is refused. No machine here has a DLA; every TensorRT takes the settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.gpu import FAST
from torch import nn

import torch2edge
from torch2edge import ConfigError, DLAWarning, trt
from torch2edge._trt import capabilities

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
    pytest.mark.skipif(not capabilities().strongly_typed, reason="the GPU tier has its own: tests/run/test_gpu.py"),
]

DLA, GPU = trt.DeviceType.DLA, trt.DeviceType.GPU


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1))
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer2(self.layer1(x)).mean((2, 3)) * 2.5)


def placed(model: nn.Module, **options: Any) -> dict[str, set[Any]]:
    """The device types of the network's layers in TensorRT's own config, by the modules that their names begin with."""
    with pytest.warns(DLAWarning):
        module = torch2edge.convert(
            model, [torch.randn(2, 3, 8, 8)], fp16=True, keep_network=True, verify=False, **options, **FAST
        )  # fmt: skip
    config = module._kept.road.session.config
    found: dict[str, set[Any]] = {}
    for i in range(module.network.num_layers):
        layer = module.network.get_layer(i)
        found.setdefault(layer.name.rpartition("/")[0].partition("/")[0], set()).add(config.get_device_type(layer))
    return found


def test_device_types_reach_every_layer_of_a_module() -> None:
    net = Net().eval()
    devices = placed(net, device_types={net.layer1: DLA, net.layer2: DLA, net.layer2[1]: GPU})
    assert {path: devices[path] for path in ("layer1.0", "layer1.1", "layer2.0", "layer2.2")} == {
        "layer1.0": {DLA}, "layer1.1": {DLA}, "layer2.0": {DLA}, "layer2.2": {DLA},
    }  # fmt: skip
    assert devices["layer2.1"] == devices["head"] == {GPU}


@pytest.mark.parametrize("given", [{"layer*": "dla"}, {"layer[12].*": DLA}, {"layer1": "DLA", "layer2": "dla"}])
def test_patterns_and_names(given: dict[str, Any]) -> None:
    devices = placed(Net().eval(), device_types=given)
    assert devices["layer1.0"] == devices["layer2.1"] == {DLA}
    assert devices["head"] == {GPU}


def test_a_default_holds_for_the_rest() -> None:
    net = Net().eval()
    devices = placed(net, default_device_type="dla", device_types={net.layer2: "gpu"})
    assert devices["layer2.0"] == {GPU}
    assert devices["layer1.0"] == devices["head"] == {DLA}


def test_on_the_onnx_road() -> None:
    with pytest.warns(DLAWarning):
        module = torch2edge.convert(
            Net().eval().half(), [torch.randn(2, 3, 8, 8).half()], fallback="onnx", keep_network=True, verify=False,
            device_types={"layer1": "dla"}, converters={torch.ops.aten.gelu.default: refuse}, **FAST,
        )  # fmt: skip
    config = module._kept.road.session.config
    layers = [module.network.get_layer(i) for i in range(module.network.num_layers)]
    devices = {layer.name: config.get_device_type(layer) for layer in layers}
    assert any(name.startswith("layer1.0") for name in devices)
    assert all((device == DLA) == name.startswith("layer1") for name, device in devices.items())


def refuse(net: Any, self: Any, approximate: str) -> Any:
    raise torch2edge.ConversionError("not by this road")


def test_the_report_says_where_it_really_runs() -> None:
    with pytest.warns(DLAWarning, match="layer1 is built for the GPU: .* no DLA"):
        report = torch2edge.convert(
            Net().eval(), [torch.randn(2, 3, 8, 8)], fp16=True, device_types={"layer1": "dla"}, dla_core=1, **FAST
        ).report
    assert {row.device for row in report.modules} == {"GPU"}
    assert any("layer1 is built for the GPU" in note for note in report.notes)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"device_types": {"layer1": "npu"}}, r"device_types\['layer1'\] is 'npu'; it must be trt.DeviceType.GPU"),
        ({"device_types": {"layer9": "dla"}}, r"device_types: 'layer9' is no submodule.*near it: layer"),
        ({"device_types": {"lay?": "dla"}}, r"the pattern 'lay\?' matches no submodule"),
        ({"device_types": {"layer1": "dla"}, "dla_core": -1}, r"dla_core is the number of a DLA core"),
        ({"device_types": {"layer1": "dla"}, "gpu_fallback": False}, r"With gpu_fallback=True all of it runs on the GPU"),
    ],
)
def test_wrong_placements(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        torch2edge.convert(Net().eval(), [torch.randn(2, 3, 8, 8)], fp16=True, **options)


@pytest.mark.filterwarnings("ignore::torch2edge.DLAWarning")
@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"device_types": {"unused": "dla"}, "fp16": True}, r"nothing ran in 'unused'"),
        (
            {"device_types": {"layer1": "dla"}},
            r"but these modules are in fp32 or bf16: layer1.0, layer1.1. Add fp16",
        ),
        ({"default_device_type": "dla", "bf16": True}, r"modules are in fp32 or bf16: layer1.0"),
        ({"default_device_type": "dla", "fp16": True, "precisions": {"head": "fp32"}}, r"modules are in fp32 or bf16: head"),
    ],
)
def test_what_no_dla_does(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        torch2edge.convert(Net().eval(), [torch.randn(2, 3, 8, 8)], **options)


def test_a_half_model_needs_no_option() -> None:
    with pytest.warns(DLAWarning):
        torch2edge.convert(
            Net().eval().half(), [torch.randn(2, 3, 8, 8).half()], device_types={"layer1": "dla"}, verify=False, **FAST
        )


def test_a_core_of_an_engine_without_dla(tmp_path: Any) -> None:
    file = tmp_path / "net.t2e"
    torch2edge.convert(Net().eval(), [torch.randn(2, 3, 8, 8)], **FAST).save(file)
    with pytest.raises(ConfigError, match=r"dla_core=1: .*net.t2e was not built for a DLA core"):
        torch2edge.load(file, dla_core=1)
