"""Sizes that vary: PyTorch's symbolic integers in the shapes of a trace, and what the model demands of them.

Only the axes that the user declares dynamic are symbolic. A comparison of such a size (``if x.shape[2] > 64``) takes the
answer of the example; it holds for other sizes only where the answer is the same, so it becomes a Constraint.
PyTorch assumes of every symbolic size that it is at least 2: whether 1 works too is for ``check`` to see.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ..errors import ConfigError, TraceError
from ..graph import Graph
from ..shapes import Dim, Dynamic
from ..sizes import Constraint, expression, is_symbolic, names_in, text
from .source import caller
from .torch_versions import right_ranges

__all__ = ["Symbols"]

aten = torch.ops.aten
TRIED = 20_000  # combinations of sizes that a constraint is computed for in advance


class Symbols:
    """The symbolic sizes of one trace.

    Args:
        dynamic: which axes vary.
        shapes: of the example inputs.

    Attributes:
        mode: PyTorch's shape rules run in it.
    """

    def __init__(self, dynamic: Dynamic, shapes: Sequence[Sequence[int]]) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        self.dynamic = dynamic
        self.here: Callable[[], str] = caller  # where the forward is
        self._env = ShapeEnv(duck_shape=False, allow_scalar_outputs=False, allow_dynamic_output_shape_ops=False)
        self._noted = _Noted(self)
        self._env.guards = self._noted
        self.mode = FakeTensorMode(shape_env=self._env, allow_non_fake_inputs=True)
        self.names: dict[str, str] = {}  # PyTorch's symbol -> name of the Dim
        self.dims: dict[str, Dim] = {}
        for i, axes in dynamic.axes.items():
            for axis, name in axes.items():
                if name not in self.dims:
                    self.dims[name] = self._make(dynamic.dims[name], shapes[i][axis])

    def _make(self, dim: Dim, size: int) -> Dim:
        from torch._dynamo.source import ConstantSource
        from torch.fx.experimental.symbolic_shapes import DimDynamic, StrictMinMaxConstraint
        from torch.utils._sympy.value_ranges import ValueRanges

        hint = next((s for s in (size, dim.ranges[0][1], dim.max) if s >= 2), 2)
        low, high = max(2, dim.min), max(3, dim.max)  # a range of one size would make it a constant
        source = ConstantSource(f"dim_{len(self.names)}")
        bounds = StrictMinMaxConstraint(vr=ValueRanges(low, high), warn_only=False)
        symbol = self._env.create_symbol(hint, source, DimDynamic.DYNAMIC, bounds)
        self.names[symbol.name] = dim.name
        return Dim(dim.name, dim.ranges, self._env.create_symintnode(symbol, hint=hint, source=source))

    @contextlib.contextmanager
    def watching(self, here: Callable[[], str]) -> Iterator[None]:
        """While a forward runs, which ``here`` places; no longer, for PyTorch keeps symbols, and so all that they lead to."""
        self.here = here
        try:
            with _without_needless_guards(), right_ranges():
                yield
        finally:
            self.here = caller

    # ---- tensors without data ---------------------------------------------------------------------------------------

    def input(self, tensor: torch.Tensor, position: int) -> torch.Tensor:
        """A stand-in for the ``position``-th input, its dynamic axes symbolic, its axes in the same order in memory."""
        axes = self.dynamic.axes.get(position, {})
        if not axes:
            return self.empty(tensor.shape, tensor.stride(), tensor.dtype)
        shape = [self.dims[axes[i]].symbol if i in axes else size for i, size in enumerate(tensor.shape)]
        innermost_first = list(reversed(range(len(shape))))
        if not tensor.is_contiguous():
            innermost_first.sort(key=tensor.stride)
        strides, step = [1] * len(shape), 1
        for axis in innermost_first:
            strides[axis], step = step, step * shape[axis]
        return self.empty(shape, strides, tensor.dtype)

    def empty(self, shape: Sequence[Any], strides: Sequence[Any] | None, dtype: torch.dtype) -> torch.Tensor:
        """A tensor without data that PyTorch's shape rules take together with symbolic ones; contiguous without strides."""
        with self.mode:
            if strides is None:
                return torch.empty(tuple(shape), dtype=dtype, device="meta")
            return torch.empty_strided(tuple(shape), tuple(strides), dtype=dtype, device="meta")

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """PyTorch's shape rule of ``func``.

        Raises:
            NotImplementedError: the shape depends on data, or there is no rule.
        """
        from torch._dispatch.python import enable_python_dispatcher
        from torch._subclasses import fake_tensor

        no_rule = (
            fake_tensor.DynamicOutputShapeException, fake_tensor.DataDependentOutputException,
            fake_tensor.UnsupportedOperatorException,
        )  # fmt: skip
        try:
            with self.mode, enable_python_dispatcher():  # else C++ kernels ask for plain integers
                return _RULES.get(func, func)(*args, **kwargs)
        except no_rule as error:
            raise NotImplementedError(str(error)) from error

    # ---- what the model demands -------------------------------------------------------------------------------------

    def constraints(self) -> list[Constraint]:
        """Every comparison of sizes that the forward, or PyTorch for it, made.

        Raises:
            TraceError: one is of a kind that cannot be followed.
        """
        found: dict[str, Constraint] = {}
        for guard, source in zip(self._noted, self._noted.places):
            try:
                condition = expression(guard.expr, self.names)
            except ConfigError as error:
                raise TraceError(f"the model compares sizes {source}: {error}") from error
            found.setdefault(str(condition), Constraint(condition, source))
        return [c for c in found.values() if not self._always(c)]

    def _always(self, constraint: Constraint) -> bool:
        """Whether a constraint holds for all allowed sizes, seen by trying them; False where they are too many."""
        names = names_in(constraint.condition)
        ranges = [range(self.dims[n].min, self.dims[n].max + 1) for n in names]
        if math.prod(map(len, ranges)) > TRIED:
            return False
        return all(constraint.holds(dict(zip(names, sizes))) for sizes in itertools.product(*ranges))

    def describe(self, graph: Graph) -> None:
        """Put dims and constraints into a traced graph.

        Raises:
            ConfigError: the model does not take the smallest, usual or largest sizes of a profile; the axis, the constraint
                and the line of the model that made it.
        """
        graph.axes, graph.symbols, graph.dims = self.dynamic.axes, self.names, self.dims
        graph.constraints = self.constraints()
        self._refuse_broken(graph)

    def _refuse_broken(self, graph: Graph) -> None:
        count = self.dynamic.profile_count
        for constraint in graph.constraints:
            for profile in range(count):
                for which, word in enumerate(("min", "opt", "max")):
                    sizes = {n: d.ranges[profile][which] for n, d in self.dims.items()}
                    if not constraint.holds(sizes):
                        raise ConfigError(_broken(constraint, word, sizes, profile if count > 1 else None, graph))


