"""Engines that others built, loaded and run where TensorRT executes; each is held against PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.gpu import needs_gpu
from support.plans import SHAPES, Images, images, nonzero, totals, ultralytics_file
from support.torch_features import LOADS_BYTEARRAYS

import torch2edge
from torch2edge import EngineFileError, InputError
from torch2edge._trt import capabilities
from torch2edge.cli import main

pytestmark = [pytest.mark.gpu, needs_gpu]
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def model() -> Images:
    torch.manual_seed(0)
    return Images().eval().cuda()


@pytest.fixture(scope="module")
def fixed(model: Images) -> bytes:
    return images(model).data


@pytest.fixture(scope="module")
def dynamic(model: Images) -> bytes:
    return images(model, SHAPES).data


def inputs(n: int = 2, height: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 3, height, 16, device="cuda"), torch.randn(n, 1, 1, 1, device="cuda")


def wanted(model: Images, module: torch2edge.EdgeModule, x: torch.Tensor, scale: torch.Tensor) -> list[torch.Tensor]:
    """What PyTorch gives, in the order of the engine's outputs."""
    with torch.no_grad():
        by_name = dict(zip(("features", "mean"), model(x, scale)))
    return [by_name[row["binding"]] for row in module.metadata["outputs"]]


def check(model: Images, module: torch2edge.EdgeModule, n: int = 2, height: int = 16) -> None:
    x, scale = inputs(n, height)
    for given in (module(x, scale), module(images=x, scale=scale), module(x, scale=scale), module(scale=scale, images=x)):
        assert type(given) is tuple
        for one, expected in zip(given, wanted(model, module, x, scale), strict=True):
            assert one.is_cuda
            torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-5)


