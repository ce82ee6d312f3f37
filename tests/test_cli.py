"""The command: what each prints, and what wrong input says. No stack trace, a status that tells."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.gpu import needs_gpu

import torch2edge
from torch2edge import Calibration, __version__
from torch2edge._trt import capabilities
from torch2edge.cli import main
from torch2edge.cli.convert import _Progress

ROOT = Path(__file__).parent.parent
FACTORY = """
import torch

class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).relu()

class Branch(torch.nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

class Bessel(torch.nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)

class Masked(torch.nn.Module):
    def forward(self, tokens, mask):
        return tokens * mask

def make():
    return Small()

def number():
    return 3

def fails():
    raise KeyError("conv9")

made = Small()
"""


def line(text: str) -> str:
    """``model.py:12``: where ``text`` stands in the file."""
    return f"model.py:{FACTORY[: FACTORY.index(text)].count(chr(10)) + 1}"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text(FACTORY)
    (tmp_path / "broken.py").write_text("import torch\n\nx = 1 +\n")
    (tmp_path / "text.txt").write_text("hello, this is a text\n")
    (tmp_path / "raises.py").write_text("import torch\nimport no_such_package\n")


def refused(capsys, *arguments: str, status: int = 2) -> str:
    """The message of a command that must fail in the right way."""
    with_status = main(list(arguments))
    printed = capsys.readouterr()
    assert with_status == status, printed.err
    assert printed.err.startswith("torch2edge: error: ")
    assert "Traceback" not in printed.err
    return printed.err


def convert(*more: str, model: str = "model.py:make", shape: str = "1x3x8x8") -> list[str]:
    return ["convert", "--model", model, "--shape", shape, *more]


# ---- convert ------------------------------------------------------------------------------------------------------------


def test_convert_prints_the_report_and_saves(capsys):
    assert main(convert("-o", "small.engine", "--json", "report.json")) == 0
    printed = capsys.readouterr()
    assert "conv" in printed.out
    assert "check against PyTorch" in printed.out
    assert "saved small.engine" in printed.out
    if not torch.cuda.is_available():
        assert "This machine builds and checks, but cannot execute the engine: no NVIDIA GPU" in printed.out
    report = json.loads(Path("report.json").read_text())
    assert {"modules", "check", "timings"} <= set(report)
    assert set(report["check"][0]) >= {"max_abs", "rel_l2", "cosine", "ref_max"}
    assert main(["inspect", "small.engine"]) == 0
    told = capsys.readouterr().out
    for part in ("Small", "built with", "float32", "1x3x8x8", "1x4x6x6", "checksum right", "check against PyTorch"):
        assert part in told


def test_convert_writes_json_alone_to_stdout(capsys):
    assert main(convert("--json", "-")) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "fp32"


def test_convert_with_a_largest_error(capsys):
    assert main(convert("--fp16", "--max-error", "1e-6", "--json", "-")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tolerance"] == 1e-6
    assert report["check"][0]["rel_l2"] <= 1e-6
    if capabilities().strongly_typed:
        assert set(report["precisions"].values()) == {"fp32"}
    assert main(convert("--max-error", "1e-6")) == 2
    assert "nothing is low, so nothing can be moved back" in capsys.readouterr().err


def test_convert_from_a_calibration_cache_alone(capsys):
    int8 = [
        "--precision",
        "conv=int8",
        "--calibration-cache",
        "ranges.json",
        "--algorithm",
        "minmax",
        "--no-verify",
        "--json",
        "-",
    ]
    assert "there is no calibration cache ranges.json, and no data" in refused(capsys, *convert(*int8))
    torch.manual_seed(0)
    Path("fixed.py").write_text(FACTORY.replace("made = Small()", "torch.manual_seed(3)\nmade = Small()"))
    sys.path.insert(0, ".")
    try:
        model = __import__("fixed").made.eval()
    finally:
        sys.path.remove(".")
    calibration = Calibration([torch.randn(1, 3, 8, 8) for _ in range(40)], "minmax", cache="ranges.json")
    torch2edge.convert(model, [torch.randn(1, 3, 8, 8)], precisions={"conv": "int8"}, calibration=calibration, verify=False)
    assert main(convert(*int8, model="fixed.py:made")) == 0
    report = json.loads(capsys.readouterr().out)
    assert "int8" in report["precision"]
    assert [note for note in report["notes"] if "the INT8 ranges are those of ranges.json" in note]
    told = refused(capsys, *convert("--precision", "conv=int8", "--calibration-cache", "ranges.json", model="fixed.py:made"))
    assert "its algorithm is 'minmax', not 'entropy'" in told
    assert "ask for its algorithm='minmax' (--algorithm minmax)" in told


def test_an_algorithm_without_a_calibration_is_refused(capsys):
    told = refused(capsys, *convert("--algorithm", "minmax"))
    assert "--algorithm minmax: there is nothing to calibrate from; add --calibration, or --calibration-cache" in told


@pytest.mark.parametrize("name", ["Small", "made"])
def test_convert_takes_a_class_or_a_module(capsys, name):
    assert main(convert(model=f"model.py:{name}")) == 0


def test_convert_half_and_without_check(capsys):
    assert main(convert("--half", "--no-verify", "-o", "half.engine")) == 0
    printed = capsys.readouterr().out
    assert "fp16" in printed
    assert "not checked (verify=False)" in printed
    assert "and checks" not in printed


def test_convert_several_inputs_and_dtypes(capsys):
    arguments = convert("--shape", "2x5", "--dtype", "int64", "--dtype", "float32", model="model.py:Masked", shape="2x5")
    assert main([*arguments, "-o", "masked.engine"]) == 0
    assert main(["inspect", "masked.engine", "--json"]) == 0
    header = json.loads(capsys.readouterr().out.partition("saved masked.engine")[2].partition("\n")[2])
    assert [row["dtype"] for row in header["inputs"]] == ["int64", "float32"]


def test_convert_loads_weights(capsys):
    torch.save({"conv.weight": torch.zeros(4, 3, 3, 3), "conv.bias": torch.ones(4)}, "w.pth")
    assert main(convert("--weights", "w.pth", "--json", "-")) == 0
    assert json.loads(capsys.readouterr().out)["check"][0]["ref_max"] == 1.0


@pytest.mark.gpu
@needs_gpu
def test_convert_times_the_engine_and_pytorch(capsys):
    without_libraries = ["--tactic-sources", "0"] if capabilities().tactic_sources else []
    assert main(convert("--time", "--optimization-level", "0", *without_libraries)) == 0
    printed = capsys.readouterr().out
    assert printed.count("median") == 2
    assert "PyTorch" in printed
    assert "cannot execute" not in printed


def test_a_failed_check_has_status_one_and_still_writes_the_report(capsys):
    message = refused(capsys, *convert("--fp16", "--tolerance", "1e-12", "--json", "r.json", "-o", "no.engine"), status=1)
    assert "FAILED" in message
    assert json.loads(Path("r.json").read_text())["check"][0]["passed"] is False
    assert not Path("no.engine").exists()


WRONG = {
    "no such torchvision model": (convert(model="torchvision:resnet81"), ["resnet81", "Near it:", "resnet18"]),
    "no kind": (convert(model="resnet18"), ["torchvision:NAME", "path/to/file.py:FACTORY"]),
    "no factory": (convert(model="model.py"), ["path/to/file.py:FACTORY", "which function"]),
    "no such file": (convert(model="nowhere.py:make"), ["nowhere.py", "no such file"]),
    "no such factory": (convert(model="model.py:mak"), ["no 'mak'", "make"]),
    "a factory of something else": (convert(model="model.py:number"), ["number() returned int, not an nn.Module"]),
    "a factory that fails": (convert(model="model.py:fails"), ["fails() failed", line("raise KeyError"), "KeyError: 'conv9'"]),
    "a file that is not Python": (convert(model="broken.py:make"), ["broken.py:3: SyntaxError: invalid syntax"]),
    "a file that fails": (convert(model="raises.py:make"), ["raises.py:2", "No module named 'no_such_package'"]),
    "no such weights": (convert("--weights", "no.pth"), ["--weights no.pth", "No such file"]),
    "weights that are none": (convert("--weights", "model.py"), ["--weights model.py"]),
    "weights that are a text": (convert("--weights", "text.txt"), ["--weights text.txt: torch.load cannot read it"]),
    "an output that is read": (convert("--weights", "text.txt", "-o", "text.txt"), ["it is read here, and would be gone"]),
    "a branch on data": (convert(model="model.py:Branch"), [line("return x if"), "torch.where"]),
    "an op without converter": (
        convert(model="model.py:Bessel"), ["aten.special_bessel_j0.default", line("return torch.special"), "no converter"],
    ),
    "a shape that the model refuses": (convert(shape="1x5x8x8"), [line("return self.conv"), "channel"]),
    "too few inputs": (convert(model="model.py:Masked"), ["forward"]),
    "dtypes for other inputs": (convert("--dtype", "int64", "--dtype", "int64"), ["--dtype is given 2 times for 1 inputs"]),
    "no such folder": (convert("-o", "no/where.engine"), ["cannot write no/where.engine", "there is no folder no"]),
    "no such module": (convert("--device-type", "conv9=GPU"), ["conv9", "no submodule"]),
    "a core without DLA": (convert("--dla-core", "0"), ["dla_core"]),
    "rewrites without DLA": (convert("--dla-rewrites"), ["dla_rewrites=True, but neither"]),
    "no such engine": (["inspect", "no.engine"], ["cannot read no.engine", "No such file"]),
    "a foreign file": (["inspect", "model.py"], ["model.py is no engine: it is a text file"]),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "parts"), WRONG.values(), ids=WRONG)
def test_wrong_input_says_what_and_where(capsys, arguments, parts):
    message = refused(capsys, *arguments)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("state", "parts"),
    [
        ({"conv.weight": torch.zeros(1)}, ["conv.bias", "size mismatch"]),
        ({"state_dict": {}, "epoch": 3}, ["holds no tensors, but state_dict, epoch"]),
        ([1, 2], ["holds a list, not a state dict"]),
    ],
)
def test_weights_that_do_not_fit(capsys, state, parts):
    torch.save(state, "w.pth")
    message = refused(capsys, *convert("--weights", "w.pth"))
    for part in parts:
        assert part in message


def test_weights_that_would_execute_code(capsys):
    torch.save(torch.nn.Linear(1, 1), "whole.pth")
    assert "save torch.save(model.state_dict()" in refused(capsys, *convert("--weights", "whole.pth"))


def test_a_damaged_engine(capsys):
    assert main(convert("-o", "small.engine")) == 0
    capsys.readouterr()
    data = bytearray(Path("small.engine").read_bytes())
    data[len(data) // 2] ^= 1
    Path("small.engine").write_bytes(data)
    assert "truncated or damaged" in refused(capsys, "inspect", "small.engine")


def test_traceback_on_request():
    from torch2edge import ConfigError

    with pytest.raises(ConfigError):
        main(convert("--traceback", model="nowhere.py:make"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "COMMAND"),
        (["convert"], "--model"),
        (["convret"], "invalid choice"),
        (convert(shape="1,3,8,8"), "is no shape"),
        (convert(shape="1x0x8"), "is no shape"),
        (convert("--dtype", "float46"), "invalid choice"),
        (convert("--optimization-level", "6"), "invalid choice"),
        (convert("--device-type", "conv"), "SUBMODULE=DLA"),
    ],
)
def test_wrong_usage(capsys, arguments, part):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert part in capsys.readouterr().err


# ---- the others -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["convert", "inspect", "ops", "doctor"])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert "--traceback" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"torch2edge {__version__}\n"


def test_ops(capsys):
    assert main(["ops"]) == 0
    assert "aten.relu.default" in capsys.readouterr().out
    assert main(["ops", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"op": "aten.relu.default", "file": "activation.py", "function": "relu"} in rows


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for part in ("torch2edge", "Python", torch.__version__, "TensorRT", "GPU", "DLA", "execute engines", "INT8 calibrator"):
        assert part in printed
    assert main(["doctor", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"found", "possible", "more"}


def test_doctor_and_inspect_need_no_tensorrt():
    assert main(convert("-o", "small.engine")) == 0
    code = (
        "import sys\n"
        "class Nothing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('tensorrt', 'tensorrt_rtx'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Nothing())\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from torch2edge.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    for arguments, status, part in (
        (["doctor"], 0, "pip install tensorrt_rtx_cu13==1.7.1.116"),
        (["inspect", "small.engine"], 0, "checksum right"),
        (["ops"], 0, "aten.relu.default"),
        (convert(), 2, "pip install tensorrt_rtx_cu13==1.7.1.116"),
    ):
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300, check=False
        )
        assert result.returncode == status, result.stderr
        assert part in result.stdout + result.stderr
        assert "Traceback" not in result.stderr


def test_python_dash_m():
    command = [sys.executable, "-m", "torch2edge", "inspect", "no.engine"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("torch2edge: error: cannot read no.engine")


def test_a_bug_is_called_one(capsys, monkeypatch):
    def fails(path: str) -> None:
        raise AssertionError("surprise")

    monkeypatch.setattr("torch2edge.cli.inspect.recognised", fails)
    assert main(["inspect", "x.engine"]) == 3
    assert "internal error: AssertionError: surprise" in capsys.readouterr().err


def test_progress_is_silent_for_short_stages_and_names_long_ones(capsys):
    with _Progress() as say:
        say("short")
        say("long")
        time.sleep(1.2)
        say("short again")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "torch2edge: long ..."
    assert len(lines) == 2
    assert lines[1].startswith("torch2edge: long: 1.")
