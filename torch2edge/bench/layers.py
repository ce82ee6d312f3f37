"""Times of an engine's layers, and their sums by module."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..report import table

__all__ = ["LayerProfile", "LayerRow", "ModuleTime", "modules_of"]

_PART = re.compile(r"[^\s()\[\]{},|+]+")  # TensorRT joins names by " + ", " || ", "PWN(a, b)", "{ForeignNode[a...b]}"


@dataclass
class LayerRow:
    """A layer of the engine, as TensorRT's profiler reports it."""

    name: str
    modules: list[str]  # whose ops are in it; "" is the model itself; none where TensorRT added it
    median: float  # milliseconds
    mean: float
    share: float  # of the sum of all layers' means, in percent


@dataclass
class ModuleTime:
    """The layers that lie wholly inside a module."""

    path: str
    layers: int
    mean: float  # milliseconds, the sum
    share: float  # percent


@dataclass
class LayerProfile:
    """Printable table of layers and modules, over so many calls of an engine.

    A fused layer counts for every module that holds all of its parts: ``layer1.0.conv1/convolution + layer1.0.relu/relu`` for
    ``layer1.0``, ``layer1`` and the model, but neither for ``layer1.0.conv1`` nor for ``layer1.0.relu``, since nobody knows
    the share of each. TensorRT measures with a pause after each layer: the sum is longer than an ordinary call.
    """

    calls: int
    layers: list[LayerRow]
    modules: list[ModuleTime]

    @classmethod
    def of(cls, times: Mapping[str, Sequence[float]], known: Iterable[str]) -> LayerProfile:
        """From milliseconds by layer and call.

        Args:
            times: in the engine's order.
            known: the model's module paths; names in the layers that are none of these belong to nothing.
        """
        paths = {ancestor for path in known for ancestor in _ancestors(path)}
        means = {name: sum(values) / len(values) for name, values in times.items()}
        total = sum(means.values()) or 1.0
        layers = [
            LayerRow(name, modules_of(name, paths), statistics.median(values), means[name], 100 * means[name] / total)
            for name, values in times.items()
        ]
        return cls(max((len(values) for values in times.values()), default=0), layers, _sums(layers, total))

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and numbers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LayerProfile:
        """The inverse of ``to_dict``."""
        return cls(data["calls"], [LayerRow(**row) for row in data["layers"]], [ModuleTime(**row) for row in data["modules"]])

    def __str__(self) -> str:
        """A row per layer of the engine, then a row per module."""
        rows = [[row.name, f"{row.median:.4f}", f"{row.mean:.4f}", f"{row.share:.1f}"] for row in self.layers]
        sums = [[row.path or "(model)", row.layers, f"{row.mean:.4f}", f"{row.share:.1f}"] for row in self.modules]
        return "\n\n".join([
            f"layers, over {self.calls} calls by TensorRT's profiler, which pauses after each\n"
            + table(["layer", "median ms", "mean ms", "%"], rows),
            "modules: the layers that lie wholly inside each\n" + table(["module", "layers", "mean ms", "%"], sums),
        ])  # fmt: skip


def modules_of(layer: str, known: Iterable[str]) -> list[str]:
    """The modules whose ops are in a layer of the engine, in its order: of ``a.b/relu + c/add``, a.b and c."""
    paths = set(known)
    found: dict[str, None] = {}
    for part in (part for word in _PART.findall(layer) for part in word.split("...")):
        module, slash, _ = part.partition("/")
        if slash and module in paths:
            found[module] = None
    return list(found)


def _ancestors(path: str) -> list[str]:
    """The path, and all around it up to the model, which is "": of a.b.c, "", a, a.b and a.b.c."""
    parts = path.split(".") if path else []
    return [".".join(parts[:i]) for i in range(len(parts) + 1)]


def _sums(layers: Sequence[LayerRow], total: float) -> list[ModuleTime]:
    sums: dict[str, ModuleTime] = {}
    for row in layers:
        chains = [_ancestors(module) for module in row.modules]
        for path in (p for p in (chains[0] if chains else [""]) if all(p in chain for chain in chains)):
            into = sums.setdefault(path, ModuleTime(path, 0, 0.0, 0.0))
            into.layers += 1
            into.mean += row.mean
            into.share += 100 * row.mean / total
    return sorted(sums.values(), key=lambda row: row.path.split("."))
