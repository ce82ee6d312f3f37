"""config.pbtxt, held against Triton's published schema, and against what its TensorRT backend checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.plans import SHAPES, Images, Plan, images
from support.triton import needs_schema, parsed, type_name
from torch import nn

import torch2edge
from torch2edge import ConfigError, EdgeModule, EngineFileError, Input
from torch2edge.run.engine_file import pack
from torch2edge.run.plain import metadata_of
from torch2edge.run.triton import TritonOptions, config

pytestmark = needs_schema
NEW = {"tensorrt": "tensorrt", "version": "10.3.0", "title": "TensorRT 10.3.0"}
OLD = {"tensorrt": "tensorrt", "version": "8.6.0", "title": "TensorRT 8.6.0"}


def header(module: EdgeModule, **changes: Any) -> dict[str, Any]:
    """Of an engine that TensorRT built, for here TensorRT-RTX may have."""
    return {**module.metadata, **NEW, **changes}


def served(metadata: dict[str, Any], **options: Any) -> tuple[Any, list[str]]:
    text, notes = config(metadata, TritonOptions("m", **options))
    return parsed(text), notes


def rows(tensors: Any) -> list[tuple[Any, ...]]:
    return [(t.name, type_name(t.data_type), list(t.dims)) for t in tensors]


class Net(nn.Module):
    """Every dtype, nested; a mask that no output depends on."""

    def forward(self, x, ids, flags, pixels, unused):
        return {"y": x * 2, "ids": ids + 1, "flags": ~flags, "pixels": pixels.half(), "rest": (x.mean(1), ids.half())}


@pytest.fixture(scope="module")
def fixed() -> EdgeModule:
    ids, flags = torch.arange(6).view(2, 3), torch.tensor([True, False])
    pixels, x = torch.randint(0, 255, (2, 4), dtype=torch.uint8), torch.randn(2, 5)
    return torch2edge.convert(Net().eval(), [x, ids, flags, pixels, torch.randn(1)])


@pytest.fixture(scope="module")
def dynamic() -> EdgeModule:
    dims = {"n": [(1, 1, 1), (1, 4, 8)], "h": (4, 8, 16)}
    inputs = [Input(("n", 3, "h", 16), dims=dims), Input(("n",), dims=dims)]

    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return x[:, :, ::2] * scale[:, None, None, None], x.mean((1, 2, 3)) * scale

    return torch2edge.convert(Scaled().eval(), inputs)


def test_fixed_shapes_are_served_as_they_are(fixed: EdgeModule) -> None:
    made, notes = served(header(fixed))
    assert (made.name, made.platform, made.backend, made.max_batch_size) == ("m", "tensorrt_plan", "tensorrt", 0)
    assert rows(made.input) == [
        ("input_0", "TYPE_FP32", [2, 5]), ("input_1", "TYPE_INT64", [2, 3]), ("input_2", "TYPE_BOOL", [2]),
        ("input_3", "TYPE_UINT8", [2, 4]),
    ]  # fmt: skip
    assert rows(made.output) == [
        ("output_0", "TYPE_FP32", [2, 5]), ("output_1", "TYPE_INT64", [2, 3]), ("output_2", "TYPE_BOOL", [2]),
        ("output_3", "TYPE_FP16", [2, 4]), ("output_4", "TYPE_FP32", [2]), ("output_5", "TYPE_FP16", [2, 3]),
    ]  # fmt: skip
    group = made.instance_group[0]
    assert (group.count, group.kind, list(group.gpus), list(group.profile)) == (1, group.KIND_GPU, [], [])
    assert not made.HasField("dynamic_batching")
    assert any("does not take args[4], on which no output depends" in note for note in notes)


def test_what_the_plan_carries_counts(fixed: EdgeModule) -> None:
    made, notes = served(header(fixed, **OLD))
    assert type_name(made.input[1].data_type) == type_name(made.output[1].data_type) == "TYPE_INT32"
    assert "input_1 is int64 in the model, and int32 in the engine: requests have that" in notes


@pytest.mark.parametrize(("dtype", "wanted"), [("bfloat16", "TYPE_BF16"), ("int8", "TYPE_INT8"), ("int32", "TYPE_INT32")])
def test_other_dtypes(fixed: EdgeModule, dtype: str, wanted: str) -> None:
    first = {**fixed.metadata["inputs"][0], "dtype": dtype}
    made, _ = served(header(fixed, inputs=[first, *fixed.metadata["inputs"][1:]]))
    assert type_name(made.input[0].data_type) == wanted


def test_one_size_that_varies_in_front_is_the_batch(dynamic: EdgeModule) -> None:
    made, notes = served(header(dynamic))
    assert made.max_batch_size == 8
    assert rows(made.input) == [("input_0", "TYPE_FP32", [3, -1, 16]), ("input_1", "TYPE_FP32", [1])]
    assert rows(made.output) == [("output_0", "TYPE_FP32", [3, -1, 16]), ("output_1", "TYPE_FP32", [1])]
    for scalar in (made.input[1], made.output[1]):  # one number per item
        assert scalar.HasField("reshape")
        assert list(scalar.reshape.shape) == []
    assert not made.input[0].HasField("reshape")
    assert list(made.instance_group[0].profile) == ["0", "1"]
    assert made.HasField("dynamic_batching")
    assert list(made.dynamic_batching.preferred_batch_size) == []
    assert "h lies in 4 to 16 or 4 to 16" not in notes
    assert "h lies in 4 to 16" in notes
    assert any(note.startswith("requests are put together along the first axis") for note in notes)


def test_options(dynamic: EdgeModule) -> None:
    made, _ = served(
        header(dynamic, dla_core=1), instances=2, gpus=(0, 3), profiles=(1,), max_batch_size=6, max_queue_delay_us=100,
        preferred_batch_sizes=(4, 2),
    )  # fmt: skip
    group = made.instance_group[0]
    assert (group.count, list(group.gpus), list(group.profile)) == (2, [0, 3], ["1"])
    assert [(d.kind, d.device_id) for d in group.secondary_devices] == [(group.SecondaryDevice.KIND_NVDLA, 1)]
    assert made.max_batch_size == 6
    assert list(made.dynamic_batching.preferred_batch_size) == [2, 4]
    assert made.dynamic_batching.max_queue_delay_microseconds == 100


def test_without_batches_the_engines_own_shapes_are_served(dynamic: EdgeModule) -> None:
    made, notes = served(header(dynamic), max_batch_size=0)
    assert made.max_batch_size == 0
    assert rows(made.input) == [("input_0", "TYPE_FP32", [-1, 3, -1, 16]), ("input_1", "TYPE_FP32", [-1])]
    assert not made.HasField("dynamic_batching")
    assert not any("put together" in note for note in notes)
    made, notes = served(header(dynamic), profiles=(0,))
    assert made.max_batch_size == 1
    assert list(made.instance_group[0].profile) == []  # Triton takes the first by itself


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch_size": 9}, "the engine takes 8 at most"),
        ({"max_batch_size": 4, "profiles": (0,)}, r"takes 1 at most in the profiles \[0\]"),
        ({"preferred_batch_sizes": (2, 9)}, r"\[9\] are larger than the largest batch, 8"),
        (
            {"max_batch_size": 0, "max_queue_delay_us": 5},
            "max_queue_delay_us: Triton cannot make batches .* max_batch_size is 0",
        ),
        ({"profiles": (2,)}, "no profile 2; the engine has 2, counted from 0"),
        ({"profiles": (1, 1)}, "one is there twice"),
        ({"instances": 0}, "instances: 0 is no whole number from 1 on"),
        ({"gpus": (-1,)}, "gpus: -1"),
        ({"version": 0}, "version: 0"),
        ({"max_queue_delay_us": 1.5}, "max_queue_delay_us: 1.5"),
    ],
)
def test_wrong_options(dynamic: EdgeModule, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        served(header(dynamic), **options)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "ä", ".hidden"])
def test_wrong_names(name: str) -> None:
    with pytest.raises(ConfigError, match="a model's name is a folder's"):
        TritonOptions(name)


def changed(dynamic: EdgeModule, shape: list[Any], kind: str = "outputs") -> dict[str, Any]:
    first, *rest = dynamic.metadata[kind]
    return header(dynamic, **{kind: [{**first, "shape": shape}, *rest]})


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ([2, 3], r"the first axis of output_0 \(2, 3\) does not vary"),
        ([["dim", "h"], 3], r"the first axis of output_0 \(h, 3\) is not that of input_0"),
        ([["FloorDiv", ["dim", "n"], 2], 3], r"the first axis of output_0 \(n // 2, 3\) is not that"),
        ([["dim", "n"], ["dim", "n"]], r"other axes of output_0 \(n, n\) hang on its first"),
        ([], r"the first axis of output_0 \(\) does not vary"),
    ],
)
def test_where_the_first_axes_are_no_batch(dynamic: EdgeModule, shape: list[Any], why: str) -> None:
    metadata = changed(dynamic, shape)
    if shape:
        assert served(metadata)[0].max_batch_size == 0
    with pytest.raises(ConfigError, match=f"max_batch_size: Triton cannot make batches for this engine: {why}"):
        served(metadata, max_batch_size=4)


def test_a_batch_that_the_model_does_not_take_whole(dynamic: EdgeModule) -> None:
    constraint = {"condition": ["Equality", ["Mod", ["dim", "n"], 2], 0], "source": "in head, model.py:3"}
    made, notes = served(header(dynamic, constraints=[constraint]))
    assert made.max_batch_size == 0
    assert any("the model demands n % 2 == 0 (in head, model.py:3), which Triton does not check" in note for note in notes)


def test_what_triton_does_not_serve(dynamic: EdgeModule) -> None:
    with pytest.raises(ConfigError, match=r"the output output_0 has no axes.*x\.reshape\(1\)"):
        served(changed(dynamic, []))
    with pytest.raises(ConfigError, match="no empty tensors"):
        served(changed(dynamic, [2, 0]))
    rtx = {"tensorrt": "tensorrt_rtx", "version": "1.7.1", "title": "TensorRT-RTX 1.7.1"}
    with pytest.raises(ConfigError, match=r"built with TensorRT-RTX 1\.7\.1, and Triton's backend is TensorRT"):
        served(header(dynamic, **rtx))


def test_names_with_quotes(fixed: EdgeModule) -> None:
    name = 'x"\\\n{ä: 0'
    made, _ = served(header(fixed, inputs=[{**fixed.metadata["inputs"][0], "binding": name}]))
    assert made.input[0].name == name


def of_others(plan: Plan) -> dict[str, Any]:
    made = metadata_of(plan.facts(), "det.plan", size=len(plan.data), built_by="trtexec")
    return {**made, **NEW}


def test_a_plan_of_others() -> None:
    metadata = of_others(images(Images().eval(), SHAPES))
    made, notes = served(metadata)
    assert made.max_batch_size == 8
    assert rows(made.input) == [("images", "TYPE_FP32", [3, -1, 16]), ("scale", "TYPE_FP32", [1, 1, 1])]
    assert rows(made.output) == [("features", "TYPE_FP32", [8, -1, 16]), ("mean", "TYPE_FP32", [8])]
    assert "images.shape[2] lies in 8 to 24" in notes
    assert "no profile takes less than 2 items: a smaller batch fails" in served(metadata, profiles=(1,))[1]
    metadata["dims"]["scale.shape[0]"] = [[1, 1, 2], [2, 4, 8]]
    assert served(metadata)[0].max_batch_size == 0


# ---- files --------------------------------------------------------------------------------------------------------------


def saved(module: EdgeModule, path: Path) -> Path:
    path.write_bytes(pack(header(module), module._plan))
    return path


def test_the_repository(dynamic: EdgeModule, tmp_path: Path) -> None:
    file = saved(dynamic, tmp_path / "ResNet 18.v2.engine")
    for _ in range(2):  # over the first
        written = torch2edge.export(file, triton=tmp_path / "models", plain=tmp_path / "bare.plan")
    folder = tmp_path / "models" / "ResNet_18"
    assert written.files == [tmp_path / "bare.plan", folder / "1" / "model.plan", folder / "config.pbtxt"]
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted([file, *written.files])
    assert (folder / "1" / "model.plan").read_bytes() == (tmp_path / "bare.plan").read_bytes() == dynamic._plan
    made = parsed((folder / "config.pbtxt").read_text())
    assert (made.name, made.max_batch_size) == ("ResNet_18", 8)
    assert f"wrote {folder / 'config.pbtxt'}" in str(written)
    torch2edge.export(file, triton=tmp_path / "models", name="second", version=3)
    assert (tmp_path / "models" / "second" / "3" / "model.plan").exists()


def test_a_module(dynamic: EdgeModule, tmp_path: Path) -> None:
    torch2edge.export(dynamic, plain=tmp_path / "bare.plan")
    assert (tmp_path / "bare.plan").read_bytes() == dynamic._plan
    module = EdgeModule(dynamic._plan, header(dynamic))
    assert torch2edge.export(module, triton=tmp_path).files[1] == tmp_path / "Scaled" / "config.pbtxt"


def test_nothing_to_export(dynamic: EdgeModule, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to write"):
        torch2edge.export(dynamic)
    with pytest.raises(EngineFileError, match="nothing to export"):
        torch2edge.export(EdgeModule(), plain=tmp_path / "p")
    with pytest.raises(ConfigError, match="not a Linear"):
        torch2edge.export(nn.Linear(1, 1), plain=tmp_path / "p")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"cannot write .*none/p: there is no folder"):
        torch2edge.export(dynamic, plain=tmp_path / "none" / "p")
    (tmp_path / "file").touch()
    with pytest.raises(EngineFileError, match=r"cannot write .*model\.plan: (File exists|Not a directory)"):
        torch2edge.export(EdgeModule(dynamic._plan, header(dynamic)), triton=tmp_path / "file")
    with pytest.raises(ConfigError, match="8 at most"):
        torch2edge.export(EdgeModule(dynamic._plan, header(dynamic)), plain=tmp_path / "p", triton=tmp_path, max_batch_size=10)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]  # refused before anything was written


@pytest.mark.parametrize("wrong", [5, "", b"x", "a\0b"])
def test_what_is_no_path_to_write_to(wrong: Any) -> None:
    module = torch2edge.convert(nn.ReLU().eval(), [torch.randn(2, 3)], verify=False)
    with pytest.raises(ConfigError, match="plain is the path of a file, but is "):
        torch2edge.export(module, plain=wrong)
    with pytest.raises(ConfigError, match="triton is the path of a folder, but is "):
        torch2edge.export(module, triton=wrong)


@pytest.mark.parametrize("key", ["gpus", "profiles", "preferred_batch_sizes"])
@pytest.mark.parametrize("wrong", [0, "0", None])
def test_no_list(key: str, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=f"{key}={wrong!r}: a list of numbers is wanted"):
        TritonOptions("m", **{key: wrong})