def _broken(constraint: Constraint, word: str, sizes: dict[str, int], profile: int | None, graph: Graph) -> str:
    """Why a profile is refused."""
    used = names_in(constraint.condition)
    given = ", ".join(f"{name} = {sizes[name]}" for name in used)
    where = "" if profile is None else f" of profile {profile}"
    axes = [f"axis {a} of {graph.input_names[i]}" for i, axes in graph.axes.items() for a, n in axes.items() if n in used]
    return (
        f"the model itself demands {text(constraint.condition)} ({constraint.source}), but {word}{where} has {given} "
        f"({', '.join(axes)}). Choose sizes that the model takes, make the axis static, or change that line."
    )


def _linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """PyTorch's rule flattens the input and asks whether its strides allow that."""
    torch._check(input.shape[-1] == weight.shape[-1])
    return input.new_empty((*input.shape[:-1], *weight.shape[:-1]))


def _matmul(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    if self.dim() < 2 or other.dim() < 2:
        return torch.matmul(self, other)
    torch._check(self.shape[-1] == other.shape[-2])
    batch = (self.new_empty(self.shape[:-2]) + self.new_empty(other.shape[:-2])).shape
    return self.new_empty((*batch, self.shape[-2], other.shape[-1]))


def _same(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return self.new_empty(self.shape)


def _itself(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return self


def _norm(func: Any, axis: int) -> Callable[..., Any]:
    """The rule of a normalization: PyTorch's own only where its parameters must fit a symbolic number of channels."""

    def rule(input: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return func(input, *args, **kwargs) if is_symbolic(input.shape[axis]) else _same(input)

    return rule


# Shape rules in the place of PyTorch's, which for symbolic sizes ask what makes no difference, or take long.
def _max_pool1d(x: Any, *args: Any, **kwargs: Any) -> Any:
    """Its kernel in C++ reads the length as a plain integer; that of the form with indices does not."""
    return aten.max_pool1d_with_indices.default(x, *args, **kwargs)[0]


_RULES: dict[Any, Callable[..., Any]] = {
    aten.max_pool1d.default: _max_pool1d,
    aten.linear.default: _linear, aten.matmul.default: _matmul,
    **{func: _norm(func, 1) for func in (aten.batch_norm.default, aten.group_norm.default, aten.instance_norm.default)},
    **dict.fromkeys(
        (aten.relu.default, aten.silu.default, aten.gelu.default, aten.hardtanh.default, aten.hardswish.default,
         aten.hardsigmoid.default, aten.leaky_relu.default, aten.elu.default), _same,
    ),
    **dict.fromkeys(  # in eval mode, which is all that is traced
        (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.feature_alpha_dropout.default),
        _itself,
    ),
}  # fmt: skip


class _Noted(list[Any]):
    """ShapeEnv's list of guards, which notes where the forward is when one is added."""

    def __init__(self, symbols: Symbols) -> None:
        super().__init__()
        self.places: list[str] = []
        self._symbols = symbols

    def append(self, guard: Any) -> None:
        """Take a guard."""
        self.places.append(self._symbols.here())
        super().append(guard)


@contextlib.contextmanager
def _without_needless_guards() -> Iterator[None]:
    """PyTorch's shape rule of poolings asks whether a division leaves a rest, and does the same either way.

    For Python's integers its rounding towards minus infinity is ``//``; asked of a symbolic size, the question would bar
    every other height.
    """
    from torch import _meta_registrations as rules

    before = getattr(rules, "div_rtn", None)
    if before is None:
        yield
        return
    rules.div_rtn = lambda x, y: x // y
    try:
        yield
    finally:
        rules.div_rtn = before
