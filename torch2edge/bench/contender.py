"""Something to measure: its lanes, the loop that drives them, and its warm-up."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from .lanes import Lane, Query

__all__ = ["Contender", "Run", "WarmUp", "heap_left_alone"]

WINDOW = 0.05  # seconds
WINDOW_CALLS = 3
STEADY = 3  # windows
WITHIN = 0.02
LIMIT = 10.0  # seconds


@dataclass(frozen=True)
class Run:
    """Calls, and the host's time from the first one's enqueue to the last one's end, in seconds."""

    queries: list[Query]
    seconds: float


@dataclass(frozen=True)
class WarmUp:
    """What came before the measuring."""

    calls: int
    seconds: float
    stable: bool | None  # None: it was of a fixed length


@contextlib.contextmanager
def heap_left_alone() -> Iterator[None]:
    """Python's garbage collector looks at new objects only: else it walks through all of torch's in the midst of a call."""
    if gc.get_freeze_count():  # somebody has done so already
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Contender:
    """A module with its inputs in place.

    Args:
        name: what the result calls it.
        lanes: one per stream.
        threads: drive each lane from a thread of its own.
        device: of the lanes; None for the CPU.
    """

    def __init__(self, name: str, lanes: Sequence[Lane], threads: bool = False, device: torch.device | None = None) -> None:
        self.name, self._lanes, self._device = name, list(lanes), device
        # a pool for each, so that a lane stays on its thread: engines have their contexts per thread and stream
        self._pools = [ThreadPoolExecutor(1) for _ in lanes] if threads else []

    def close(self) -> None:
        """End the threads."""
        for pool in self._pools:
            pool.shutdown()

    def run(self, calls: int, seconds: float, limit: float = float("inf")) -> Run:
        """At least ``calls`` calls on each lane and at least ``seconds``, but no call begins after ``limit`` seconds."""
        for lane in self._lanes:
            lane.queries = []
        start = time.perf_counter()
        if self._pools:
            tasks = [pool.submit(self._drive, [lane], calls, seconds, limit) for pool, lane in zip(self._pools, self._lanes)]
            for task in tasks:
                task.result()
        else:
            self._drive(self._lanes, calls, seconds, limit)
        spent = time.perf_counter() - start
        return Run([query for lane in self._lanes for query in lane.queries], spent)

    def _drive(self, lanes: Sequence[Lane], calls: int, seconds: float, limit: float) -> None:
        with torch.no_grad(), self._on_device():
            start = time.perf_counter()
            done, spent = 0, 0.0
            while (done < calls or spent < seconds) and (spent < limit or not done):
                for lane in lanes:
                    lane.step()
                done += 1
                spent = time.perf_counter() - start
            for lane in lanes:
                lane.finish()

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        """The lanes' device; the lanes change the current stream, which is put back."""
        if self._device is None:
            yield
            return
        with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.current_stream(self._device)):
            yield

    def warm_up(self, milliseconds: float | None) -> WarmUp:
        """Calls that are not counted: for so long, or until stable.

        Stable: the median latencies of three windows in a row are within 2 % of each other. A window is 50 ms and at least
        three calls. After 10 s it is given up.
        """
        if milliseconds is not None:
            run = self.run(1, milliseconds / 1e3)
            return WarmUp(len(run.queries), run.seconds, None)
        medians: list[float] = []
        calls, seconds = 0, 0.0
        while seconds < LIMIT:
            run = self.run(WINDOW_CALLS, WINDOW, LIMIT - seconds)
            medians.append(statistics.median(query.latency for query in run.queries))
            calls, seconds = calls + len(run.queries), seconds + run.seconds
            last = medians[-STEADY:]
            if len(last) == STEADY and max(last) <= (1 + WITHIN) * min(last):
                return WarmUp(calls, seconds, True)
        return WarmUp(calls, seconds, False)
