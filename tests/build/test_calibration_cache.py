"""Caches: what is read is what was written, and nothing of another conversion is taken in silence."""

from __future__ import annotations

import json
import math
import re
import struct
from typing import Any

import pytest
import torch
from torch import nn

from torch2edge.build.calibration import Calibration, read_tensorrt_cache, weights_hash, write_tensorrt_cache
from torch2edge.build.calibration.cache import Cache
from torch2edge.errors import ConfigError

AMAX = {"conv1/input": 2.625, "layer1.0.conv1/input": 0.1 + 0.2, "größe/output": 3e-7}


def cache(path, model: str = "a" * 64, graph: str = "c" * 64, data: Any = (0,), **settings) -> Cache:
    return Cache(path, Calibration(data, cache=path, **settings), model, "0.1", graph)


def test_what_was_written_is_read_to_the_last_digit(tmp_path):
    path = tmp_path / "calib.json"
    cache(path).write(AMAX, 512, 64)
    assert cache(path).read(AMAX) == AMAX
    assert list(cache(path).read(reversed(AMAX))) == list(reversed(AMAX))
    held = json.loads(path.read_text())
    assert held == {
        "format": 2, "algorithm": "entropy", "percentile": None, "samples": 512, "batches": 64, "model": "a" * 64,
        "graph": "c" * 64, "torch2edge": "0.1", "amax": AMAX,
    }  # fmt: skip
    assert len(path.read_text().splitlines()) > len(AMAX)
    assert [p.name for p in tmp_path.iterdir()] == ["calib.json"]


def test_no_file_is_no_cache(tmp_path):
    assert cache(tmp_path / "none.json").read(AMAX) is None
    for force in (False, True):
        with pytest.raises(ConfigError, match=r"there is no calibration cache .*none\.json, and no data to calibrate from"):
            cache(tmp_path / "none.json", data=None, force=force).read(AMAX)


@pytest.mark.parametrize(("changed", "told"), [
    ({"model": "b" * 64}, "hash bbbbbbbbbbbb"),
    ({"graph": "b" * 64}, "ran other ops (hash bbbbbbbbbbbb, these cccccccccccc)"),
    ({"algorithm": "minmax"}, "algorithm is 'minmax', not 'entropy'"),
    ({"percentile": 99.0}, "percentile is 99.0, not None"),
])  # fmt: skip
@pytest.mark.parametrize("data", [None, (0,)])
def test_another_conversions_is_refused_and_taken_by_force(tmp_path, changed, told, data):
    path = tmp_path / "calib.json"
    cache(path).write(AMAX, 512, 64)
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        cache(path, data=data).read(AMAX)
    assert "Delete it" in str(caught.value)
    assert "force=True" in str(caught.value)
    assert ("ask for its algorithm='minmax' (--algorithm minmax)" in str(caught.value)) == ("algorithm" in changed)
    assert ("ask for its" in str(caught.value)) == ("algorithm" in changed)
    assert cache(path, force=True, data=data).read(AMAX) == AMAX
    for force in (False, True):  # what it lacks would be of another model, or found in another way
        with pytest.raises(ConfigError, match=f"{re.escape(told)}.*; it lacks new") as caught:
            cache(path, force=force, data=data).read([*AMAX, "new"])
        assert "force=True" not in str(caught.value)


def test_more_than_is_asked_for_is_no_matter(tmp_path):
    path = tmp_path / "calib.json"
    cache(path).write(AMAX | {"fc": 1.0}, 512, 64)
    before = path.read_text()
    assert cache(path).read(AMAX) == AMAX
    assert cache(path, data=None).read(["fc"]) == {"fc": 1.0}
    assert path.read_text() == before


def test_what_a_cache_lacks_is_added(tmp_path):
    path = tmp_path / "calib.json"
    cache(path).write(AMAX, 512, 64)
    assert cache(path).read(["new", *AMAX]) == AMAX
    cache(path).write({"new": 0.7}, 96, 80)
    held = json.loads(path.read_text())
    assert (held["samples"], held["batches"], held["amax"]) == (96, 64, AMAX | {"new": 0.7})  # of each at least so many
    assert cache(path).read(["new"]) == {"new": 0.7}


def test_without_data_nothing_may_be_lacking(tmp_path):
    path = tmp_path / "calib.json"
    cache(path).write(AMAX, 512, 64)
    assert cache(path, data=None).read(AMAX) == AMAX
    new = [f"new{i}" for i in range(7)]
    for force in (False, True):
        with pytest.raises(ConfigError, match=r"lacks 7 of the 10 .* new0, new1, new2, new3, new4 and 2 more") as caught:
            cache(path, data=None, force=force).read([*AMAX, *new])
        assert "Calibration(data, cache=...)" in str(caught.value)


