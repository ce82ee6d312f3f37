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


def form(layers: Sequence[Layer], on_dla: Iterable[Layer], gone: Iterable[int]) -> list[list[Layer]]:
    """Subgraphs: connected layers that run between the same two turns of the GPU, in the order of the network.

    TensorRT takes turns: all layers for the GPU that are ready, then all for the DLA that are ready, and so on. A layer that
    is ready early is therefore in an early subgraph, also where what reads it has to wait for the GPU: in the log of
    GH ultralytics/ultralytics#18012 ``pe/conv/Conv`` is one subgraph, and the sum after it begins the next. (In TensorRT 7, GH
    jkjung-avt/tensorrt_demos#200, all that was ready made one subgraph, connected or not.) Layers of two batches are apart
    [S0 D].

    Args:
        layers: all that are in the engine.
        on_dla: those on the DLA.
        gone: indices of layers that go away: what reads from them reads from their makers.
    """
    wanted = {layer.index for layer in on_dla} - set(gone)
    order = _sorted(layers)
    makers = {layer.index: _makers(layer, set(gone)) for layer in order}
    turns = _turns(order, wanted, makers)
    home: dict[int, list[Layer]] = {}
    for layer in order:
        if layer.index not in wanted:
            continue
        group = home[layer.index] = [layer]
        for maker in makers[layer.index]:
            if maker.index in wanted and turns[maker.index] == turns[layer.index] and home[maker.index] is not group:
                group = _merge(home, home[maker.index], group)
    groups = {id(group): sorted(group, key=lambda layer: layer.index) for group in home.values()}
    return sorted(groups.values(), key=lambda group: group[0].index)


def _makers(layer: Layer, gone: set[int]) -> list[Layer]:
    """What a layer reads from, through layers that go away."""
    found: list[Layer] = []
    for maker in layer.makers:
        found += _makers(maker, gone) if maker.index in gone else [maker]
    return found


def _turns(order: Sequence[Layer], wanted: set[int], makers: Mapping[int, list[Layer]]) -> dict[int, int]:
    """Which turn of its device each layer runs in; the GPU's turn n is before the DLA's turn n."""
    turns: dict[int, int] = {}
    for layer in order:
        before = [maker for maker in makers[layer.index] if maker.index in turns]
        turn = 0
        for maker in before:
            waits = maker.index in wanted and (layer.index not in wanted or _batch(maker) != _batch(layer))
            turn = max(turn, turns[maker.index] + waits)
        turns[layer.index] = turn
    return turns


def _merge(home: dict[int, list[Layer]], into: list[Layer], other: list[Layer]) -> list[Layer]:
    into += other
    for layer in other:
        home[layer.index] = into
    return into


def keep(groups: Sequence[list[Layer]], joined: Mapping[int, Layer], most: int) -> list[list[Layer]]:
    """The ``most`` groups that TensorRT makes: those of more layers before smaller ones, then in the order of the network.

    So it is in the log of DeepStream-Yolo#27: the first subgraphs of one convolution each stay, and later ones if they have
    more in them.
    """
    sizes = [sum(1 for layer in group if layer.index not in joined) for group in groups]
    best = sorted(range(len(groups)), key=lambda i: (-sizes[i], i))[:most]
    return [groups[i] for i in sorted(best)]


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
