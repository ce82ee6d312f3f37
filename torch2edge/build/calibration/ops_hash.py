"""graph_hash(): whether the names of a calibration cache tell the same tensors, computed in the same way.

It is to change with the model's forward, but not with the example's batch, the torch or the machine. So of an op that only
arranges or repeats elements the sizes are left out, and so is where axis 0 is cut; of a constant that is one row over and over
one row counts; and of a constant's floats a summary, for another machine's sine has another last bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ...graph import Constant, Graph, Op, Value

__all__ = ["graph_hash"]

# What they give holds the same numbers whatever the sizes are, and a size may be the batch.
_ARRANGING = {
    "view", "reshape", "_unsafe_view", "view_copy", "expand", "expand_copy", "broadcast_to", "repeat", "tile",
    "repeat_interleave", "unflatten", "as_strided", "as_strided_copy", "new_zeros", "new_ones", "new_empty", "new_full",
}  # fmt: skip
_WAVES = (0.001, 0.07, 0.9, 1.7, 2.3, 2.9)  # radians per element
_CUTTING = {"slice", "narrow", "split", "split_with_sizes", "tensor_split", "unsafe_split", "chunk", "unsafe_chunk"}


def graph_hash(graph: Graph, names: Iterable[str]) -> str:
    """sha256, in hex, over the names of what the traced ops give, and over the ops: which, of what, with which arguments.

    Args:
        graph: as traced.
        names: of its values (module path and op), in order.
    """
    digest = hashlib.sha256("\n".join(names).encode())
    numbers: dict[int, int] = {}
    for value in graph.inputs:
        numbers[id(value)] = len(numbers)
    for op in graph.ops:
        digest.update(f"\n{_told(op, numbers)}".encode())
        for output in op.outputs:
            if output is not None:
                numbers[id(output)] = len(numbers)
    return digest.hexdigest()


def _told(op: Op, numbers: Mapping[int, int]) -> str:
    """An op in words: ``aten.mul.Tensor(%3,0.5)``"""
    sized = op.short_name not in _ARRANGING and not _cuts_axis_0(op)
    told = [_argument(value, numbers, sized) for value in op.args]
    told += [f"{key}={_argument(value, numbers, sized)}" for key, value in sorted(op.kwargs.items())]
    if op.instance is not None:
        settings = {key: value for key, value in vars(op.instance).items() if not key.startswith("_")}
        told += [f"{key}={_argument(settings[key], numbers, True)}" for key in sorted(settings)]
    return f"{op.name}({','.join(told)})"


def _cuts_axis_0(op: Op) -> bool:
    """Whether it takes parts along the axis of the batch."""
    if op.short_name not in _CUTTING or not hasattr(op.target, "_schema"):
        return False
    given = op.arguments()
    axis, cut = given.get("dim"), given.get("self", given.get("tensor"))
    rank = len(cut.shape) if isinstance(cut, Value) else 0
    return isinstance(axis, int) and axis in (0, -rank)


def _argument(value: Any, numbers: Mapping[int, int], sized: bool) -> str:
    """A plain argument, exactly; "" for a symbolic size, a device and the like."""
    if isinstance(value, Value):
        return f"%{numbers.get(id(value))}"
    if isinstance(value, Constant):
        return value.name or _constant(value.tensor)
    if isinstance(value, (tuple, list)):
        return f"[{','.join(_argument(item, numbers, sized) for item in value)}]" if sized or not _is_sizes(value) else ""
    if isinstance(value, bool) or value is None or isinstance(value, (float, complex, str)):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if sized else ""
    return str(value) if isinstance(value, torch.dtype) else ""


def _is_sizes(value: tuple[Any, ...] | list[Any]) -> bool:
    return all(isinstance(item, (int, torch.SymInt)) and not isinstance(item, bool) for item in value)


def _constant(tensor: torch.Tensor) -> str:
    """What a constant without a name holds, of whatever batch."""
    whole = tensor.detach().cpu()
    whole = whole.dequantize() if whole.is_quantized else whole.to_dense()
    if whole.dim() and whole.numel():
        rows = whole.contiguous().reshape(whole.shape[0], -1).view(torch.uint8)
        whole = whole[0] if bool((rows == rows[0]).all()) else whole
    if not whole.is_floating_point() and not whole.is_complex():
        counting = whole.numel() > 0 and torch.equal(whole.reshape(-1), torch.arange(whole.numel()).to(whole.dtype))
        if counting:
            return f"{whole.dtype} counting"  # the batch's rows, for indexing
        return f"{whole.dtype}{tuple(whole.shape)}{_digest(whole)}"
    return f"{whole.dtype}{tuple(whole.shape)}{_summary(whole)}"


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data).hexdigest()


def _summary(tensor: torch.Tensor) -> str:
    """Where it is finite, the largest magnitude to four digits, and its shares of some waves, which tell the order.

    Each is of the size of 1 whatever the number of elements, and a last bit moves none of them by a hundredth.
    """
    numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    flat = numbers.reshape(-1).double()
    finite = flat.isfinite()
    flat = flat.where(finite, 0.0)
    largest = float(flat.abs().max()) if flat.numel() else 0.0
    if not largest:
        return f"0 {_digest(finite)}"
    places, unit = torch.arange(flat.numel(), dtype=torch.float64), flat / flat.norm()
    shares = [float(unit @ torch.cos(wave * places + wave**2)) for wave in _WAVES]
    return " ".join([f"{largest:.4g}", *(f"{round(share, 2) + 0.0:.2f}" for share in shares), _digest(finite)])
