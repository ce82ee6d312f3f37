"""fp16, INT8 and quantization-aware training: one file for strongly typed networks (TensorRT-RTX, on a CPU by the reference
executor) and weakly typed ones (TensorRT 8.6, by engines that execute, with ``-m gpu``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu import FAST, needs_gpu
from support.pattern_net import Net, accuracy, drawn, error, example, loader, train, trained_net
from torch import nn

import torch2edge
from torch2edge import Calibration, ConfigError
from torch2edge._trt import capabilities
from torch2edge.check.tf32 import tf32

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch.ao's own
]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
def device(request: Any) -> str:
    if request.param == "cpu" and not capabilities().strongly_typed:
        pytest.skip("on a machine with a GPU and a TensorRT that executes, the other half of this file is the test")
    return str(request.param)


@pytest.fixture(scope="module")
def trained() -> Net:
    """Better than chance by far, worse than perfect."""
    return trained_net()


# ---- half -------------------------------------------------------------------------------------------------------------


def test_half(trained: Net, device: str) -> None:
    net = trained.to(device)
    module = torch2edge.convert(net, example(device), fp16=True, **FAST)
    assert module.report.precision == "fp16+fp32"
    assert error(module, net, device) < 5e-3  # some units of half's 11 bits
    assert abs(accuracy(module, device) - accuracy(net, device)) <= 0.01


def test_a_module_that_half_would_break(device: str) -> None:
    """Its weights leave half's range, and the precision of the module is obeyed."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval().to(device)
    net[2].weight.data *= 1e6
    net[4].weight.data /= 1e6
    x = torch.randn(4, 8, device=device)
    module = torch2edge.convert(net, [x], fp16=True, precisions={"2": "fp32", "3": "fp32", net[4]: "fp32"}, **FAST)
    fresh = torch.randn(4, 8, device=device)
    with torch.no_grad(), tf32(False):
        torch.testing.assert_close(module(fresh), net(fresh), rtol=2e-2, atol=2e-3)
    assert {row.path: row.precision for row in module.report.modules}["2"] != "fp16"


# ---- INT8 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["entropy", "minmax", "percentile", "mse"])
def test_int8(trained: Net, device: str, algorithm: str) -> None:
    net = trained.to(device)
    calibration = Calibration(loader(), algorithm=algorithm, progress=False)
    module = torch2edge.convert(net, example(device), int8=True, calibration=calibration, **FAST)
    assert "int8" in module.report.precision
    assert module.report.check[0].trial.startswith("calibration batch")
    off = error(module, net, device)
    assert off < 0.1
    assert off > 1e-4 or device == "cuda"  # it is INT8; a weakly typed TensorRT may find floats faster for so small a net
    assert accuracy(net, device) > 0.8
    assert accuracy(module, device) > accuracy(net, device) - 0.01


def test_int8_beside_half(trained: Net, device: str) -> None:
    net = trained.to(device)
    module = torch2edge.convert(net, example(device), int8=True, fp16=True, calibration=loader(), **FAST)
    assert module.report.precision == "fp16+fp32+int8"
    assert 1e-4 < error(module, net, device) < 0.1


def test_int8_of_one_module(trained: Net, device: str) -> None:
    net = trained.to(device)
    module = torch2edge.convert(net, example(device), precisions={"block": "int8"}, calibration=loader(), **FAST)
    found = {row.path: row.precision for row in module.report.modules}
    assert "int8" in found["block.0"]
    assert found["stem.0"] == found["head"] == "fp32"
    everything = torch2edge.convert(net, example(device), int8=True, calibration=loader(), **FAST)
    assert error(everything, net, device) < 0.1
    assert 1e-4 < error(module, net, device) < 0.1  # also where TensorRT may choose: a module's precision is an order


def test_int8_with_a_module_kept_out(trained: Net, device: str) -> None:
    net = trained.to(device)
    options = {"int8": True, "precisions": {net.head: "fp32", "stem.*": "fp32"}}
    module = torch2edge.convert(net, example(device), calibration=loader(), **options, **FAST)
    found = {row.path: row.precision for row in module.report.modules}
    assert found["head"] == found["stem.0"] == "fp32"
    assert "int8" in found["block.0"]


