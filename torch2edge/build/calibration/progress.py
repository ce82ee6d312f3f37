"""How far the calibration is, on stderr: tqdm's bar where it is installed, else lines; nothing in the first second."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Progress"]

_FIRST, _BETWEEN = 1.0, 5.0  # seconds


class Progress:
    """Counts batches.

    Args:
        total: how many there will be, where that is known.
        shown: False says nothing.
        line: takes each line in the place of the bar.
    """

    def __init__(self, total: int | None, shown: bool, line: Callable[[str], None] | None = None) -> None:
        self._total, self._done, self._bar = total, 0, None
        self._next = time.monotonic() + _FIRST
        self._line = line or (lambda text: print(text, file=sys.stderr, flush=True)) if shown else None
        if shown and line is None:
            self._bar = _bar(total)

    def step(self) -> None:
        """One batch more."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif self._line is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + _BETWEEN
            self._line(f"calibration: {self._done}{f' of {self._total}' if self._total else ''} batches")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _bar(total: int | None) -> Any:
    with contextlib.suppress(ImportError):
        from tqdm import tqdm

        return tqdm(total=total, desc="calibration", unit="batch", delay=_FIRST, file=sys.stderr)
    return None
