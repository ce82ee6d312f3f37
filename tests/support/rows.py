"""A row of an op table, and what it means that a row passes.

A row names the op whose converter it is about, a function (or module) of tensors, and how to draw its inputs. It passes
when the traced function holds that op, its converter was called, TensorRT built an engine from the network, and the
reference executor computes over that network, on fresh inputs, what PyTorch computes: same structure, same shapes, same
dtypes, then values.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import nn

from torch2edge._trt import trt
from torch2edge.build import BuildSession
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.lower import Lowered, lower, registry
from torch2edge.options import Options
from torch2edge.structure import flatten
from torch2edge.trace import trace

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
# fp32: issue 2's rule. Lower precisions: a few units in the last place (2**-11, 2**-8), relative to the largest element,
# because PyTorch's CPU kernels round intermediate results that TensorRT keeps.
RTOL = {F32: 1e-5, F16: 4e-3, BF16: 3e-2}

R = TypeVar("R", bound=Any)  # a Row, or a DynamicRow


@dataclass(frozen=True)
class Spec:
    """How to draw one input: normal floats of standard deviation ``scale`` around ``center``, or integers in [low, high)."""

    shape: tuple[int, ...]
    dtype: torch.dtype = F32
    low: int = 0
    high: int = 10
    scale: float = 1.0
    center: float = 0.0
    positive: bool = False  # absolute value plus 0.1, for log, sqrt, pow

    def draw(self, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
        """A tensor; float32 specs come in ``dtype``."""
        if self.dtype == torch.bool:
            return torch.rand(self.shape, generator=generator) > 0.5
        if not self.dtype.is_floating_point:
            return torch.randint(self.low, self.high, self.shape, generator=generator).to(self.dtype)
        x = torch.randn(self.shape, generator=generator) * self.scale + self.center
        x = x.abs() + 0.1 if self.positive else x
        return x.to(dtype if self.dtype == F32 else self.dtype)


@dataclass(frozen=True)
class Case:
    """What rows of fixed and of dynamic shapes have in common.

    ``op`` is an ATen overload (or a module class) that must be among the traced ops. ``fn`` takes the inputs; an
    nn.Module is deep-copied, put in eval mode and cast to the dtype. ``inputs`` are shapes (float32) or Specs.
    ``why`` must be given with an ``rtol`` that is looser than the rule.
    """

    op: Any
    fn: Callable[..., Any]
    inputs: tuple[Any, ...]
    dtype: torch.dtype = F32
    rtol: float | None = None
    why: str = ""
    id: str = ""

    def __post_init__(self) -> None:
        if self.rtol is not None and not self.why:
            raise ValueError(f"{self}: a loose rtol needs its reason in why=")

    def __str__(self) -> str:
        return row_name(self.op, self.id or shapes_text(self.specs()), self.dtype)

    def specs(self) -> list[Spec]:
        """The inputs as Specs."""
        return [s if isinstance(s, Spec) else Spec(tuple(s)) for s in self.inputs]


class Row(Case):
    """One case of one op at fixed shapes."""

    def draw(self, seed: int) -> list[torch.Tensor]:
        """Inputs; other rows and other seeds give others."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(str(self).encode()))
        return [s.draw(generator, self.dtype) for s in self.specs()]

    def module(self) -> nn.Module:
        """The function as a module in eval mode, with weights drawn from a fixed seed."""
        if isinstance(self.fn, nn.Module):
            import copy

            return copy.deepcopy(self.fn).eval().to(self.dtype)
        return Function(self.fn).eval()

    def tolerance(self) -> float:
        """Largest error allowed, relative to the largest element of the reference."""
        return self.rtol if self.rtol is not None else RTOL[self.dtype]


class Function(nn.Module):
    """A function of tensors as a module, with the submodules that it uses."""

    def __init__(self, fn: Callable[..., Any], *held: nn.Module) -> None:
        super().__init__()
        self.fn, self.held = fn, nn.ModuleList(held)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.fn(*inputs)


def rows(op: Any, cases: Sequence[tuple[Any, ...]], dtypes: Sequence[torch.dtype] = (F32,), **kwargs: Any) -> list[Row]:
    """Rows of one op: ``cases`` are (fn, input, input, ...); each in every dtype. Ids are numbered where shapes repeat."""
    return numbered([Row(op, fn, tuple(inputs), dtype=d, **kwargs) for fn, *inputs in cases for d in dtypes])


def row_name(op: Any, id: str, dtype: torch.dtype) -> str:
    """``relu.default-2_3-float16``"""
    name = op.__name__ if isinstance(op, type) else str(op).removeprefix("aten.")
    return f"{name}-{id}{'' if dtype == F32 else '-' + str(dtype).removeprefix('torch.')}"


def shapes_text(specs: Sequence[Spec]) -> str:
    """``2_3x4``, of two inputs."""
    return "x".join("_".join(map(str, s.shape)) for s in specs)


def numbered(made: Sequence[R]) -> list[R]:
    """Rows of different names: from the second of a name on, its id ends in a number."""
    seen: dict[str, int] = {}
    result = []
    for row in made:
        seen[str(row)] = count = seen.get(str(row), 0) + 1
        result.append(row if count == 1 else replace(row, id=f"{row.id or shapes_text(row.specs())}#{count}"))
    return result


def convert_row(row: Row) -> tuple[nn.Module, Any, Lowered, BuildSession]:
    """Trace and lower a row; the op must be there, and its converter must have been called."""
    model = row.module()
    graph = trace(model, row.draw(seed=0), is_leaf=registry().is_leaf, module_classes=registry().module_classes())
    targets = [op.target for op in graph.ops]
    assert row.op in targets, f"the row is about {row.op}, but tracing gave {[str(t) for t in targets]}"
    assert registry().get(row.op) is not None, f"{row.op} has no converter"
    session = BuildSession(Options())
    lowered = lower(graph, session.network, registry())
    return model, graph, lowered, session


def check_row(row: Row) -> None:
    """All that a row promises; see the head of this file."""
    model, graph, lowered, session = convert_row(row)
    assert len(session.build()) > 0
    executor = ReferenceExecutor(session.network, trt)
    inputs = row.draw(seed=1)
    with torch.no_grad():
        expected, structure = flatten(model(*[t.clone() for t in inputs]))
    assert structure == graph.output_structure
    given = executor.run({n: t for n, t in zip(lowered.input_names, inputs) if n})
    for name, reference in zip(lowered.output_names, expected):
        assert_close(given[name], reference, row.tolerance())


def assert_close(given: torch.Tensor, reference: torch.Tensor, rtol: float) -> None:
    """Shape, dtype, then values: equal for integers and bools; else max error relative to the largest finite element."""
    assert given.shape == reference.shape, f"shape {tuple(given.shape)}, not {tuple(reference.shape)}"
    assert given.dtype == reference.dtype, f"{given.dtype}, not {reference.dtype}"
    if not reference.dtype.is_floating_point:
        assert torch.equal(given, reference), f"{(given != reference).sum()} of {given.numel()} differ"
        return
    given, reference = given.double(), reference.double()
    finite = reference.isfinite()
    for kind in (torch.isnan, torch.isposinf, torch.isneginf):
        differ = kind(given) != kind(reference)
        assert not differ.any(), f"{given[differ][:4].tolist()}, not {reference[differ][:4].tolist()}"
    if finite.any():
        error = (given - reference)[finite].abs().max().item()
        largest = reference[finite].abs().max().item()
        assert error <= rtol * max(largest, 1e-30), f"error {error:.3g}, largest element {largest:.3g}, allowed {rtol} of it"
