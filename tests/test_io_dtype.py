"""io_dtype: what an engine takes and gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.gpu import FAST, needs_gpu
from support.pattern_net import Net
from torch import nn

import torch2edge
from torch2edge import Calibration, ConfigError
from torch2edge._trt import capabilities
from torch2edge.check.tf32 import tf32

pytestmark = pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
def device(request: Any) -> str:
    if request.param == "cpu" and not capabilities().strongly_typed:
        pytest.skip("on a machine with a GPU and a TensorRT that executes, the other half of this file is the test")
    return str(request.param)


@pytest.mark.parametrize("low", [{}, {"fp16": True}, {"int8": True, "fp16": True}], ids=["fp32", "fp16", "int8"])
def test_halves_in_and_out(device: str, low: dict[str, Any]) -> None:
    torch.manual_seed(1)
    model = Net().eval().to(device)
    x = torch.randn(2, 3, 8, 8, device=device)
    data = {"calibration": Calibration([torch.randn(2, 3, 8, 8) for _ in range(20)], progress=False)} if "int8" in low else {}
    module = torch2edge.convert(model, [x], io_dtype=torch.float16, keep_network=True, **low, **data, **FAST)
    assert [module.network.get_input(0).dtype.name, module.network.get_output(0).dtype.name] == ["HALF", "HALF"]
    fresh = torch.randn(2, 3, 8, 8, device=device)
    with torch.no_grad(), tf32(False):
        given, expected = module(fresh.half()), model(fresh)
    assert given.dtype == torch.float16
    error = float((given.float() - expected).norm() / expected.norm())
    assert error < {0: 2e-3, 1: 5e-3, 2: 0.05}[len(low)]
    with pytest.raises(torch2edge.InputError, match=r"args\[0\] is torch.float32.*the engine was built for torch.float16"):
        module(fresh)


def test_what_is_asked_of_inputs_and_outputs_holds_for_floats(device: str) -> None:
    class Mixed(nn.Module):
        def forward(self, x: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return x, x[index] * 2, index + 1, x.half()

    x, index = torch.randn(4, 3, device=device), torch.tensor([2, 0, 3], device=device)
    module = torch2edge.convert(Mixed().eval(), [x, index], io_dtype=torch.float16, **FAST)
    fresh = torch.randn(4, 3, device=device)
    given, expected = module(fresh.half(), index), Mixed()(fresh.half(), index)
    assert [t.dtype for t in given] == [torch.float16, torch.float16, torch.int64, torch.float16]
    for a, b in zip(given, expected):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_a_half_model_with_float32_at_its_borders(device: str) -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval().to(device).half()
    x = torch.randn(3, 16, device=device)
    module = torch2edge.convert(model, [x.half()], io_dtype=torch.float32, **FAST)
    given = module(x)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, model(x.half()).float(), rtol=5e-3, atol=5e-3)


def test_no_cast_between_halves() -> None:
    """A half input of a half convolution goes straight in."""
    if not capabilities().strongly_typed:
        pytest.skip("a weakly typed network has casts at its borders, which TensorRT fuses")
    module = torch2edge.convert(
        nn.Conv2d(3, 4, 3).eval(), [torch.randn(1, 3, 8, 8)], fp16=True, io_dtype=torch.float16, keep_network=True
    )
    kinds = [module.network.get_layer(i).type.name for i in range(module.network.num_layers)]
    assert kinds == ["CONVOLUTION"]


def test_bad_io_dtypes() -> None:
    model, x = nn.Linear(4, 4).eval(), torch.randn(2, 4)
    with pytest.raises(ConfigError, match=r"io_dtype is .* one of torch.float32.* but is torch.int8"):
        torch2edge.convert(model, [x], io_dtype=torch.int8)
    with pytest.raises(ConfigError, match=r"io_dtype: the parts of fallback='torch'"):
        torch2edge.convert(model, [x], io_dtype=torch.float16, fallback="torch")
    with pytest.raises(ConfigError, match=r"fallback='onnx'.*leave io_dtype out"):
        torch2edge.convert(model, [x], io_dtype=torch.float16, fallback="onnx")


def test_a_range_that_the_borders_have_not() -> None:
    class Large(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 1e6

    x = torch.randn(4, 3)
    with pytest.raises(ConfigError, match=r"io_dtype=torch.float16: output.* reaches .* and torch.float16 ends at 65504"):
        torch2edge.convert(Large().eval(), [x], io_dtype=torch.float16)
    with pytest.raises(ConfigError, match=r"args\[0\] reaches"):
        torch2edge.convert(nn.Sequential(nn.Tanh()).eval(), [x * 1e6], io_dtype=torch.float16)


@pytest.mark.parametrize("wrong", ["no", 1, None])
def test_flags_are_true_or_false(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"fp16 is .*; it must be True or False"):
        torch2edge.convert(nn.Linear(4, 4).eval(), [torch.randn(2, 4)], fp16=wrong)


def test_a_range_below_that_of_half() -> None:
    class Small(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 1e-9

    with pytest.raises(ConfigError, match=r"io_dtype=torch.float16: output.* reaches .* only for the example"):
        torch2edge.convert(Small().eval(), [torch.randn(4, 3)], io_dtype=torch.float16)
