"""Which layers on the DLA make one subgraph (a loadable), and how many subgraphs a core takes."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .layer import Layer, Setting, batch_of, version

__all__ = ["LIMITS", "MOST_BYTES_INSIDE", "Limit", "form", "keep", "limit_of"]

MOST_BYTES_INSIDE = 2**30
"""Tensors inside one subgraph, in bytes: less than this [H86 ITensor]."""


@dataclass(frozen=True)
class Limit:
    """How many subgraphs TensorRT makes for one core; a row per range of versions."""

    until: str  # first version for which it does not hold any more
    count: int
    source: str
    confidence: str


LIMITS = (
    Limit("8.4", 8, "GH marcoslucianops/DeepStream-Yolo#27 (TensorRT 7)", "log"),
    # Four stand in the guide of 8.4-EA. The build log of the DLA guide has five, and what would be the sixth is on the GPU,
    # though the same layers are on the DLA in a log with fewer subgraphs.
    Limit("8.5", 5, "TUT (the GroupNorm model); G84 says 4; INF", "log"),
    Limit("", 16, "S0 S3 D", "documented"),
)
REASON = "DLA supports only {count} subgraphs per DLA core. Switching to GPU for layer {name}"


def limit_of(at: Setting) -> Limit:
    """The row for the version that is asked about."""
    return next(row for row in LIMITS if not row.until or at.version < version(row.until))


def form(
    layers: Sequence[Layer], on_dla: Iterable[Layer], joined: Mapping[int, Layer], gone: Iterable[int]
) -> list[list[Layer]]:
    """Subgraphs: the largest groups of connected layers on the DLA that run as one, in the order of the network.

    Two layers are in one group only if nothing outside of it is between them, or TensorRT could not run it as a whole, and if
    their batches are equal [S0 D].

    Args:
        layers: all that are in the engine.
        on_dla: those on the DLA.
        joined: index of a layer -> the layer that it becomes part of.
        gone: indices of layers that go away: what reads from them reads from their makers.
    """
    return _Grouping(layers, {layer.index for layer in on_dla}, joined, set(gone)).groups()


def keep(groups: Sequence[list[Layer]], joined: Mapping[int, Layer], most: int) -> list[list[Layer]]:
    """The ``most`` groups that TensorRT makes: those of more layers before smaller ones, then in the order of the network.

    So it is in the log of DeepStream-Yolo#27: the first subgraphs of one convolution each stay, and later ones if they have
    more in them.
    """
    sizes = [sum(1 for layer in group if layer.index not in joined) for group in groups]
    best = sorted(range(len(groups)), key=lambda i: (-sizes[i], i))[:most]
    return [groups[i] for i in sorted(best)]


class _Grouping:
    """Union of neighbours, one layer after the other."""

    def __init__(self, layers: Sequence[Layer], wanted: set[int], joined: Mapping[int, Layer], gone: set[int]) -> None:
        self.wanted, self.joined, self.gone = wanted, joined, gone
        self.order = _sorted(layers)
        self.place = {layer.index: i for i, layer in enumerate(self.order)}
        self.readers: dict[int, list[int]] = {layer.index: [] for layer in self.order}
        self.makers = {layer.index: self._makers(layer) for layer in self.order}
        for reader, makers in self.makers.items():
            for maker in makers:
                self.readers[maker].append(reader)
        self.home: dict[int, int] = {}  # layer -> the first layer of its group
        self.members: dict[int, list[int]] = {}

    def _makers(self, layer: Layer) -> list[int]:
        found: list[int] = []
        for maker in layer.makers:
            found += self._makers(maker) if maker.index in self.gone else [maker.index]
        return list(dict.fromkeys(found))

    def groups(self) -> list[list[Layer]]:
        by_index = {layer.index: layer for layer in self.order}
        for layer in self.order:
            if layer.index not in self.wanted or layer.index in self.gone:
                continue
            self.home[layer.index], self.members[layer.index] = layer.index, [layer.index]
            for maker in self.makers[layer.index]:
                if maker in self.home and self._fit(self.home[layer.index], self.home[maker], by_index):
                    self._merge(self.home[maker], self.home[layer.index])
        found = [sorted(members) for members in self.members.values()]
        return [[by_index[i] for i in members] for members in sorted(found)]

    def _merge(self, into: int, other: int) -> None:
        for index in self.members.pop(other):
            self.home[index] = into
            self.members[into].append(index)

    def _fit(self, one: int, two: int, by_index: Mapping[int, Layer]) -> bool:
        if one == two:
            return False
        first, second = by_index[self.members[one][0]], by_index[self.members[two][0]]
        return _batch(first) == _batch(second) and not self._outside(one, two)

    def _outside(self, one: int, two: int) -> bool:
        """Whether a way leads from the two groups out and in again; another group is run as a whole, so is one step of it."""
        inside = {*self.members[one], *self.members[two]}
        last = max(self.place[index] for index in inside)
        todo = [r for index in inside for r in self.readers[index] if r not in inside]
        seen: set[int] = set()
        while todo:
            index = todo.pop()
            if index in seen or self.place[index] > last:
                continue
            unit = self.members[self.home[index]] if index in self.home else [index]
            seen.update(unit)
            following = [r for member in unit for r in self.readers[member]]
            if any(r in inside for r in following):
                return True
            todo += following
        return False


def _batch(layer: Layer) -> int:
    return batch_of(layer.outputs[0].shape or ())


def _sorted(layers: Sequence[Layer]) -> list[Layer]:
    """Makers before readers, otherwise in the order of the network; what is in a circle (a loop) comes last."""
    waiting = {layer.index: len(layer.makers) for layer in layers}
    by_index = {layer.index: layer for layer in layers}
    ready = [index for index, count in waiting.items() if not count]
    heapq.heapify(ready)
    order: list[Layer] = []
    while ready:
        layer = by_index[heapq.heappop(ready)]
        order.append(layer)
        for reader in layer.readers:
            waiting[reader.index] -= 1
            if not waiting[reader.index]:
                heapq.heappush(ready, reader.index)
    done = {layer.index for layer in order}
    return order + [layer for layer in layers if layer.index not in done]
