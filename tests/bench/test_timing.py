"""Medians and percentiles of calls; the events themselves need a GPU."""

from __future__ import annotations

import pytest
import torch
from support.gpu import needs_gpu

from torch2edge.bench import Timing, time_cuda


@pytest.mark.parametrize(("values", "median", "p99"), [
    ((3.0, 1.0, 2.0), 2.0, 3.0),
    ((5.0,), 5.0, 5.0),
    (tuple(float(i) for i in range(200, 0, -1)), 100.0, 198.0),
])  # fmt: skip
def test_quantiles_are_values_that_were_measured(values, median, p99):
    timing = Timing(values)
    assert (timing.median, timing.p99) == (median, p99)
    assert f"median {median:.3f} ms, p99 {p99:.3f} ms over {len(values)} calls" in str(timing)


@pytest.mark.gpu
@needs_gpu
def test_a_longer_call_takes_longer():
    small, large = (torch.randn(n, n, device="cuda") for n in (128, 4096))
    calls = []

    def call() -> None:
        calls.append(1)
        large @ large

    slow = time_cuda(call, warmup=3, calls=10)
    assert len(calls) == 13
    assert len(slow.milliseconds) == 10
    fast = time_cuda(lambda: small @ small, warmup=3, calls=10)
    assert min(fast.milliseconds) < min(slow.milliseconds)  # what else the GPU does is in the others
