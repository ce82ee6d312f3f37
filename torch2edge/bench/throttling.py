"""Was the device slowed down while it was watched?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from .samples import Sample

__all__ = ["can_tell", "throttling"]

CLOCK = "clock gpu"
BUSY = 50  # percent of load; a clock that falls when there is nothing to do means nothing
FEWEST = 8  # samples
QUARTERS = 4
FALL = 0.05
HOT = 80  # °C
SENSORS = ("temperature tj", "temperature gpu", "temperature GPU", "temperature thermal", "temperature cpu", "temperature CPU")


def throttling(samples: Sequence[Sample]) -> list[str]:
    """A sentence for each sign of it.

    The hardware's own reasons (NVML's, or the kernel's throttle alerts of a Jetson), and a GPU clock that fell under load: the
    median of a quarter of the samples is more than 5 % below that of an earlier quarter.
    """
    told = []
    for reason in dict.fromkeys(reason for sample in samples for reason in sample.throttled or ()):
        count = sum(reason in (sample.throttled or ()) for sample in samples)
        told.append(f"The clocks were held down by {reason} in {count} of {len(samples)} samples.")
    return told + _fallen(samples)


def can_tell(samples: Sequence[Sample]) -> bool:
    """Whether throttling would have been seen: the hardware gives reasons, or there are enough clocks under load."""
    return any(sample.throttled is not None for sample in samples) or len(_busy(samples)) >= FEWEST


def _busy(samples: Sequence[Sample]) -> list[Sample]:
    return [s for s in samples if s.readings.get(CLOCK, 0) > 0 and s.readings.get("load gpu", 100) >= BUSY]


def _fallen(samples: Sequence[Sample]) -> list[str]:
    busy = _busy(samples)
    if len(busy) < FEWEST:
        return []
    size = len(busy) / QUARTERS
    quarters = [busy[round(i * size) : round((i + 1) * size)] for i in range(QUARTERS)]
    clocks = [statistics.median(sample.readings[CLOCK] for sample in quarter) for quarter in quarters]
    falls = [(1 - clocks[j] / clocks[i], i, j) for i in range(QUARTERS) for j in range(i + 1, QUARTERS)]
    fall, before, after = max(falls)
    if fall <= FALL:
        return []
    heat = max((s.readings[name] for s in quarters[after] for name in SENSORS if name in s.readings), default=None)
    how = f"The GPU clock fell from {clocks[before]:.0f} to {clocks[after]:.0f} MHz under load"
    if heat is None:
        return [f"{how}; no temperature is known."]
    if heat >= HOT:
        return [f"{how}, at {heat:.0f} °C: thermal throttling. Better cooling, or a lower power mode, keeps the clock steady."]
    return [
        f"{how}, at {heat:.0f} °C, which is not hot: a power limit, or clocks that are not locked (nvidia-smi -lgc, "
        "jetson_clocks), may be why."
    ]
