"""The algorithms against the plainest form of each: loops over bins, or over the elements themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from torch2edge.build.calibration.algorithms import amax_of, entropy, mse, percentile
from torch2edge.build.calibration.observers import Extremes, Histogram

CPU = torch.device("cpu")


def histogram(*tensors: torch.Tensor) -> Histogram:
    result = Histogram(["x"], CPU)
    for tensor in tensors:
        result.observe(tensor)
    return result


def divergence(counts: np.ndarray, n: int) -> float:
    """Migacz's pseudocode for one candidate, bin by bin."""
    reference = counts[:n].astype(float).copy()
    reference[n - 1] += counts[n:].sum()
    if counts[:n].sum() == 0:
        return math.inf
    counts = counts.copy()
    if reference[n - 1] and not counts[n - 1]:
        counts[n - 1] = 1  # ours: where the slide divides by zero
    quantized = np.zeros(n)
    level_of = [j * 128 // n for j in range(n)]
    for level in range(128):
        bins = [j for j in range(n) if level_of[j] == level and counts[j] > 0]
        for j in bins:
            quantized[j] = sum(counts[k] for k in bins) / len(bins)
    p, q = reference / reference.sum(), quantized / quantized.sum()
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())


@pytest.mark.parametrize("kind", ["normal", "laplace", "relu", "heavy", "gaps"])
def test_entropy_is_migaczs(kind):
    rng = np.random.default_rng()
    bins = int(rng.integers(200, 300))
    x = {
        "normal": rng.normal(0, 0.3, 30000), "laplace": rng.laplace(0, 0.1, 30000),
        "relu": np.maximum(rng.normal(0, 0.4, 30000), 0), "heavy": rng.standard_t(2, 30000) * 0.05,
        "gaps": rng.choice([0.1, 0.2, 0.5, 0.51, 0.97], 3000),
    }[kind]  # fmt: skip
    counts = np.bincount(np.minimum(np.abs(x) * bins, bins - 1).astype(int), minlength=bins)
    without_zeros = counts.copy()
    without_zeros[0] = 0
    used = int(np.nonzero(without_zeros)[0][-1]) + 1
    expected = {n: divergence(without_zeros[:used], n) for n in range(128, used + 1)}
    found = entropy(torch.from_numpy(counts), 1.0)
    assert found - 0.5 in expected
    assert expected[int(found - 0.5)] <= min(expected.values()) + 1e-9


