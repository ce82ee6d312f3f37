"""A row of an op table whose inputs have dynamic axes, and what it means that such a row passes.

Traced once, at the opt sizes; lowered; an engine built with a profile; then the reference executor computes over that one
network, at the smallest, usual, largest and at odd sizes, what PyTorch computes there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from support.rows import F32, RTOL, Case, Row, assert_close, numbered
from torch2edge._trt import trt
from torch2edge.build import BuildSession
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.lower import Lowered, lower, registry
from torch2edge.options import Options
from torch2edge.shapes import Dim, Dynamic
from torch2edge.structure import flatten
from torch2edge.trace import trace

__all__ = ["DYNAMIC", "DynamicRow", "check_dynamic_row", "dynamic_rows", "lower_dynamic"]

DYNAMIC = {"n": (1, 3, 6), "c": (2, 4, 8), "h": (4, 12, 20), "w": (5, 10, 24), "t": (3, 7, 16)}
"""Dims by name: (min, opt, max)."""


@dataclass(frozen=True)
class DynamicRow(Case):
    """One case of one op; ``inputs`` are shapes of ints and names of dims (float32), or Specs of such shapes."""

    dims: Mapping[str, tuple[int, int, int]] = field(default_factory=lambda: DYNAMIC)

    @property
    def used(self) -> list[str]:
        """Names of the dims in the inputs' shapes."""
        return sorted({n for s in self.specs() for n in s.shape if isinstance(n, str)})

    def dynamic(self) -> Dynamic:
        """What trace() takes."""
        axes = {i: {a: n for a, n in enumerate(s.shape) if isinstance(n, str)} for i, s in enumerate(self.specs())}
        return Dynamic({i: a for i, a in axes.items() if a}, {n: Dim(n, (self.dims[n],)) for n in self.used})

    def at(self, sizes: Mapping[str, int]) -> Row:
        """The row at fixed sizes."""
        specs = [replace(s, shape=tuple(sizes.get(n, n) for n in s.shape)) for s in self.specs()]
        return Row(self.op, self.fn, tuple(specs), self.dtype, self.rtol, self.why, id=str(self))

    def every_size(self) -> list[dict[str, int]]:
        """Min, opt, max, and two odd ones between them."""
        ends: list[dict[str, int]] = [{n: self.dims[n][i] for n in self.used} for i in range(3)]
        between = {n: self.dims[n][0] + (self.dims[n][2] - self.dims[n][0]) // 3 for n in self.used}
        mixed = {n: self.dims[n][2 if i % 2 else 0] - (1 if i % 2 else 0) for i, n in enumerate(self.used)}
        return [*ends, between, mixed]


def dynamic_rows(
    op: Any, cases: Sequence[tuple[Any, ...]], dtypes: Sequence[torch.dtype] = (F32,), **kw: Any
) -> list[DynamicRow]:
    """Rows of one op: ``cases`` are (fn, input, input, ...); each in every dtype. Numbered where they repeat."""
    return numbered([DynamicRow(op, fn, tuple(inputs), dtype, **kw) for fn, *inputs in cases for dtype in dtypes])


def lower_dynamic(row: DynamicRow) -> tuple[torch.nn.Module, Any, Lowered, BuildSession]:
    """Trace with dynamic axes, lower, and give the session a profile."""
    usual = row.at(row.every_size()[1])
    model = usual.module()
    graph = trace(
        model, usual.draw(seed=0), is_leaf=registry().is_leaf, module_classes=registry().module_classes(),
        dynamic=row.dynamic(),
    )  # fmt: skip
    targets = [op.target for op in graph.ops]
    assert row.op in targets, f"the row is about {row.op}, but tracing gave {[str(t) for t in targets]}"
    session = BuildSession(Options())
    lowered = lower(graph, session.network, registry())
    session.add_profiles(lowered.input_names, graph.profiles())
    return model, graph, lowered, session


def check_dynamic_row(row: DynamicRow) -> None:
    """All that a row promises; see the head of this file."""
    model, graph, lowered, session = lower_dynamic(row)
    assert len(session.build()) > 0
    executor = ReferenceExecutor(session.network, trt)
    for number, sizes in enumerate(row.every_size()):
        inputs = row.at(sizes).draw(seed=number + 1)
        with torch.no_grad():
            expected, structure = flatten(model(*[t.clone() for t in inputs]))
        assert structure == graph.output_structure
        given = executor.run({n: t for n, t in zip(lowered.input_names, inputs) if n})
        for name, reference in zip(lowered.output_names, expected):
            try:
                assert_close(given[name], reference, row.rtol or RTOL[row.dtype])
            except AssertionError as error:
                raise AssertionError(f"at {sizes}: {error}") from error
