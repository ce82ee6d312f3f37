"""``torch.compile(model, backend="torch2edge")``: each graph that Dynamo gives becomes an engine, or stays eager.

Importing this file registers the backend; an installed torch2edge is found by its entry point without the import.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch._dynamo import register_backend

from ..api import convert
from ..errors import ConfigError, InputError, TensorRTNotFoundError, Torch2EdgeError
from ..report import Report, table

__all__ = ["CompileReport", "EagerWarning", "GraphRow", "backend", "report", "reset"]

MAX_ENGINES = 4  # one per combination of shapes; Dynamo makes a graph with symbolic sizes once the shapes vary
_NOT_OPTIONS = ("model", "inputs", "kwargs", "fallback", "min_ops", "input_names", "output_names")


class EagerWarning(UserWarning):
    """A graph given to the backend runs eagerly."""


@dataclass
class GraphRow:
    """A graph that Dynamo gave."""

    number: int
    ops: int  # calls in the graph
    engines: int = 0  # one per combination of input shapes
    by_engine: int = 0  # calls so far
    by_eager: int = 0
    reasons: list[str] = field(default_factory=list)  # why calls ran eagerly


@dataclass
class CompileReport:
    """Printable account of all graphs since the start or the last ``reset()``; ``to_dict()`` is the same as JSON."""

    graphs: list[GraphRow] = field(default_factory=list)
    engines: dict[str, Report] = field(default_factory=dict)  # "graph number/engine number" -> its report

    @property
    def converted(self) -> int:
        """Graphs that have at least one engine."""
        return sum(row.engines > 0 for row in self.graphs)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and numbers."""
        engines = {name: r.to_dict() for name, r in self.engines.items()}
        return {"graphs": [asdict(row) for row in self.graphs], "converted": self.converted, "engines": engines}

    def __str__(self) -> str:
        """A row per graph, then the reasons."""
        head = f"{self.converted} of {len(self.graphs)} graphs have an engine"
        rows = [[g.number, g.ops, g.engines, g.by_engine, g.by_eager] for g in self.graphs]
        reasons = [f"graph {g.number}: {reason}" for g in self.graphs for reason in g.reasons]
        body = table(["graph", "ops", "engines", "calls by engine", "calls by eager"], rows)
        return "\n\n".join([head, body, *(["eager, because\n" + "\n".join(f"  {r}" for r in reasons)] if reasons else [])])


_report = CompileReport()
_lock = threading.Lock()


def report() -> CompileReport:
    """What became of the graphs given to the backend so far, in this process."""
    return _report


def reset() -> None:
    """Begin a new report; engines that are in use stay in use, and uncounted."""
    global _report
    _report = CompileReport()


def backend(graph: torch.fx.GraphModule, example_inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None) -> Any:
    """The backend: a callable in the place of ``graph``.

    The engine is built at the first call, with that call's shapes, and one more for each other combination of shapes, up
    to 4. Parameters and buffers become constants of it; once one of them is written to, the graph runs eagerly.
    A graph that does not convert, or is called where gradients are recorded, runs eagerly; ``report()`` counts and says
    why, and a warning tells of it once per reason.

    Args:
        graph: from Dynamo (``torch.compile``) or from AOTAutograd; its parameters may be attributes or inputs.
        example_inputs: what Dynamo traced it with.
        options: of ``torch2edge.convert``, except for those that name inputs and roads.

    Raises:
        ConfigError: an unknown option.
    """
    known = [n for n in inspect.signature(convert).parameters if n not in _NOT_OPTIONS]
    unknown = [name for name in options or {} if name not in known]
    if unknown:
        raise ConfigError(f"torch.compile(options=...): {', '.join(unknown)} unknown; known are {', '.join(known)}")
    with _lock:
        calls = sum(n.op in ("call_function", "call_method", "call_module") for n in graph.graph.nodes)
        row = GraphRow(len(_report.graphs), calls)
        _report.graphs.append(row)
    return _Compiled(graph, _static_inputs(graph, example_inputs), dict(options or {}), row)


def _static_inputs(graph: torch.fx.GraphModule, examples: Sequence[Any]) -> set[int]:
    """Positions of the inputs that are parameters and buffers: Dynamo lifts those of nn modules."""
    context = torch._guards.TracingContext.try_get()
    metadata = getattr(context, "fw_metadata", None)
    found = set(getattr(metadata, "static_input_indices", None) or ())  # AOTAutograd's own list
    nodes = [n for n in graph.graph.nodes if n.op == "placeholder"]
    for i, (node, example) in enumerate(zip(nodes, examples)):
        marked = getattr(example, "_dynamo_static_input_type", None) or node.meta.get("tensor_dict", {}).get(
            "_dynamo_static_input_type"
        )
        if marked or isinstance(example, nn.Parameter):
            found.add(i)
    return found


