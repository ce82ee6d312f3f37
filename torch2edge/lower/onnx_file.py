"""A model that comes as an ONNX file: what it takes, and its network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import ConversionError, InputError
from ..graph import Graph, Op, Value
from ..structure import Structure, flatten_call
from .network import Network
from .onnx_export import need
from .onnx_names import metadata_path, named_paths, scoped_path
from .onnx_road import hold, name_tensors, parse
from .walk import Lowered, binding_names

__all__ = ["OnnxFile"]

# number of the type in ONNX's TensorProto -> torch
DTYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16,
          11: torch.float64, 16: torch.bfloat16}  # fmt: skip


@dataclass(frozen=True)
class OnnxInput:
    """An input as the file declares it."""

    name: str
    dtype: torch.dtype
    dims: tuple[int | str, ...] | None  # a string where a size is open, None where not even the rank is told


class OnnxFile:
    """An ONNX file, read and checked.

    Attributes:
        path: where it is.
        inputs: what it takes, in order.
        output_names: what it gives, in order.

    Raises:
        ConfigError: onnx or onnxslim cannot be imported.
        InputError: there is no such file, or it is no ONNX model that onnx.checker takes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.suffix != ".onnx":
            raise InputError(f"{self.path}: a model that is given by its file must be an .onnx file; else give the module")
        if not self.path.is_file():
            raise InputError(f"{self.path}: there is no such file")
        need("onnx", "onnxslim", why=f"reading {self.path}")
        self.proto = self._read()
        weights = {tensor.name for tensor in self.proto.graph.initializer}
        self.inputs = [_declared(value) for value in self.proto.graph.input if value.name not in weights]
        self.output_names = [value.name for value in self.proto.graph.output]
        if not self.inputs or not self.output_names:
            counts = f"{len(self.inputs)} inputs and {len(self.output_names)} outputs"
            raise InputError(f"{self.path}: has {counts}; an engine needs both")
        self._outputs = _own_outputs(self.proto)
        self._paths = named_paths(self.proto, _path_of)

    def _read(self) -> Any:
        import onnx

        try:
            onnx.checker.check_model(str(self.path))
            return onnx.load(str(self.path))
        except Exception as error:
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            raise InputError(f"{self.path}: not a whole ONNX model: {type(error).__name__}: {reason}") from error

    def modules(self) -> set[str]:
        """The module paths that the names in the file tell of, the modules around them included."""
        found = {""}
        for path in self._paths.values():
            parts = path.split(".")
            found.update(".".join(parts[: i + 1]) for i in range(len(parts)))
        return found

    def order(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[OnnxInput]:
        """The input that each tensor of a call is meant for: by position, then by name.

        Raises:
            InputError: too few, too many, unknown or twice; no tensor; another dtype or shape than declared.
        """
        declared = {i.name: i for i in self.inputs}
        shown = ", ".join(f"{i.name}: {_text(i)}" for i in self.inputs)
        names = [*list(declared)[: len(args)], *kwargs]
        if len(args) > len(declared) or sorted(names) != sorted(declared):
            raise InputError(
                f"{self.path} takes {len(declared)} inputs ({shown}), but is given {len(args)} by position"
                + (f" and {', '.join(kwargs)} by name" if kwargs else "")
            )
        for name, tensor in zip(names, [*args, *kwargs.values()]):
            if not isinstance(tensor, torch.Tensor):
                raise InputError(f"the input {name} of {self.path} must be a tensor, but is a {type(tensor).__name__}")
            _hold(declared[name], tensor)
        return [declared[name] for name in names]

    def lower(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], raw: Any, *, device_of: Callable[[str], Any] = lambda path: None,
        input_names: Sequence[str] | None = None, output_names: Sequence[str] | None = None,
    ) -> tuple[Graph, Lowered, str]:  # fmt: skip
        """Fill TensorRT's INetworkDefinition ``raw`` for inputs of these shapes; can be done once.

        Returns:
            A graph with an op per ONNX node that became layers (it cannot be replayed), the network, a note for the report.

        Raises:
            InputError: see ``order``.
            ConversionError: TensorRT's parser refuses the model; with all its errors.
        """
        order = self.order(args, kwargs)
        tensors, structure = flatten_call(args, kwargs)
        self._fix_shapes({i.name: t.shape for i, t in zip(order, tensors)})
        net, how = parse(self.proto, self._paths, raw, device_of)
        inputs = [Value(n, tuple(t.shape), t.dtype) for n, t in enumerate(tensors)]
        graph = self._graph(net, inputs, order, structure)
        found = {t.name: t for t in map(net.raw.get_input, range(net.raw.num_inputs))}
        for declared, value in zip(order, inputs):
            if declared.name in found:
                hold(found[declared.name], value, f"the input {declared.name}")
        wanted_in, wanted_out = binding_names(graph, input_names, output_names)
        wanted = {i.name: name for i, name in zip(order, wanted_in)} | dict(zip(self._outputs, wanted_out))
        name_tensors(net, {given: name for given, name in wanted.items() if given in found or given in self._outputs})
        names = [name if i.name in found else "" for i, name in zip(order, wanted_in)]
        note = f"note: {self.path.name}, parsed by TensorRT's ONNX parser ({how}); module paths are those that its names tell"
        return graph, Lowered(net, [v.dtype for v in graph.outputs], names, wanted_out, {}), note

    def _fix_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Static shapes: what the file says of sizes in between was said for open ones."""
        for value in self.proto.graph.input:
            if value.name in shapes:
                del value.type.tensor_type.shape.dim[:]
                for size in shapes[value.name]:
                    value.type.tensor_type.shape.dim.add().dim_value = size
        del self.proto.graph.value_info[:]

    def _graph(self, net: Network, inputs: list[Value], order: Sequence[OnnxInput], structure: Structure) -> Graph:
        types = {v.name: DTYPES.get(v.type.tensor_type.elem_type) for v in self.proto.graph.output}
        found = {t.name: t for t in map(net.raw.get_output, range(net.raw.num_outputs))}
        outputs: list[Any] = []
        for name in self._outputs:
            dtype, shape = types[name], tuple(found[name].shape)
            if dtype is None or any(size < 0 for size in shape):
                raise ConversionError(
                    f"the output {name} of {self.path} has the type {dtype} and the shape {list(shape)}: an engine's are known"
                )
            outputs.append(Value(len(inputs) + len(outputs), shape, dtype))
            hold(found[name], outputs[-1], f"the output {name}", output=True)
        ops: dict[tuple[str, str], Op] = {}
        for layer in net.layers:
            values: list[Value | None] = [Value(-1, (), layer.dtype)] if layer.dtype is not None else []
            ops[layer.module, layer.op] = Op(layer.op, (), {}, values, layer.module, str(self.path))
        items: list[Structure] = [{"kind": "tensor"} for _ in outputs]
        nested: Structure = items[0] if len(items) == 1 else {"kind": "tuple", "items": items}
        return Graph(inputs, list(ops.values()), outputs, [i.name for i in order], self.output_names, structure, nested)


def _own_outputs(proto: Any) -> list[str]:
    """Names of the outputs, after an Identity for one that is an input, a weight or another output."""
    from onnx import helper

    taken = {value.name for value in (*proto.graph.input, *proto.graph.initializer)}
    for output in proto.graph.output:
        given = output.name
        while output.name in taken:
            output.name += "_"
        if output.name != given:
            proto.graph.node.append(helper.make_node("Identity", [given], [output.name], name=f"{output.name}/Identity"))
        taken.add(output.name)
    return [output.name for output in proto.graph.output]


def _path_of(node: Any) -> str:
    told = metadata_path(node)
    return scoped_path(node) if told is None else told


def _declared(value: Any) -> OnnxInput:
    kind = value.type.tensor_type
    dtype = DTYPES.get(kind.elem_type)
    if not value.type.HasField("tensor_type") or dtype is None:
        raise InputError(f"the input {value.name} is no tensor of a type that an engine takes")
    if not kind.HasField("shape"):
        return OnnxInput(value.name, dtype, None)
    dims = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else d.dim_param or "?" for d in kind.shape.dim]
    return OnnxInput(value.name, dtype, tuple(dims))


def _text(declared: OnnxInput) -> str:
    dims = "any shape" if declared.dims is None else "x".join(map(str, declared.dims)) or "a scalar"
    return f"{str(declared.dtype).removeprefix('torch.')} {dims}"


def _hold(declared: OnnxInput, tensor: torch.Tensor) -> None:
    fits = declared.dims is None or (
        len(declared.dims) == tensor.dim() and all(isinstance(a, str) or a == b for a, b in zip(declared.dims, tensor.shape))
    )
    if not fits or declared.dtype != tensor.dtype:
        raise InputError(
            f"the input {declared.name} is declared as {_text(declared)}, but given is {tensor.dtype} {tuple(tensor.shape)}"
        )
    if 0 in tensor.shape:
        raise InputError(f"the input {declared.name} has the shape {tuple(tensor.shape)}: a dimension is 0")
