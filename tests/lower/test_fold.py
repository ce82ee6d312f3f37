"""Batch norms that become part of a convolution, and those that must not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.gpu import needs_gpu
from support.rows import BF16, F16, Row, check_row, convert_row
from torch import nn
from torch.nn import functional as F

import torch2edge
from torch2edge import trt
from torch2edge.check.tf32 import tf32
from torch2edge.lower import Lowered, registry
from torch2edge.lower.fold import fold_batch_norms
from torch2edge.trace import trace

aten = torch.ops.aten
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def seen(norm: Any) -> Any:
    """A batch norm that has seen data."""
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.3, 3)
        for parameter in norm.parameters():
            parameter.normal_()
        if norm.affine:  # near zero a channel's weights would have too few digits for half, and stay apart
            norm.weight.copy_(torch.where(norm.weight.abs() < 0.1, 0.1, norm.weight))
    return norm


def pair(convolution: Any, **options: Any) -> nn.Sequential:
    norm = NORMS[convolution.weight.dim() - 2](convolution.out_channels, **options)
    return nn.Sequential(convolution, seen(norm)).eval()


def layers(lowered: Lowered) -> list[str]:
    return [layer.raw.type.name for layer in lowered.network.layers]


@pytest.mark.parametrize("dtype", [torch.float32, F16, BF16])
@pytest.mark.parametrize(
    ("convolution", "shape"),
    [
        (nn.Conv2d(4, 6, 3, padding=1, stride=2), (2, 4, 9, 7)),
        (nn.Conv2d(4, 6, 3, bias=False), (1, 4, 5, 5)),
        (nn.Conv2d(4, 8, 3, groups=4), (1, 4, 5, 5)),
        (nn.Conv2d(4, 6, (3, 5), padding="same"), (1, 4, 5, 5)),
        (nn.Conv1d(4, 6, 3, dilation=2), (2, 4, 9)),
        (nn.Conv3d(2, 3, 2), (1, 2, 3, 4, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (1, 4, 5, 4)),
        (nn.ConvTranspose2d(4, 6, 2, groups=2, bias=False), (1, 4, 5, 4)),
        (nn.ConvTranspose1d(3, 2, 3, padding=1), (1, 3, 6)),
    ],
    ids=str,
)
def test_it_folds(convolution: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    row = Row(aten.batch_norm.default, pair(convolution), (shape,), dtype=dtype)
    check_row(row)
    _, _, lowered, _ = convert_row(row)
    assert lowered.folded == ["1"]
    assert "SCALE" not in layers(lowered)
    assert {layer.module for layer in lowered.network.layers} == {"0"}


@pytest.mark.parametrize("options", [{"affine": False}, {"eps": 0.1}])
def test_it_folds_with_options(options: dict[str, Any]) -> None:
    row = Row(aten.batch_norm.default, pair(nn.Conv2d(3, 4, 3), **options), ((1, 3, 5, 5),))
    check_row(row)
    assert convert_row(row)[2].folded == ["1"]


def test_a_chain_folds_norm_by_norm() -> None:
    model = nn.Sequential(*pair(nn.Conv2d(3, 4, 3)), nn.ReLU(), *pair(nn.Conv2d(4, 4, 3)), seen(nn.BatchNorm2d(4))).eval()
    row = Row(aten.batch_norm.default, model, ((1, 3, 8, 8),))
    check_row(row)
    _, _, lowered, _ = convert_row(row)
    assert lowered.folded == ["1", "4"]
    assert layers(lowered) == ["CONVOLUTION", "RELU", "CONVOLUTION", "SCALE"]


class Twice(nn.Module):
    """What a convolution gave is used beside its batch norm."""

    def __init__(self, use: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.conv, self.norm = pair(nn.Conv2d(3, 3, 3, padding=1))
        self.use = use

    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        return self.use(y, self.norm(y))


class Foreign(nn.Module):
    """Weights, or statistics, that depend on an input."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> Any:
        return self.call(x, w, v.abs() + 0.5)


FIXED = torch.randn(3, 3, 1, 1)
ONES = torch.ones(3)


