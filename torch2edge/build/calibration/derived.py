"""Data that torch2edge makes from a user's: what a part of a model is called with while the whole of it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["Arguments", "Derived", "no_data"]


@dataclass(frozen=True)
class Arguments:
    """A batch that is a call already: nothing is to be looked for in it."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]


class Derived:
    """The ``data`` of a Calibration, begun anew by each iteration.

    It takes no more than it should from what it is derived from, and with torch.distributed this rank's share. Its errors have
    told already what failed, and are raised as they are.

    Attributes:
        origin: the model whose weights the data hangs on; a cache is of these.
        path: of the submodule of it that the data is for.
        is_there: whether the user gave any; else there are only caches.
    """

    origin: nn.Module
    path: str
    is_there: bool = True

    def __iter__(self) -> Iterator[Arguments]:
        raise NotImplementedError

    def nothing(self) -> str:
        """Why the last iteration gave no batch, and what to do."""
        raise NotImplementedError


def no_data(data: Any) -> bool:
    """Whether a Calibration with this ``data`` has only its cache."""
    return data is None or (isinstance(data, Derived) and not data.is_there)
