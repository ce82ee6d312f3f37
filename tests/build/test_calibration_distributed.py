"""Two processes, each with its share of the data, find the scales that one process finds in all of it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ranks
from support.calibrations import Traced, net
from torch.utils.data import TensorDataset

from torch2edge.build.calibration.distributed import Ranks

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")

START = """
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from support.calibrations import Traced, net
traced = Traced(net(), [torch.randn(4, 3, 8, 8)])
images = torch.load(f"{folder}/images.pt", weights_only=True)
def attempt(name, data, algorithm="minmax", **settings):
    told = []
    try:
        result[name] = traced.calibrate(data, algorithm, more={"tell": told.append}, **settings)
    except Exception as error:
        result[name] = f"{type(error).__name__}: {error}"
    result[name + " told"] = told
"""


def run(code: str, folder: Path) -> list[dict[str, Any]]:
    """What each of two ranks put into ``result``."""
    return ranks.run(START + textwrap.dedent(code), folder)


@pytest.fixture
def images(tmp_path) -> torch.Tensor:
    """Ranges grow and shrink, so that the ranks' histograms have different ranges."""
    images = torch.randn(80, 3, 8, 8) * torch.logspace(-2, 2, 80)[torch.randperm(80), None, None, None]
    torch.save(images, tmp_path / "images.pt")
    return images


def test_two_processes_find_what_one_finds(images, tmp_path):
    code = """
    for algorithm in ("minmax", "entropy", "percentile", "mse"):
        attempt("dataset " + algorithm, TensorDataset(images), algorithm)
        sampler = DistributedSampler(images, shuffle=False)
        attempt("loader " + algorithm, DataLoader(images, batch_size=4, sampler=sampler), algorithm)
        attempt("batches " + algorithm, images.split(4)[rank::world], algorithm, cache=f"{folder}/{algorithm}.json")
        attempt("few " + algorithm, TensorDataset(images), algorithm, batches=5)
    """
    first, second = run(code, tmp_path)
    one = Traced(net(), [torch.randn(4, 3, 8, 8)])
    for algorithm in ("minmax", "entropy", "percentile", "mse"):
        expected = one.calibrate(list(images.split(4)), algorithm)
        assert first[f"dataset {algorithm}"] == second[f"dataset {algorithm}"] == expected
        assert first[f"batches {algorithm}"] == second[f"batches {algorithm}"] == expected
        # the sampler deals samples, not batches: sums over a batch of others round differently
        assert first[f"loader {algorithm}"] == second[f"loader {algorithm}"] == pytest.approx(expected, rel=1e-5)
        few = one.calibrate(TensorDataset(images), algorithm, batches=5, more={"tell": lambda _: None})
        assert first[f"few {algorithm}"] == second[f"few {algorithm}"] == few
        held = json.loads((tmp_path / f"{algorithm}.json").read_text())
        assert (held["samples"], held["batches"], held["amax"]) == (80, 20, expected)
        assert len(first[f"few {algorithm} told"]) == 1  # fewer than 32 samples: said once, by the first
        assert second[f"few {algorithm} told"] == first[f"dataset {algorithm} told"] == []


def test_an_error_on_one_rank_stops_all(images, tmp_path):
    code = """
    bad = images.clone()
    bad[13] = float("nan")
    attempt("nan", TensorDataset(bad))
    def failing():
        yield images[:4]
        if rank == 0:
            raise OSError("disk gone")
    attempt("loader", failing())
    attempt("cache", TensorDataset(images), cache=f"{folder}/none/here.json")
    open(f"{folder}/damaged.json", "w").write("x") if rank == 0 else None
    attempt("damaged", TensorDataset(images), cache=f"{folder}/damaged.json")
    attempt("short", [images[:1]])
    attempt("after", TensorDataset(images))
    """
    first, second = run(code, tmp_path)
    assert "CalibrationError: calibration: batch 1: args[0] holds NaN" in second["nan"]  # its second: batch 3 of all
    assert first["nan"].startswith("CalibrationError: the calibration failed on rank 1 of 2: CalibrationError")
    assert "failed at batch 1: OSError: disk gone" in first["loader"]
    assert second["loader"].startswith("CalibrationError: the calibration failed on rank 0 of 2: CalibrationError")
    for name, told in (("cache", "cannot be written"), ("damaged", "or damaged")):
        assert first[name].startswith("ConfigError")
        assert told in first[name]
        assert told in second[name]
        assert "failed on rank 0" in second[name]
    assert first["short"] == second["short"]
    assert "no batch is as large as the example's" in first["short"]
    assert first["after"] == second["after"] == Traced(net(), [torch.randn(4, 3, 8, 8)]).calibrate(TensorDataset(images))


