"""What the options' precisions make of a traced graph before it is lowered. Part of api.py, knows the stages too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .graph import Graph
from .lower import Registry
from .lower.fold import fold_batch_norms
from .lower.precision import in_precision
from .modules import check_reached
from .options import Options

__all__ = ["Prepared", "prepare"]

SHOWN = 5  # modules that a note names


@dataclass
class Prepared:
    """A graph to lower.

    Attributes:
        names: id of each parameter that has another dtype now -> its name.
        notes: for the report.
        folded: modules whose batch norms became part of a convolution.
    """

    graph: Graph
    names: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)


def prepare(graph: Graph, options: Options, converting: Registry, examples: Sequence[torch.Tensor]) -> Prepared:
    """``graph`` in the precisions that the options ask for; itself where the network is weakly typed.

    Raises:
        ConfigError: a precision is for a module in which nothing ran.
    """
    check_reached(options.precisions, [op.module for op in graph.ops], "precisions")
    if not options.strong or not any(map(options.uses, ("fp16", "bf16"))):
        return Prepared(graph)
    ops, folded = fold_batch_norms(graph, converting, options.device_of, options.float_of)
    graph = replace(graph, ops=ops)
    lowering = in_precision(graph, options.float_of, _largest(graph, examples) if options.uses("fp16") else {})
    return Prepared(lowering.graph, lowering.names, _notes(lowering.kept), folded)


def _largest(graph: Graph, examples: Sequence[torch.Tensor]) -> dict[int, float]:
    """The largest finite magnitude of each float result, for the example."""
    found: dict[int, float] = {}

    def look(op: Any, results: list[Any]) -> None:
        for value, result in zip(op.outputs, results):
            if value is not None and result.is_floating_point() and result.numel():
                low, high = result.aminmax()
                if bool(low.isfinite() & high.isfinite()):
                    found[value.index] = float(torch.maximum(-low, high))

    graph.replay(examples, look)
    return found


def _notes(kept: dict[str, list[str]]) -> list[str]:
    if not kept:
        return []
    told = [f"{path or 'the model itself'} ({why[0]})" for path, why in list(kept.items())[:SHOWN]]
    more = len(kept) - len(told)
    return [f"note: kept in float32, for half has no room for it: {', '.join(told)}" + (f" and {more} more" if more else "")]
