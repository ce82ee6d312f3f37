"""``torch2edge bench``: what it prints and writes, and what wrong input says."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from support.gpu import FAST, needs_gpu
from torch import nn

import torch2edge
from torch2edge import Benchmark, ConfigError
from torch2edge.cli import main
from torch2edge.cli.bench import _engine

MODEL = """
import torch

class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).relu()
"""
SHORT = ("--duration", "0.05", "--warm-up", "5")
CPU = ("--model", "model.py:Small", "--shape", "1x3x8x8", "--device", "cpu")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(MODEL)


def refused(capsys, *arguments: str) -> str:
    status = main(["bench", *arguments])
    printed = capsys.readouterr()
    assert status == 2, printed.err
    assert printed.err.startswith("torch2edge: error: ")
    assert printed.out == ""
    return printed.err


def test_a_model_on_the_cpu(capsys):
    assert main(["bench", *CPU, *SHORT, "--iterations", "7", "--json", "result.json", "--export-times", "times.json"]) == 0
    printed = capsys.readouterr().out
    for part in ("Small, PyTorch eager on the CPU", "1x3x8x8 float32", "throughput", "latency", "p99", "the host's clock"):
        assert part in printed
    result = json.loads(Path("result.json").read_text())
    assert result["settings"]["iterations"] == 7
    assert result["queries"] >= 7
    assert "times" not in result
    with_times = Benchmark.from_dict(json.loads(Path("times.json").read_text()))
    assert len(with_times.times) == with_times.queries == result["queries"]
    assert with_times.figures["latency"].to_dict() == result["figures"]["latency"]


def test_json_alone_on_stdout(capsys):
    assert main(["bench", *CPU, *SHORT, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["latency"]["median"] > 0


def test_a_torchvision_model_in_half(capsys):
    pytest.importorskip("torchvision", reason="torchvision is not installed (extra vision)")
    options = ["--model", "torchvision:shufflenet_v2_x0_5", "--shape", "1x3x32x32", "--dtype", "bfloat16", "--device", "cpu"]
    assert "the module fails on these inputs (1x3x32x32 bfloat16)" in refused(capsys, *options)


@pytest.mark.parametrize(("arguments", "words"), [
    ((), "what shall be measured? Give an engine file, or --model"),
    (("nowhere.engine",), "cannot read nowhere.engine: No such file or directory"),
    (("model.py",), "model.py is no engine: it is a text file. Give the engine's file."),
    (("x.engine", "--model", "model.py:Small"), "add --compare to measure both"),
    (("x.engine", "--compare"), "with which model? Add --model"),
    (("x.engine", "--device", "cpu"), "an engine runs on a GPU"),
    (("x.engine", "--dtype", "float16"), "has the dtypes and the structure of its inputs in it"),
    (("--model", "model.onnx"), "an .onnx file is no module"),
    (("--model", "model.py:Small", "--device", "cpu"), "--shape is needed"),
    (("--model", "model.py:Small", "--device", "cpu", "--shape", "1:2:4x3x8x8"), "--shape takes fixed sizes here"),
    (("--model", "model.py:Small", "--device", "cpu", "--shape", "1x4x8x8"), "fails on these inputs (1x4x8x8 float32)"),
    ((*CPU, "--iterations", "0"), "iterations is 0; it must be a whole number from 1 on"),
    ((*CPU, "--streams", "0"), "streams is 0"),
    ((*CPU, "--duration", "-1"), "duration is -1.0"),
    ((*CPU, "--warm-up", "nan"), "warmup is nan"),
    ((*CPU, "--cuda-graph"), "cuda_graph: the module is on the CPU"),
    ((*CPU, "--layers"), "only an EdgeModule has layers"),
    ((*CPU, "--json", "nowhere/result.json"), "there is no folder nowhere"),
    ((*CPU, "--export-times", "."), "it is a folder"),
])  # fmt: skip
def test_wrong_input(capsys, arguments, words):
    assert words in refused(capsys, *arguments)


@pytest.mark.parametrize("arguments", [("--iteration-count", "3"), ("--iterations", "many"), ("--device", "tpu")])
def test_options_that_do_not_exist(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(["bench", *CPU, *arguments])
    assert stop.value.code == 2
    assert "usage: torch2edge" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs it")
def test_without_a_gpu_an_engine_file_is_refused(capsys):
    torch2edge.convert(nn.Linear(3, 2).eval(), [torch.randn(1, 3)], verify=False).save("linear.engine")
    error = refused(capsys, "linear.engine")
    assert "the engine cannot run here: no NVIDIA GPU" in error
    assert "--device cuda: no NVIDIA GPU" in refused(capsys, *CPU[:4], "--device", "cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver here")
def test_a_monitor_without_a_driver_is_refused_before_anything_is_measured(capsys):
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed (extra monitor)")
    assert "no NVIDIA driver here" in refused(capsys, *CPU, "--monitor")


@pytest.mark.parametrize(("given", "drawn"), [([], (2, 3, 16, 16)), ([(4, 3, 16, 16)], (4, 3, 16, 16))])
def test_an_engines_inputs_are_of_its_opt_shapes_or_as_given(given, drawn):
    class Two(nn.Module):
        def forward(self, images: list[torch.Tensor], *, scale: torch.Tensor) -> torch.Tensor:
            return torch.relu(images[0]) * scale

    example = [torch.randn(2, 3, 16, 16)]
    made = torch2edge.convert(Two().eval(), [example], {"scale": torch.tensor([2])}, dynamic={0: {0: (1, 2, 4)}}, verify=False)
    made.save("two.engine")
    shapes = [*given, (1,)] if given else []
    arguments = argparse.Namespace(file="two.engine", dtype=[], list=False, shape=shapes)
    _, args, kwargs = _engine(arguments)
    assert [tuple(t.shape) for t in args[0]] == [drawn]
    assert (args[0][0].dtype, kwargs["scale"].dtype, kwargs["scale"].shape) == (torch.float32, torch.int64, (1,))
    arguments.shape = [(1, 3, 16, 16)]
    with pytest.raises(ConfigError, match="1 times for 2 inputs"):
        _engine(arguments)


@pytest.mark.gpu
@needs_gpu
def test_an_engine_file(capsys):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    torch2edge.convert(model, [torch.randn(2, 3, 16, 16)], dynamic={0: {0: (1, 2, 4)}}, **FAST).save("small.engine")
    assert main(["bench", "small.engine", *SHORT, "--layers", "--json", "result.json"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "Sequential, engine",
        "2x3x16x16 float32",
        "enqueue time",
        "H2D latency",
        "GPU compute time",
        "layer",
        "(model)",
    ):
        assert part in printed
    assert json.loads(Path("result.json").read_text())["layers"]["calls"] == 50
    assert (
        main(["bench", "small.engine", *SHORT, "--shape", "4x3x16x16", "--no-data-transfers", "--streams", "2", "--threads"])
        == 0
    )
    printed = capsys.readouterr().out
    assert "4x3x16x16 float32; 2 streams, a thread each, no data transfers" in printed
    assert "2 times for 1 inputs" in refused(capsys, "small.engine", "--shape", "1x3x16x16", "--shape", "1")
    assert "is 9; the engine was built for" in refused(capsys, "small.engine", "--shape", "9x3x16x16")
