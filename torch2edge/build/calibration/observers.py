"""What is kept of a tensor over all batches: its extremes, and for some algorithms a histogram of its magnitudes.

A histogram must not depend on the order of the batches, nor on which rank saw which: its bins are given by the leading bits
of a float32, so that any two histograms are brought to one range by moving and adding whole bins.

Of a large tensor not every element is counted, for on a CPU that would take longer than a tenth of the model's own time:
every k-th is, and counts for k. The extremes are always those of all elements.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import torch

__all__ = ["BINS", "COUNTED", "EMPTY", "Extremes", "Histogram", "stride"]

BINS = 4096
"""Bins of equal width over [0, 2**e), where 2**(e-1) <= largest magnitude < 2**e: between 2049 and 4096 are in use."""

COUNTED = 1 << 18
"""Elements of a tensor, in one batch, up to which all are counted."""

EMPTY = -sys.float_info.max
"""The bounds of a tensor that was there, but without elements: above those of one that never was, below every other's."""

_OCTAVES = 12  # BINS = 2**12: the octave [2**(e-12), 2**(e-11)) is one bin wide
_MANTISSA = 11  # the leading bits of the mantissa that part the top octave into BINS / 2
_PER_OCTAVE = 1 << _MANTISSA
_SMALLEST = -100  # the least exponent: float32's normal numbers go on below, far enough for all octaves


class Extremes:
    """The smallest and the largest value of a tensor.

    Attributes:
        names: of the points that are this tensor.
        bounds: float64 of shape (2,) on the tensor's device: -smallest and largest; -inf before the first tensor, EMPTY
            before the first element.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self.names = tuple(names)
        self.bounds = torch.full((2,), -math.inf, dtype=torch.float64, device=device)

    def observe(self, tensor: torch.Tensor) -> None:
        """Take in a floating point tensor of any shape; NaN stays visible in ``bounds``."""
        self._widen(tensor)

    def _widen(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel():
            low, high = torch.aminmax(tensor)
            now = torch.stack((-low, high)).double()
        else:
            now = torch.full_like(self.bounds, EMPTY)
        self.bounds = torch.maximum(self.bounds, now)
        return now


class Histogram(Extremes):
    """Extremes, and how often each magnitude occurs.

    Attributes:
        counts: int64 of shape (1 + 12 * 2048,): magnitudes below 2**(exponent - 12), then the 12 octaves up to 2**exponent,
            each in 2048 bins.
        exponent: of the range; every magnitude so far is less than 2**exponent.
    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        super().__init__(names, device)
        self.counts = torch.zeros(1 + _OCTAVES * _PER_OCTAVE, dtype=torch.int64, device=device)
        self.exponent = _SMALLEST

    def observe(self, tensor: torch.Tensor) -> None:
        """Take in a floating point tensor; one that is not finite is not counted, but stays visible in ``bounds``."""
        below, above = self._widen(tensor).tolist()
        if below == EMPTY or not math.isfinite(below) or not math.isfinite(above):
            return
        self.grow(math.frexp(max(below, above))[1])
        step = stride(tensor.numel())
        counted = tensor.detach().reshape(-1)[::step].to(torch.float32).contiguous()
        self.counts += step * torch.bincount(self._places(counted, negative=below > 0), minlength=self.counts.numel())

    def _places(self, tensor: torch.Tensor, *, negative: bool) -> torch.Tensor:
        """The bin of each element of a flat tensor, from its bits: the exponent and the leading bits of the mantissa."""
        bits = tensor.view(torch.int32)
        if negative:
            bits = bits & 0x7FFFFFFF
        lowest = (self.exponent - _OCTAVES + 127) << _MANTISSA  # of the bin after the one for all that is smaller
        return (bits >> (23 - _MANTISSA)).sub_(lowest - 1).clamp_(min=0)

    def grow(self, exponent: int) -> None:
        """Make the range at least 2**exponent; what is then too small for a bin of its own joins the first."""
        octaves = exponent - self.exponent
        if octaves <= 0:
            return
        gone = 1 + min(octaves, _OCTAVES) * _PER_OCTAVE
        grown = torch.zeros_like(self.counts)
        grown[0] = self.counts[:gone].sum()
        grown[1 : 1 + self.counts.numel() - gone] = self.counts[gone:]
        self.counts, self.exponent = grown, exponent

    @property
    def width(self) -> float:
        """Of a bin of ``linear()``."""
        return math.ldexp(1.0, self.exponent) / BINS

    def linear(self) -> torch.Tensor:
        """Counts of magnitudes in ``BINS`` bins of equal width over [0, 2**exponent): int64, on the CPU."""
        counts = self.counts.cpu()
        place = torch.arange(_PER_OCTAVE)
        octaves = [(place + _PER_OCTAVE) >> (_MANTISSA - octave) for octave in range(_OCTAVES)]
        where = torch.cat((torch.zeros(1, dtype=torch.int64), *octaves))
        return torch.zeros(BINS, dtype=torch.int64).index_add_(0, where, counts)


def stride(elements: int) -> int:
    """Every how many-th element of a tensor is counted.

    It shares no factor with any size of the tensor, so that what is counted wanders through all columns and channels.
    """
    step = -(-elements // COUNTED)
    while math.gcd(step, elements) > 1:
        step += 1
    return step
