"""Around the default stream: TensorRT 10 and newer synchronize the whole device for what is enqueued there."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .driver import private_stream

__all__ = ["Detour"]


class Detour:
    """A stream beside a GPU's default one, which waits for it and is waited for, on the GPU.

    Threads may share the events: each records the same stream, and a later record holds what an earlier one did.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.ExternalStream(private_stream(), device)
        self._before, self._after = torch.cuda.Event(), torch.cuda.Event()

    def enqueue(self, enqueue: Callable[[int], bool], default: torch.cuda.Stream) -> bool:
        """``enqueue`` on the stream beside, as if it were on the default one."""
        self._before.record(default)
        self._stream.wait_event(self._before)
        enqueued = bool(enqueue(self._stream.cuda_stream))
        self._after.record(self._stream)
        default.wait_event(self._after)
        return enqueued