@pytest.mark.parametrize(("theirs", "ours"), [
    (("", "c"), ("a", "c")), (("a", "c"), ("", "c")), (("", ""), ("", "")), (("a", ""), ("a", "c")), (("a", "c"), ("a", "")),
])  # fmt: skip
def test_only_what_is_known_to_be_of_the_model_is_extended(tmp_path, theirs, ours):
    path = tmp_path / "calib.json"
    cache(path, *theirs).write(AMAX, 512, 64)
    assert cache(path, *ours).read(AMAX) == AMAX
    for force in (False, True):
        with pytest.raises(ConfigError, match=r"lacks 1 of the 4 tensors .*new; .*nothing says that it is of this model"):
            cache(path, *ours, force=force).read([*AMAX, "new"])


def test_infinities_are_null(tmp_path):
    path = tmp_path / "calib.json"
    cache(path).write(AMAX | {"masked": math.inf}, 512, 64)
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["amax"] == AMAX | {"masked": None}
    assert cache(path, data=None).read(["masked", *AMAX]) == AMAX | {"masked": math.inf}
    cache(path).write({"new": 2.0}, 512, 64)
    assert cache(path).read(["new", "masked"]) == {"new": 2.0, "masked": math.inf}


def test_percentiles_are_compared_where_they_count(tmp_path):
    path, other = tmp_path / "calib.json", tmp_path / "other.json"
    cache(path, algorithm="percentile", percentile=99.9).write(AMAX, 512, 64)
    assert cache(path, algorithm="percentile", percentile=99.9).read(AMAX) == AMAX
    with pytest.raises(ConfigError, match=re.escape("percentile is 99.9, not 99.99")):
        cache(path, algorithm="percentile").read(AMAX)
    cache(other, percentile=99.9).write(AMAX, 512, 64)
    assert cache(other).read(AMAX) == AMAX


def test_a_file_that_another_conversion_wrote_meanwhile_stays(tmp_path):
    path = tmp_path / "calib.json"
    assert cache(path).read(AMAX) is None
    cache(path, "b" * 64).write(AMAX, 512, 64)
    before = path.read_text()
    with pytest.raises(ConfigError, match=r"is of another conversion meanwhile: .*hash bbbbbbbbbbbb"):
        cache(path).write(AMAX, 512, 64)
    assert path.read_text() == before


def test_a_model_without_a_hash_is_not_compared(tmp_path):
    path = tmp_path / "calib.json"
    cache(path).write(AMAX, 1, 1)
    assert cache(path, model="").read(AMAX) == AMAX
    assert cache(path, graph="").read(AMAX) == AMAX


WHOLE = {
    "format": 2, "algorithm": "entropy", "percentile": None, "samples": 1, "batches": 1, "model": "", "graph": "",
    "amax": {"a": 1.0},
}  # fmt: skip


@pytest.mark.parametrize("text", [
    "", "{", "[]", "7", '{"format": 2, "amax": {}}', json.dumps(WHOLE | {"format": 3}),
    *(json.dumps({k: v for k, v in WHOLE.items() if k != key}) for key in WHOLE),
    *(json.dumps(WHOLE | {"amax": amax}) for amax in ({"a": 0}, {"a": "1"}, {"a": math.nan}, {"a": math.inf}, [1])),
    *(json.dumps(WHOLE | {key: value}) for key, value in (("samples", None), ("batches", 1.5), ("model", None), ("graph", 7))),
])  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path, text):
    path = tmp_path / "calib.json"
    path.write_text(json.dumps(WHOLE))
    assert cache(path).read(["a"]) == {"a": 1.0}
    path.write_text(text)
    with pytest.raises(ConfigError, match="no calibration cache of format 2, or damaged"):
        cache(path).read(["a"])


def test_a_file_of_the_first_format_is_refused(tmp_path):
    path = tmp_path / "calib.json"
    old = {"format": 1, "algorithm": "entropy", "percentile": None, "samples": 1, "batches": 1, "model": "a" * 64}
    path.write_text(json.dumps(old | {"torch2edge": "0.1", "amax": {"conv/convolution/input": 1.0}}))
    for force in (False, True):
        with pytest.raises(ConfigError, match=r"of format 1, from an earlier torch2edge.*delete it to calibrate anew"):
            cache(path, force=force).read(["conv/convolution/input"])


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