def test_a_bare_plan(model: Images, fixed: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.plan").write_bytes(fixed)
    module = torch2edge.load(tmp_path / "m.plan")
    check(model, module)
    rows = {row["binding"]: row for row in (*module.metadata["inputs"], *module.metadata["outputs"])}
    assert rows["images"]["shape"] == [2, 3, 16, 16]
    assert rows["mean"] == {"name": "mean", "binding": "mean", "dtype": "float32", "shape": [2, 8]}
    assert [row["binding"] for row in module.metadata["inputs"]] == ["images", "scale"]
    report = str(module.report)
    for part in (capabilities().title, torch.cuda.get_device_name(), "not checked: built by trtexec", "nothing is known of"):
        assert part in report, report
    x, scale = inputs()
    for one, expected in zip(module(x.cpu(), scale.cpu()), wanted(model, module, x, scale)):
        assert not one.is_cuda
        torch.testing.assert_close(one, expected.cpu(), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"images is torch\.float16"):
        module(x.half(), scale)
    with pytest.raises(InputError, match=r"images is torch\.float32 \(3, 3, 16, 16\)"):
        module(*inputs(3))
    with pytest.raises(InputError, match="is called with"):
        module(x, scales=scale)


def test_one_output_is_a_tensor_and_names_may_be_anything(tmp_path: Path) -> None:
    (tmp_path / "m.engine").write_bytes(totals().data)
    module = torch2edge.load(tmp_path / "m.engine")
    ids = torch.randint(-(2**29), 2**29, (3, 4), dtype=torch.int32, device="cuda")
    assert torch.equal(module(ids), ids * 2)
    assert torch.equal(module(**{"ids:0": ids}), ids * 2)


def test_two_profiles(model: Images, dynamic: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.plan").write_bytes(dynamic)
    module = torch2edge.load(tmp_path / "m.plan")
    assert module.metadata["dims"]["images.shape[0]"] == [[1, 1, 1], [2, 4, 8]]
    assert module.metadata["dims"]["images.shape[2]"] == [[8, 16, 24]] * 2
    assert {row["binding"]: row["shape"] for row in module.metadata["outputs"]} == {
        "features": [-1, 8, -1, 16],
        "mean": [-1, 8],
    }
    for n, height in ((1, 16), (4, 16), (8, 24), (1, 8), (2, 9), (2, 9), (3, 23), (1, 24), (5, 16)):
        check(model, module, n, height)
    with pytest.raises(InputError, match=r"axis 0 of images is 9; the engine was built for 1 to 1 or 2 to 8 there"):
        module(*inputs(9))
    with pytest.raises(InputError, match=r"axis 2 of images is 25; the engine was built for 8 to 24 there"):
        module(*inputs(2, 25))
    module.save(tmp_path / "ours.engine")
    again = torch2edge.load(tmp_path / "ours.engine")
    assert again.metadata == module.metadata
    check(model, again, 3, 11)
    assert "images.shape[2]" in str(again.report)


@pytest.mark.parametrize("profile", [0, 1])
def test_one_profile(model: Images, profile: int, tmp_path: Path) -> None:
    """An axis for which one size alone is allowed may be told as that size."""
    (tmp_path / "m.plan").write_bytes(images(model, [SHAPES[profile]]).data)
    module = torch2edge.load(tmp_path / "m.plan")
    shapes = {row["binding"]: row["shape"] for row in module.metadata["outputs"]}
    assert shapes["features"][1:] == [8, -1, 16]
    assert shapes["mean"][1:] == [8]
    assert {shapes["features"][0], shapes["mean"][0]} <= ({1, -1}, {-1})[profile]
    for n, height in ((1, 9), (1, 24)) if profile == 0 else ((2, 8), (5, 17), (8, 24)):
        check(model, module, n, height)


def test_ultralytics(model: Images, fixed: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ultralytics_file(tmp_path / "yolo.engine", fixed, task="detect", names={"0": "person"}, imgsz=[16, 16])
    module = torch2edge.load(path)
    check(model, module)
    assert module.metadata["ultralytics"]["names"] == {"0": "person"}
    assert "built by Ultralytics 8.4.190" in str(module.report)
    assert main(["inspect", str(path)]) == 0
    told = capsys.readouterr().out
    for part in ("Ultralytics 8.4.190", "2x3x16x16", "2x8", "TensorRT can load it here", "detect"):
        assert part in told, told
    module.save(tmp_path / "ours.engine")
    assert torch2edge.load(tmp_path / "ours.engine").metadata["ultralytics"]["task"] == "detect"


@pytest.mark.skipif(not LOADS_BYTEARRAYS, reason="torch.load(weights_only=True) takes no bytearray here")
def test_torch2trt(model: Images, fixed: bytes, dynamic: bytes, tmp_path: Path) -> None:
    names = {"input_names": ["images", "scale"], "output_names": ["mean", "features"]}
    torch.save({"engine": bytearray(fixed), **names}, tmp_path / "flat.pth")
    check(model, torch2edge.load(tmp_path / "flat.pth"))
    torch.save({"engine": bytearray(dynamic), **names}, tmp_path / "dynamic.pth")
    check(model, torch2edge.load(tmp_path / "dynamic.pth"), 3, 9)
    nested = {
        "input_flattener": {"schema": ({"x": 0, "by": 1},), "size": 2},
        "output_flattener": {"schema": {"mean": 0, "rest": [1, None]}, "size": 2},
    }
    torch.save({"engine": bytearray(fixed), **names, **nested}, tmp_path / "nested.pth")
    x, scale = inputs()
    given = torch2edge.load(tmp_path / "nested.pth")({"x": x, "by": scale})
    with torch.no_grad():
        features, mean = model(x, scale)
    torch.testing.assert_close(given["mean"], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(given["rest"][0], features, rtol=1e-4, atol=1e-5)
    assert given["rest"][1] is None
    torch.save({"engine": bytearray(fixed), **names, "output_names": ["mean"]}, tmp_path / "less.pth")
    with pytest.raises(EngineFileError, match=r"has features too, but only mean are named"):
        torch2edge.load(tmp_path / "less.pth")
    torch.save({"engine": bytearray(fixed), **names, "input_names": ["images", "nope"]}, tmp_path / "wrong.pth")
    with pytest.raises(EngineFileError, match=r"has no 'nope'; it has images, scale"):
        torch2edge.load(tmp_path / "wrong.pth")


def test_what_an_edge_module_cannot_run_is_refused(model: Images, tmp_path: Path) -> None:
    (tmp_path / "m.plan").write_bytes(images(model, layout="HWC").data)
    with pytest.raises(EngineFileError, match=r"images in the memory layout HWC; tensors of PyTorch are linear"):
        torch2edge.load(tmp_path / "m.plan")
    if capabilities().dynamic_outputs:
        (tmp_path / "m.plan").write_bytes(nonzero().data)
        with pytest.raises(EngineFileError, match=r"has places, .* whose size hangs on the values of the inputs"):
            torch2edge.load(tmp_path / "m.plan")


@pytest.mark.parametrize("damage", ["half", "magic", "noise"])
def test_a_damaged_plan(damage: str, fixed: bytes, tmp_path: Path) -> None:
    """In a process of its own, for what TensorRT does with such bytes is its own affair."""
    data = {"half": fixed[: len(fixed) // 2], "magic": b"abcd" + fixed[4:], "noise": bytes(range(1, 200)) * 9}[damage]
    (tmp_path / "m.plan").write_bytes(data)
    code = f"import torch2edge\ntorch2edge.load({str(tmp_path / 'm.plan')!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-2000:]
    last = done.stderr[done.stderr.index("torch2edge.errors.") :]
    assert f"EngineFileError: {capabilities().title} cannot load" in last, last
    assert "It is no engine, is damaged, or was built by another version" in last
    assert "(it gives no reason)" not in last


def test_a_foreign_plan_as_a_triton_model(dynamic: bytes, tmp_path: Path) -> None:
    if capabilities().name != "tensorrt":
        pytest.skip("Triton has TensorRT, not TensorRT-RTX")
    (tmp_path / "det.plan").write_bytes(dynamic)
    torch2edge.export(tmp_path / "det.plan", triton=tmp_path / "models")
    assert (tmp_path / "models" / "det" / "1" / "model.plan").read_bytes() == dynamic
    text = (tmp_path / "models" / "det" / "config.pbtxt").read_text()
    for part in ("max_batch_size: 8", 'name: "images"', "dims: [ 3, -1, 16 ]", 'profile: [ "0", "1" ]', "dims: [ 8 ]"):
        assert part in text, text
