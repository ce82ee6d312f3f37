"""How far the values of a network are from those of the traced ops run by PyTorch: figures over some batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..graph import Graph
from .tf32 import tf32

__all__ = ["Compute", "Figures", "Measured", "measure"]

Compute = Callable[[Sequence[torch.Tensor]], Mapping[str, torch.Tensor]]


@dataclass
class Figures:
    """Sums over the elements of a tensor, and what follows from them.

    Elements that are no finite number in the reference are left out; where the other has something else in their place, or is
    not finite itself, every error is infinite.
    """

    error: float = 0.0  # sum of the squares of given - reference
    given: float = 0.0
    reference: float = 0.0
    dot: float = 0.0
    max_abs: float = 0.0

    def add(self, given: torch.Tensor, reference: torch.Tensor) -> None:
        """Take in tensors of one shape, of any dtypes and devices."""
        a, b = given.detach().cpu().double().flatten(), reference.detach().cpu().double().flatten()
        finite = b.isfinite()
        specials = ((a == b) | (a.isnan() & b.isnan()))[~finite]
        a, b = a[finite], b[finite]
        if not bool(specials.all()) or not bool(a.isfinite().all()):
            self.error = self.max_abs = math.inf
            return
        self.error += float((a - b).square().sum())
        self.given += float(a.square().sum())
        self.reference += float(b.square().sum())
        self.dot += float(torch.dot(a, b))
        if len(b):
            self.max_abs = max(self.max_abs, float((a - b).abs().max()))

    @property
    def rel_l2(self) -> float:
        """L2 norm of the error over that of the reference."""
        if self.reference == 0:
            return 0.0 if self.error == 0 else math.inf
        return math.sqrt(self.error / self.reference)

    @property
    def cosine(self) -> float:
        """Cosine similarity; of two zeros it is 1."""
        if math.isinf(self.error):
            return 0.0
        norms = math.sqrt(self.given) * math.sqrt(self.reference)
        return self.dot / norms if norms else float(self.given == self.reference)

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio in decibels, 10 log10(|reference|^2 / |error|^2); infinite where there is no error."""
        relative = self.rel_l2
        return math.inf if relative == 0 else -20 * math.log10(relative) if math.isfinite(relative) else -math.inf


@dataclass
class Measured:
    """Figures of a network.

    Attributes:
        values: by the index of a Value.
        outputs: one per output, in order.
        replayed: what the traced ops gave for the first batch, run by PyTorch.
    """

    values: dict[int, Figures]
    outputs: list[Figures]
    replayed: list[torch.Tensor]


def measure(
    graph: Graph, compute: Compute, output_names: Sequence[str], tensor_names: Mapping[int, str],
    batches: Iterable[Sequence[torch.Tensor]], wanted: Collection[int],
) -> Measured:  # fmt: skip
    """Run the batches through a network, and through the traced ops in PyTorch.

    Args:
        graph: as traced.
        compute: of the network: from inputs of the graph to its outputs and the wanted values, by the tensors' names.
        output_names: the network's output per output of the graph.
        tensor_names: index of a value -> the network's tensor that holds it.
        wanted: indices of the values to hold against PyTorch's; each must be in ``tensor_names``.
    """
    measured = Measured({index: Figures() for index in wanted}, [Figures() for _ in output_names], [])
    for inputs in batches:
        held = compute(inputs)
        with tf32(False):
            replayed = graph.replay(inputs, _Look(measured.values, held, tensor_names))
        for figures, name, result in zip(measured.outputs, output_names, replayed):
            figures.add(held[name], result)
        measured.replayed = measured.replayed or replayed
    return measured


@dataclass
class _Look:
    """Adds each result of the replay to its figures."""

    figures: Mapping[int, Figures]
    held: Mapping[str, torch.Tensor]
    names: Mapping[int, str]

    def __call__(self, op: Any, results: list[Any]) -> None:
        for value, result in zip(op.outputs, results):
            if value is None or value.index not in self.figures:
                continue
            given = self.held.get(self.names[value.index])
            if given is not None:
                self.figures[value.index].add(given, result)
