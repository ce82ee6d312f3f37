"""Times calls with CUDA events."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Timing", "time_cuda"]


@dataclass(frozen=True)
class Timing:
    """Milliseconds of each call, in order of the calls."""

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the calls were faster."""
        return _quantile(sorted(self.milliseconds), 0.5)

    @property
    def p99(self) -> float:
        """99 of 100 calls were faster."""
        return _quantile(sorted(self.milliseconds), 0.99)

    def __str__(self) -> str:
        return f"median {self.median:.3f} ms, p99 {self.p99:.3f} ms over {len(self.milliseconds)} calls"


def time_cuda(call: Callable[[], Any], *, warmup: int = 20, calls: int = 200) -> Timing:
    """Time ``call`` on the current stream, one pair of CUDA events a call, after ``warmup`` calls that are not counted.

    A call's time runs from the moment the GPU reaches its first work to the moment its last is done; where the host is
    slower than the GPU it holds the host's time too, as a caller would feel it.
    """
    for _ in range(warmup):
        call()
    torch.cuda.synchronize()
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(calls)]
    for start, end in pairs:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return Timing(tuple(start.elapsed_time(end) for start, end in pairs))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed."""
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]
