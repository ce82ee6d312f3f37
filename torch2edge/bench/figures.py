"""The figures of a series of times, computed as trtexec computes those of the same names.

Sources: ``findMedian``, ``findPercentile`` and ``findCoeffOfVariance`` in samples/common/sampleReporting.cpp of
github.com/NVIDIA/TensorRT (read for their meaning).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["PERCENTS", "Figure", "percentile"]

PERCENTS = (90, 95, 99)


@dataclass(frozen=True)
class Figure:
    """What is told of a series of times; all in milliseconds, but ``cv`` in percent.

    ``cv`` is the coefficient of variation: the standard deviation (over n, not n - 1) by the mean.
    """

    min: float
    max: float
    mean: float
    median: float
    p90: float
    p95: float
    p99: float
    cv: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Figure:
        """The figures of ``times`` (milliseconds, at least one)."""
        ordered = sorted(times)
        count = len(ordered)
        mean = math.fsum(ordered) / count
        middle = count // 2
        median = ordered[middle] if count % 2 else (ordered[middle - 1] + ordered[middle]) / 2
        spread = math.sqrt(math.fsum((t - mean) ** 2 for t in ordered) / count)
        p90, p95, p99 = (percentile(ordered, percent) for percent in PERCENTS)
        return cls(ordered[0], ordered[-1], mean, median, p90, p95, p99, cv=100 * spread / mean if mean else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """As plain numbers."""
        return asdict(self)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """What is left as the largest when the largest n * (1 - percent / 100), rounded down, are left out.

    trtexec computes that count in single precision, where 1 - 0.99 is a little less than 0.01: of 100 times its 99th
    percentile is the largest, not the second largest. So is this.
    """
    count = len(ordered)
    left_out = int((np.float32(1) - np.float32(percent) / np.float32(100)) * np.float32(count))
    return ordered[max(count - 1 - left_out, 0)]