def test_int8_weights_are_small(device: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(64, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 64, 3, padding=1)).eval().to(device)
    x = torch.randn(1, 64, 8, 8, device=device)
    data = [torch.randn(1, 64, 8, 8) for _ in range(40)]
    full = torch2edge.convert(net, [x], **FAST).report.engine_bytes
    # as an order: of itself a weakly typed TensorRT takes what is fastest at this size
    small = torch2edge.convert(net, [x], precisions={"": "int8"}, calibration=data, **FAST).report.engine_bytes
    assert small < 0.5 * full


def test_a_cache_is_read(trained: Net, device: str, tmp_path: Path) -> None:
    net, cache = trained.to(device), tmp_path / "calib.json"
    first = torch2edge.convert(
        net, example(device), int8=True, calibration=Calibration(loader(), cache=cache, algorithm="minmax"), **FAST
    )
    saved = json.loads(cache.read_text())
    assert saved["algorithm"] == "minmax"
    zeros = [torch.zeros(32, 3, 8, 8)] * 2 + [drawn(32, 5)[0]]
    again = torch2edge.convert(
        net, example(device), int8=True, calibration=Calibration(zeros, cache=cache, algorithm="minmax"), **FAST
    )
    assert error(first, net, device) < 0.1
    assert error(again, net, device) < 0.1  # ranges of zeros would clip everything
    with pytest.raises(ConfigError, match="entropy"):
        torch2edge.convert(net, example(device), int8=True, calibration=Calibration(zeros, cache=cache), **FAST)


def test_a_cache_alone(trained: Net, device: str, tmp_path: Path) -> None:
    """Without data the check is on random inputs as large as the calibration's: INT8 would clip what is larger."""
    net, cache = trained.to(device), tmp_path / "calib.json"
    torch2edge.convert(net, example(device), int8=True, calibration=Calibration(loader(), cache=cache, progress=False), **FAST)
    module = torch2edge.convert(net, example(device), int8=True, calibration=Calibration(cache=cache), **FAST)
    assert {row.trial.rpartition(" ")[0] for row in module.report.check} == {"random batch in the ranges"}
    assert accuracy(module, device) > accuracy(net, device) - 0.01


# ---- quantization-aware training --------------------------------------------------------------------------------------


def test_quantization_aware_training(device: str) -> None:
    from torch.ao import quantization as ao

    activations = ao.FakeQuantize.with_args(
        observer=ao.MovingAverageMinMaxObserver, quant_min=-128, quant_max=127, dtype=torch.qint8,
        qscheme=torch.per_tensor_symmetric,
    )  # fmt: skip
    weights = ao.FakeQuantize.with_args(
        observer=ao.MovingAveragePerChannelMinMaxObserver, quant_min=-127, quant_max=127, dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric, ch_axis=0,
    )  # fmt: skip
    torch.manual_seed(0)
    net = Net().train()
    net.qconfig = ao.QConfig(activation=activations, weight=weights)  # type: ignore[assignment]
    ao.prepare_qat(net, inplace=True)
    train(net, 60)
    net.apply(ao.disable_observer)
    net = net.eval().to(device)
    module = torch2edge.convert(net, example(device), **FAST)
    assert "int8" in module.report.precision
    # the same roundings: what differs is a last step here and there
    assert error(module, net, device) < 0.05
    assert abs(accuracy(module, device) - accuracy(net, device)) <= 0.01