def test_two_processes_extend_a_cache(images, tmp_path):
    code = """
    every, hashes = traced.points, {"model_hash": "a" * 64, "graph_hash": "b" * 64}
    def again(name, points, data, path="calib.json", **more):
        notes = []
        traced.points = points
        try:
            result[name] = traced.calibrate(data, cache=f"{folder}/{path}", more={**hashes, **more, "notes": notes})
        except Exception as error:
            result[name] = f"{type(error).__name__}: {error}"
        result[name + " notes"] = notes
    some = dict(list(every.items())[::2])
    again("some", some, TensorDataset(images))
    again("lacking", every, None)
    again("all", every, TensorDataset(images))
    again("whole", every, None)
    again("other", dict(list(every.items())[::-1]), None, model_hash="c" * 64)
    again("none", every, None, path="none.json")
    again("one has no data", every, TensorDataset(images) if rank == 0 else None, path="late.json")
    """
    first, second = run(code, tmp_path)
    expected = Traced(net(), [torch.randn(4, 3, 8, 8)]).calibrate(TensorDataset(images))
    for result in (first, second):
        assert result["all"] == result["whole"] == expected
        assert result["some"] == {name: expected[name] for name in list(expected)[::2]}
        assert result["some notes"] == result["whole notes"] == []
        assert "lacked 4 of 8 tensors; they were calibrated and added" in result["all notes"][0]
        assert "lacks 4 of the 8 tensors" in result["lacking"]
        assert "weights have the hash aaaaaaaaaaaa" in result["other"]
        assert "no data to calibrate from" in result["none"]
        assert "there is no data, only a cache" in result["one has no data"]
    assert json.loads((tmp_path / "calib.json").read_text())["amax"] == expected


def test_infinities_of_one_rank_are_those_of_all(images, tmp_path):
    code = """
    if rank == 1:
        images[:, 0, 0, 0] = float("inf")
    batches = images.split(4)[rank::world]
    for algorithm in ("minmax", "entropy"):
        traced.points = dict(list(traced.points.items())[:1])
        traced.calibrate(batches, algorithm, cache=f"{folder}/{algorithm}.json", more={"infinite": True})
        with open(f"{folder}/{algorithm}.json") as file:
            result[algorithm] = json.load(file)["amax"]
        attempt("not allowed " + algorithm, batches, algorithm)
    """
    first, second = run(code, tmp_path)
    for algorithm in ("minmax", "entropy"):
        assert first[algorithm] == second[algorithm] == {"input0": None}
        assert "makes an infinity in input0" in first[f"not allowed {algorithm}"]
        assert "makes an infinity in input0" in second[f"not allowed {algorithm}"]


def test_a_rank_without_data_of_its_own(images, tmp_path):
    code = """
    for algorithm in ("minmax", "entropy"):
        attempt(algorithm, TensorDataset(images[:4]), algorithm)
    """
    first, second = run(code, tmp_path)
    one = Traced(net(), [torch.randn(4, 3, 8, 8)])
    for algorithm in ("minmax", "entropy"):
        expected = one.calibrate([images[:4]], algorithm, more={"tell": lambda _: None})
        assert first[algorithm] == second[algorithm] == expected


def test_shares_are_disjoint_and_whole():
    for world in range(1, 6):
        for count in range(12):
            shares = [Ranks(rank, world).share_of(count) for rank in range(world)]
            assert sum(shares) == count
            assert max(shares) - min(shares) <= 1
