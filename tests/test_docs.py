"""What the documents say is so: blocks run, commands parse, links resolve."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from support.triton import needs_schema, parsed

import torch2edge
from torch2edge import Input
from torch2edge.builder_options import BUILDER_FLAGS, BuilderOptions
from torch2edge.cli.main import parser
from torch2edge.run.engine_file import MAGIC
from torch2edge.run.triton import TritonOptions, config

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "converters/README.md",
    "docs/benchmark.md", "docs/cold_start.md", "docs/dla.md", "docs/options.md", "docs/precision.md", "docs/refit.md",
    "docs/runtime.md", "docs/serving.md",
)  # fmt: skip
BLOCK = re.compile(r"^([ ]*)```(\w+)\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
QUIET = """
import warnings, torch2edge
warnings.simplefilter("error")
warnings.simplefilter("ignore", torch2edge.ReferenceWarning)  # there may be no GPU here
warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # torch.onnx.export's own
"""


class Images(torch.nn.Module):
    """A thousand classes."""

    def forward(self, x):
        return x.flatten(1)[:, :1000]


def blocks(document: str, language: str) -> list[str]:
    found = BLOCK.findall((ROOT / document).read_text())
    return [textwrap.dedent(text) for _, kind, text in found if kind == language]


def run(code: str, folder: Path) -> str:
    """In a process of its own: the blocks of a document one after the other, as a reader would type them."""
    file = folder / "blocks.py"
    file.write_text(code)
    result = subprocess.run(
        [sys.executable, str(file)], cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_readmes_python_runs(tmp_path):
    code = QUIET + "\n".join(blocks("README.md", "python"))
    printed = run(code, tmp_path)
    assert (tmp_path / "r18.engine").read_bytes().startswith(MAGIC)
    assert (tmp_path / "r18.pth").stat().st_size > 2**20
    assert "layer1.0.conv1" in printed
    assert "1 op cannot be converted" in printed
    assert "special_bessel_j0" in printed


def test_the_state_dict_of_the_readme_loads(tmp_path):
    code = """
import torch, torch2edge
module = torch2edge.convert(torch.nn.Linear(3, 2).eval(), [torch.randn(1, 3)])
torch.save(module.state_dict(), "m.pth")
other = torch2edge.EdgeModule()
other.load_state_dict(torch.load("m.pth", weights_only=True))
assert other.report.to_dict() == module.report.to_dict()
"""
    run(code, tmp_path)


def test_the_readmes_example_is_the_issues():
    first = blocks("README.md", "python")[0]
    assert first.splitlines()[:5] == [
        "import torch, torchvision, torch2edge",
        "model = torchvision.models.resnet18().eval()",
        "x = torch.randn(1, 3, 224, 224)",
        "model_trt = torch2edge.convert(model, [x])          # an nn.Module",
        "y = model_trt(x)",
    ]


def test_the_converter_of_contributing_converts(tmp_path):
    code = (
        QUIET
        + "\n".join(blocks("CONTRIBUTING.md", "python"))
        + """
class Radians(torch.nn.Module):
    def forward(self, x):
        return torch.deg2rad(x)

print(torch2edge.convert(Radians().eval(), [torch.randn(4)]).report.check_text())
"""
    )
    assert "ok" in run(code, tmp_path)


def test_the_plan_of_the_dla_document_is_printed(tmp_path):
    printed = run(QUIET + "\n".join(blocks("docs/dla.md", "python")), tmp_path)
    assert "DLA plan for orin, TensorRT 8.6, int8+fp16" in printed
    assert "\nFalse\n[['conv1/convolution', " in printed
    assert "'DLA_MANAGED_SRAM': 1048576" in printed
    assert len(blocks("docs/dla.md", "py")) == 2  # what needs a board, and is not run


def test_the_plan_of_the_serving_document_is_written(tmp_path):
    assert "wrote linear.plan" in run(QUIET + "\n".join(blocks("docs/serving.md", "python")), tmp_path)
    assert (tmp_path / "linear.plan").stat().st_size > 1000


@needs_schema
def test_the_config_of_the_serving_document_is_what_export_writes(tmp_path):
    module = torch2edge.convert(Images().eval(), [Input(("n", 3, 224, 224), dims={"n": (1, 8, 16)})], verify=False)
    new = {"tensorrt": "tensorrt", "version": "10.3.0", "title": "TensorRT 10.3.0", "target": "NVIDIA A100", "model": "ResNet"}
    text, _ = config({**module.metadata, **new}, TritonOptions("resnet18"))
    (shown,) = blocks("docs/serving.md", "pbtxt")
    assert text == shown
    assert parsed(shown).max_batch_size == 16


def test_the_benchmark_of_its_document_runs(tmp_path):
    printed = run(QUIET + "\n".join(blocks("docs/benchmark.md", "python")), tmp_path)
    assert "throughput" in printed
    assert "timed by the host's clock" in printed
    assert (tmp_path / "resnet18.json").stat().st_size > 500
    assert len(blocks("docs/benchmark.md", "py")) == 2  # what needs a GPU, and is not run


def test_the_refit_of_its_document_runs(tmp_path):
    assert "  ok" in run(QUIET + "\n".join(blocks("docs/refit.md", "python")), tmp_path)


def test_the_options_of_the_builder_are_documented(tmp_path):
    printed = run(QUIET + "\n".join(blocks("docs/options.md", "python")), tmp_path)
    assert "memory: engine " in printed
    assert "workspace at most 256.0 MiB" in printed
    text = (ROOT / "docs/options.md").read_text()
    assert [f.name for f in dataclasses.fields(BuilderOptions) if f"`{f.name}" not in text] == []
    assert [name for name in BUILDER_FLAGS if f"`{name}`" not in text] == []


def commands() -> list[tuple[str, str]]:
    lines = [(d, line) for d in DOCUMENTS for block in blocks(d, "bash") for line in block.splitlines()]
    return [(d, line.partition("   #")[0].strip()) for d, line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize(("document", "command"), commands())
def test_commands_are_possible(document, command):
    words = shlex.split(command.partition(" > ")[0])
    if words[:3] == ["python", "-m", "torch2edge"]:
        words = words[2:]
    if words[0] == "torch2edge":
        assert parser().parse_args(words[1:]).run
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), command
    elif words[:2] == ["pip", "install"]:
        extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert all(extra in extras for extra in re.findall(r"\[(\w+)\]", command))
    elif words[:2] == ["python", "-c"]:
        ast.parse(words[2])
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words[3:])
    else:
        assert (ROOT / words[0]).exists(), f"{document}: nobody knows whether {command!r} works"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_resolve(document):
    base = (ROOT / document).parent
    text = BLOCK.sub("", (ROOT / document).read_text())
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (base / link).exists()] == []


def test_paths_named_in_code_spans_exist():
    text = BLOCK.sub("", (ROOT / "CONTRIBUTING.md").read_text())
    paths = re.findall(r"`((?:torch2edge|tests|converters|benchmarks)/[\w./]*)`", text)
    assert [p for p in paths if not (ROOT / p).exists()] == []


def test_the_changelog_knows_this_version():
    assert re.search(rf"^## {re.escape(torch2edge.__version__)} \(", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
