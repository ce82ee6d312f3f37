"""Caches: what is read is what was written, and nothing of another conversion is taken in silence."""

from __future__ import annotations

import json
import re
import struct

import pytest
import torch
from torch import nn

from torch2edge.build.calibration import Calibration, read_tensorrt_cache, weights_hash, write_tensorrt_cache
from torch2edge.build.calibration.cache import Cache
from torch2edge.errors import ConfigError

AMAX = {"conv1/input": 2.625, "layer1.0.conv1/input": 0.1 + 0.2, "größe/output": 3e-7}


def cache(path, model: str = "a" * 64, **settings) -> Cache:
    return Cache(path, Calibration([0], cache=path, **settings), model, "0.1")


def test_what_was_written_is_read_to_the_last_digit(tmp_path):
    path = tmp_path / "calib.json"
    cache(path).write(AMAX, 512, 64)
    assert cache(path).read(AMAX) == AMAX
    assert list(cache(path).read(reversed(AMAX))) == list(reversed(AMAX))
    held = json.loads(path.read_text())
    assert held == {
        "format": 1, "algorithm": "entropy", "percentile": None, "samples": 512, "batches": 64, "model": "a" * 64,
        "torch2edge": "0.1", "amax": AMAX,
    }  # fmt: skip
    assert len(path.read_text().splitlines()) > len(AMAX)
    assert [p.name for p in tmp_path.iterdir()] == ["calib.json"]


def test_no_file_is_no_cache(tmp_path):
    assert cache(tmp_path / "none.json").read(AMAX) is None


@pytest.mark.parametrize(("changed", "told"), [
    ({"model": "b" * 64}, "hash bbbbbbbbbbbb"),
    ({"algorithm": "minmax"}, "algorithm is 'minmax', not 'entropy'"),
    ({"percentile": 99.0}, "percentile is 99.0, not None"),
    ({"amax": {**AMAX, "fc/input": 1.0}}, "it also has fc/input"),
])  # fmt: skip
def test_another_conversions_is_refused_and_taken_by_force(tmp_path, changed, told):
    path = tmp_path / "calib.json"
    cache(path).write(AMAX, 512, 64)
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        cache(path).read(AMAX)
    assert "Delete it" in str(caught.value)
    assert "force=True" in str(caught.value)
    assert cache(path, force=True).read(AMAX) == AMAX


def test_a_point_that_the_cache_lacks_cannot_be_forced(tmp_path):
    path = tmp_path / "calib.json"
    cache(path).write(AMAX, 512, 64)
    for force in (False, True):
        with pytest.raises(ConfigError, match="it lacks new/input") as caught:
            cache(path, force=force).read([*AMAX, "new/input"])
        assert "force=True" not in str(caught.value)


def test_percentiles_are_compared_where_they_count(tmp_path):
    path = tmp_path / "calib.json"
    cache(path, algorithm="percentile", percentile=99.9).write(AMAX, 512, 64)
    assert cache(path, algorithm="percentile", percentile=99.9).read(AMAX) == AMAX
    with pytest.raises(ConfigError, match=re.escape("percentile is 99.9, not 99.99")):
        cache(path, algorithm="percentile").read(AMAX)
    cache(path, percentile=99.9).write(AMAX, 512, 64)
    assert cache(path).read(AMAX) == AMAX


def test_a_model_without_a_hash_is_not_compared(tmp_path):
    path = tmp_path / "calib.json"
    cache(path).write(AMAX, 1, 1)
    assert cache(path, model="").read(AMAX) == AMAX


@pytest.mark.parametrize("text", [
    "", "{", "[]", "7", '{"format": 2, "amax": {}}', '{"format": 1, "amax": {"a": 1}}',
    '{"format": 1, "algorithm": "entropy", "percentile": null, "model": "", "amax": {"a": 0}}',
    '{"format": 1, "algorithm": "entropy", "percentile": null, "model": "", "amax": {"a": "1"}}',
    '{"format": 1, "algorithm": "entropy", "percentile": null, "model": "", "amax": {"a": NaN}}',
    '{"format": 1, "algorithm": "entropy", "percentile": null, "model": "", "amax": [1]}',
])  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path, text):
    path = tmp_path / "calib.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no calibration cache of format 1, or damaged"):
        cache(path).read(["a"])


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        cache(tmp_path).read(AMAX)
    with pytest.raises(ConfigError, match="cannot be written"):
        cache(tmp_path / "no" / "folder.json").write(AMAX, 1, 1)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        cache(tmp_path / "bytes.json").read(AMAX)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "calib.json"
    cache(path).write(AMAX, 1, 1)
    before = path.read_text()
    with pytest.raises(TypeError):
        cache(path).write({"a": object()}, 1, 1)
    with pytest.raises(UnicodeEncodeError):
        cache(path).write({"\ud800": 1.0}, 1, 1)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["calib.json"]


