"""The figures of a series of times, and what they warn of."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from torch2edge.bench import Figure, Settings, WarmUp, figures_of
from torch2edge.bench.advice import warnings_of
from torch2edge.bench.figures import percentile
from torch2edge.bench.lanes import Query

STABLE = WarmUp(100, 0.2, True)


def test_figures_are_numpys():
    times = [random.lognormvariate(0, 0.4) for _ in range(1001)]
    figure = Figure.of(times)
    assert (figure.min, figure.max) == (min(times), max(times))
    for mine, its in (
        (figure.mean, np.mean(times)), (figure.median, np.median(times)), (figure.cv, 100 * np.std(times) / np.mean(times)),
    ):  # fmt: skip
        assert mine == pytest.approx(its, rel=1e-12)


@pytest.mark.parametrize(("times", "median"), [([3.0, 1.0, 2.0], 2.0), ([4.0, 1.0, 2.0, 3.0], 2.5), ([7.0], 7.0)])
def test_the_median_of_an_even_count_is_between_two(times, median):
    assert Figure.of(times).median == median


# The largest (1 - percent / 100) * n are left out, in single precision as trtexec has it: of 100 times its p99 is the largest
@pytest.mark.parametrize(("count", "percent", "expected"), [
    (1, 99, 1), (10, 90, 9), (10, 99, 10), (100, 90, 90), (100, 95, 95), (100, 99, 100), (1000, 99, 991), (1001, 99, 991),
    (200, 99, 199), (2, 90, 2),
])  # fmt: skip
def test_percentiles_are_trtexecs(count, percent, expected):
    assert percentile([float(i) for i in range(1, count + 1)], percent) == expected


def test_a_percentile_is_a_time_that_was_measured():
    times = sorted(random.random() for _ in range(random.randint(1, 400)))
    for percent in (90, 95, 99):
        found = percentile(times, percent)
        assert found in times
        assert sum(t <= found for t in times) / len(times) >= percent / 100 - 1e-9


def test_times_of_zero_have_no_variation():
    assert Figure.of([0.0, 0.0]).cv == 0.0
    assert math.isfinite(Figure.of([0.0]).mean)


def test_what_was_not_measured_has_no_figures():
    assert list(figures_of([Query(1.0), Query(2.0)])) == ["latency"]
    assert list(figures_of([Query(1.5, 0.2, None, 1.5, None)])) == ["latency", "enqueue", "compute"]
    every = figures_of([Query(3.0, 0.2, 0.5, 2.0, 0.5), Query(4.0, 0.4, 0.5, 3.0, 0.5)])
    assert [every[name].mean for name in ("latency", "enqueue", "h2d", "compute", "d2h")] == pytest.approx(
        [3.5, 0.3, 0.5, 2.5, 0.5]
    )


def warned(
    queries: list[Query], settings: Settings | None = None, warmup: WarmUp = STABLE, milliseconds: float = 0.0
) -> list[str]:
    return warnings_of(figures_of(queries), settings or Settings(), warmup, milliseconds)


def steady(enqueue: float = 0.1, h2d: float = 0.1, compute: float = 1.0, d2h: float = 0.1) -> list[Query]:
    return [Query(h2d + compute + d2h, enqueue, h2d, compute, d2h)] * 20


@pytest.mark.parametrize(("changes", "word"), [
    ({"enqueue": 0.801}, "enqueue time"), ({"h2d": 1.0}, "host-to-device"), ({"d2h": 1.2}, "device-to-host"),
])  # fmt: skip
def test_what_bounds_the_throughput_is_said(changes, word):
    told = warned(steady(**changes))
    assert len(told) == 1
    assert word in told[0]


def test_nothing_is_said_where_nothing_is_wrong():
    assert warned(steady(enqueue=0.8, h2d=0.999, d2h=0.999)) == []


def test_the_hint_at_cuda_graphs_is_for_those_who_have_none():
    assert "CUDA graph" in warned(steady(enqueue=2.0))[0]
    assert "CUDA graph" not in warned(steady(enqueue=2.0), Settings(cuda_graph=True))[0]


def test_an_unstable_compute_time_is_said_above_two_and_a_half_percent():
    def swing(percent: float) -> list[Query]:
        return [Query(t, 0.1, None, t, None) for t in (1 - percent / 100, 1 + percent / 100)] * 10

    assert warned(swing(2.4)) == []
    assert "2.6 %" in warned(swing(2.6))[0]
    assert "The latency is unstable" in warned([Query(1.0), Query(1.2)])[0]


def test_streams_and_a_warm_up_without_end_are_said():
    told = warned(steady(), Settings(streams=2), WarmUp(50, 10.0, False))
    assert [line[:11] for line in told] == ["The warm-up", "2 streams: "]
    assert warned(steady(), warmup=WarmUp(50, 10.0, None)) == []


def test_a_loop_that_is_slower_than_all_stages_is_said():
    assert "own loop" in warned(steady(), milliseconds=1.3)[0]
    assert warned(steady(), milliseconds=1.2) == []
    assert len(warned(steady(enqueue=0.9), milliseconds=1.3)) == 1, "the bound is known already"
