"""How fast: timing on a GPU."""

from .timing import Timing, time_cuda

__all__ = ["Timing", "time_cuda"]
