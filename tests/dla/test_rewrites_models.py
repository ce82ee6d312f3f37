"""Whole models, and ``dla_rewrites=True`` of ``convert``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.dla import off_dla, proven
from support.gpu import FAST
from torch import nn

import torch2edge
from torch2edge import ConfigError, DLAWarning, trt
from torch2edge._trt import capabilities
from torch2edge.cli import main
from torch2edge.dla import Setting, plan_network

DLA, GPU = trt.DeviceType.DLA, trt.DeviceType.GPU


def seen(model: nn.Module) -> nn.Module:
    """With statistics that keep the numbers of an untrained model in the middle of float32's range."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, 64, 64))
    return model.eval()


@pytest.mark.parametrize(
    ("name", "size", "rewrites"), [("mobilenet_v3_small", 224, 30), ("efficientnet_b0", 224, 60), ("resnet18", 224, 1)]
)
def test_a_model_of_torchvision(name: str, size: int, rewrites: int) -> None:
    models = pytest.importorskip("torchvision.models")
    result = proven(seen(getattr(models, name)()), (1, 3, size, size), int8=True)
    assert result.refused() == []
    assert len(result.notes) >= rewrites
    assert not any("stays" in note for note in result.notes)
    for target, tensorrt in (("orin", "8.6"), ("xavier", "8.5")):
        plan = plan_network(result.network, Setting(target, tensorrt))
        on_gpu = [row for row in plan.layers if row.device == "GPU"]
        assert [(row.type, len(plan.loadables)) for row in on_gpu] == [("SHUFFLE", 1)]  # the last, to (N, classes)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Conv2d(8, 8, 3), nn.Hardswish())
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


SWISH = "note: body.2, body.4: hardswish became x * relu6(x + 3) / 6"
PAD = "note: body.1: a padding of 1+1 and 1+1 became the convolution's own"
LINEAR = "note: head: linear became a 1x1 convolution, before the reshape"
MEAN = "note: the model itself: mean became average poolings of 7x7, 2x2"
here = pytest.mark.skipif(not capabilities().strongly_typed, reason="the GPU tier has its own")


def converted(model: nn.Module | None = None, **options: Any) -> Any:
    with pytest.warns(DLAWarning):
        return torch2edge.convert(
            model or Net().eval(), [torch.randn(2, 3, 16, 16)], dla_rewrites=True, keep_network=True, **options, **FAST
        )


@here
@pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
def test_convert() -> None:
    module = converted(default_device_type=DLA, fp16=True)
    assert set(module.report.notes) >= {PAD, LINEAR, MEAN}
    assert SWISH not in module.report.notes
    assert all(name.endswith(": CAST") for name in off_dla(module.network))  # float32 at the engine's ends
    assert max(row.rel_l2 for row in module.report.check) < 1e-2


@here
@pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
def test_convert_of_one_module() -> None:
    notes = converted(device_types={"body": DLA, "body.1": GPU}, fp16=True).report.notes
    assert not {PAD, LINEAR, MEAN} & set(notes)  # of which the padding is on the GPU
    notes = converted(device_types={"body": DLA, "head": GPU}, fp16=True).report.notes
    assert {PAD, LINEAR, MEAN} & set(notes) == {PAD}


@here
@pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
def test_ones_own_converter_is_called() -> None:
    called = []

    def own(net: Any, self: Any) -> Any:
        called.append(self)
        return net.activation(self, "HARD_SIGMOID", alpha=1 / 6, beta=0.5)

    notes = converted(
        default_device_type=DLA, fp16=True, converters={torch.ops.aten.hardswish.default: own}, verify=False
    ).report.notes
    assert len(called) == 2
    assert PAD in notes
    assert not any("hardswish" in note for note in notes)


@here
@pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
@pytest.mark.filterwarnings("ignore::torch2edge.build.calibration.settings.CalibrationWarning")
def test_int8_of_a_rewritten_graph() -> None:
    data = [torch.randn(2, 3, 16, 16) for _ in range(4)]
    module = converted(device_types={"body": DLA}, int8=True, fp16=True, calibration=data, gpu_fallback=True)
    assert SWISH in module.report.notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "dla_rewrites=True, but neither device_types nor default_device_type names the DLA"),
        ({"device_types": {"head": GPU}}, "dla_rewrites=True, but neither"),
        ({"fallback": "onnx", "default_device_type": DLA}, "dla_rewrites"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        torch2edge.convert(Net().eval(), [torch.randn(2, 3, 16, 16)], dla_rewrites=True, **options)


class Half(nn.Module):
    """A part that converts, one that does not, and another that does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = Net(), nn.Sequential(nn.Linear(4, 4), nn.Hardswish(), nn.Linear(4, 4), nn.Linear(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.special.bessel_j0(self.first(x)))


@here
@pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
@pytest.mark.filterwarnings("ignore::torch2edge.DLAWarning")
def test_parts_that_have_nothing_for_the_dla_are_left_alone() -> None:
    options = {"device_types": {"first": DLA}, "fp16": True, "fallback": "torch", "dla_rewrites": True}
    module = torch2edge.convert(Half().eval(), [torch.randn(2, 3, 16, 16)], min_ops=1, **options, **FAST)
    notes = {path: part.notes for path, part in module.report.engines.items()}
    assert PAD in notes["first"]
    assert not any("became" in note for note in notes["last"])


@here
@pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
def test_compare_knows_what_is_left_of_the_model() -> None:
    model = Net().eval()
    module = converted(model, default_device_type=DLA, fp16=True)
    result = torch2edge.compare(model, module)
    assert result.fault == ""
    assert {row.name for row in result.rows} >= {"body.1", "body.2", "body.4", "head"}
    assert max(row.rel_l2 for row in result.float32) < 1e-5


def test_without_rewrites_the_same_layers_are_refused() -> None:
    refused = {name.split(": ")[1] for name in proven(Net(), (2, 3, 16, 16), on_dla=lambda path: False).refused()}
    assert refused == {"SLICE", "REDUCE", "SHUFFLE"}  # the last, before the linear layer
    assert proven(Net(), (2, 3, 16, 16)).refused() == []


def test_plan_dla() -> None:
    x = torch.randn(2, 3, 16, 16)
    before, after = (torch2edge.plan_dla(Net().eval(), [x], dla_rewrites=on) for on in (False, True))
    assert {row.type for row in before.fallbacks} >= {"SLICE", "REDUCE"}
    assert [row.type for row in after.fallbacks] == ["SHUFFLE"]
    assert {PAD, LINEAR, MEAN} == {note for note in after.notes if "became" in note}
    for int8 in (False, True):
        body = torch2edge.plan_dla(Net().eval(), [x], device_types={"body": "dla"}, int8=int8, dla_rewrites=True)
        assert {PAD, *[SWISH] * int8} == {note for note in body.notes if "became" in note}


def test_plan_dla_rewrites_no_network() -> None:
    for model in ("model.onnx", proven(nn.ReLU(), (1, 2, 3, 3)).network):
        with pytest.raises(ConfigError, match=r"dla_rewrites changes .* give the module"):
            torch2edge.plan_dla(model, dla_rewrites=True)


def test_plan_dla_of_the_command(capsys: Any) -> None:
    arguments = ["plan-dla", "--model", "torchvision:resnet18", "--shape", "1x3x64x64", "--dla-rewrites"]
    pytest.importorskip("torchvision")
    assert main(arguments) == 1
    assert "note: fc: linear became a 1x1 convolution, before the reshape" in capsys.readouterr().out
