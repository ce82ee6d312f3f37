"""``--shape``: sizes that vary, on the command line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from torch2edge import load
from torch2edge.cli.main import main
from torch2edge.cli.shape import example_inputs, shape
from torch2edge.errors import ConfigError

MODEL = """
import torch
from torch import nn

class Scaled(nn.Module):
    def forward(self, x, scale):
        return torch.relu(x) * scale[:, None]

def make():
    return Scaled()
"""


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("1x3x224x224", (1, 3, 224, 224)),
        ("", ()),
        ("1:8:16x3", (("", (1, 8, 16)), 3)),
        ("batch=1:8:16x3xlength", (("batch", (1, 8, 16)), 3, "length")),
    ],
)
def test_shapes(text, sizes):
    assert shape(text) == sizes


@pytest.mark.parametrize("text", ["1x0x3", "1x", "1:2x3", "a=1x3", "1,3", "1x-2", "box=1:2:3", "1:2:3:4"])
def test_what_is_no_shape(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no shape"):
        shape(text)


def test_examples_have_the_opt_sizes():
    shapes = [shape("n=1:4:8x3x5:6:7"), shape("n")]
    [x, ids], axes, dims = example_inputs(shapes, [torch.float16, torch.int64])
    assert x.shape == (4, 3, 6)
    assert x.dtype == torch.float16
    assert ids.shape == (4,)
    assert axes == {0: {0: "n", 2: (5, 6, 7)}, 1: {0: "n"}}
    assert dims == {"n": (1, 4, 8)}


@pytest.mark.parametrize(
    ("texts", "message"),
    [(["n"], "names the dim n, but n=MIN"), (["n=1:2:3", "n=1:2:4"], "two ranges"), (["0:0:3"], "holds 0")],
)
def test_ranges_that_cannot_be(texts, message):
    with pytest.raises(ConfigError, match=message):
        example_inputs([shape(t) for t in texts], [torch.float32] * len(texts))


def test_convert_and_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "model.py").write_text(MODEL)
    engine = str(tmp_path / "m.engine")
    given = ["--shape", "batch=1:2:6x8", "--shape", "batch"]
    assert main(["convert", "--model", f"{tmp_path}/model.py:make", *given, "-o", engine, "--optimization-level", "0"]) == 0
    told = capsys.readouterr().out
    assert "batch    axis 0 of args[0], axis 0 of args[1]    1    2    6" in told
    assert load(engine).metadata["dims"] == {"batch": [[1, 2, 6]]}
    assert main(["inspect", engine]) == 0
    assert "(batch, 8)" in capsys.readouterr().out
    assert main(["inspect", engine, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["inputs"][0]["shape"] == [["dim", "batch"], 8]


def test_a_range_that_the_model_does_not_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "model.py").write_text(MODEL)
    assert main(["convert", "--model", f"{tmp_path}/model.py:make", "--shape", "1:2:6x8", "--shape", "2"]) == 2
    assert f"demands args[0].shape[0] == 2 (in the model itself, {tmp_path}/model.py:7)" in capsys.readouterr().err
