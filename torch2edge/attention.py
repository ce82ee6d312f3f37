"""nn.MultiheadAttention without its fused fast path."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

__all__ = ["plain_attention"]

_lock = threading.Lock()
_inside = 0
_before = True


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Run nn.MultiheadAttention and nn.TransformerEncoder by their ordinary paths.

    The fast path is one opaque op, which nothing converts, and on the CPU it gives NaN for a row that sees nothing (a
    sequence that is all padding) where the ordinary path gives zeros. The switch belongs to the process: the first thread
    turns it off, the last one puts it back.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            _before = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                torch.backends.mha.set_fastpath_enabled(_before)
