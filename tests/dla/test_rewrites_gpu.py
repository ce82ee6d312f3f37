"""``dla_rewrites=True`` with a TensorRT that executes. There is no DLA: what is rewritten runs on the GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.gpu import FAST, needs_gpu
from torch import nn

import torch2edge

pytestmark = [pytest.mark.gpu, needs_gpu]


def model() -> nn.Module:
    body = nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 16, 3, stride=2), nn.Hardswish(), nn.Conv2d(16, 8, 3), nn.SiLU()
    )
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 16), nn.Hardswish(), nn.Linear(16, 4))
    return nn.Sequential(body, nn.PixelShuffle(2), nn.Conv2d(2, 8, 1), head).eval().cuda()


REWRITES = ("adaptive_avg_pool2d became", "linear became", "hardswish is now before", "pixel_shuffle became", "a padding of")


@pytest.mark.parametrize(("precision", "limit"), [({"fp16": True}, 1e-2), ({"fp16": True, "int8": True}, 0.2)])
def test_an_engine_of_a_rewritten_model(precision: dict[str, Any], limit: float) -> None:
    net, x = model(), torch.randn(2, 3, 32, 32, device="cuda")
    data = [torch.randn(8, 3, 32, 32, device="cuda") for _ in range(8)] if "int8" in precision else None
    with pytest.warns(torch2edge.DLAWarning):
        engine = torch2edge.convert(
            net, [x], default_device_type="dla", dla_rewrites=True, calibration=data, **precision, **FAST
        )  # fmt: skip
    assert engine.report is not None
    assert [what for what in REWRITES if not any(what in note for note in engine.report.notes)] == []
    assert any("hardswish became" in note for note in engine.report.notes) == ("int8" in precision)
    with torch.no_grad():
        wanted = net(x)
    assert float((engine(x) - wanted).norm() / wanted.norm()) < limit
