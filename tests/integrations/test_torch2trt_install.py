"""install(): ``import torch2trt`` answers; a script runs under either name with one line changed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.torch_features import LOADS_BYTEARRAYS

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import warnings, torch, torch2edge
warnings.simplefilter("error")
warnings.simplefilter("ignore", torch2edge.ReferenceWarning)

@tensorrt_converter("torch.nn.functional.relu")
def convert_relu(ctx):
    layer = ctx.network.add_activation(input=ctx.method_args[0]._trt, type=trt.ActivationType.RELU)
    ctx.method_return._trt = layer.get_output(0)

model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
x = torch.ones((1, 3, 8, 8))
model_trt = torch2trt(model, [x])
print(float(torch.max(torch.abs(model(x) - model_trt(x)).detach())) < 1e-5)
torch.save(model_trt.state_dict(), "model_trt.pth")
loaded = TRTModule()
loaded.load_state_dict(torch.load("model_trt.pth"))
print(loaded.input_names, loaded.output_names)
"""
if not LOADS_BYTEARRAYS:  # torch 2.4 warns of its default
    SCRIPT = SCRIPT.replace('"model_trt.pth"))', '"model_trt.pth", weights_only=False))')
LINES = {
    "ours": "from torch2edge.integrations.torch2trt import torch2trt, TRTModule, tensorrt_converter, trt",
    "its": "import torch2edge.integrations.torch2trt as t2t; t2t.install()\n"
    "from torch2trt import torch2trt, TRTModule, tensorrt_converter, trt",
}


def run(code, folder):
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("name", LINES)
def test_one_line_changes(name, tmp_path):
    assert run(LINES[name] + SCRIPT, tmp_path) == "True\n['input_0'] ['output_0']\n"


def test_every_form_of_the_import(tmp_path):
    code = """
    import sys, torch2edge.integrations.torch2trt as t2t
    assert "torch2trt" not in sys.modules
    t2t.install()
    t2t.install()
    import torch2trt
    import torch2trt.version_utils
    import torch2trt.dataset as dataset
    from torch2trt import torch2trt as function, TRTModule, SizeWrapper, tensorrt_converter, trt
    from torch2trt.dataset import ListDataset, TensorBatchDataset, FolderDataset
    from torch2trt.flattener import Flattener
    from torch2trt.torch2trt import add_missing_trt_tensors, torch_dim_to_trt_axes
    from torch2trt.trt_module import TRTModule as again
    exec("from torch2trt.torch2trt import *", stars := {})
    assert torch2trt.torch2trt is function is t2t.torch2trt and again is TRTModule is t2t.TRTModule
    assert dataset.ListDataset is ListDataset is t2t.ListDataset and Flattener is t2t.Flattener
    assert torch2trt.CONVERTERS is t2t.CONVERTERS and callable(stars["get_arg"]) and "TRTModule" in dir(torch2trt)
    a = torch2trt.version_utils.Version("10.1")
    assert a >= "10.1" and a >= "10.0" and a > "7.0" and a < "11.0" and a == "10.1" and a <= "10.2"
    assert torch2trt.trt_version() >= "1.0" and torch2trt.torch_version() > "2.3"
    try:
        torch2trt.DatasetCalibrator
    except AttributeError as error:
        assert "torch2edge answers to torch2trt, and has no DatasetCalibrator" in str(error), error
    try:
        import torch2trt.contrib
    except ModuleNotFoundError as error:
        assert error.name == "torch2trt.contrib"
    t2t.uninstall()
    assert not [m for m in sys.modules if m.startswith("torch2trt")]
    try:
        import torch2trt
    except ModuleNotFoundError:
        print("gone")
    """
    assert run(code, tmp_path) == "gone\n"


def test_the_real_torch2trt_is_not_replaced_silently(tmp_path):
    (tmp_path / "torch2trt.py").write_text("x = 1")
    code = """
    import sys
    sys.path.insert(0, ".")
    import torch2trt
    import torch2edge.integrations.torch2trt as t2t
    try:
        t2t.install()
    except t2t.installing.ConfigError as error:
        assert "torch2trt is imported already, from" in str(error)
    t2t.uninstall()
    assert sys.modules["torch2trt"].x == 1
    """
    run(code, tmp_path)


def test_importing_it_imports_no_tensorrt_and_importing_torch2edge_not_it(tmp_path):
    code = """
    import sys, torch2edge
    assert not [m for m in sys.modules if "torch2trt" in m]
    import torch2edge.integrations.torch2trt
    print([m for m in sys.modules if m.startswith("tensorrt")])
    """
    assert run(code, tmp_path) == "[]\n"
