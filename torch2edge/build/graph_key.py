"""digest_of(): a hash of all that a converter can see of a graph, so that an engine is found again by what it was made of.

The graph of a calibration cache (``calibration/ops_hash.py``) is hashed to stay the same on another machine; this one is to
differ with the last bit. What is not known here is refused, never left out.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from ..errors import ConfigError
from ..graph import Constant, Function, Graph, Op, Value
from ..sizes import SYMBOLIC, expression, settle

__all__ = ["Unkeyable", "digest", "graph_digests", "plain"]

_DENSE = (torch.Tensor, torch.nn.Parameter)


class Unkeyable(Exception):
    """Something shapes the engine that no hash can stand for; the message says what."""


def digest(told: Any) -> str:
    """sha256, in hex, of what JSON holds."""
    return hashlib.sha256(json.dumps(told, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def plain(value: Any) -> Any:
    """An option or argument without tensors in it, as JSON in which nothing looks like something else.

    Raises:
        Unkeyable: it is of a kind that is not known.
    """
    if value is None or isinstance(value, (bool, str)) or type(value) in (int, float):
        return value
    if isinstance(value, (torch.dtype, torch.layout, torch.memory_format, torch.device, complex)):
        return {type(value).__name__: str(value)}
    if isinstance(value, (enum.Enum, int)) or hasattr(type(value), "__members__"):  # TensorRT's enums are pybind11's
        return {type(value).__name__: getattr(value, "name", repr(value))}
    if isinstance(value, Mapping):
        return {"mapping": [[plain(key), plain(item)] for key, item in value.items()]}
    if isinstance(value, slice):
        return {"slice": [plain(value.start), plain(value.stop), plain(value.step)]}
    if isinstance(value, (tuple, list)):
        return {type(value).__name__: [plain(item) for item in value]}
    raise Unkeyable(f"a {type(value).__module__}.{type(value).__qualname__} among what it is made of")


def graph_digests(
    graph: Graph, names: Mapping[int, str] | None = None, ranges: Mapping[int, float] | None = None, *, opaque: bool = False
) -> dict[str, str]:  # fmt: skip
    """sha256, in hex, of a graph's parts: ``call`` (what goes in and out), ``ops`` and ``weights``.

    Args:
        graph: as it is to be lowered.
        names: id of each parameter and buffer -> name.
        ranges: index of a value -> its range in INT8.
        opaque: submodules that are converted as a whole count by their class alone, for the caller knows what they became.

    Raises:
        Unkeyable: it holds something that no hash can stand for.
    """
    told = _Told(graph, names or {}, opaque)
    ops = [told.op(op) for op in graph.ops]
    outputs = [told.argument(value) for value in graph.outputs]
    known = [[told.numbers[i], r] for i, r in sorted((ranges or {}).items()) if i in told.numbers]
    dims = {name: [list(r) for r in dim.ranges] for name, dim in graph.dims.items()}
    return {
        "call": digest([
            told.inputs, graph.input_names, graph.output_names, graph.input_structure, graph.output_structure,
            plain(dims), plain(graph.axes), [told.plain(c.condition) for c in graph.constraints],
        ]),
        "ops": digest([ops, outputs, known, plain(graph.modules)]),
        "weights": digest(_contents(told.constants)),
    }  # fmt: skip


class _Told:
    """The values of a graph by numbers in order of appearance, its constants by numbers of their own.

    Attributes:
        numbers: index of a value -> its number.
        constants: every different tensor.
    """

    def __init__(self, graph: Graph, names: Mapping[int, str], opaque: bool) -> None:
        self.numbers: dict[int, int] = {}
        self.constants: list[torch.Tensor] = []
        self._graph, self._names, self._opaque = graph, names, opaque
        self._places: dict[int, int] = {}  # id of a tensor -> its place in constants
        self.inputs = [self._value(value) for value in graph.inputs]

    def op(self, op: Op) -> Any:
        """An op as JSON: which, in which module, of what, with which arguments, with which results."""
        args, kwargs = self.argument(op.args), self.argument(op.kwargs)
        instance = None if op.instance is None or self._opaque else _settings(op.instance)
        return [_target(op), op.module, instance, args, kwargs, op.nesting, [self._value(v) for v in op.outputs]]

    def argument(self, value: Any) -> Any:
        """An argument as JSON."""
        if isinstance(value, Value):
            if value.index not in self.numbers:
                raise Unkeyable(f"a value of unknown origin ({value!r})")
            return {"value": self.numbers[value.index]}
        if isinstance(value, Constant):
            return {"constant": self._constant(value.tensor), "name": value.name}
        if isinstance(value, torch.Tensor):
            return {"tensor": self._constant(value)}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return {type(value).__qualname__: [self.argument(item) for item in value]}
        if isinstance(value, (tuple, list)):
            return {"tuple" if isinstance(value, tuple) else "list": [self.argument(item) for item in value]}
        if isinstance(value, dict):
            return {"mapping": [[plain(key), self.argument(item)] for key, item in value.items()]}
        return self.plain(value)

    def plain(self, value: Any) -> Any:
        """A plain argument as JSON; a symbolic one as an expression over dims."""
        value = settle(value)
        if not isinstance(value, SYMBOLIC):
            return plain(value)
        try:
            return {"size": expression(value, self._graph.symbols)}
        except ConfigError as error:
            raise Unkeyable(str(error)) from error

    def _value(self, value: Value | None) -> Any:
        if value is None:
            return None
        number = self.numbers.setdefault(value.index, len(self.numbers))
        return [number, [self.plain(n) for n in value.shape], str(value.dtype), value.hidden]

    def _constant(self, tensor: torch.Tensor) -> list[Any]:
        place = self._places.setdefault(id(tensor), len(self.constants))
        if place == len(self.constants):
            self.constants.append(tensor)
        return [place, self._names.get(id(tensor), "")]


def _target(op: Op) -> list[str]:
    if op.instance is not None:
        return ["module", f"{op.target.__module__}.{op.target.__qualname__}"]
    return ["function" if isinstance(op.target, Function) else "op", op.name]


def _settings(module: torch.nn.Module) -> Any:
    """The attributes of a submodule that is converted as a whole."""
    if any(True for _ in (*module.parameters(), *module.buffers(), *module.children())):
        raise Unkeyable(f"a {type(module).__qualname__} with weights that is converted as a whole")
    return {key: plain(value) for key, value in sorted(vars(module).items()) if not key.startswith("_")}


def _contents(tensors: Sequence[torch.Tensor]) -> list[list[Any]]:
    """dtype, shape and sha256 of the bytes of each."""
    host = [_dense(tensor) for tensor in tensors]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(_content, host))


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """Its elements in order, on the CPU."""
    if type(tensor) not in _DENSE or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = f"{type(tensor).__qualname__}, {tensor.layout}, {tensor.dtype}, {tensor.device}"
        raise Unkeyable(f"a constant that is no plain tensor ({kind})")
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()


def _content(tensor: torch.Tensor) -> list[Any]:
    data = tensor.reshape(-1).view(torch.uint8).numpy().data
    return [str(tensor.dtype), list(tensor.shape), hashlib.sha256(data).hexdigest()]
