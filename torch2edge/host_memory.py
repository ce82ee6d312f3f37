"""How much memory of the host a stretch of work takes at its peak."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["HostPeak"]

_STATUS = Path("/proc/self/status")
_PERIOD = 0.005  # seconds


class HostPeak:
    """How far the resident memory of this process rises above where it was when this was made.

    Linux keeps the highest value of the process's life (VmHWM): where that rises in a watched stretch, it is the peak. Where
    the process was larger before, the memory is looked at every 5 ms, and a shorter peak may be missed.
    """

    def __init__(self) -> None:
        self._before = _kib("VmRSS")
        self._peak = self._before

    @property
    def added(self) -> int | None:
        """Bytes; None where the system does not tell (it is no Linux)."""
        return None if self._before is None or self._peak is None else (self._peak - self._before) * 1024

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """A stretch that counts."""
        if self._before is None:
            yield
            return
        highest, done = _kib("VmHWM") or 0, threading.Event()
        thread = threading.Thread(target=self._look, args=(done,), daemon=True, name="torch2edge: memory")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self._note(_kib("VmRSS"))
            now = _kib("VmHWM") or 0
            if now > highest:
                self._note(now)

    def _look(self, done: threading.Event) -> None:
        while not done.wait(_PERIOD):
            self._note(_kib("VmRSS"))

    def _note(self, resident: int | None) -> None:
        self._peak = max(self._peak or 0, resident or 0)


def _kib(field: str) -> int | None:
    """A field of /proc/self/status in KiB, or None."""
    try:
        text = _STATUS.read_text()
    except OSError:
        return None
    start = text.find(f"{field}:")
    return None if start < 0 else int(text[start:].split(None, 2)[1])
