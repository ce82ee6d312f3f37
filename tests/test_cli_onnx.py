"""``torch2edge convert`` by way of ONNX, and of .onnx files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.onnx_models import aten, take_away, write
from support.torch_features import EXPORTERS

from torch2edge.cli import main

pytest.importorskip("onnxslim")
from onnx import TensorProto, helper

FACTORY = """
import torch

def make():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())

class Bessel(torch.nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)
"""
SPEC = (TensorProto.FLOAT, [2, 3])


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(FACTORY)
    node = helper.make_node("Mul", ["x", "mask"], ["y"], name="/head/Mul")
    write(Path("fixed.onnx"), [node], {"x": SPEC, "mask": SPEC}, {"y": SPEC})
    open_ = (TensorProto.FLOAT, ["batch", 3])
    write(Path("open.onnx"), [node], {"x": open_, "mask": open_}, {"y": open_})


def printed(capsys: Any, *arguments: str, status: int = 0) -> str:
    given = main(["convert", *arguments])
    told = capsys.readouterr()
    assert given == status, told.err
    assert "Traceback" not in told.err
    return str(told.err if status else told.out)


def test_a_file(capsys: Any) -> None:
    text = printed(capsys, "--model", "fixed.onnx", "-o", "m.engine", "--json", "m.json")
    assert "head" in text
    assert "fixed.onnx, parsed by TensorRT's ONNX parser" in text
    assert "saved m.engine" in text
    report = json.loads(Path("m.json").read_text())
    assert report["check"][0]["passed"]
    assert report["original"] != "PyTorch"
    assert main(["inspect", "m.engine"]) == 0
    assert f"check against {report['original']}" in capsys.readouterr().out


def test_a_file_with_open_sizes(capsys: Any) -> None:
    text = printed(capsys, "--model", "open.onnx", status=2)
    assert "leaves sizes of the input x open (batchx3): give --shape, once per input" in text
    assert "2x3" not in printed(capsys, "--model", "open.onnx", "--shape", "5x3", "--shape", "5x3", "-o", "m.engine")
    assert main(["inspect", "m.engine"]) == 0
    assert "5x3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--model", "none.onnx"], "none.onnx: there is no such file"),
        (["--model", "fixed.onnx", "--half"], "--half: fixed.onnx has its weights and dtypes in it"),
        (["--model", "fixed.onnx", "--weights", "w.pth"], "--weights: fixed.onnx has"),
        (["--model", "fixed.onnx", "--dtype", "float16"], "--dtype: fixed.onnx has"),
        (["--model", "fixed.onnx", "--shape", "2x3"], "--shape is given 1 times for 2 inputs (x, mask)"),
        (["--model", "fixed.onnx", "--shape", "2x3", "--shape", "2x4"], "the input mask is declared as float32 2x3"),
        (["--model", "fixed.onnx", "--device-type", "tail=GPU"], "'tail' is no submodule"),
        (["--model", "model.py:make"], "--shape is needed, once per input"),
        (["--model", "model.py:make", "--shape", "1x3x8x8", "--onnx-opset", "3"], "onnx_opset must be"),
        (["--model", "model.py:Bessel", "--shape", "3", "--fallback", "onnx"], "fallback='onnx' does not do either"),
        (["--model", "model.onnx.txt", "--shape", "1"], "or path/to/file.onnx"),
    ],
)
def test_wrong_usage(arguments: list[str], what: str, capsys: Any) -> None:
    assert what in printed(capsys, *arguments, status=2)


def test_a_damaged_file(capsys: Any) -> None:
    Path("bad.onnx").write_bytes(b"\x08\x07nothing")
    assert "bad.onnx: not a whole ONNX model" in printed(capsys, "--model", "bad.onnx", status=2)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_the_road_by_onnx(exporter: str, capsys: Any, monkeypatch: Any) -> None:
    if exporter == "dynamo":
        pytest.importorskip("onnxscript")
    take_away(monkeypatch, aten.relu.default)
    arguments = ["--model", "model.py:make", "--shape", "1x3x8x8"]
    assert "fallback='onnx'" in printed(capsys, *arguments, status=2)
    text = printed(capsys, *arguments, "--fallback", "onnx", "--onnx-exporter", exporter, "--onnx-opset", "18")
    assert f"taken by way of ONNX (torch.onnx.export(dynamo={exporter == 'dynamo'}, opset_version=18)" in text
    assert "check against PyTorch" in text


def test_half_by_onnx(capsys: Any, monkeypatch: Any) -> None:
    take_away(monkeypatch, aten.relu.default)
    text = printed(capsys, "--model", "model.py:make", "--shape", "1x3x8x8", "--half", "--fallback", "onnx")
    assert "fp16" in text
    assert torch.get_default_dtype() == torch.float32