class _Frozen(nn.Module):
    """The graph with some of its inputs held as buffers."""

    def __init__(self, graph: torch.fx.GraphModule, held: Mapping[int, torch.Tensor], names: Sequence[str]) -> None:
        super().__init__()
        self.training = False
        self.graph_module, self.count = graph, len(names)
        self.held = {i: names[i] for i in held}
        for i, tensor in held.items():
            self.register_buffer(names[i], tensor.detach())

    def forward(self, *inputs: Any) -> Any:
        rest = iter(inputs)
        return self.graph_module(*(getattr(self, self.held[i]) if i in self.held else next(rest) for i in range(self.count)))


class _Compiled:
    """What Dynamo calls instead of the graph."""

    def __init__(self, graph: torch.fx.GraphModule, static: set[int], options: dict[str, Any], row: GraphRow) -> None:
        self.graph, self.static, self.options, self.row = graph, static, options, row
        nodes = [n for n in graph.graph.nodes if n.op == "placeholder"]
        self.names = [n.name for n in nodes]
        # a Python number that Dynamo passes as a tensor, which the graph reads: fixed in an engine, part of its key
        self.numbers = {i for i, n in enumerate(nodes) if n.users and all(u.target == "item" for u in n.users)}
        self.weights: list[tuple[torch.Tensor, int]] = []  # those among the inputs first
        self.engines: dict[Any, Callable[..., Any] | None] = {}
        self.lock = threading.Lock()
        self.parameters = list(graph.parameters())
        graph.training = False  # only its own flag: ops carry theirs, and submodules keep theirs

    def __call__(self, *inputs: Any) -> Any:
        reason = self._why_eager(inputs)
        if not reason:
            key = tuple(_key(x, i in self.numbers) for i, x in enumerate(inputs) if i not in self.static)
            with self.lock:
                if key not in self.engines:
                    self.engines[key] = self._convert(inputs)
            engine = self.engines[key]
            if engine is not None:
                try:
                    result = engine(*(x for i, x in enumerate(inputs) if i not in self.static | self.numbers))
                except InputError as error:
                    reason = str(error)
                else:
                    self.row.by_engine += 1
                    return result
        if reason:
            self._tell(reason)
        self.row.by_eager += 1
        return self.graph(*inputs)

    def _why_eager(self, inputs: Sequence[Any]) -> str:
        tensors = [t for t in (*inputs, *self.parameters) if isinstance(t, torch.Tensor)]
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return "it is called where gradients are recorded; call it under torch.no_grad() or torch.inference_mode()"
        given = [inputs[i] for i in sorted(self.static)]
        held = self.weights[: len(given)]
        if any(a is not b for a, (b, _) in zip(given, held)) or any(_version(t) != v for t, v in self.weights):
            return "a parameter or buffer was written to or replaced after the engine was built"
        return ""

    def _convert(self, inputs: Sequence[Any]) -> Callable[..., Any] | None:
        if sum(e is not None for e in self.engines.values()) >= MAX_ENGINES:
            self._tell(f"it is called with more than {MAX_ENGINES} combinations of input shapes")
            return None
        held = {i: inputs[i] for i in sorted(self.static | self.numbers)}
        free = [x for i, x in enumerate(inputs) if i not in held]
        try:
            with torch.no_grad():
                module = convert(_Frozen(self.graph, held, self.names), free, **self.options)
        except (ConfigError, TensorRTNotFoundError):
            raise
        except Torch2EdgeError as error:
            self._tell(f"{type(error).__name__}: {error}")
            return None
        if not self.weights:
            fixed = [*(inputs[i] for i in sorted(self.static)), *self.parameters, *self.graph.buffers()]
            self.weights = [(t, _version(t)) for t in fixed]
        name = f"{self.row.number}/{self.row.engines}"
        self.row.engines += 1
        if isinstance(module.report, Report) and self.row in _report.graphs:
            _report.engines[name] = module.report
        return module

    def _tell(self, reason: str) -> None:
        if reason not in self.row.reasons:
            self.row.reasons.append(reason)
            warnings.warn(f"torch2edge: graph {self.row.number} runs eagerly: {reason}", EagerWarning, stacklevel=2)


def _key(value: Any, is_number: bool) -> Any:
    """What an engine fixes of an input."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.item() if is_number else (value.shape, value.dtype, value.device)


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


register_backend(backend, name="torch2edge")
