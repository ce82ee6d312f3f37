"""What a model's buffers hold, and putting it back: ``unchanged`` does not undo what a forward writes to them in place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .state import held

__all__ = ["Contents"]


class Contents:
    """The buffers of a model, and other tensors that it holds but its parameters, copied as they are now.

    Args:
        model: the model.
        everything: what ``held(model)`` gave, if somebody asked already.
    """

    def __init__(self, model: nn.Module, everything: list[tuple[str, Any]] | None = None) -> None:
        found = held(model) if everything is None else everything
        self._tensors = [tensor for _, tensor in found if isinstance(tensor, torch.Tensor) and _can_be_written(tensor)]
        self._here = [tensor.detach().clone() for tensor in self._tensors]
        self._there: dict[int, torch.Tensor] = {}  # what the stretches so far have written

    @contextlib.contextmanager
    def put_back(self) -> Iterator[None]:
        """A stretch in which forwards run: it begins with what the last one left, and outside the model is as it was."""
        with torch.no_grad():
            for i, content in self._there.items():
                self._tensors[i].copy_(content)
        versions = [tensor._version for tensor in self._tensors]
        try:
            yield
        finally:
            written = [i for i, tensor in enumerate(self._tensors) if tensor._version != versions[i]]
            with torch.no_grad():
                self._there.update({i: self._tensors[i].detach().clone() for i in written})
                for i in self._there:
                    self._tensors[i].copy_(self._here[i])


def _can_be_written(tensor: torch.Tensor) -> bool:
    """Whether a forward can write to it in place: not to parameters, nor to what is expanded or made in inference mode."""
    if isinstance(tensor, nn.Parameter) or tensor.is_inference() or tensor.layout != torch.strided:
        return False
    return all(step or size < 2 for step, size in zip(tensor.stride(), tensor.shape))
