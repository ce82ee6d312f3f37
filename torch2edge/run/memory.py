"""Activation memory that several engines share, because they never run at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["SharedMemories", "SharedMemory"]


class SharedMemory:
    """One block of a GPU's memory, as large as the largest of those who share it need.

    Whoever uses it does so inside of ``turn``: what another stream still computes in it is waited for, on the GPU.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._block = torch.empty(0, dtype=torch.uint8, device=device)
        self._old: list[torch.Tensor] = []  # contexts were told their addresses
        self._last: torch.cuda.Stream | None = None
        self._done = torch.cuda.Event()  # the last one's work
        self._lock = threading.RLock()

    def __del__(self) -> None:
        if self._last is not None:  # PyTorch's allocator knows nothing of the streams, some of which may be gone
            self._done.synchronize()

    @property
    def size(self) -> int:
        """Bytes of the GPU's memory that it holds."""
        return self._block.numel() + sum(t.numel() for t in self._old)

    def address(self, size: int) -> int:
        """Where ``size`` bytes may be written, aligned as TensorRT wants it."""
        with self._lock:
            if self._block.numel() < size:
                self._old.append(self._block)
                self._block = torch.empty(max(size, 1), dtype=torch.uint8, device=self._device)
            return self._block.data_ptr()

    @contextmanager
    def turn(self, stream: torch.cuda.Stream) -> Iterator[None]:
        """What is enqueued on ``stream`` meanwhile runs after everything that used the memory before."""
        with self._lock:
            if self._last is not None:
                stream.wait_event(self._done)
            self._last = stream
            try:
                yield
            finally:
                self._done.record(stream)


class SharedMemories:
    """A ``SharedMemory`` per GPU."""

    def __init__(self) -> None:
        self._held: dict[int, SharedMemory] = {}
        self._lock = threading.Lock()

    def here(self) -> SharedMemory:
        """That of the current GPU."""
        index = torch.cuda.current_device()
        with self._lock:
            if index not in self._held:
                self._held[index] = SharedMemory(torch.device("cuda", index))
            return self._held[index]
