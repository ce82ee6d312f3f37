"""One stream of calls: each call is enqueued, and its times are read when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from ..structure import flatten
from .settings import Settings

__all__ = ["DeviceLane", "HostLane", "Lane", "Query", "Work"]

DEPTH = 2  # calls in flight on one stream: while one computes, the inputs of the next are copied, as trtexec does

Work = Callable[[], Any]
"""A call whose inputs are in place already; returns its outputs."""


class Query(NamedTuple):
    """The times of one call, in milliseconds; None is what was not measured."""

    latency: float  # h2d + compute + d2h; on the CPU the time of the call
    enqueue: float | None = None  # of the host, until the call returned
    h2d: float | None = None
    compute: float | None = None  # from where the GPU reaches the call's first work to the end of its last
    d2h: float | None = None


class Lane(Protocol):
    """What the loop drives."""

    queries: list[Query]

    def step(self) -> None:
        """Enqueue one more call; waits until there is room for it."""

    def finish(self) -> None:
        """Wait for all that is in flight."""


class HostLane:
    """Calls on the CPU, timed by the host's clock."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.queries: list[Query] = []

    def step(self) -> None:
        """One call."""
        start = time.perf_counter()
        self._work()
        self.queries.append(Query(1e3 * (time.perf_counter() - start)))

    def finish(self) -> None:
        """Nothing is in flight."""


class _Slot:
    """One call in flight: its buffers, its events, the outputs that must live until they are copied."""

    def __init__(self, work: Work, given: Sequence[torch.Tensor], blocking: bool) -> None:
        self.work = work
        self.given = list(given)
        self.host = [torch.empty_like(t, device="cpu", pin_memory=True).copy_(t) for t in given]
        self.results: list[torch.Tensor] = []
        self.fetched: list[torch.Tensor] = []
        self.busy = False
        self.enqueue = 0.0
        (self.in_start, self.in_end, self.start, self.end, self.out_start, self.out_end) = (
            torch.cuda.Event(enable_timing=True, blocking=blocking) for _ in range(6)
        )


class DeviceLane:
    """Calls on a CUDA stream, timed by events; copies of inputs and outputs run on two streams beside it.

    Args:
        make: called once for each of the two calls that can be in flight: gives the work and the device tensors that it
            reads, which no other call writes.
        stream: where the work is enqueued; it is the current stream during the work.
    """

    def __init__(self, make: Callable[[torch.cuda.Stream], tuple[Work, Sequence[torch.Tensor]]], settings: Settings) -> None:
        self._transfers = settings.data_transfers
        self._stream, self._in, self._out = (torch.cuda.Stream() for _ in range(3))
        self._slots = [_Slot(*make(self._stream), blocking=not settings.spin_wait) for _ in range(DEPTH)]
        self._next = 0
        self.queries: list[Query] = []

    def step(self) -> None:
        """Enqueue one more call, once the one before the last is done."""
        slot = self._slots[self._next]
        self._next = (self._next + 1) % DEPTH
        self._collect(slot)
        if self._transfers:
            self._send(slot)
        torch.cuda.set_stream(self._stream)
        slot.start.record(self._stream)
        start = time.perf_counter()
        outputs = slot.work()
        slot.enqueue = 1e3 * (time.perf_counter() - start)
        slot.end.record(self._stream)
        tensors = [outputs] if isinstance(outputs, torch.Tensor) else flatten(outputs)[0]
        slot.results = [t for t in tensors if t.device.type == "cuda"]
        if self._transfers:
            self._fetch(slot)
        slot.busy = True

    def finish(self) -> None:
        """Wait for the calls in flight, the older first."""
        for i in range(DEPTH):
            self._collect(self._slots[(self._next + i) % DEPTH])

    def _send(self, slot: _Slot) -> None:
        torch.cuda.set_stream(self._in)
        slot.in_start.record(self._in)
        for there, here in zip(slot.given, slot.host):
            there.copy_(here, non_blocking=True)
        slot.in_end.record(self._in)
        self._stream.wait_event(slot.in_end)

    def _fetch(self, slot: _Slot) -> None:
        if not slot.fetched:
            slot.fetched = [torch.empty_like(t, device="cpu", pin_memory=True) for t in slot.results]
        torch.cuda.set_stream(self._out)
        self._out.wait_event(slot.end)
        slot.out_start.record(self._out)
        for here, there in zip(slot.fetched, slot.results):
            here.copy_(there, non_blocking=True)
        slot.out_end.record(self._out)

    def _collect(self, slot: _Slot) -> None:
        if not slot.busy:
            return
        (slot.out_end if self._transfers else slot.end).synchronize()
        slot.busy = False
        compute = slot.start.elapsed_time(slot.end)
        if not self._transfers:
            self.queries.append(Query(compute, slot.enqueue, None, compute, None))
            return
        h2d, d2h = slot.in_start.elapsed_time(slot.in_end), slot.out_start.elapsed_time(slot.out_end)
        self.queries.append(Query(h2d + compute + d2h, slot.enqueue, h2d, compute, d2h))
