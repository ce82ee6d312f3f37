"""What an engine is called with: the structure, dtypes and shapes of its inputs, as its metadata holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import InputError
from ..sizes import shape_text
from ..structure import arrange, call_names, flatten_call, same, text

__all__ = ["Signature", "refuse_overlaps", "written"]


class Signature:
    """From a call to the tensors of the engine.

    Args:
        metadata: of an engine file.

    Attributes:
        inputs: name, dtype, shape (with the names of dims in it) and the engine's name of each tensor.
        simple: whether a call is tensors by position and nothing else.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata
        self.inputs = [
            (i["name"], getattr(torch, i["dtype"]), tuple(i["shape"]), i["binding"]) for i in metadata["inputs"]
        ]  # fmt: skip
        self._varies = bool(metadata.get("dims"))
        args, kwargs = metadata["input_structure"]["items"]
        self.simple = not kwargs["items"] and all(item["kind"] == "tensor" for item in args["items"])

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        """The tensors of a call, in the order of the inputs.

        Raises:
            InputError: the call has another structure.
        """
        if self.simple and not kwargs and len(args) == len(self.inputs) and all(isinstance(a, torch.Tensor) for a in args):
            return list(args)
        wanted = self._metadata["input_structure"]
        tensors, given = flatten_call(args, kwargs)
        if not same(given, wanted):
            rebound = arrange(self._rebound(args, kwargs), wanted)
            tensors, given = flatten_call(rebound["args"], rebound["kwargs"])
        if not same(given, wanted):
            raise InputError(
                f"the module was converted for {_call_text(wanted)}, but is called with {_call_text(given)}: the structure of "
                "the inputs, and what is no tensor, are fixed. Call it like that, or convert the model for this call."
            )
        return tensors

    def checked(self, tensors: list[torch.Tensor], cast: bool) -> list[torch.Tensor]:
        """The tensors, in the engine's dtypes if ``cast``.

        Raises:
            InputError: one has another dtype, shape (where it is fixed), layout or device than the engine takes.
        """
        if cast:
            tensors = [t.to(dtype) for t, (_, dtype, _, _) in zip(tensors, self.inputs)]
        for tensor, (name, dtype, shape, _) in zip(tensors, self.inputs):
            if tensor.layout != torch.strided or tensor.device.type not in ("cpu", "cuda"):
                raise InputError(f"{name} is {tensor.layout} on {tensor.device}; an engine takes dense CUDA or CPU tensors")
            if tensor.dtype != dtype or (tensor.shape != shape and not self._varies):
                raise InputError(
                    f"{name} is {tensor.dtype} {tuple(tensor.shape)}; the engine was built for {dtype} "
                    f"{shape_text(shape)}{self._way_out(tensor, dtype, shape)}."
                )
            if tensor.device != tensors[0].device:
                raise InputError(f"{name} is on {tensor.device}, but {self.inputs[0][0]} on {tensors[0].device}")
        return tensors

    def _way_out(self, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[Any, ...]) -> str:
        if tensor.shape == shape or self._varies:
            return f". Cast it (.to({dtype})), set cast_inputs = True, or convert with io_dtype={tensor.dtype}"
        return ", and its shapes are fixed. Convert the model for this shape"

    def _rebound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The call with each argument passed as it was when traced, by position or by name."""
        names, defaults = self._metadata["parameters"], self._metadata["defaults"]
        positional, by_name = self._metadata["input_structure"]["items"]
        wanted = names[: len(positional["items"])]
        given = {**dict(zip(names, args)), **kwargs}
        bound = {**defaults, **given}
        twice_or_too_many = len(given) != len(args) + len(kwargs) or len(wanted) < len(positional["items"])
        if twice_or_too_many or any(n not in bound for n in wanted):
            return {"args": list(args), "kwargs": kwargs}
        ordered = [bound.pop(n) for n in wanted]
        rest = {k: bound.pop(k) for k in by_name["keys"] if k in bound}
        extra = {k: v for k, v in bound.items() if k not in defaults or not _equal(v, defaults[k])}
        return {"args": ordered, "kwargs": {**rest, **extra}}

    def zeros(self, device: torch.device, profile: int = 0) -> list[torch.Tensor]:
        """Inputs of the engine's shapes, the most usual ones of an optimization profile where they vary."""
        dims = self._metadata.get("dims") or {}
        return [
            torch.zeros([dims[n[1]][profile][1] if isinstance(n, list) else n for n in shape], dtype=dtype, device=device)
            for _, dtype, shape, _ in self.inputs
        ]


def _equal(a: Any, b: Any) -> bool:
    """Whether a plain argument is the default; a tensor never is."""
    return type(a) is type(b) and not isinstance(a, torch.Tensor) and bool(a == b)


def _call_text(structure: dict[str, Any]) -> str:
    """A call for people: ``2 tensors, module(tensor, mask=tensor)``."""
    args, kwargs = structure["items"]
    given = [*map(text, args["items"]), *(f"{k}={text(v)}" for k, v in zip(kwargs["keys"], kwargs["items"]))]
    count = len(call_names(structure))
    return f"{count} tensor{'s' * (count != 1)}, module({', '.join(given)})"


def written(out: Sequence[torch.Tensor], results: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """``out``, with what was computed elsewhere.

    Raises:
        InputError: another shape, dtype or device.
    """
    for i, (given, result) in enumerate(zip(out, results, strict=True)):
        if (given.shape, given.dtype, given.device) != (result.shape, result.dtype, result.device):
            raise InputError(
                f"out[{i}] is {given.dtype} {tuple(given.shape)} on {given.device}; the output is {result.dtype} "
                f"{tuple(result.shape)} on {result.device}"
            )
    return [given.copy_(result) for given, result in zip(out, results)]


def refuse_overlaps(out: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
    """Refuse ``out`` where a tensor of it shares memory with another, or with one that the call reads.

    Raises:
        InputError: so it is.
    """
    starts = [t.untyped_storage().data_ptr() for t in out if t.numel()]
    if len(set(starts)) < len(starts) or {t.untyped_storage().data_ptr() for t in inputs} & set(starts):
        raise InputError("two tensors of out=, or one of them and an input, share their memory: one would overwrite the other")
