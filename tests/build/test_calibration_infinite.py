"""Infinities: no scale holds them, but where every float gets a range, one may have none."""

from __future__ import annotations

import math

import pytest
import torch
from support.calibrations import Traced
from torch import nn

from torch2edge.build.calibration import weights_hash
from torch2edge.errors import InputError


class Causal(nn.Module):
    """Scores with -inf above the diagonal."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = (x @ x.mT).masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -math.inf)
        return scores.softmax(-1) @ x


@pytest.mark.parametrize("algorithm", ["minmax", "entropy"])
def test_the_lowest_number_in_the_place_of_minus_infinity(algorithm):
    """As transformers masks: a scale of 3e36 would make zeros of all scores, one that clips would lose the mask."""

    class Lowest(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = torch.full((5, 5), torch.finfo(torch.float32).min).triu(1)
            return ((x @ x.mT) + mask).softmax(-1) @ x

    traced, data = Traced(Lowest(), [torch.randn(4, 5, 3)]), [torch.randn(4, 5, 3) for _ in range(10)]
    amax = traced.calibrate(data, algorithm, more={"infinite": True})
    masked = [f"op{i}" for i, op in enumerate(traced.graph.ops) if op.short_name == "add"]
    assert len(masked) == 1
    assert [name for name, value in amax.items() if value == math.inf] == masked


@pytest.mark.parametrize("algorithm", ["minmax", "entropy", "percentile", "mse"])
def test_infinities_where_they_are_allowed(tmp_path, algorithm):
    model, path = Causal(), tmp_path / "calib.json"
    told = {"model_hash": weights_hash(model), "graph_hash": "a" * 64}
    traced, data = Traced(model, [torch.randn(4, 5, 3)]), [torch.randn(4, 5, 3) for _ in range(10)]
    masked = [f"op{i}" for i, op in enumerate(traced.graph.ops) if op.short_name == "where"]
    assert len(masked) == 1
    with pytest.raises(InputError, match=f"batch 0 makes an infinity in {masked[0]}"):
        traced.calibrate(data, algorithm)
    amax = traced.calibrate(data, algorithm, cache=path, more={**told, "infinite": True})
    assert [name for name, value in amax.items() if value == math.inf] == masked
    finite = {name: value for name, value in traced.points.items() if name not in masked}
    assert traced.calibrate(None, algorithm, cache=path, more={**told, "infinite": True}) == amax
    with pytest.raises(InputError, match=f"{masked[0]} holds infinities, says the cache"):
        traced.calibrate(data, algorithm, cache=path, more=told)
    traced.points = finite
    assert traced.calibrate(None, algorithm, cache=path, more=told) == {n: amax[n] for n in finite}
    assert traced.calibrate(data, algorithm) == {n: amax[n] for n in finite}


@pytest.mark.parametrize("algorithm", ["minmax", "entropy"])
def test_an_infinity_in_one_batch_of_many(algorithm):
    traced = Traced(nn.Hardtanh(-50, 50), [torch.randn(4, 3)])
    data = [torch.randn(4, 3) for _ in range(10)]
    data[6][1, 2] = math.inf
    amax = traced.calibrate(data, algorithm, more={"infinite": True})
    assert (amax["input0"], amax["op0"] <= 50) == (math.inf, True)
    data[6][1, 1] = math.nan
    with pytest.raises(InputError, match=r"batch 6 makes NaN in input0|batch 6.*holds NaN"):
        traced.calibrate(data, algorithm, more={"infinite": True})


def test_nan_stops_where_infinities_do_not():
    class Masked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.masked_fill(x > 9, -math.inf).softmax(-1)

    traced = Traced(Masked(), [torch.randn(4, 3)])
    data = [torch.rand(4, 3) for _ in range(8)]
    data[5][2] = 10.0  # nothing is left in this row
    with pytest.raises(InputError, match="batch 5 makes NaN in op"):
        traced.calibrate(data, more={"infinite": True})


@pytest.mark.parametrize("algorithm", ["minmax", "entropy"])
def test_nothing_but_infinities_is_no_constant(algorithm):
    class Emptied(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.masked_fill(x < 9, -math.inf)

    told: list[str] = []
    traced = Traced(Emptied(), [torch.rand(4, 3)])
    amax = traced.calibrate([torch.rand(4, 3) for _ in range(8)], algorithm, more={"infinite": True, "tell": told.append})
    assert [name for name, value in amax.items() if value == math.inf] == [list(amax)[-1]]
    assert told == []
