"""lower(): walk the ops and let their converters fill a network."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .._trt import from_trt_dtype, last_errors, to_trt_dtype
from ..errors import ConfigError, ConversionError, Torch2EdgeError
from ..graph import Constant, Graph, Op, Value, map_tensors
from ..sizes import expression, has_symbolic, settle, text
from .check import bind, check
from .fold import fold_batch_norms
from .fold_prepared import fold_prepared
from .network import Network, Tensor
from .network.symbols import is_symbolic, symbols
from .quantize import has_quantizers
from .registry import Registry

__all__ = ["Lowered", "binding_names", "lower"]


@dataclass
class Lowered:
    """A filled network, and how it relates to the graph."""

    network: Network
    output_dtypes: list[torch.dtype]
    input_names: list[str]  # names of the bindings, one per input of the graph; "" for one that no output needs
    output_names: list[str]
    tensor_names: dict[int, str]  # index of a Value -> name of the network's tensor that holds it
    folded: Sequence[str] = ()  # modules whose batch norms became part of a convolution


def lower(
    graph: Graph, raw: Any, registry: Registry, *, names: dict[int, str] | None = None,
    device_of: Callable[[str], Any] = lambda path: None, input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None, may_fold: Container[str] | None = None, own: bool = False,
) -> Lowered:  # fmt: skip
    """Fill TensorRT's INetworkDefinition ``raw`` with the ops of ``graph``.

    Args:
        names: id of each parameter and buffer -> name.
        device_of: module path -> TensorRT's DeviceType, or None for the default.
        input_names: of the network's inputs, one per input of the graph; by default input_0, input_1, ...
        output_names: the same for its outputs.
        may_fold: the modules whose batch norms may become part of a convolution; by default all.
        own: the network holds copies of the weights; else it reads the memory of the graph's.

    Raises:
        ConfigError: names that are too few, too many, empty or used twice.
        UnsupportedOpError: ops without a converter, all of them, before any layer is added.
        ConversionError: a converter failed, or gave another shape or dtype than PyTorch did.
    """
    dynamic = bool(symbols([value.shape for value in graph.inputs]))
    if dynamic:
        _settle(graph)
    input_names, output_names = binding_names(graph, input_names, output_names)
    check(graph.ops, registry)
    net = Network(raw, names, device_of, own)
    net.dim_names, net.quantizes = graph.symbols, has_quantizers(graph)
    env = _Env()
    input_names = _inputs(graph, net, env, input_names)
    environment = _shape_env(graph) if dynamic else None
    ops, folded = fold_batch_norms(graph, registry, device_of, may=may_fold)
    ops, prepared = fold_prepared(ops, graph.outputs, registry, device_of, may_fold)
    for op in ops:
        _convert(op, net, registry, env, environment)
    output_names = _outputs(graph, net, env, output_names)
    tensor_names = {index: t.raw.name for index, t in env.items()}
    return Lowered(net, [v.dtype for v in graph.outputs], input_names, output_names, tensor_names, [*folded, *prepared])


class _Env(dict[int, Tensor]):
    """The network's tensors by the index of their Value; it names a result that a converter left out."""

    def __init__(self) -> None:
        super().__init__()
        self.left_out: dict[int, str] = {}

    def __missing__(self, index: int) -> Tensor:
        raise ConversionError(f"{self.left_out[index]}, which the model uses, has no form in TensorRT")


