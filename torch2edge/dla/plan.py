"""What the planner says: a row per layer, the subgraphs, what crosses their borders, the memory they need."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..report import table
from .advice import advice_text

__all__ = ["Crossing", "DlaPlan", "Pools", "Row"]


@dataclass
class Row:
    """A layer and where it runs.

    ``rule`` and ``reason`` are "" for a layer on the DLA. A rule is the name of a row of ``torch2edge.dla.rules``, or one of:
    "unsupported-type", "device-types" (it was asked to be on the GPU), "loadables-per-core", "shuffle-border",
    "matmul-reshape" (a layer that TensorRT adds).
    """

    name: str
    type: str  # the name of TensorRT's LayerType
    module: str
    device: str  # "DLA" or "GPU"
    rule: str = ""
    reason: str = ""
    source: str = ""  # of the rule
    confidence: str = ""
    loadable: int | None = None  # index into the plan's loadables


@dataclass
class Crossing:
    """A tensor that goes from one device to the other, or from one loadable to another, which is by way of memory too."""

    tensor: str
    loadable: int
    direction: str  # "in" or "out" of the loadable
    other: str  # "GPU", "network input", "network output" or "loadable 3"
    bytes: int  # in the DLA's vector format: C padded to 32 bytes
    reformat: bool  # a kernel on the GPU changes the format, unless the network's own format is the DLA's


@dataclass
class Pools:
    """Memory that one loadable needs at most, in bytes, rounded up to powers of two from 4 KiB on."""

    loadable: int
    managed_sram: int
    local_dram: int  # tensors inside
    global_dram: int  # weights


@dataclass
class DlaPlan:
    """Which layers of a network run on the DLA, by the rules that are known; nothing was built.

    Attributes:
        layers: a row per layer of the engine, in the network's order; what is computed while the engine is built has none.
        loadables: the names of the layers of each DLA subgraph, in the network's order.
        limit: how many subgraphs TensorRT makes for a core.
        crossings: what goes over the borders of the loadables.
        pools: what each loadable needs.
        folded: the names of the layers that are computed while the engine is built.
        notes: what else there is to know.
        rewritten: the network is of a model that went through ``dla_rewrites``.
    """

    target: str
    tensorrt: str
    precision: str
    limit: int
    layers: list[Row] = field(default_factory=list)
    loadables: list[list[str]] = field(default_factory=list)
    crossings: list[Crossing] = field(default_factory=list)
    pools: list[Pools] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rewritten: bool = False

    @property
    def all_on_dla(self) -> bool:
        """Whether no layer runs on the GPU."""
        return bool(self.layers) and all(row.device == "DLA" for row in self.layers)

    @property
    def fallbacks(self) -> list[Row]:
        """The rows on the GPU."""
        return [row for row in self.layers if row.device == "GPU"]

    @property
    def advice(self) -> list[str]:
        """What would keep the layers that fall back on the DLA, a line for each kind."""
        return advice_text(self.layers, rewritten=self.rewritten)

    @property
    def transitions(self) -> int:
        """How often the data changes between GPU and DLA: a reformat and a task each."""
        return sum(1 for crossing in self.crossings if crossing.other == "GPU")

    def pool_limits(self) -> dict[str, int]:
        """What to give ``set_memory_pool_limit``: name of the MemoryPoolType -> the most that any loadable needs, in bytes."""
        names = {"DLA_MANAGED_SRAM": "managed_sram", "DLA_LOCAL_DRAM": "local_dram", "DLA_GLOBAL_DRAM": "global_dram"}
        return {name: max((getattr(row, key) for row in self.pools), default=0) for name, key in names.items()}

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain dicts, lists, strings and numbers."""
        own = asdict(self)
        return {
            **own,
            "all_on_dla": self.all_on_dla,
            "transitions": self.transitions,
            "advice": self.advice,
            "pool_limits": self.pool_limits(),
        }

    def __str__(self) -> str:
        """Tables: the layers, the loadables, what crosses; and what to know."""
        parts = [self._head(), self._layers_text()]
        if self.loadables:
            parts += [self._loadables_text(), self._crossings_text()]
        advice = ["\n".join(self.advice)] if self.advice else []
        return "\n\n".join([*parts, *advice, *self.notes])

    def _head(self) -> str:
        on = sum(1 for row in self.layers if row.device == "DLA")
        count = len(self.loadables)
        where = "all on the DLA" if self.all_on_dla else f"{len(self.layers) - on} on the GPU"
        return (
            f"DLA plan for {self.target}, TensorRT {self.tensorrt}, {self.precision}: {on} of {len(self.layers)} layers on "
            f"the DLA, {where}\n{count} loadable{'s' * (count != 1)} of at most {self.limit}, {self.transitions} transitions "
            "between GPU and DLA. Nothing was built: this is what the rules say."
        )

    def _layers_text(self) -> str:
        rows = [
            [row.name, row.type, row.device, "" if row.loadable is None else f"#{row.loadable}", row.rule, row.confidence,
             row.reason] for row in self.layers
        ]  # fmt: skip
        return table(["layer", "type", "device", "loadable", "rule", "known from", "reason"], rows)

    def _loadables_text(self) -> str:
        rows = [
            [f"#{i}", foreign_node(names), len(names), _size(pool.local_dram), _size(pool.global_dram)]
            for i, (names, pool) in enumerate(zip(self.loadables, self.pools))
        ]
        return table(["loadable", "as TensorRT's log has it", "layers", "local DRAM", "global DRAM"], rows)

    def _crossings_text(self) -> str:
        rows = [
            [f"#{c.loadable}", c.direction, c.tensor, c.other, _size(c.bytes), "yes" if c.reformat else "no"]
            for c in self.crossings
        ]
        return table(["loadable", "", "tensor", "from / to", "size", "reformat"], rows)


def foreign_node(names: list[str]) -> str:
    """A loadable as TensorRT's logs name it: ``{ForeignNode[first...last]}``."""
    return f"{{ForeignNode[{names[0] if len(names) == 1 else f'{names[0]}...{names[-1]}'}]}}"


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} B"
