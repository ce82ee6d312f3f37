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
from ..graph import Graph, map_tensors
from ..shapes import Dim, Dynamic
from ..sizes import Constraint, expression, names_in, text
from .layouts import QUICK_FORMS
from .shape_rules import hint, in_order, map_sizes, rule_of
from .source import caller
from .torch_versions import right_ranges
from .view_rules import VIEW_RULES

__all__ = ["Symbols"]

aten = torch.ops.aten
TRIED = 20_000  # combinations of sizes that a constraint is computed for in advance


_META = torch.device("meta")


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
        self.mode.cache_enabled = False  # it writes every symbolic size of an output anew as an expression of the inputs
        self._examples: dict[Any, Any] = {}  # op and arguments -> result, at the example's sizes
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
        from torch._subclasses.fake_tensor import FakeTensor

        given = in_order(shape) if strides is None else strides
        plain = torch.as_strided(torch.empty(0, dtype=dtype, device="meta"), tuple(shape), tuple(given))
        return FakeTensor(self.mode, plain, _META)

    def _place(self, memory: torch.Tensor, shape: Sequence[Any], strides: Sequence[Any]) -> torch.Tensor:
        """A tensor in the memory of another. ``torch.empty`` of symbolic sizes takes ten times as long."""
        from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager

        with in_kernel_invocation_manager(self.mode):
            plain = torch.as_strided(memory, tuple(shape), tuple(strides))
        return FakeTensor(self.mode, plain, _META)

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """PyTorch's shape rule of ``func``.

        Raises:
            NotImplementedError: the shape depends on data, or there is no rule.
        """
        if (result := self._by_own_rule(func, args, kwargs)) is not None:
            return result
        from torch._dispatch.python import enable_python_dispatcher
        from torch._subclasses import fake_tensor

        no_rule = (
            fake_tensor.DynamicOutputShapeException, fake_tensor.DataDependentOutputException,
            fake_tensor.UnsupportedOperatorException,
        )  # fmt: skip
        args, kwargs = map_tensors((args, kwargs), self._ours)
        try:
            with self.mode, enable_python_dispatcher():  # else C++ kernels ask for plain integers
                return func(*args, **kwargs)
        except no_rule as error:
            raise NotImplementedError(str(error)) from error

    def _ours(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the meta device as one that goes with those of symbolic sizes."""
        return tensor if type(tensor) is not torch.Tensor else self.empty(tensor.shape, tensor.stride(), tensor.dtype)

    def _by_own_rule(self, func: Any, args: Any, kwargs: Any) -> torch.Tensor | None:
        """The result by a rule of shape_rules.py or view_rules.py, if PyTorch agrees with it at the example's sizes."""
        view, rule = VIEW_RULES.get(func), rule_of(func)
        if view:
            shape, strides = view(*args, **kwargs) or (None, None)
        else:
            shape, strides = (rule(*args, **kwargs) if rule else None), None
        if shape is None:
            return None
        dtype = self._example(func, args, kwargs, tuple(hint(s) for s in shape))
        if dtype is None:
            return None
        if strides is None:
            return self.empty(shape, None, dtype)
        return args[0] if func is aten.contiguous.default else self._place(args[0], shape, strides)

    def _example(self, func: Any, args: Any, kwargs: Any, shape: tuple[int, ...]) -> torch.dtype | None:
        """The dtype that PyTorch gives the result at the example's sizes; None where its shape is another."""
        plain_args, plain_kwargs = map_sizes(args), map_sizes(kwargs)
        key = (func, _key((plain_args, plain_kwargs)))
        if key not in self._examples:
            rule = QUICK_FORMS.get(func, func)
            self._examples[key] = rule(*map_tensors(plain_args, _at_the_example), **map_tensors(plain_kwargs, _at_the_example))
        result = self._examples[key]
        return result.dtype if isinstance(result, torch.Tensor) and tuple(result.shape) == shape else None

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
    exported = "_guards_fn" in constraint.source  # the checks that torch.export puts into a program's module
    change = "export with dynamic_shapes= that allow it" if exported else "change that line"
    return (
        f"the model itself demands {text(constraint.condition)} ({constraint.source}), but {word}{where} has {given} "
        f"({', '.join(axes)}). Choose sizes that the model takes, make the axis static, or {change}."
    )


def _key(tree: Any) -> Any:
    """Nested arguments as something that a dict can be asked for."""
    if isinstance(tree, torch.Tensor):
        return (torch.Tensor, tuple(hint(s) for s in tree.shape), tree.dtype)
    if isinstance(tree, (tuple, list)):
        return tuple(map(_key, tree))
    if isinstance(tree, dict):
        return tuple((name, _key(item)) for name, item in tree.items())
    return (type(tree), tree)


def _at_the_example(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty([hint(s) for s in tensor.shape], dtype=tensor.dtype, device="meta")


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