def binding_names(
    graph: Graph, inputs: Sequence[str] | None, outputs: Sequence[str] | None
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Names for the network's inputs and outputs, checked."""
    both = []
    for kind, given, wanted in (("input", inputs, graph.input_names), ("output", outputs, graph.output_names)):
        names = [f"{kind}_{i}" for i in range(len(wanted))] if given is None else list(given)
        if isinstance(given, str) or len(names) != len(wanted):
            raise ConfigError(
                f"{kind}_names is {given!r}, but the model's {kind}s are {len(wanted)} tensor{'s' * (len(wanted) != 1)}: "
                f"{', '.join(wanted)}. Give a list with a name for each."
            )
        both.append(names)
    together = [*both[0], *both[1]]
    for name in together:
        if not isinstance(name, str) or not name or together.count(name) > 1:
            raise ConfigError(f"input_names and output_names must be different, non-empty strings, but {name!r} is among them")
    return both[0], both[1]


def _inputs(graph: Graph, net: Network, env: dict[int, Tensor], wanted: Sequence[str]) -> list[str]:
    names = []
    unused = set(graph.unused_inputs()) - _needed_for_sizes(graph)
    for i, value in enumerate(graph.inputs):
        if i in unused:
            names.append("")
            continue
        try:
            dtype = to_trt_dtype(value.dtype)
        except ConfigError as error:
            raise ConversionError(
                f"the input {graph.input_names[i]} is {value.dtype}: {error}. Cast it, and the model, first (model.float())."
            ) from error
        raw = net.raw.add_input(wanted[i], dtype, tuple(-1 if is_symbolic(n) else n for n in value.shape))
        if raw is None:
            raise ConversionError(f"TensorRT refused the input {graph.input_names[i]}: {'; '.join(last_errors(2))}")
        net.note_axes(raw, value.shape)
        env[value.index] = net.enter(raw, value.shape, value.dtype)
        names.append(raw.name)
    return names


def _convert(op: Op, net: Network, registry: Registry, env: _Env, shape_env: Any = None) -> None:
    entry = registry.get(op.target)
    assert entry is not None  # check() has seen to it

    def resolve(tree: Any) -> Any:
        return map_tensors(tree, lambda t: env[t.index] if isinstance(t, Value) else t.tensor)

    with net.scope(op.module, op.short_name, op.outputs, op.nesting):
        try:
            with _no_new_guard(shape_env, net.dim_names):
                if op.nesting is not None:
                    first = () if op.instance is None else (op.instance,)
                    result = entry.function(net, *first, *resolve(op.args), **resolve(op.kwargs))
                else:
                    result = entry.function(net, **resolve(bind(op)))
            _bind_results(op, net, result, env)
        except (ConversionError, ConfigError) as error:
            raise ConversionError(_message(op, entry, str(error))) from error
        except Torch2EdgeError:
            raise
        except Exception as error:
            raise ConversionError(_message(op, entry, f"{type(error).__name__}: {error}")) from error


def _message(op: Op, entry: Any, reason: str) -> str:
    return f"{op.name} in {op.module or 'the model itself'}, {op.source}, converter {entry.where}: {reason}"


def _bind_results(op: Op, net: Network, result: Any, env: _Env) -> None:
    """Hold what the converter gave against what PyTorch computed, and bind it."""
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    if len(results) != len(op.outputs):
        raise ConversionError(f"it returned {len(results)} results, the op has {len(op.outputs)}")
    for i, (value, given) in enumerate(zip(op.outputs, results)):
        if value is None:
            continue
        if given is None:  # what nothing uses may be left out
            env.left_out[value.index] = f"result {i} of {op.name} ({op.module or 'the model itself'}, {op.source})"
            continue
        tensor = net.tensor(given)
        if not _fits(tensor, value) or tensor.dtype != value.dtype:
            raise ConversionError(
                f"the layers give {tensor.dtype} {list(tensor.shape)}, PyTorch {value.dtype} {list(value.shape)}"
                + "".join(f"; TensorRT: {line}" for line in last_errors(1))
            )
        if net.capabilities.strongly_typed and tensor.raw.dtype != net.data_type(value.dtype):
            raise ConversionError(
                f"TensorRT infers {from_trt_dtype(tensor.raw.dtype)} for a result that must be {value.dtype}"
            )
        env[value.index] = tensor if tensor.shape is value.shape else Tensor(tensor.raw, value.shape, tensor.dtype)


def _fits(tensor: Tensor, value: Value) -> bool:
    """Whether TensorRT leaves open what is symbolic, and agrees on the other sizes."""
    if not has_symbolic((tensor.shape, value.shape)):
        return tensor.shape == value.shape
    inferred = tuple(tensor.raw.shape)
    return len(inferred) == len(value.shape) and all(
        n == -1 if is_symbolic(wanted) else n in (-1, wanted) for n, wanted in zip(inferred, value.shape)
    )


# ---- sizes that are known only when the engine runs -------------------------------------------------------------------


def _settle(graph: Graph) -> None:
    """Sizes that turned out to be constants become ints everywhere."""
    for value in (*graph.inputs, *(v for op in graph.ops for v in op.outputs)):
        if value is not None:
            value.shape = settle(tuple(value.shape))
    for op in graph.ops:
        op.args, op.kwargs = settle((op.args, op.kwargs))


def _needed_for_sizes(graph: Graph) -> set[int]:
    """Inputs whose data nothing uses, but whose axes are the only ones that tell a size that is computed with."""
    unused = graph.unused_inputs()
    if not unused:
        return set()
    known = symbols([v.shape for i, v in enumerate(graph.inputs) if i not in unused])
    wanted = symbols([[op.args, op.kwargs, [v.shape for v in op.outputs if v is not None]] for op in graph.ops])
    needed = set()
    for i in unused:
        new = symbols(graph.inputs[i].shape) & wanted - known
        if new:
            needed.add(i)
            known |= new
    return needed


def _shape_env(graph: Graph) -> Any:
    """PyTorch's keeper of symbols and guards."""
    return next(n.node.shape_env for v in graph.inputs for n in v.shape if is_symbolic(n))


@contextmanager
def _no_new_guard(environment: Any, names: Mapping[str, str]) -> Iterator[None]:
    """Refuse a converter that takes a size of the traced example for a constant.

    PyTorch notes it as a guard. (What the model itself compares was noted while it was traced.)
    """
    before = len(environment.guards) if environment else 0
    yield
    if environment and len(environment.guards) > before:
        guard = environment.guards[-1]
        raise ConversionError(
            f"it converts only where {text(expression(guard.expr, names))}, which a dynamic axis leaves open: give that axis "
            "one size, or convert an engine for each size"
        )


def _outputs(graph: Graph, net: Network, env: dict[int, Tensor], wanted: Sequence[str]) -> list[str]:
    """Name and mark the outputs; an input, a constant or a second mark of one tensor goes through an identity layer."""
    names = []
    taken = {env[v.index].raw.name for v in graph.inputs if v.index in env}
    with net.scope("", "output", []):
        for i, value in enumerate(graph.outputs):
            tensor = net.tensor(value.tensor) if isinstance(value, Constant) else env[value.index]
            tensor = net.leave(tensor, own=isinstance(value, Constant) or tensor.raw.name in taken)
            tensor.raw.name = wanted[i]
            net.raw.mark_output(tensor.raw)
            if not net.capabilities.strongly_typed:
                tensor.raw.dtype = to_trt_dtype(tensor.dtype)
            if not isinstance(value, Constant):
                env[value.index] = tensor
            taken.add(tensor.raw.name)
            names.append(tensor.raw.name)
    return names