# ---- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"int8": True}, r"int8 needs the range of every tensor: calibration=loader"),
        ({"precisions": {"head": "int8"}}, "int8 needs the range of every tensor"),
        ({"calibration": [torch.zeros(1)]}, "nothing is to be INT8: add int8=True"),
        ({"int8": True, "calibration": torch.zeros(8, 3, 8, 8)}, "data is a tensor"),
        ({"int8": True, "calibration": [torch.zeros(32, 3, 9, 9)]}, r"9, 9"),
        ({"int8": True, "calibration": [torch.zeros(32, 3, 8, 8, dtype=torch.int64)]}, "int64"),
        ({"int8": True, "calibration": [torch.full((32, 3, 8, 8), float("nan"))]}, "(?i)nan"),
        ({"int8": True, "calibration": []}, "no batch|empty"),
    ],
)
def test_wrong_calibrations(trained: Net, device: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises((ConfigError, torch2edge.InputError), match=why):
        torch2edge.convert(trained.to(device), example(device), **options, **FAST)


# ---- sparsity, and everything at once ---------------------------------------------------------------------------------


def test_sparse_weights_are_told(trained: Net, device: str) -> None:
    import copy

    net = copy.deepcopy(trained).to(device)
    report = torch2edge.convert(net, example(device), sparse=True, **FAST).report
    assert "sparse=True has no effect" in report.notes[-1]
    torch2edge.sparsify_2to4(net)
    module = torch2edge.convert(net, example(device), sparse=True, **FAST)
    assert "3 of 4 layers have weights in the 2:4 pattern: block.0, block.3, head" in module.report.notes[-1]
    assert error(module, net, device) < 1e-4


def test_best(trained: Net, device: str) -> None:
    net = trained.to(device)
    if device == "cpu":
        with pytest.raises(ConfigError, match="no precision is left to choose; write fp16=True"):
            torch2edge.convert(net, example(device), best=True, **FAST)
        return
    module = torch2edge.convert(net, example(device), best=True, calibration=loader(), **FAST)
    assert module.report.precision == "fp16+fp32+int8"
    assert error(module, net, device) < 0.1
    with pytest.raises(ConfigError, match="leave out fp16"):
        torch2edge.convert(net, example(device), best=True, fp16=True, **FAST)


class Branching(nn.Module):
    """A net that does not convert as a whole; its parts do, and are of one kind with the net's."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.stem, self.block, self.pool, self.head = net.stem, net.block, net.pool, net.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.stem(x))
        x = (x + self.block(x)).relu() if float(x.sum()) < 1e9 else x
        return self.head(x.mean((2, 3)))


def test_int8_of_parts(trained: Net, device: str) -> None:
    """Each is calibrated on what the whole gives it."""
    net = Branching(trained).to(device).eval()
    module = torch2edge.convert(net, example(device), int8=True, calibration=loader(), fallback="torch", **FAST)
    assert isinstance(module, torch2edge.PartitionedModule)
    assert module.report.plan.engines == ["stem", "block"]
    assert all("int8" in report.precision for report in module.report.engines.values())
    assert module.report.check[0].trial.startswith("calibration batch")
    off = error(module, net, device)
    assert off < 0.1
    assert off > 1e-4 or device == "cuda"
    assert accuracy(module, device) > accuracy(net, device) - 0.01


def test_an_onnx_file_says_what_it_cannot_take(device: str, tmp_path: Path) -> None:
    """Nothing of the options may be dropped without a word."""
    file, x = tmp_path / "m.onnx", torch.randn(2, 3, device=device)
    torch.onnx.export(nn.Linear(3, 2).eval(), (x.cpu(),), str(file), dynamo=False, opset_version=17)
    data = [torch.randn(2, 3)]
    strong = capabilities().strongly_typed
    with pytest.raises(ConfigError, match="is an ONNX file.*" + ("" if strong else "add calibrator='tensorrt'")):
        torch2edge.convert(file, [x], int8=True, calibration=data, **FAST)
    with pytest.raises(ConfigError, match="dtypes of the ONNX model" if strong else "int8 needs the range of every tensor"):
        torch2edge.convert(file, [x], precisions={"": "int8"}, **FAST)
    with pytest.raises(ConfigError, match="nothing is to be INT8"):
        torch2edge.convert(file, [x], calibration=data, **FAST)
    if strong:
        with pytest.raises(ConfigError, match=r"is an ONNX file: .*dtypes of the ONNX model"):
            torch2edge.convert(file, [x], fp16=True, **FAST)
    assert torch2edge.convert(file, [x], **FAST).report.precision == "fp32"
