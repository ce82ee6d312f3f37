"""The tensors that flow through a model while it is traced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..graph import Value

__all__ = ["Buffer", "Link", "Traced", "storage_key", "tensors_in"]


@dataclass(eq=False, slots=True)
class Buffer:
    """The memory that a tensor and its views share, as one value that every write replaces."""

    value: Value
    meta: torch.Tensor  # shape and strides of the tensor that owns the memory
    device: torch.device
    frozen: str = ""  # what it is, when a write to it must be refused
    hidden: bool = False  # made inside a submodule that is converted as a whole
    version: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """One step from a tensor to a view of it: ``func(tensor, *args, **kwargs)``, its ``index``-th result."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    index: int


# Bytes that a traced tensor's memory claims to have; PyTorch would compute them, which takes long where sizes are symbolic.
PLENTY = 2**60


class Traced(torch.Tensor):
    """Stands for a tensor that depends on an input: it has shape, dtype, strides and device, but no data.

    ``meta`` is its counterpart on the meta device, on which PyTorch's own shape rules run. ``chain`` leads from the
    buffer's owner to this view; ``value`` is what it held at the buffer's ``version``.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    meta: torch.Tensor
    buffer: Buffer
    chain: tuple[Link, ...]
    value: Value
    version: int

    @staticmethod
    def __new__(cls, meta: torch.Tensor, value: Value, buffer: Buffer, chain: tuple[Link, ...] = ()) -> Traced:
        """A tensor without memory; see the class."""
        return torch.Tensor._make_wrapper_subclass(
            cls, meta.shape, strides=meta.stride(), storage_offset=meta.storage_offset(), dtype=meta.dtype,
            device=buffer.device, storage_size=PLENTY,
        )  # fmt: skip

    def __init__(self, meta: torch.Tensor, value: Value, buffer: Buffer, chain: tuple[Link, ...] = ()) -> None:
        self.meta, self.value, self.buffer, self.chain, self.version = meta, value, buffer, chain, buffer.version

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        return self.clone()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Traced({self.value!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Reached only outside of the tracing's dispatch mode."""
        raise RuntimeError(
            f"{func} met a tensor of torch2edge's tracing outside of the traced forward: was it kept in an attribute, "
            "or handed to another thread?"
        )


def storage_key(tensor: torch.Tensor) -> int:
    """Identifies the memory of a tensor."""
    return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    found: list[torch.Tensor] = []
    stack: list[Any] = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            found.append(item)
        elif isinstance(item, (tuple, list)):
            stack.extend(reversed(item))
        elif isinstance(item, dict):
            stack.extend(reversed(list(item.values())))
    return found