def errors(x: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Squared errors of the quantized elements for each amax."""
    scale = candidates.double()[:, None] / 127
    return ((x - (x / scale).round().clamp(-127, 127) * scale) ** 2).sum(1)


@pytest.mark.parametrize("kind", ["normal", "uniform", "relu", "outliers", "laplace"])
def test_mse_is_as_good_as_the_best_found_by_search(kind):
    x = {
        "normal": torch.randn(20000), "uniform": torch.rand(20000) - 0.5, "relu": torch.randn(20000).relu() * 7,
        "outliers": torch.cat((torch.randn(20000), torch.tensor([30.0, -25.0]))),
        "laplace": torch.distributions.Laplace(0.0, 1.0).sample((20000,)),
    }[kind].double()  # fmt: skip
    observed = histogram(x.float())
    found = amax_of(observed, "mse", 99.99)
    searched = torch.linspace(0.02, 1, 300) * x.abs().max()
    assert float(errors(x, torch.tensor([found]))) <= 1.01 * float(errors(x, searched).min())
    assert found <= float(x.abs().max())


def test_mse_clips_outliers_and_keeps_what_is_dense():
    dense = histogram(torch.rand(50000))
    assert amax_of(dense, "mse", 99.99) > 0.99
    lonely = histogram(torch.cat((torch.randn(100000), torch.tensor([500.0]))))
    assert amax_of(lonely, "minmax", 99.99) == 500
    assert amax_of(lonely, "mse", 99.99) > 100  # one square of 500 outweighs all the rounding
    assert 4 < amax_of(lonely, "entropy", 99.99) < 100


@pytest.mark.parametrize("share", [90.0, 99.0, 99.9, 99.99, 100.0])
def test_percentile_is_the_quantile(share):
    x = torch.randn(200000) * 3
    observed = histogram(*x.split(5000))
    expected = float(np.quantile(x.abs().numpy(), share / 100, method="inverted_cdf"))
    found = amax_of(observed, "percentile", share)
    assert abs(found - expected) <= 2 * observed.width + (0.05 if share == 99.99 else 0)
    if share == 100:
        assert found == pytest.approx(float(x.abs().max()), abs=observed.width)


def test_percentile_of_nearly_all_zeros_is_that_of_the_others():
    x = torch.zeros(100000)
    x[:5] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert 4.5 < amax_of(histogram(x), "percentile", 99.9) <= 5


def test_percentile_counts_zeros_like_other_elements():
    x = torch.cat((torch.zeros(9000), torch.linspace(1, 2, 1000)))
    assert amax_of(histogram(x), "percentile", 95.0) == pytest.approx(1.5, abs=0.01)


def test_zeros_do_not_move_the_entropy():
    x = torch.randn(50000).abs() + 0.01
    alone = amax_of(histogram(x), "entropy", 99.99)
    assert amax_of(histogram(x, torch.zeros(10**6)), "entropy", 99.99) == alone


@pytest.mark.parametrize("algorithm", ["entropy", "minmax", "percentile", "mse"])
class TestOddTensors:
    def kept(self, algorithm: str, *tensors: torch.Tensor) -> float:
        observer = (Extremes if algorithm == "minmax" else Histogram)(["x"], CPU)
        for tensor in tensors:
            observer.observe(tensor)
        return amax_of(observer, algorithm, 99.99)

    def test_zeros(self, algorithm):
        assert self.kept(algorithm, torch.zeros(3, 4), -torch.zeros(2)) == 1.0

    @pytest.mark.parametrize("value", [3.0, -0.7, 1e-20, 65504.0])
    def test_one_number(self, algorithm, value):
        assert self.kept(algorithm, torch.full((5, 5), value)) == pytest.approx(abs(value), rel=1e-6)

    def test_two_numbers(self, algorithm):
        assert self.kept(algorithm, torch.tensor([0.0, 2.0] * 50)) == pytest.approx(2.0, rel=1e-3)

    @pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
    def test_the_scale_of_the_data_is_the_scale_of_the_result(self, algorithm, scale):
        x = torch.randn(5000)
        power = 2.0 ** round(math.log2(scale))  # exact: the same bins, elsewhere
        whole = self.kept(algorithm, x)
        assert self.kept(algorithm, x * power) == pytest.approx(whole * power, rel=1e-12)

    def test_signs_do_not_matter(self, algorithm):
        x = torch.randn(5000)
        assert self.kept(algorithm, x) == self.kept(algorithm, -x) == self.kept(algorithm, x.abs())

    def test_amax_is_never_more_than_what_was_seen(self, algorithm):
        for _ in range(5):
            x = torch.randn(300) * torch.rand(1) * 10
            assert 0 < self.kept(algorithm, x) <= float(x.abs().max())


def test_few_bins_in_use_are_taken_whole():
    counts = torch.zeros(4096, dtype=torch.int64)
    counts[:100] = 5
    assert entropy(counts, 0.5) == mse(counts, 0.5) == 50
    assert percentile(counts, 0.5, 100.0) == 50


def test_entropy_of_few_elements_clips_nothing() -> None:
    """A divergence between histograms with less than an element per bin says nothing."""
    few, enough = (Histogram(["x"], torch.device("cpu")) for _ in range(2))
    x = torch.distributions.StudentT(3.0).sample((40000,))
    few.observe(x[:5000])
    enough.observe(x)
    assert amax_of(few, "entropy", 99.99) == float(x[:5000].abs().max())
    assert amax_of(enough, "entropy", 99.99) < 0.9 * float(x.abs().max())
