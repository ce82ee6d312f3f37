"""What a user says of a calibration."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import ConfigError

__all__ = ["ALGORITHMS", "Calibration", "CalibrationWarning"]

ALGORITHMS = ("entropy", "minmax", "percentile", "mse")


class CalibrationWarning(UserWarning):
    """A calibration that works, but on data that may say little."""


@dataclass(frozen=True)
class Calibration:
    """Data for INT8, and how to find the largest magnitude of every tensor from it.

    Args:
        data: a DataLoader, a Dataset, any iterable of batches (a tensor, a tuple or list, a dict), or the path of a folder of
            images, for a model with one input. Of a tuple the first tensors are the positional inputs, so ``(image, label)``
            works; a dict goes by the names of the inputs. Images are read by Pillow in the order of their names, RGB, resized
            to the example's size and divided by 255; no mean is subtracted: whatever else the model wants is for a Dataset.
            Batches of another size than the example's are put together or taken apart along axis 0. None, where ``cache`` is
            a file with every range that is needed: then nothing is calibrated, and the conversion is checked on random inputs,
            of which INT8 clips what lies beyond the ranges: such a check may need ``tolerance=``, or ``verify=False``.
        algorithm: "entropy", "minmax", "percentile" or "mse"; ``algorithms.py`` says what each does. All but "minmax" work on
            histograms, into which tensors of more than 262144 elements go by a sample of at most as many per batch.
        batches: take no more than these from the data; with torch.distributed, no more over all ranks.
        cache: a JSON file, read where it exists, else written. It serves any choice of precisions and any TensorRT: a tensor
            has one name, its module path and op as traced. What it lacks is calibrated and added, where it is of this model
            and algorithm. ``null`` stands for a tensor that holds infinities.
        batch_to_inputs: from a batch to what the model is called with: a tensor, a tuple of positional inputs, or a dict of
            keyword inputs.
        percentile: of "percentile": the share of magnitudes that are not clipped, in percent.
        force: take the cache of another model, graph or algorithm, where it has all that is needed.
        progress: show a bar (tqdm, where it is installed) or lines on stderr, once it takes longer than a second.

    Raises:
        ConfigError: a value that cannot be.
    """

    data: Any = None
    algorithm: str = "entropy"
    batches: int = 512
    cache: str | os.PathLike[str] | None = None
    batch_to_inputs: Callable[[Any], Any] | None = None
    percentile: float = 99.99
    force: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            known = ", ".join(map(repr, ALGORITHMS))
            raise ConfigError(f"calibration: algorithm is {self.algorithm!r}; it must be one of {known}")
        if isinstance(self.batches, bool) or not isinstance(self.batches, int) or self.batches < 1:
            raise ConfigError(f"calibration: batches is {self.batches!r}; it must be a whole number from 1 on")
        if not _is_share(self.percentile):
            raise ConfigError(f"calibration: percentile is {self.percentile!r}; it must be above 50 and at most 100")
        if self.cache is not None and not isinstance(self.cache, (str, os.PathLike)):
            raise ConfigError(f"calibration: cache is {self.cache!r}; it must be the path of a file")
        if self.batch_to_inputs is not None and not callable(self.batch_to_inputs):
            raise ConfigError(f"calibration: batch_to_inputs is {self.batch_to_inputs!r}; it must be a function of a batch")
        for name in ("force", "progress"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"calibration: {name} is {getattr(self, name)!r}; it must be True or False")
        self._check_data()

    def _check_data(self) -> None:
        if self.data is None:
            if self.cache is None:
                raise ConfigError(
                    "calibration: there is no data and no cache; give a DataLoader, a Dataset, an iterable of batches or a "
                    "folder of images, or cache= a file that an earlier calibration wrote"
                )
            return
        if isinstance(self.data, torch.Tensor):
            raise ConfigError(
                "calibration: data is a tensor, which could be one batch or many; write [x] for one, x.split(8) for many"
            )
        if isinstance(self.data, dict):
            raise ConfigError("calibration: data is a dict; a single batch is written [batch], batches [first, second, ...]")
        if isinstance(self.data, (str, os.PathLike)):
            if not os.path.isdir(self.data):
                raise ConfigError(f"calibration: {os.fspath(self.data)} is no folder; data is a folder of images, or batches")
        elif not hasattr(self.data, "__iter__") and not hasattr(self.data, "__getitem__"):
            kind = type(self.data).__name__
            raise ConfigError(
                f"calibration: data is a {kind}; give a DataLoader, a Dataset, an iterable of batches or a folder of images"
            )


def _is_share(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and 50 < value <= 100
