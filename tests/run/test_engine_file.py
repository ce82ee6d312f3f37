"""Engine files: round trips, damage, and engines that belong elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torch2edge
from torch2edge import ConfigError, EdgeModule, EngineFileError, ExecutionError
from torch2edge._trt import capabilities, why_not_executable
from torch2edge.run.engine_file import DIGEST, MAGIC, describe, pack, read, unpack

X = torch.ones(2, 4)


@pytest.fixture(scope="module")
def engine() -> EdgeModule:
    torch.manual_seed(0)
    return torch2edge.convert(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), [X])


@pytest.fixture
def saved(engine: EdgeModule, tmp_path: Path) -> Path:
    path = tmp_path / "net.engine"
    engine.save(path)
    return path


def test_round_trip(engine: EdgeModule, saved: Path) -> None:
    loaded = torch2edge.load(saved)
    assert loaded._plan == engine._plan
    assert loaded.metadata == engine.metadata
    assert str(loaded.report) == str(engine.report)
    loaded.save(saved)  # over itself
    first = saved.read_bytes()
    torch2edge.load(str(saved)).save(str(saved))
    assert saved.read_bytes() == first
    assert [p.name for p in saved.parent.iterdir()] == ["net.engine"]


def test_header(saved: Path) -> None:
    metadata, plan = read(saved)
    caps = capabilities()
    assert (metadata["tensorrt"], metadata["version"]) == (caps.name, caps.version)
    assert metadata["precision"] == "fp32"
    assert metadata["inputs"] == [{"name": "args[0]", "binding": "input_0", "dtype": "float32", "shape": [2, 4]}]
    assert metadata["outputs"] == [{"name": "output", "binding": "output_0", "dtype": "float32", "shape": [2, 3]}]
    assert metadata["model"] == "Sequential"
    assert metadata["compute_capabilities"]
    assert describe(metadata) == f"built with {caps.title} for {metadata['target']}"
    assert len(plan) > 100


@pytest.mark.skipif(not why_not_executable(), reason="here TensorRT executes")
def test_where_it_cannot_execute(saved: Path) -> None:
    with pytest.raises(ExecutionError) as caught:
        torch2edge.load(saved)(X)
    message = str(caught.value)
    for part in (f"built with {capabilities().title}", "cannot run here: no NVIDIA GPU", "It needs such a GPU", "8.6"):
        assert part in message, message


@pytest.mark.parametrize("keep", [0, 4, 8, 12, 20, 300, -1, -DIGEST, -DIGEST - 1, 0.5])
def test_truncated(saved: Path, keep: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    what = {0: "is empty", 4: "was not saved by torch2edge.*too short"}.get(keep, "is truncated or damaged")
    with pytest.raises(EngineFileError, match=rf"net\.engine {what}") as caught:
        torch2edge.load(saved)
    assert "Copy it again, or" in str(caught.value)


def test_a_flipped_bit_anywhere(saved: Path) -> None:
    data = saved.read_bytes()
    header = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 8], "little")
    plan = len(MAGIC) + 8 + header
    length, end = len(MAGIC), len(data)
    for place in [0, 7, length, length + 7, length + 8, plan - 1, plan, (plan + end) // 2, end - DIGEST, end - 1]:
        for bit in (1, 128):
            damaged = bytearray(data)
            damaged[place] ^= bit
            saved.write_bytes(damaged)
            with pytest.raises(EngineFileError, match=r"cannot load .*net\.engine|truncated or damaged"):
                torch2edge.load(saved)
    saved.write_bytes(data + b"\0")
    with pytest.raises(EngineFileError, match="truncated or damaged"):
        torch2edge.load(saved)


def test_missing_or_a_directory(tmp_path: Path) -> None:
    with pytest.raises(EngineFileError, match=re.escape(f"cannot read {tmp_path}/none.engine: No such file")):
        torch2edge.load(tmp_path / "none.engine")
    with pytest.raises(EngineFileError, match=re.escape(f"cannot read {tmp_path}: Is a directory")):
        torch2edge.load(tmp_path)


def repacked(path: Path, **changes: Any) -> None:
    metadata, plan = read(path)
    path.write_bytes(pack({**metadata, **changes}, plan))


def test_another_version(saved: Path) -> None:
    repacked(saved, version="1.6.0", title="TensorRT-RTX 1.6.0")
    with pytest.raises(EngineFileError) as caught:
        torch2edge.load(saved)
    message = str(caught.value)
    for part in ("net.engine", "with TensorRT-RTX 1.6.0", f"here is {capabilities().title}", "install TensorRT-RTX 1.6.0"):
        assert part in message, message


def test_another_flavour(saved: Path) -> None:
    repacked(saved, tensorrt="other", version="8.6.0", title="TensorRT 8.6.0", target="NVIDIA H200")
    with pytest.raises(EngineFileError, match=r"built with TensorRT 8\.6\.0 for NVIDIA H200, but here is"):
        torch2edge.load(saved)
    state = torch.frombuffer(bytearray(saved.read_bytes()), dtype=torch.uint8)
    with pytest.raises(EngineFileError, match=r"engine in this state dict was built with TensorRT 8\.6\.0"):
        EdgeModule().load_state_dict({"_extra_state": state})


def test_another_format(saved: Path) -> None:
    repacked(saved, format=2, torch2edge="9.9")
    with pytest.raises(EngineFileError, match=r"saved by torch2edge 9\.9 in the format 2, but this .* reads the format 1"):
        torch2edge.load(saved)


@pytest.mark.parametrize("header", [b"no json", b"\xff\xfe", b"[1, 2]", b"null"])
def test_a_whole_file_with_a_wrong_header(saved: Path, header: bytes) -> None:
    body = MAGIC + len(header).to_bytes(8, "little") + header
    saved.write_bytes(body + hashlib.sha256(body).digest())
    with pytest.raises(EngineFileError, match="header"):
        torch2edge.load(saved)


def test_a_failed_save_leaves_the_old_file(engine: EdgeModule, saved: Path) -> None:
    before = saved.read_bytes()
    broken = EdgeModule(engine._plan, {**engine.metadata, "bad": object()})
    with pytest.raises(TypeError):
        broken.save(saved)
    assert saved.read_bytes() == before
    for wrong, told in (
        (saved.parent / "none" / "net.engine", "there is no folder"),
        (saved.parent, "it is a folder"),
        (None, "save takes the path of a file, but is None"),
    ):
        with pytest.raises(ConfigError, match=told):
            engine.save(wrong)  # type: ignore[arg-type]
    assert [p.name for p in saved.parent.iterdir()] == ["net.engine"]


def test_pack_is_the_inverse_of_unpack() -> None:
    metadata = {"format": 1, "text": "äß", "number": float("inf")}
    data = pack(metadata, b"\0plan")
    assert unpack(data, "here") == (metadata, b"\0plan")
    assert json.loads(data[len(MAGIC) + 8 : -DIGEST - 5]) == metadata
