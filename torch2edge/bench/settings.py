"""How to measure: the options of a benchmark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Options of ``torch2edge.benchmark``, by trtexec's names and with its defaults where it has them.

    Raises:
        ConfigError: an option is of a wrong type or out of its range.
    """

    iterations: int = 10  # at least so many calls on each stream
    duration: float = 3.0  # at least so many seconds
    warmup: float | None = None  # milliseconds; None: until stable
    streams: int = 1  # batches in flight, each on a CUDA stream of its own
    threads: bool = False  # a thread for each stream
    spin_wait: bool = False  # the host spins instead of sleeping while it waits for the GPU
    data_transfers: bool = True  # inputs come from the host, outputs go to it
    cuda_graph: bool = False

    def __post_init__(self) -> None:
        _whole("iterations", self.iterations)
        _whole("streams", self.streams)
        _number("duration", self.duration, "seconds")
        if self.warmup is not None:
            _number("warmup", self.warmup, "milliseconds, or None for until stable")
        for name in ("threads", "spin_wait", "data_transfers", "cuda_graph"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"benchmark: {name} is {getattr(self, name)!r}; it must be True or False")

    def check_for_host(self) -> None:
        """Refuse what a benchmark on the CPU cannot do.

        Raises:
            ConfigError: an option that is about a GPU.
        """
        asked = {
            "streams": self.streams > 1, "threads": self.threads, "spin_wait": self.spin_wait, "cuda_graph": self.cuda_graph,
        }  # fmt: skip
        wrong = [name for name, is_set in asked.items() if is_set]
        if wrong:
            raise ConfigError(
                f"benchmark: {', '.join(wrong)}: the module is on the CPU, where there are no CUDA streams, events or graphs. "
                "Move the module and its inputs to a GPU, or leave that out."
            )


def _whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"benchmark: {name} is {value!r}; it must be a whole number from 1 on")


def _number(name: str, value: Any, unit: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"benchmark: {name} is {value!r}; it must be a number of {unit}, 0 or more")
