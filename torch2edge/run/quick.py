"""The shortest way through a call: inputs that can go to the engine as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .._trt import carried
from .contexts import Shapes
from .graphs import GraphRunner
from .runner import ALIGNMENT, Runner
from .signature import Signature

__all__ = ["Quick", "Ready"]

Ready = tuple[Sequence[torch.Tensor], list[int], Shapes, int | None]
"""The tensors that the engine takes, their addresses, their shapes where those vary (else ()), the optimization profile."""


class Quick:
    """Makes the calls that need nothing but the enqueue, in as few steps as Python takes.

    Args:
        signature: of the engine.
        runner: of the engine, on one GPU.
        profiles: the shapes of inputs that were taken before -> their optimization profile.
    """

    def __init__(self, signature: Signature, runner: Runner | GraphRunner, profiles: dict[Any, int | None]) -> None:
        self.runner, self.launch, self.index = runner, runner.launch, runner.index
        self._profiles = profiles
        self._dtypes = [dtype for _, dtype, _, _ in signature.inputs]
        self._current: Callable[[], int] = torch._C._cuda_getDevice

    @staticmethod
    def can(signature: Signature) -> bool:
        """Whether there are such calls: tensors by position, all of which the engine takes in their own dtypes."""
        return signature.simple and all(binding and carried(dtype) == dtype for _, dtype, _, binding in signature.inputs)

    @staticmethod
    def knows(tensors: Sequence[torch.Tensor]) -> bool:
        """Whether the checks of a call suffice for these shapes: one element is contiguous whatever its view says."""
        return all(t.numel() > 1 for t in tensors)

    def __call__(self, args: Sequence[Any], reuse: bool) -> list[torch.Tensor] | None:
        """The outputs of a call with these arguments; None where more is to be looked at, or done."""
        ready = self.ready(args)
        return None if ready is None else self.launch(*ready, reuse)

    def ready(self, args: Sequence[Any]) -> Ready | None:
        """The first arguments of ``launch``, or None."""
        index, dtypes = self.index, self._dtypes
        if len(args) != len(dtypes) or self._current() != index:
            return None
        addresses, shapes = [], []
        for tensor, dtype in zip(args, dtypes):
            if (
                type(tensor) is not torch.Tensor or tensor.dtype is not dtype or tensor.get_device() != index
                or tensor.layout is not torch.strided or not tensor.is_contiguous() or tensor.is_neg()
            ):  # fmt: skip
                return None
            address = tensor.data_ptr()
            if address % ALIGNMENT or not address:
                return None
            addresses.append(address)
            shapes.append(tensor.shape)
        known = tuple(shapes)
        try:
            profile = self._profiles[known]
        except KeyError:
            return None
        return args, addresses, () if profile is None else known, profile
