"""Modules whose trace must be functional: replay on fresh inputs gives what the module gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torch2edge.graph import Graph
from torch2edge.structure import flatten
from torch2edge.trace import trace

Tensor = torch.Tensor


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *inputs: Tensor) -> Any:
        return self.fn(*inputs)


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def traced(model: nn.Module, *shapes: tuple[int, ...], whole: bool = True) -> Graph:
    """The graph; ``whole`` keeps every op as it is, else PyTorch takes apart what it can."""
    return trace(model.eval(), [draw(s, 0) for s in shapes], is_leaf=lambda op: whole and op in LEAVES)


aten = torch.ops.aten
LEAVES = {
    aten.chunk.default, aten.narrow.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int,
    aten.index_put.default, aten.select_scatter.default, aten.slice_scatter.default, aten.diagonal_scatter.default,
    aten.unbind.int, aten.split.Tensor, aten.transpose.int, aten.t.default, aten.pad.default, aten.alias.default,
}  # fmt: skip


def assert_same(model: nn.Module, *shapes: tuple[int, ...]) -> None:
    """With and without whole ops: no op writes, and fresh inputs give what eager gives, twice."""
    for whole in (True, False):
        graph = traced(model, *shapes, whole=whole)
        for op in graph.ops:
            assert not op.target._schema.is_mutable, op
        for seed in (1, 2):
            inputs = [draw(s, seed) for s in shapes]
            with torch.no_grad():
                expected = flatten(model(*[t.clone() for t in inputs]))[0]
            given = graph.replay([t.clone() for t in inputs])
            assert len(given) == len(expected)
            for a, b in zip(given, expected):
                assert a.dtype == b.dtype
                torch.testing.assert_close(a, b)


class Cases(dict[str, tuple[Any, ...]]):
    """Functions by name, each with the shapes of its inputs."""

    def __call__(self, *shapes: tuple[int, ...]) -> Callable[[Any], Any]:
        """Register the decorated function, of inputs of these shapes."""

        def register(fn: Any) -> Any:
            assert fn.__name__ not in self
            self[fn.__name__] = (fn, *shapes)
            return fn

        return register

    def check(self, name: str) -> None:
        """Trace and replay one of them."""
        fn, *shapes = self[name]
        assert_same(Of(fn), *shapes)
