"""Calibration under torch.distributed: each rank observes its share, and all get what one process over all data gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from ...errors import CalibrationError
from .observers import Extremes, Histogram

__all__ = ["Ranks", "reduce", "this_rank"]


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is.

    Attributes:
        rank: from 0 on.
        world: how many there are; 1 without torch.distributed, and then every method gives back what it gets.
        device: where tensors must be for this backend.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share_of(self, count: int) -> int:
        """How many of ``count`` batches are this rank's, where batch i is rank i % world's."""
        return len(range(self.rank, count, self.world))

    def gather(self, value: Any) -> list[Any]:
        """What every rank passes here, in the order of ranks."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, value)
        return gathered

    def agree(self, attempt: Callable[[], Any]) -> list[Any]:
        """What ``attempt`` gives on every rank; where it fails on one, all raise, so that none waits for ever.

        Raises:
            CalibrationError: it failed on another rank; here, the error is raised as it is.
        """
        error: Exception | None = None
        result = None
        try:
            result = attempt()
        except Exception as raised:
            error = raised
        told = self.gather((result, "" if error is None else f"{type(error).__name__}: {error}"))
        if error is not None:
            raise error
        for rank, (_, failure) in enumerate(told):
            if failure:
                raise CalibrationError(f"the calibration failed on rank {rank} of {self.world}: {failure}")
        return [value for value, _ in told]

    def first(self, attempt: Callable[[], Any]) -> Any:
        """What ``attempt`` gives on rank 0, which alone runs it; an error there is raised on all."""
        return self.agree(lambda: attempt() if self.rank == 0 else None)[0]

    def largest(self, tensor: torch.Tensor) -> torch.Tensor:
        """Elementwise maximum over all ranks."""
        return self._reduced(tensor, dist.ReduceOp.MAX if self.world > 1 else None)

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Elementwise sum over all ranks."""
        return self._reduced(tensor, dist.ReduceOp.SUM if self.world > 1 else None)

    def _reduced(self, tensor: torch.Tensor, operation: Any) -> torch.Tensor:
        if operation is None:
            return tensor
        moved = tensor.to(self.device, copy=True)
        dist.all_reduce(moved, operation)
        return moved.to(tensor.device)


def this_rank() -> Ranks:
    """Of the default process group, where there is one."""
    if not dist.is_available() or not dist.is_initialized():
        return Ranks()
    on_cpu = "gloo" in dist.get_backend()
    device = torch.device("cpu") if on_cpu else torch.device("cuda", torch.cuda.current_device())
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def reduce(observers: Sequence[Extremes], ranks: Ranks) -> None:
    """Make every rank's observers what they were if one had seen all. The same observers, in the same order, on each."""
    if ranks.world == 1 or not observers:
        return
    bounds = ranks.largest(torch.stack([o.bounds for o in observers]))
    for observer, reduced in zip(observers, bounds):
        observer.bounds = reduced
    histograms = [o for o in observers if isinstance(o, Histogram)]
    if not histograms:
        return
    exponents = ranks.largest(torch.tensor([h.exponent for h in histograms]))
    for histogram, exponent in zip(histograms, exponents.tolist()):
        histogram.grow(exponent)
    totals = ranks.total(torch.stack([h.counts for h in histograms]))
    for histogram, counts in zip(histograms, totals):
        histogram.counts = counts