# ---- TensorRT's own ------------------------------------------------------------------------------------------------------

TENSORRTS = """TRT-8600-EntropyCalibration2
images: 3c010204
(Unnamed Layer* 0) [Convolution]_output: 3f800000
model.0/conv: odd: 3c00f9f4
"""


def test_a_cache_of_tensorrt(tmp_path):
    path = tmp_path / "calib.cache"
    path.write_text(TENSORRTS)
    amax = read_tensorrt_cache(path)
    assert list(amax) == ["images", "(Unnamed Layer* 0) [Convolution]_output", "model.0/conv: odd"]
    assert amax["images"] == pytest.approx(1.0, rel=1e-7)  # 1/127 is a range of 1
    assert amax["(Unnamed Layer* 0) [Convolution]_output"] == 127
    assert amax["model.0/conv: odd"] == struct.unpack("!f", bytes.fromhex("3c00f9f4"))[0] * 127
    again = tmp_path / "again.cache"
    write_tensorrt_cache(again, amax, "TRT-8600-EntropyCalibration2")
    assert again.read_text() == TENSORRTS


def test_random_scales_survive_the_round_trip(tmp_path):
    amax = {f"t{i}": float(v) for i, v in enumerate(torch.rand(200).exp() * torch.logspace(-20, 20, 200))}
    write_tensorrt_cache(tmp_path / "c", amax)
    assert read_tensorrt_cache(tmp_path / "c") == pytest.approx(amax, rel=1e-7)


@pytest.mark.parametrize(("text", "told"), [
    ("", "its first line is ''"),
    ("{}\n", "its first line is '{}'"),
    ("TRT-8600-EntropyCalibration2\nx 3c010204\n", "line 2"),
    ("TRT-8600-EntropyCalibration2\n\nx: 3c01020z\n", "line 3"),
    ("TRT-8600-EntropyCalibration2\nx: 7f800000\n", "gives the scale inf"),
    ("TRT-8600-EntropyCalibration2\nx: 7fc00000\n", "gives the scale nan"),
    ("TRT-8600-EntropyCalibration2\nx: 0\n", "gives the scale 0.0"),
])  # fmt: skip
def test_a_cache_of_tensorrt_that_is_none(tmp_path, text, told):
    path = tmp_path / "calib.cache"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(told)):
        read_tensorrt_cache(path)


@pytest.mark.parametrize(("amax", "header"), [
    ({"x": 0.0}, "TRT-8600-EntropyCalibration2"), ({"x": float("inf")}, "TRT-8600-EntropyCalibration2"),
    ({"x\ny": 1.0}, "TRT-8600-EntropyCalibration2"), ({"": 1.0}, "TRT-8600-EntropyCalibration2"),
    ({"x": 1e-45}, "TRT-8600-EntropyCalibration2"), ({"x": 1.0}, "EntropyCalibration2"), ({"x": 1.0}, "TRT-8600-A\nx: 1"),
])  # fmt: skip
def test_what_tensorrt_could_not_read_is_not_written(tmp_path, amax, header):
    with pytest.raises(ConfigError):
        write_tensorrt_cache(tmp_path / "c", amax, header)
    assert not (tmp_path / "c").exists()


def test_tensorrts_cache_in_the_place_of_ours_is_told_apart(tmp_path):
    path = tmp_path / "calib.cache"
    path.write_text(TENSORRTS)
    with pytest.raises(ConfigError, match="read_tensorrt_cache"):
        cache(path).read(["images"])


# ---- the hash of the weights ---------------------------------------------------------------------------------------------


def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2).to(torch.bfloat16))


def test_the_hash_is_that_of_the_weights():
    assert weights_hash(model()) == weights_hash(model())
    assert re.fullmatch("[0-9a-f]{64}", weights_hash(model()))
    assert weights_hash(nn.ReLU()) != weights_hash(model())


def _value(m: nn.Module) -> None:
    m[0].weight.data.view(-1)[5] += 1e-6


def _buffer(m: nn.Module) -> None:
    m[1].num_batches_tracked += 1


def _dtype(m: nn.Module) -> None:
    m[2].bias.data = m[2].bias.data.float()


def _shape(m: nn.Module) -> None:
    m[0].weight.data = m[0].weight.data.reshape(4, 9, 3, 1)


def _name(m: nn.Module) -> None:
    m._modules["other"] = m._modules.pop("2")


@pytest.mark.parametrize("change", [_value, _buffer, _dtype, _shape, _name])
def test_any_change_changes_the_hash(change):
    changed = model()
    change(changed)
    assert weights_hash(changed) != weights_hash(model())


def test_strides_do_not_change_the_hash():
    assert weights_hash(model().to(memory_format=torch.channels_last)) == weights_hash(model())
