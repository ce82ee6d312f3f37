"""calibrator="tensorrt": TensorRT's own calibrators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu import FAST, needs_gpu
from support.pattern_net import Net, accuracy, example, loader, trained_net
from torch import nn

import torch2edge
from torch2edge import Calibration, ConfigError
from torch2edge._trt import capabilities
from torch2edge.build.calibration import read_tensorrt_cache

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch2edge.CalibrationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def trained() -> Net:
    return trained_net()


needs_calibrators = pytest.mark.skipif(not capabilities().calibrators, reason="this TensorRT has no calibrators")


@pytest.mark.gpu
@needs_gpu
@needs_calibrators
@pytest.mark.parametrize("algorithm", ["entropy", "minmax"])
@pytest.mark.parametrize("road", ["converters", "onnx"])
def test_tensorrt_calibrates(trained: Net, road: str, algorithm: str, tmp_path: Path) -> None:
    model, cache = trained.cuda(), tmp_path / "trt.cache"
    data = Calibration(loader(), algorithm=algorithm, cache=cache, progress=False)
    source: Any = model
    if road == "onnx":
        source = tmp_path / "model.onnx"
        torch.onnx.export(model, tuple(example("cuda")), source, dynamo=False, opset_version=17)
    how: dict[str, Any] = {"int8": True, "fp16": True, "calibrator": "tensorrt", **FAST}
    module = torch2edge.convert(source, example("cuda"), calibration=data, **how)
    assert any("own calibrator" in note for note in module.report.notes)
    assert "int8" in module.report.precision
    assert accuracy(module, "cuda") > accuracy(model, "cuda") - 0.01
    assert len(read_tensorrt_cache(cache)) > 4
    unread = Calibration(Refusing(), algorithm=algorithm, cache=cache, progress=False)
    again = torch2edge.convert(source, example("cuda"), calibration=unread, verify=False, **how)
    assert accuracy(again, "cuda") > accuracy(model, "cuda") - 0.01


class Refusing:
    """Data that must not be read."""

    def __iter__(self) -> Any:
        raise RuntimeError("the disk is gone")


@pytest.mark.gpu
@needs_gpu
@needs_calibrators
def test_beside_another_io_dtype(trained: Net) -> None:
    """The check's batches are the model's, whatever the engine takes."""
    module = torch2edge.convert(
        trained.cuda(), example("cuda"), int8=True, fp16=True, calibrator="tensorrt", io_dtype=torch.float16,
        calibration=Calibration(loader(), progress=False), **FAST,
    )  # fmt: skip
    images = example("cuda")[0]
    agree = module(images.half()).argmax(1) == trained.cuda()(images).argmax(1)
    assert float(agree.float().mean()) > 0.9


@pytest.mark.gpu
@needs_gpu
@needs_calibrators
def test_an_error_of_the_data_stops_tensorrts_calibration(tmp_path: Path) -> None:
    model, x = Net().eval().cuda(), torch.randn(2, 3, 8, 8, device="cuda")
    how: dict[str, Any] = {"int8": True, "calibrator": "tensorrt", **FAST}
    with pytest.raises(torch2edge.InputError, match=r"the disk is gone"):
        torch2edge.convert(model, [x], calibration=Refusing(), **how)

    def failing() -> Any:
        yield torch.randn(2, 3, 8, 8)
        raise OSError("no such image")

    cache = tmp_path / "c"
    with pytest.raises(torch2edge.InputError, match=r"batch 1: OSError: no such image"):
        torch2edge.convert(model, [x], calibration=Calibration(failing(), cache=cache, progress=False), **how)
    assert not cache.exists()
    with pytest.raises(torch2edge.InputError, match=r"batch 0: args\[0\] is .*but the model takes"):
        torch2edge.convert(model, [x], calibration=[torch.randn(2, 4, 8, 8)], **how)


@pytest.mark.gpu
@needs_gpu
@needs_calibrators
def test_what_tensorrts_calibrators_cannot(tmp_path: Path) -> None:
    model, x = Net().eval().cuda(), torch.randn(2, 3, 8, 8, device="cuda")
    how: dict[str, Any] = {"int8": True, "calibrator": "tensorrt", **FAST}
    with pytest.raises(ConfigError, match=r"no 'mse'; use 'entropy' or 'minmax'"):
        torch2edge.convert(model, [x], calibration=Calibration([x], algorithm="mse"), **how)
    with pytest.raises(ConfigError, match=r"no data for it"):
        torch2edge.convert(model, [x], **how)
    with pytest.raises(ConfigError, match=r"shapes that vary \(.*not there yet"):
        torch2edge.convert(model, [x], calibration=[x], dynamic={0: {0: (1, 2, 4)}}, **how)
    (tmp_path / "c").write_text("TRT-8600-EntropyCalibration2\nsomething: 3c010a14\n")
    with pytest.raises(ConfigError, match=r"not of this network: it lacks the input input_0"):
        torch2edge.convert(model, [x], calibration=Calibration([x], cache=tmp_path / "c"), **how)


@pytest.mark.skipif(capabilities().calibrators, reason="this TensorRT has calibrators")
def test_a_tensorrt_without_calibrators_says_so() -> None:
    with pytest.raises(ConfigError, match=r"calibrator='tensorrt': TensorRT-RTX .* has no calibrators any more"):
        torch2edge.convert(
            nn.Linear(4, 4).eval(), [torch.randn(2, 4)], int8=True, calibration=[torch.randn(2, 4)], calibrator="tensorrt"
        )


def test_an_unknown_calibrator_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"calibrator is 'trt'; it must be one of 'pytorch', 'tensorrt'"):
        torch2edge.convert(nn.Linear(4, 4).eval(), [torch.randn(2, 4)], calibrator="trt")
