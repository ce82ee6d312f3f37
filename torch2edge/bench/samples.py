"""What a monitor reads at one moment, and where it reads it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

__all__ = ["UNITS", "Sample", "Source"]

UNITS = {"power": "W", "clock": "MHz", "temperature": "°C", "memory": "MiB", "load": "%"}
"""The first word of a reading's name -> its unit."""


class Sample(NamedTuple):
    """Readings at one moment.

    ``readings`` has names such as "power", "power VDD_IN", "clock gpu", "temperature tj", "memory used" and "load gpu", in the
    units of ``UNITS``. ``throttled`` has the reasons that the hardware itself gives for lower clocks; None where it
    does not tell.
    """

    seconds: float  # since the monitor began
    readings: Mapping[str, float]
    throttled: tuple[str, ...] | None = None


class Source(Protocol):
    """Something that can be read."""

    title: str

    def samples(self, interval: float, stop: threading.Event) -> Iterator[Sample]:
        """A sample about every ``interval`` seconds, until ``stop`` is set."""

    def close(self) -> None:
        """Interrupt ``samples`` where it waits; called from another thread, after ``stop`` is set."""
