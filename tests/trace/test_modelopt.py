"""NVIDIA ModelOpt's quantizers as PyTorch's ops: the formula everywhere, the library itself where it is installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torch2edge import convert
from torch2edge.trace.modelopt import _standing_in_for


def test_it_is_modelopts_formula() -> None:
    """round(x * 127 / amax), clamped, * amax / 127; along an axis where amax has one."""
    torch.manual_seed(0)
    x = torch.randn(6, 5, 4) * 3
    quantize = _standing_in_for(lambda *args: pytest.fail("it went its own way"))
    for amax in (torch.tensor(2.5), torch.rand(6, 1, 1) + 1, torch.rand(1, 5, 1) + 1, torch.rand(1, 1, 4) + 1):
        for narrow in (True, False):
            codes = (x * (127 / amax)).round().clamp(-127 if narrow else -128, 127)
            given = quantize(x, amax, None, 8, False, narrow)
            torch.testing.assert_close(given, codes * amax / 127, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        (torch.tensor(1.0), None, 4, False, False), (torch.tensor(1.0), None, 8, True, False),
        (torch.tensor(1.0), torch.zeros(3), 8, False, False), (torch.tensor(0.0), None, 8, False, False),
        (torch.rand(2, 3) + 1, None, 8, False, False), (None, None, 8, False, False),
    ],
    ids=["int4", "unsigned", "bias", "zero range", "a range for each element", "no range"],
)  # fmt: skip
def test_what_is_not_symmetric_int8_goes_its_own_way(call: tuple[Any, ...]) -> None:
    seen: list[Any] = []
    own = lambda *args, **kwargs: seen.append((args, kwargs)) or "own"  # noqa: E731
    x = torch.randn(2, 3)
    assert _standing_in_for(own)(x, *call, "rest", named=1) == "own"
    assert seen[0] == ((x, *call, "rest"), {"named": 1})


@pytest.mark.filterwarnings("ignore")
def test_a_model_quantized_by_modelopt() -> None:
    mtq = pytest.importorskip("modelopt.torch.quantization", reason="NVIDIA ModelOpt is not installed", exc_type=ImportError)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(2), nn.Linear(36, 5)).eval()
    x = torch.randn(2, 3, 8, 8)
    quantized = mtq.quantize(model, mtq.INT8_DEFAULT_CFG, lambda m: [m(torch.randn(2, 3, 8, 8)) for _ in range(3)])
    model_trt = convert(quantized, [x])
    text = str(model_trt.report)
    assert "0.weight_quantizer" in text
    assert "1 batch norm is part of the convolution before" in text
    with torch.no_grad():
        torch.testing.assert_close(model_trt(x), quantized(x), rtol=0, atol=1e-5)
