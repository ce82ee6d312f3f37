"""The shortest way through a call: inputs that can go to the engine as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .._trt import carried
from .graphs import GraphRunner
from .runner import ALIGNMENT, Runner, Taken
from .signature import Signature

__all__ = ["Quick"]


class Quick:
    """Tells whether a call needs nothing but the enqueue, in as few steps as Python takes.

    Args:
        signature: of the engine.
        runner: of the engine, on one GPU.
        profiles: the shapes of inputs that were taken before -> their optimization profile.
    """

    def __init__(self, signature: Signature, runner: Runner | GraphRunner, profiles: Mapping[Any, int | None]) -> None:
        self.launch, self.index, self.profiles = runner.launch, runner.index, profiles
        self._dtypes = [dtype for _, dtype, _, _ in signature.inputs]
        self._current: Callable[[], int] = torch._C._cuda_getDevice

    @staticmethod
    def can(signature: Signature) -> bool:
        """Whether there are such calls: tensors by position, all of which the engine takes in their own dtypes."""
        return signature.simple and all(binding and carried(dtype) == dtype for _, dtype, _, binding in signature.inputs)

    def taken(self, args: Sequence[Any]) -> tuple[Taken, int | None] | None:
        """The tensors and their optimization profile; None where more is to be looked at, or done."""
        index = self.index
        if len(args) != len(self._dtypes) or self._current() != index:
            return None
        addresses = []
        for tensor, dtype in zip(args, self._dtypes):
            if (
                type(tensor) is not torch.Tensor or tensor.dtype is not dtype or tensor.get_device() != index
                or tensor.layout is not torch.strided or not tensor.is_contiguous() or tensor.is_neg()
            ):  # fmt: skip
                return None
            address = tensor.data_ptr()
            if not address or address % ALIGNMENT:
                return None
            addresses.append(address)
        shapes = tuple([t.shape for t in args])
        try:
            profile = self.profiles[shapes]
        except KeyError:
            return None
        return Taken(args, addresses, () if profile is None else shapes), profile
