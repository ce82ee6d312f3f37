"""The batches of whatever a user gives as calibration data."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, default_collate

from ...errors import CalibrationError, ConfigError
from .derived import Derived, no_data
from .distributed import Ranks
from .images import ImageFolder
from .settings import Calibration

__all__ = ["Batches", "open_data"]


@dataclass
class Batches:
    """Batches in order, at most ``limit``.

    Attributes:
        source: what gives them.
        limit: how many this rank takes.
        whose: what they are called: "the DataLoader".
        known: how many there are, where that is known.
        told: whether the source says by itself what failed in it, and why it gives nothing.
    """

    source: Iterator[Any]
    limit: int
    whose: str
    known: int | None
    told: bool = False

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Batches with their numbers, from 0 on.

        Raises:
            CalibrationError: the source raised an error, which is the cause; or it has no batch at all.
        """
        for number in range(self.limit):
            try:
                batch = next(self.source)
            except StopIteration:
                if number == 0 and self.known != 0 and not self.told:
                    raise CalibrationError(self._empty()) from None
                return
            except Exception as error:
                if self.told:
                    raise
                raise CalibrationError(
                    f"calibration: {self.whose} failed at batch {number}: {type(error).__name__}: {error}"
                ) from error
            yield number, batch

    def _empty(self) -> str:
        if self.whose.startswith("the iterator"):
            return (
                f"calibration: {self.whose} gave no batch. One that was used before is empty the second time: make a new one "
                "for this calibration, or give a list or a DataLoader, which begin anew"
            )
        return f"calibration: {self.whose} gave no batch; it is empty"


def open_data(calibration: Calibration, inputs: Sequence[Any], examples: Sequence[torch.Tensor], ranks: Ranks) -> Batches:
    """The batches that this rank is to observe.

    A Dataset and a folder are shared out here, every rank taking each ``world``-th batch. A loader or an iterable is taken to
    give each rank its own share, as one with a DistributedSampler does.

    Args:
        inputs: ``graph.inputs``.
        examples: tensors of the conversion's example, in the order of the inputs; items are put together in batches as large.

    Raises:
        ConfigError: no data, an image folder that cannot be, a Dataset without a length, data that cannot be iterated.
    """
    if no_data(calibration.data):
        raise ConfigError("calibration: there is no data, only a cache; give a DataLoader, a Dataset, batches or a folder")
    if isinstance(calibration.data, Derived):
        return Batches(iter(calibration.data), sys.maxsize, type(calibration.data).__name__, None, told=True)
    data, size = calibration.data, next((int(t.shape[0]) for t in examples if t.dim()), 1)
    limit = ranks.share_of(calibration.batches)
    if isinstance(data, (str, os.PathLike)):
        data = ImageFolder(data, list(inputs), tuple(examples[0].shape))
        return _of_items(data, size, limit, ranks, f"the folder {data.folder}")
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        if not hasattr(data, "__len__"):
            raise ConfigError(f"calibration: the Dataset {type(data).__name__} has no len(); give a DataLoader of it")
        return _of_items(data, size, limit, ranks, f"the Dataset {type(data).__name__}")
    name = type(data).__name__
    source = _start(data, name)
    if isinstance(data, IterableDataset):
        return Batches(_collated(source, size, ranks), limit, f"the IterableDataset {name}", None)
    whose = f"the iterator ({name})" if source is data else f"the {name}"
    return Batches(source, limit, whose, _length(data))


def _start(data: Any, name: str) -> Iterator[Any]:
    try:
        return iter(data)
    except Exception as error:
        raise CalibrationError(f"calibration: the {name} gives no batches: {type(error).__name__}: {error}") from error


def _length(data: Any) -> int | None:
    try:
        return len(data) or None  # of an empty one the iteration tells
    except TypeError:
        return None


def _of_items(data: Any, size: int, limit: int, ranks: Ranks, whose: str) -> Batches:
    starts = range(0, len(data), size)[ranks.rank :: ranks.world]
    # an empty share of data that others have is no error here
    known = len(starts) if len(data) else None
    batches = (default_collate([data[i] for i in range(s, min(s + size, len(data)))]) for s in starts)
    return Batches(batches, limit, whose, known)


def _collated(items: Iterator[Any], size: int, ranks: Ranks) -> Iterator[Any]:
    """Batches of single samples, every ``world``-th of them."""
    held: list[Any] = []
    number = 0
    for item in items:
        held.append(item)
        if len(held) == size:
            if number % ranks.world == ranks.rank:
                yield default_collate(held)
            held, number = [], number + 1
    if held and number % ranks.world == ranks.rank:
        yield default_collate(held)
