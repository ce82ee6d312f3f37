"""``torch2edge plan-dla``."""

from __future__ import annotations

import json

import pytest
import torch
from support.dla_published import Tutorial, export

from torch2edge.cli import main

FACTORY = """
import torch

def inside():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())

def partly():
    return torch.nn.Sequential(inside(), torch.nn.ELU(), torch.nn.Conv2d(8, 4, 1))
"""


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "model.py").write_text(FACTORY)
    return str(tmp_path / "model.py")


def test_the_exit_status_says_whether_all_stays(factory, capsys):
    assert main(["plan-dla", "--model", f"{factory}:inside", "--shape", "1x3x8x8"]) == 0
    assert "all on the DLA" in capsys.readouterr().out
    assert main(["plan-dla", "--model", f"{factory}:partly", "--shape", "1x3x8x8"]) == 1
    assert "ActivationType = ELU) not supported for DLA" in capsys.readouterr().out


def test_an_onnx_file_as_json(tmp_path, capsys):
    file = str(export(Tutorial("group"), torch.randn(32, 3, 32, 32), tmp_path / "gn.onnx"))
    assert main(["plan-dla", "--onnx", file, "--target", "orin", "--tensorrt", "8.4", "--int8", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["loadables"] == [
        ["Conv_0"], ["Relu_10", "Conv_11"], ["Relu_21", "Conv_22"], ["Relu_32", "Conv_33"], ["Relu_43"]
    ]  # fmt: skip
    assert told["precision"] == "int8"
    out = tmp_path / "plan.json"
    assert main(["plan-dla", "--model", file, "--fp16", "--json", str(out)]) == 1
    assert json.loads(out.read_text())["precision"] == "fp16"
    assert "ForeignNode" in capsys.readouterr().out


def test_open_sizes_are_given(tmp_path, capsys):
    file = str(export(Tutorial("batch"), torch.randn(1, 3, 32, 32), tmp_path / "bn.onnx", dynamic=True))
    assert main(["plan-dla", "--onnx", file]) == 2
    assert "--shape" in capsys.readouterr().err
    assert main(["plan-dla", "--onnx", file, "--shape", "32x3x32x32", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["crossings"][0]["bytes"] == 32 * 16 * 32 * 32 * 2


def test_devices(factory, capsys):
    arguments = ["plan-dla", "--model", f"{factory}:partly", "--shape", "1x3x8x8", "--json"]
    assert main([*arguments, "--device-type", "0=DLA", "--device-type", "0.1=GPU"]) == 1
    assert json.loads(capsys.readouterr().out)["loadables"] == [["0.0/convolution"]]
    assert main([*arguments, "--device-type", "0=GPU", "--default-device-type", "DLA"]) == 1
    assert json.loads(capsys.readouterr().out)["loadables"] == [["2/convolution"]]


def test_an_empty_file(tmp_path, capsys):
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert main(["plan-dla", "--onnx", str(tmp_path / "empty.onnx")]) == 2
    assert "it is empty or damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --model or --onnx"),
        (["--model", "torchvision:resnet18", "--onnx", "x.onnx"], "give either --model or --onnx"),
        (["--model", "torchvision:resnet18"], "--shape is needed"),
        (["--onnx", "no.onnx"], "there is no such file"),
        (["--onnx", "no.onnx", "--half"], "--half: no.onnx has its weights, dtypes and inputs in it"),
        (["--model", "no.onnx", "--weights", "w.pth"], "--weights: no.onnx has its weights"),
        (["--model", "FACTORY:inside", "--shape", "1:2:4x3x8x8"], "takes fixed sizes here"),
        (["--model", "FACTORY:inside", "--shape", "1x3x8x8", "--tensorrt", "10.9"], "has DLA up to 10.7"),
        (["--model", "FACTORY:inside", "--shape", "1x3x8x8", "--json", "/no/such/folder/x"], "there is no folder"),
    ],
)
def test_wrong_use(factory, arguments, message, capsys):
    assert main(["plan-dla", *(a.replace("FACTORY", factory) for a in arguments)]) == 2
    assert message in capsys.readouterr().err
