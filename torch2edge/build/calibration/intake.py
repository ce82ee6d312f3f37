"""From a batch to tensors that the traced graph takes: which tensors, what shapes and dtypes, how many samples at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ...errors import CalibrationError, InputError
from ...graph import Graph
from ...structure import arrange, flatten_call, leaf_names, same, text, unflatten
from .derived import Arguments
from .settings import Calibration

__all__ = ["Intake"]


class Intake:
    """Takes batches in, and gives lists of tensors to replay the graph on.

    Args:
        graph: the traced model.
        args: positional inputs of the conversion's example.
        kwargs: its keyword inputs.
        calibration: for ``batch_to_inputs``.
        device: the model's.
        parameters: names of the model's positional parameters, by which a dict's entries are found.

    Attributes:
        samples: how many went to the graph so far, by axis 0 of the first input.
    """

    def __init__(
        self, graph: Graph, args: Sequence[Any], kwargs: Mapping[str, Any], calibration: Calibration, device: torch.device,
        parameters: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.graph, self.args, self.kwargs, self.device = graph, list(args), dict(kwargs), device
        self.names = graph.input_names
        self.examples, self.structure = flatten_call(self.args, self.kwargs)
        self.samples = 0
        self._given, self._parameters = calibration.batch_to_inputs, list(parameters)
        self._left: dict[Any, list[torch.Tensor]] = {}  # samples that wait, by their shapes
        sizes = {int(t.shape[0]) if t.dim() else -1 for t in self.examples}
        self._size = sizes.pop() if len(sizes) == 1 and -1 not in sizes else 0  # 0: axis 0 of the inputs is no batch

    # ---- which tensors --------------------------------------------------------------------------------------------------

    def tensors(self, batch: Any, number: int) -> list[torch.Tensor]:
        """The inputs in a batch, on the device, contiguous, and of the graph's dtypes.

        Raises:
            CalibrationError: another structure, shape or dtype than the graph takes, or NaN.
        """
        where = f"calibration: batch {number}"
        args, kwargs = self._call(batch, where)
        try:
            given, structure = flatten_call(args, arrange(kwargs, self.structure["items"][1]))
        except InputError as error:
            raise CalibrationError(f"{where}: {error}") from error
        if not same(structure, self.structure):
            raise CalibrationError(
                f"{where} makes the inputs {_call_text(structure)}, but the model was traced with "
                f"{_call_text(self.structure)}. batch_to_inputs= says what a batch gives to the model"
            )
        return [self._fitting(i, tensor, where) for i, tensor in enumerate(given)]

    def _call(self, batch: Any, where: str) -> tuple[list[Any], dict[str, Any]]:
        if isinstance(batch, Arguments):
            return list(batch.args), dict(batch.kwargs)
        if self._given is not None:
            return self._as_told(self._given, batch, where)
        if isinstance(batch, Mapping):
            return self._by_name(batch, where)
        return self._by_position(batch, where)

    def _as_told(self, function: Callable[[Any], Any], batch: Any, where: str) -> tuple[list[Any], dict[str, Any]]:
        try:
            told = function(batch)
        except Exception as error:
            raise CalibrationError(f"{where}: batch_to_inputs failed: {type(error).__name__}: {error}") from error
        if isinstance(told, Mapping):
            return self._by_name(told, where)
        if isinstance(told, torch.Tensor):
            told = (told,)
        if not isinstance(told, (tuple, list)):
            raise CalibrationError(
                f"{where}: batch_to_inputs gave a {type(told).__name__}; it must give a tensor, a tuple of the positional "
                "inputs, or a dict of the keyword inputs"
            )
        return list(told), self._plain_kwargs()

    def _plain_kwargs(self) -> dict[str, Any]:
        """Keyword inputs of the example that hold no tensor: they are the graph's for ever."""
        by_name = self.structure["items"][1]
        return {k: self.kwargs[k] for k, item in zip(by_name["keys"], by_name["items"]) if not _holds(item)}

    def _by_name(self, batch: Mapping[Any, Any], where: str) -> tuple[list[Any], dict[str, Any]]:
        positional, by_name = self.structure["items"]
        kwargs = self._plain_kwargs()
        for key, item in zip(by_name["keys"], by_name["items"]):
            if _holds(item):
                kwargs[key] = self._entry(batch, key, where)
        args = list(self.args)
        places = [i for i, item in enumerate(positional["items"]) if _holds(item)]
        if all(i < len(self._parameters) and self._parameters[i] in batch for i in places):
            for i in places:
                args[i] = batch[self._parameters[i]]
            return args, kwargs
        found = [v for v in batch.values() if isinstance(v, torch.Tensor)]
        if len(places) == 1 and len(found) == 1 and not any(map(_holds, by_name["items"])):
            args[places[0]] = found[0]
            return args, kwargs
        wanted = ", ".join(self._parameters[i] if i < len(self._parameters) else f"args[{i}]" for i in places)
        raise CalibrationError(
            f"{where} is a dict of {', '.join(map(repr, batch))}, in which the positional inputs ({wanted}) are not found by "
            "name; batch_to_inputs=lambda batch: (batch[...],) says which entry is which"
        )

    def _entry(self, batch: Mapping[Any, Any], key: str, where: str) -> Any:
        if key not in batch:
            raise CalibrationError(
                f"{where} has no entry {key!r}, an input of the model; it has {', '.join(map(repr, batch))}"
            )
        return batch[key]

    def _by_position(self, batch: Any, where: str) -> tuple[list[Any], dict[str, Any]]:
        """The first tensors of a batch, in order, in the places of the example's positional tensors."""
        names = leaf_names(self.structure["items"][0], "args")
        found: list[torch.Tensor] = []
        _collect(batch, found)
        by_name = [
            k for k, item in zip(self.structure["items"][1]["keys"], self.structure["items"][1]["items"]) if _holds(item)
        ]
        if by_name:
            raise CalibrationError(
                f"{where} is a {type(batch).__name__}, but the model has the keyword inputs {', '.join(map(repr, by_name))}: "
                "give dicts as batches, or batch_to_inputs="
            )
        if len(found) < len(names):
            raise CalibrationError(
                f"{where} is {_kind(batch)} with {len(found)} tensor{'' if len(found) == 1 else 's'}, but the model takes "
                f"{len(names)}: {', '.join(names)}. batch_to_inputs= says what a batch gives to the model"
            )
        return unflatten(self.structure["items"][0], found[: len(names)]), self._plain_kwargs()

    # ---- what tensors ---------------------------------------------------------------------------------------------------

    def _fitting(self, i: int, tensor: torch.Tensor, where: str) -> torch.Tensor:
        """A tensor of the right rank, sizes but for axis 0, and dtype."""
        value, name = self.graph.inputs[i], self.names[i]
        axes = self.graph.axes.get(i, {})
        first = 1 if self._size else 0
        fits = tensor.dim() == len(value.shape) and 0 not in tensor.shape
        for axis in range(first, len(value.shape)):
            size = tensor.shape[axis] if fits else 0
            fits = fits and (self.graph.dims[axes[axis]].allows(size) if axis in axes else size == int(value.shape[axis]))
        if not fits:
            raise CalibrationError(
                f"{where}: {name} is {tensor.dtype} {tuple(tensor.shape)}, but the model takes {value.dtype} {self._shape(i)}"
            )
        cast = _cast(tensor, value.dtype)
        if cast is None:
            tip = " (whole numbers are not made floats in silence: x.float() / 255, for instance)" if (
                value.dtype.is_floating_point
            ) else ""  # fmt: skip
            raise CalibrationError(
                f"{where}: {name} is {tensor.dtype}, but the model takes {value.dtype}; batch_to_inputs= can convert it{tip}"
            )
        if cast.is_floating_point() and bool(cast.isnan().any()):
            raise CalibrationError(f"{where}: {name} holds NaN; look at how the data is loaded")
        return cast.to(self.device, value.dtype, non_blocking=True).contiguous()

    def _shape(self, i: int) -> str:
        """``(batch: 1 to 16, 3, 224, 224)``"""
        axes, sizes = self.graph.axes.get(i, {}), []
        for axis, size in enumerate(self.graph.inputs[i].shape):
            dim = self.graph.dims[axes[axis]] if axis in axes else None
            named = f"{dim.name}: " if dim and dim.name.isidentifier() else ""
            sizes.append(f"{named}{dim.allowed}" if dim else str(int(size)))
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"

    # ---- how many at a time ---------------------------------------------------------------------------------------------

    def ready(self, tensors: list[torch.Tensor], number: int) -> Iterator[list[torch.Tensor]]:
        """What the graph can be run on now; samples that are too few wait for the next batch.

        Raises:
            CalibrationError: the sizes contradict each other or what the model demands.
        """
        if self._taken([tuple(t.shape) for t in tensors]):
            self.samples += _samples(tensors)
            yield tensors
            return
        rest = tuple(tuple(t.shape[1:]) for t in tensors)
        if not self._size or len({len(t) for t in tensors}) > 1 or not self._taken([(self._size, *r) for r in rest]):
            told = ", ".join(f"{n} {tuple(t.shape)}" for n, t in zip(self.names, tensors))
            takes = ", ".join(f"{n} {self._shape(i)}" for i, n in enumerate(self.names))
            raise CalibrationError(f"calibration: batch {number} has {told}, but the model takes {takes}{self._demands()}")
        waiting = self._left.pop(rest, None)
        joined = [torch.cat(pair) for pair in zip(waiting, tensors)] if waiting else tensors
        whole = len(joined[0]) // self._size * self._size
        if whole < len(joined[0]):
            self._left[rest] = [t[whole:] for t in joined]
        for start in range(0, whole, self._size):
            self.samples += self._size
            yield [t[start : start + self._size].contiguous() for t in joined]

    def _taken(self, shapes: Sequence[tuple[int, ...]]) -> bool:
        """Whether the graph takes these shapes as they are."""
        graph, sizes = self.graph, dict[str, int]()
        for i, (shape, value) in enumerate(zip(shapes, graph.inputs)):
            axes = graph.axes.get(i, {})
            for axis, (size, wanted) in enumerate(zip(shape, value.shape)):
                if axis not in axes:
                    fits = size == int(wanted)
                else:
                    fits = graph.dims[axes[axis]].allows(size) and sizes.setdefault(axes[axis], size) == size
                if not fits:
                    return False
        return graph.allows(sizes)

    def _demands(self) -> str:
        told = "; ".join(map(str, self.graph.constraints))
        return f", where {told}" if told else ""

    def left_over(self) -> int:
        """How many samples wait."""
        return sum(len(waiting[0]) for waiting in self._left.values())

    def padded(self) -> list[torch.Tensor]:
        """Samples that wait, repeated until they are enough."""
        waiting = next(iter(self._left.values()))
        count = len(waiting[0])
        self.samples += count
        return [torch.cat([t] * -(-self._size // count))[: self._size].contiguous() for t in waiting]


def _samples(tensors: Sequence[torch.Tensor]) -> int:
    return next((int(t.shape[0]) for t in tensors if t.dim()), 1)


def _holds(structure: Any) -> bool:
    """Whether a tensor is in it."""
    return structure["kind"] == "tensor" or any(map(_holds, structure.get("items", [])))


def _collect(batch: Any, found: list[torch.Tensor]) -> None:
    """Every tensor of nested tuples, lists and dicts; what else there is (file names, labels as text) is passed over."""
    if isinstance(batch, torch.Tensor):
        found.append(batch)
    elif isinstance(batch, (tuple, list)):
        for item in batch:
            _collect(item, found)
    elif isinstance(batch, Mapping):
        for item in batch.values():
            _collect(item, found)


def _kind(batch: Any) -> str:
    return f"a {type(batch).__module__}.{type(batch).__name__}".replace("builtins.", "")


def _call_text(structure: Any) -> str:
    args, kwargs = structure["items"]
    return text(args) + (f" and {text(kwargs)}" if kwargs["items"] else "")


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """``tensor`` where it has the dtype's kind and loses nothing but digits, else None."""
    if tensor.dtype == dtype or (tensor.is_floating_point() and dtype.is_floating_point):
        return tensor
    whole = not any(d.is_floating_point or d.is_complex or d == torch.bool for d in (tensor.dtype, dtype))
    if not whole:
        return None
    cast = tensor.to(dtype)
    return cast if torch.equal(cast.to(tensor.dtype), tensor) else None
