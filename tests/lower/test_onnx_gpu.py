"""The ONNX road where engines execute: TensorRT's parser of that version, its INT32 for int64, its weak types.

It needs onnx, onnxslim and onnxscript; without them these tests fail and say so, for a skip would look like a pass.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu import FAST, needs_gpu
from support.onnx_models import Block, Nested, aten, nested_call, seeded, take_away, write
from support.torch_features import EXPORTERS
from torch import nn

import torch2edge

pytestmark = [pytest.mark.gpu, needs_gpu]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nested(exporter: str, dtype: torch.dtype, monkeypatch: Any) -> None:
    take_away(monkeypatch, aten.relu.default)
    model = seeded(Nested).to(dtype).cuda()
    args, kwargs = nested_call(dtype)
    args, kwargs = [{"x": args[0]["x"].cuda()}, args[1].cuda(), args[2].cuda()], {"ignored": kwargs["ignored"].cuda()}
    module = torch2edge.convert(model, args, kwargs, fallback="onnx", onnx_exporter=exporter, **FAST)
    given, expected = module(*args, **kwargs), model(*args, **kwargs)
    tolerance = 1e-3 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(given, expected, rtol=tolerance, atol=tolerance)
    assert given["b"][1].dtype == torch.int64
    layers = {row.path: row.layers for row in module.report.modules}
    assert layers["layer1.0.conv"] > 0
    assert layers["ln"] > 0


def test_other_layers(monkeypatch: Any) -> None:
    take_away(monkeypatch, aten.relu.default)
    model = nn.Sequential(
        seeded(Block), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4), nn.Upsample(scale_factor=2), nn.ReLU()
    ).eval()
    report = torch2edge.convert(model.cuda(), [torch.randn(1, 4, 6, 6).cuda()], fallback="onnx", **FAST).report
    assert report.check[0].passed


def test_fp16_flag(monkeypatch: Any) -> None:
    if torch2edge._trt.capabilities().strongly_typed:
        pytest.skip("no FP16 flag")
    take_away(monkeypatch, aten.relu.default)
    x = torch.randn(1, 4, 6, 6).cuda()
    report = torch2edge.convert(seeded(Block).cuda(), [x], fallback="onnx", fp16=True, **FAST).report
    assert report.precision == "fp16+fp32"


def test_a_file(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    spec = (TensorProto.INT64, ["n", 3])
    file = write(tmp_path / "m.onnx", [helper.make_node("Add", ["x", "y"], ["z"])], {"x": spec, "y": spec}, {"z": spec})
    x = torch.arange(6).reshape(2, 3).cuda()
    assert torch.equal(torch2edge.convert(file, [x, x], **FAST)(x, x), x * 2)