def traced(model: nn.Module) -> Any:
    return trace(model, [torch.randn(1, 3, 5, 5)], is_leaf=registry().is_leaf, module_classes=registry().module_classes())


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (Twice(lambda before, after: before + after), ((1, 3, 5, 5),)),
        (Twice(lambda before, after: (before, after)), ((1, 3, 5, 5),)),
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), seen(nn.BatchNorm2d(3))), ((1, 3, 5, 5),)),
        (nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)), ((2, 3, 5, 5),)),
        (nn.Sequential(seen(nn.BatchNorm2d(3)), nn.Conv2d(3, 3, 3, padding=1)), ((1, 3, 5, 5),)),
        (Foreign(lambda x, w, v: F.batch_norm(F.conv2d(x, w), ONES, ONES)), ((1, 3, 5, 5), (3, 3, 1, 1), (3,))),
        (Foreign(lambda x, w, v: F.batch_norm(F.conv2d(x, FIXED), ONES, v)), ((1, 3, 5, 5), (3, 3, 1, 1), (3,))),
        (Foreign(lambda x, w, v: F.batch_norm(F.conv2d(x, FIXED, v), ONES, ONES)), ((1, 3, 5, 5), (3, 3, 1, 1), (3,))),
    ],
)
def test_it_does_not_fold(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    row = Row(aten.batch_norm.default, model.eval(), inputs)
    check_row(row)
    assert convert_row(row)[2].folded == []


@pytest.mark.parametrize(("weights", "scale"), [(0.1, 1e-4), (10.0, 3e4)])
def test_half_weights_keep_their_digits(weights: float, scale: float) -> None:
    """Folded, they would be subnormal or infinite; float32 has room for them."""
    model = pair(nn.Conv2d(3, 4, 3, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(weights)
        model[1].weight.fill_(scale)
    for dtype, folded in ((F16, []), (torch.float32, ["1"])):
        row = Row(aten.batch_norm.default, model, ((1, 3, 6, 6),), dtype=dtype)
        assert convert_row(row)[2].folded == folded


def test_infinite_statistics_stay_where_they_are() -> None:
    model = pair(nn.Conv2d(3, 4, 3))
    model[1].running_var[0] = -1.0
    graph = traced(model)
    assert fold_batch_norms(graph, registry())[1] == []


def test_devices_are_kept_apart() -> None:
    graph = traced(pair(nn.Conv2d(3, 4, 3)))
    devices = {"0": trt.DeviceType.GPU, "1": trt.DeviceType.DLA}
    assert fold_batch_norms(graph, registry(), devices.get)[1] == []
    assert fold_batch_norms(graph, registry(), lambda path: trt.DeviceType.DLA)[1] == ["1"]


def test_the_graph_stays_as_it_is() -> None:
    graph = traced(pair(nn.Conv2d(3, 4, 3)))
    before = list(graph.ops)
    ops, _ = fold_batch_norms(graph, registry())
    assert [op.target for op in ops] == [aten.convolution.default]
    assert graph.ops == before
    assert ops[0] is not before[0]


@pytest.mark.gpu
@needs_gpu
def test_a_folded_graph_of_a_model_on_the_gpu_replays_there() -> None:
    """Search and comparison replay it; its weights lie on the CPU."""
    model = pair(nn.Conv2d(3, 4, 3)).cuda()
    graph = trace(model, [torch.randn(2, 3, 8, 8, device="cuda")], is_leaf=registry().is_leaf)
    ops, _ = fold_batch_norms(graph, registry())
    x = torch.randn(2, 3, 8, 8, device="cuda")
    with torch.no_grad(), tf32(False):
        torch.testing.assert_close(dataclasses.replace(graph, ops=ops).replay([x])[0], model(x), rtol=1e-4, atol=1e-4)


def test_ones_own_converters_are_called() -> None:
    called = []

    def own(net: Any, input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool,
            momentum: float, eps: float, cudnn_enabled: bool) -> Any:  # fmt: skip
        called.append(net)
        return net.scale(input, weight * 0 + 1, bias * 0 + 2)

    model = pair(nn.Conv2d(3, 4, 3))
    options = {"converters": {aten.batch_norm.default: own}, "verify": False}
    report = torch2edge.convert(model, [torch.randn(1, 3, 5, 5)], **options).report
    assert called
    assert report.notes == []


def test_the_report_says_so() -> None:
    model = nn.Sequential(*pair(nn.Conv2d(3, 4, 3)), nn.ReLU(), *pair(nn.Conv2d(4, 4, 3))).eval()
    report = torch2edge.convert(model, [torch.randn(1, 3, 8, 8)]).report
    assert {row.path: row.layers for row in report.modules} == {"0": 1, "1": 0, "2": 1, "3": 1, "4": 0}
    assert report.notes == ["note: 2 batch norms are part of the convolutions before"]
