"""``torch2edge plan``, and convert --fallback torch."""

from __future__ import annotations

import json

import pytest
import torch

import torch2edge
from torch2edge.cli import main

FACTORY = """
import torch

def block():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3), torch.nn.ReLU(), torch.nn.Conv2d(3, 3, 1))

class Branch(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = block()

    def forward(self, images):
        x = self.body(torch.stack(images) if isinstance(images, list) else images)
        return x if x.sum() < 1e9 else -x
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "model.py").write_text(FACTORY)
    return f"{tmp_path}/model.py"


def test_plan_prints_the_cut(file, capsys):
    assert main(["plan", "--model", f"{file}:Branch", "--shape", "1x3x8x8"]) == 0
    printed = capsys.readouterr().out
    assert "1 engine: 100.0% of the FLOPs" in printed
    assert "DataDependentError" in printed
    assert "model.py:14" in printed


def test_plan_as_json_and_with_a_list(file, tmp_path, capsys):
    assert main(["plan", "--model", f"{file}:Branch", "--shape", "3x8x8", "--list", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["engines"] == ["body"]
    out = tmp_path / "plan.json"
    assert main(["plan", "--model", f"{file}:block", "--shape", "1x3x8x8", "--json", str(out)]) == 0
    assert json.loads(out.read_text())["engines"] == [""]
    assert "one engine" in capsys.readouterr().out


def test_plan_refuses(file, capsys):
    for arguments, message in (
        (["--model", "x.onnx", "--shape", "1"], "an ONNX file has no submodules"),
        (["--model", f"{file}:Branch"], "--shape is needed"),
        (["--model", f"{file}:Branch", "--shape", "1x4x8x8"], "does not run on these inputs"),
    ):
        assert main(["plan", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
def test_convert_with_the_fallback_saves_a_state_dict(file, tmp_path, capsys):
    saved = tmp_path / "parts.pth"
    arguments = ["--model", f"{file}:Branch", "--shape", "1x3x8x8", "--fallback", "torch", "-o", str(saved)]
    assert main(["convert", *arguments, "--json", str(tmp_path / "report.json")]) == 0
    assert "torch2edge.PartitionedModule(model)" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["plan"]["engines"] == ["body"]
    space: dict = {}
    exec(FACTORY, space)
    module = torch2edge.PartitionedModule(space["Branch"]())
    module.load_state_dict(torch.load(saved, weights_only=True))
    assert module.report.check[0].passed


WANTS_A_LIST = (
    FACTORY
    + """
class Wants(Branch):
    def forward(self, images):
        if not isinstance(images, list):
            raise ValueError("images is expected to be a list of tensors")
        return super().forward(images)

def scripted():
    return torch.jit.trace(block().eval(), torch.ones(1, 3, 8, 8))

class Holds(Branch):
    def __init__(self):
        super().__init__()
        self.last = torch.jit.script(torch.nn.ReLU())

    def forward(self, x):
        return self.last(super().forward(x))
"""
)


@pytest.mark.parametrize("command", ["plan", "convert"])
def test_a_model_that_wants_a_list(command, tmp_path, capsys):
    (tmp_path / "model.py").write_text(WANTS_A_LIST)
    arguments = [command, "--model", f"{tmp_path}/model.py:Wants", "--shape", "3x8x8"]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert "images is expected to be a list of tensors" in told
    assert "--list gives the inputs as one list" in told
    assert main([*arguments, "--list", *(["--fallback", "torch"] if command == "convert" else [])]) == 0
    assert "--list" not in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_modules_of_torch_jit(tmp_path, capsys):
    (tmp_path / "model.py").write_text(WANTS_A_LIST)
    for command, name, said in (
        ("plan", "scripted", "(torch.jit)"),
        ("convert", "scripted", "error: the model itself is a TopLevelTracedModule (torch.jit)"),
        ("plan", "Holds", "last: it is a RecursiveScriptModule (torch.jit), which takes no hooks"),
        ("convert", "Holds", "error: the submodule last is a RecursiveScriptModule (torch.jit)"),
    ):
        status = main([command, "--model", f"{tmp_path}/model.py:{name}", "--shape", "1x3x8x8"])
        printed = capsys.readouterr()
        assert said in printed.out + printed.err
        assert status == (0 if command == "plan" else 2)
