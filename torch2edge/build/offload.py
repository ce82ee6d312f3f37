"""A model's weights in host memory while an engine is built, and back on the GPU afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ..errors import BuildError

__all__ = ["SetAside", "offloaded"]


class SetAside:
    """The memory of tensors, moved to the host: the tensors stay, and so do their views, ties and hooks, but hold nothing.

    Args:
        tensors: parameters and buffers; several may share one memory.
        device_type: of those to move.
    """

    def __init__(self, tensors: Iterable[torch.Tensor], device_type: str = "cuda") -> None:
        self._tensors = [t for t in tensors if t.device.type == device_type and t.layout == torch.strided]
        self._storages: dict[int, Any] = {}
        self._held: dict[int, torch.UntypedStorage] = {}  # on the host
        for tensor in self._tensors:
            storage = tensor.untyped_storage()
            if storage.resizable() and storage.nbytes():
                self._storages[storage._cdata] = storage

    def out(self) -> None:
        """Move them to the host.

        Raises:
            RuntimeError: the host has too little memory; what was moved until then is to be moved ``back``.
        """
        for key, storage in self._storages.items():
            held = torch.UntypedStorage(storage.nbytes())
            held.copy_(storage)
            self._held[key] = held
            storage.resize_(0)

    def back(self) -> None:
        """Move them where they were.

        Raises:
            BuildError: there is no room any more. The model is then whole on the host.
        """
        try:
            for key, held in self._held.items():
                self._storages[key].resize_(held.nbytes())
                self._storages[key].copy_(held)
        except RuntimeError as error:  # torch.cuda.OutOfMemoryError is one
            self._stay()
            raise BuildError(
                f"offload=True: after the build there was no room on the GPU to put the model back ({error}). All of it is on "
                "the CPU now: free memory of the GPU, then model.cuda(); or convert from a model on the CPU"
            ) from error
        self._held.clear()

    def _stay(self) -> None:
        """Every tensor over memory of the host, tied as they were."""
        for tensor in self._tensors:
            held = self._held.get(tensor.untyped_storage()._cdata)
            if held is None:  # it was never moved
                tensor.data = tensor.data.cpu()
                continue
            tensor.data = torch.empty(0, dtype=tensor.dtype).set_(
                held, tensor.storage_offset(), tensor.size(), tensor.stride()
            )  # fmt: skip
        for storage in self._storages.values():
            storage.resize_(0)


@contextlib.contextmanager
def offloaded(model: nn.Module, on: bool) -> Iterator[None]:
    """Inside, the parameters and buffers of ``model`` that are on a GPU take none of its memory, and cannot be used.

    They stay the same objects, with their views and ties. The host holds a copy meanwhile.

    Args:
        on: False changes nothing.

    Raises:
        BuildError: they cannot be put back.
    """
    if not on or not torch.cuda.is_available():
        yield
        return
    moved = SetAside([*model.parameters(), *model.buffers()])
    torch.cuda.synchronize()  # nothing that still runs may read what is freed
    try:
        moved.out()
        torch.cuda.empty_cache()
        yield
    finally:
        moved.back()
