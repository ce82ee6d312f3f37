"""From what was observed to the largest magnitude that INT8 holds (amax); anything beyond is clipped. Scale = amax / 127.

- minmax: the largest magnitude seen; nothing is clipped.
- percentile: the magnitude that this share of all elements does not exceed.
- mse: the one with the smallest expected squared error of quantization.
- entropy: the one whose quantized distribution loses the least information (Kullback-Leibler divergence), after S. Migacz,
  "8-bit Inference with TensorRT", GTC 2017 (S7310), the slide "Entropy Calibration - pseudocode". It compares histograms, so
  a tensor of which fewer than ENOUGH elements that are not zero were seen takes the largest magnitude.
"""

from __future__ import annotations

import math

import torch

from .observers import EMPTY, Extremes, Histogram

__all__ = ["amax_of", "entropy", "mse", "percentile"]

LEVELS = 128  # of a magnitude in int8
ALL_ZERO = 1.0  # any scale holds zeros, and nothing at all; this one is neither a zero nor an infinity to anybody
# Five per bin. Of 640 elements the divergence kept 0.19 of the range once, and 60 % of the signal was lost.
ENOUGH = 10240
_COARSE = 8  # mse: the distance of the first candidates, in bins: 1/512 to 1/256 of the range


def amax_of(observer: Extremes, algorithm: str, share: float) -> float:
    """The amax of an observed tensor.

    A tensor that is zero everywhere, or has no elements, has the amax 1, and one that is one number everywhere its magnitude.

    Args:
        algorithm: one of ``settings.ALGORITHMS``.
        share: the percentile, in percent.
    """
    below, above = observer.bounds.tolist()
    largest = max(below, above)
    if largest in (0, EMPTY):
        return ALL_ZERO
    whole = algorithm == "minmax" or (algorithm == "percentile" and share == 100) or below == -above
    if whole or not isinstance(observer, Histogram):
        return float(largest)
    counts, width = observer.linear(), observer.width
    if algorithm == "entropy" and float(counts[1:].sum()) < ENOUGH:
        return float(largest)
    if algorithm == "percentile":
        found = percentile(counts, width, share)
    else:
        found = entropy(counts, width) if algorithm == "entropy" else mse(counts, width)
    return min(found, float(largest))


def percentile(counts: torch.Tensor, width: float, share: float) -> float:
    """The magnitude that ``share`` percent of the elements do not exceed, taken as evenly spread over each bin.

    Where that is in the bin of zeros, though larger elements exist, it is that of the others: a tensor that is zero nearly
    everywhere is not to be clipped away.
    """
    counts = counts.double()
    if float(counts[0]) >= share / 100 * float(counts.sum()) and bool(counts[1:].any()):
        counts = torch.cat((torch.zeros(1, dtype=counts.dtype), counts[1:]))
    running = counts.cumsum(0)
    wanted = share / 100 * float(running[-1])
    place = min(int(torch.searchsorted(running, wanted)), _last(counts))
    before = float(running[place] - counts[place])
    return width * (place + min(max((wanted - before) / float(counts[place]), 0.0), 1.0))


def mse(counts: torch.Tensor, width: float) -> float:
    """The amax of the smallest expected squared error, where elements are evenly spread over each bin.

    Every eighth bin's edge is tried, then all around the best. Elements of the first bin are zeros to every candidate.
    """
    weights = counts.double()
    weights[0] = 0
    used = _last(counts) + 1
    if used <= LEVELS:
        return used * width
    coarse = torch.arange(used, LEVELS - 1, -_COARSE)
    best = int(coarse[_squared_errors(weights[:used], coarse).argmin()])
    fine = torch.arange(max(best - _COARSE + 1, LEVELS), min(best + _COARSE, used + 1)).flip(0)  # the larger of two equals
    return width * int(fine[_squared_errors(weights[:used], fine).argmin()])


def _squared_errors(weights: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Sum of the squared errors for each amax among ``candidates``, in bins (and squares of bins).

    Between two edges the error is the integral of (x - q(x))**2: over a whole step of size s it is s**3 / 12, and within one
    it grows with the cube of the distance from its middle; beyond the last step all are clipped to it.
    """
    step = candidates.double()[:, None] / (LEVELS - 1)
    edges = torch.arange(weights.numel() + 1, dtype=torch.float64)
    level = (edges / step).round_().clamp_(max=LEVELS - 1)
    integral = (edges - level * step).pow_(3).div_(3).add_(level.mul_(step.pow(3) / 12))
    return integral.diff(dim=1) @ weights


def entropy(counts: torch.Tensor, width: float) -> float:
    """The amax of the smallest divergence between the clipped distribution and the same in 128 levels.

    A candidate takes the first n bins, n from 128 on. Its reference has the elements beyond added to the last bin; its
    quantized form is made of the bins without them, each level's elements spread evenly over the level's bins that are not
    empty. The first bin, where the zeros are, is left out: zero is exact at every scale, and after a ReLU it would outweigh
    all else. Of equal divergences the larger amax is taken.

    The slide leaves open what to do where the last bin is empty without the elements beyond: the divergence would be infinite,
    and one far outlier in a gap would keep a tensor from being clipped at all. Here such a bin counts as one element.
    """
    counts = counts.double()
    counts[0] = 0
    used = _last(counts) + 1
    if used <= LEVELS:
        return used * width
    counts = counts[:used]
    running = torch.cat((torch.zeros(1, dtype=torch.float64), counts.cumsum(0)))
    filled = torch.cat((torch.zeros(1, dtype=torch.float64), (counts > 0).double().cumsum(0)))
    candidates = torch.arange(LEVELS, used + 1)
    # level l of candidate n holds the bins j with floor(j * 128 / n) == l; a shift by 7 divides by 128
    edges = (torch.arange(LEVELS + 1) * candidates[:, None] + LEVELS - 1) >> 7
    sums, sizes = running[edges].diff(dim=1), filled[edges].diff(dim=1)
    total, kept = running[-1], running[candidates]
    last, outliers = counts[candidates - 1], total - kept
    alone = ((last == 0) & (outliers > 0)).double()
    sums[:, -1] += alone
    sizes[:, -1] += alone
    share = sums / sizes.clamp(min=1)  # of each of a level's bins that are not empty
    # sum of P log P - P log Q over the bins, where P is the reference and Q its quantized form, each by its own sum. Within a
    # level Q is one number, so that the sum over its bins is that of their P; the last one's has the elements beyond too.
    plogp = torch.cat((torch.zeros(1, dtype=torch.float64), torch.special.xlogy(counts, counts).cumsum(0)))[candidates]
    plogp += torch.special.xlogy(last + outliers, last + outliers) - torch.special.xlogy(last, last)
    logq = share.clamp_(min=1e-300).log_()  # an empty level has nothing to weigh it with
    plogq = (sums * logq).sum(1) + (outliers - alone) * logq[:, -1]
    divergence = (plogp - plogq) / total - math.log(total) + (kept + alone).log()
    divergence[kept == 0] = math.inf
    best = divergence <= divergence.min() + 1e-12
    return width * (int(candidates[best][-1]) + 0.5)


def _last(counts: torch.Tensor) -> int:
    """The last bin that is not empty."""
    return int(counts.nonzero()[-1]) if bool(counts.any()) else 0
