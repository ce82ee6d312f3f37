"""What a user says of input shapes that may vary: Input, dims by name, ranges, optimization profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .errors import ConfigError, InputError

__all__ = ["Dim", "Dynamic", "Input", "Range", "axes_of", "check_examples", "declare", "is_shape", "ranges_of", "triples"]

Range = tuple[int, int, int]
"""Smallest, most usual and largest size."""


@dataclass(eq=False)
class Dim:
    """A size that may vary between calls.

    Attributes:
        name: the user's, or ``args[0].shape[2]``.
        ranges: (min, opt, max) in each optimization profile.
        symbol: the torch.SymInt that stands for it in a traced graph.
    """

    name: str
    ranges: tuple[Range, ...]
    symbol: Any = None

    @property
    def min(self) -> int:
        """Smallest size of all profiles."""
        return min(r[0] for r in self.ranges)

    @property
    def max(self) -> int:
        """Largest size of all profiles."""
        return max(r[2] for r in self.ranges)

    def allows(self, size: int, profile: int | None = None) -> bool:
        """Whether a size lies inside a profile, or inside any of them."""
        ranges = self.ranges if profile is None else (self.ranges[profile],)
        return any(low <= size <= high for low, _, high in ranges)

    def __str__(self) -> str:
        return f"{self.name} of {self.allowed}"

    @property
    def allowed(self) -> str:
        """``1 to 4 or 8 to 16``"""
        return " or ".join(dict.fromkeys(f"{low} to {high}" for low, _, high in self.ranges))


@dataclass
class Dynamic:
    """Which axes of a call's inputs vary.

    Attributes:
        axes: position of the input -> axis -> name of its Dim.
        dims: Dim by name; all have the same number of ranges.
    """

    axes: dict[int, dict[int, str]] = field(default_factory=dict)
    dims: dict[str, Dim] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.axes)

    @property
    def profile_count(self) -> int:
        """Number of optimization profiles."""
        return max((len(d.ranges) for d in self.dims.values()), default=1)


class Input:
    """An input of a conversion by its shape, in place of an example tensor.

    Either three shapes, or one shape in which a name stands for a size that varies; ``dims`` gives the range of each name,
    and axes of one name, also of other inputs, have one size. A list of shapes, or of ranges, makes one optimization profile
    per item.

    Args:
        shape: sizes and names of dims, e.g. ``("batch", 3, 224, 224)``.
        min: the smallest shape.
        opt: the shape to build the fastest engine for.
        max: the largest shape.
        dims: name -> (min, opt, max).
        dtype: of the tensor.
        name: what messages call the input.
        low: smallest value of an example of integers; the check draws from the example's range.
        high: largest value, exclusive.

    Example::

        convert(model, [Input(min=(1, 3, 224, 224), opt=(8, 3, 224, 224), max=(16, 3, 224, 224))])
        convert(model, [Input(("batch", 3, "size", "size"), dims={"batch": (1, 8, 16), "size": (64, 224, 512)})])

    Raises:
        ConfigError: neither or both forms, shapes of different ranks, sizes out of order.
    """

    def __init__(
        self, shape: Sequence[int | str] | None = None, *, min: Any = None, opt: Any = None, max: Any = None,
        dims: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32, name: str = "", low: int = 0,
        high: int = 10,
    ) -> None:  # fmt: skip
        self.dtype, self.name, self.low, self.high = dtype, name, low, high
        self.dims = {n: ranges_of(r, f"dims[{n!r}]") for n, r in (dims or {}).items()}
        self._triples: list[Any] = []
        if (shape is None) == (min is None and opt is None and max is None):
            raise ConfigError(f"{self}: give either a shape, with names where it varies, or min=, opt= and max=")
        if not isinstance(dtype, torch.dtype):
            raise ConfigError(f"{self}: dtype is {dtype!r}; it must be a torch.dtype, e.g. torch.float32")
        if shape is None:
            self._triples = triples(min, opt, max, str(self))
            shape = self._triples[0][1]
        if not isinstance(shape, (tuple, list)):
            raise ConfigError(f"{self}: the shape is {shape!r}; write a tuple, e.g. (1, 3, 224, 224)")
        self.shape = tuple(shape)
        for size in self.shape:
            if isinstance(size, bool) or not isinstance(size, (int, str)) or (isinstance(size, int) and size < 1):
                raise ConfigError(f"{self}: the shape holds {size!r}; a size is a positive integer or the name of a dim")
        self.axes()  # sizes out of order are refused here, where the user wrote them

    def __repr__(self) -> str:
        return f"Input {self.name!r}" if self.name else "an Input"

    def axes(self) -> dict[int, Any]:
        """Axis -> name of a Dim, or its ranges where it has no name of its own."""
        if not self._triples:
            return {axis: size for axis, size in enumerate(self.shape) if isinstance(size, str)}
        return axes_of(self._triples, str(self))

    def example(self, dims: Mapping[str, Dim], device: torch.device) -> torch.Tensor:
        """Random values, of the opt sizes of the first profile."""
        shape = [dims[size].ranges[0][1] if isinstance(size, str) else size for size in self.shape]
        generator = torch.Generator().manual_seed(0)
        if self.dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(device, self.dtype)
        high = 2 if self.dtype == torch.bool else self.high
        return torch.randint(self.low, high, shape, generator=generator).to(device, self.dtype)


def axes_of(shapes: Sequence[tuple[Any, Any, Any]], name: str) -> dict[int, tuple[Range, ...]]:
    """Axis -> its ranges, of (min, opt, max) shapes per profile, where they are not all one size."""
    found = {}
    for axis in range(len(shapes[0][0])):
        per_profile = tuple((low[axis], opt[axis], high[axis]) for low, opt, high in shapes)
        if len({size for sizes in per_profile for size in sizes}) > 1:
            found[axis] = ranges_of(list(per_profile), f"axis {axis} of {name}")
    return found


def is_shape(value: Any) -> bool:
    """Whether ``value`` is a tuple or list of integers."""
    return isinstance(value, (tuple, list)) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)


def triples(low: Any, opt: Any, high: Any, what: str) -> list[tuple[Any, Any, Any]]:
    """(min, opt, max) shapes, one per profile.

    Raises:
        ConfigError: one is missing, of another rank, or there are not equally many.
    """
    given = {"min": low, "opt": opt, "max": high}
    missing = [n for n, v in given.items() if v is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        raise ConfigError(f"{what}: {' and '.join(missing)} {are} missing; a profile has all three")
    lists = {}
    for n, value in given.items():
        shapes = [value] if is_shape(value) else list(value) if isinstance(value, (tuple, list)) else []
        if not shapes or not all(is_shape(s) for s in shapes):
            raise ConfigError(
                f"{what}: {n}={value!r} is neither a shape (a tuple of whole numbers) nor a list of shapes (one per profile)"
            )
        lists[n] = [tuple(s) for s in shapes]
    if len({len(shapes) for shapes in lists.values()}) > 1:
        counts = ", ".join(f"{len(s)} for {n}" for n, s in lists.items())
        raise ConfigError(f"{what}: {counts}; every profile has one shape of each")
    ranks = {len(s) for shapes in lists.values() for s in shapes}
    if len(ranks) > 1:
        raise ConfigError(f"{what}: shapes of {' and '.join(map(str, sorted(ranks)))} dimensions; all must have the same rank")
    return list(zip(lists["min"], lists["opt"], lists["max"]))


def ranges_of(value: Any, what: str) -> tuple[Range, ...]:
    """The ranges that a user wrote: (min, opt, max), or a list of them, one per profile.

    Raises:
        ConfigError: not three positive integers in ascending order.
    """
    listed = list(value) if isinstance(value, (tuple, list)) else [value]
    items = listed if listed and all(isinstance(v, (tuple, list)) for v in listed) else [value]
    for item in items:
        ok = isinstance(item, (tuple, list)) and len(item) == 3 and is_shape(item)
        if not ok:
            raise ConfigError(f"{what} is {item!r}; it must be (min, opt, max), or a list of these, one per profile")
        low, opt, high = item
        if low < 1:
            raise ConfigError(f"{what}: the smallest size is {low}; it must be at least 1")
        if low > high:
            raise ConfigError(f"{what}: min {low} is larger than max {high}")
        if not low <= opt <= high:
            raise ConfigError(f"{what}: opt {opt} is not between min {low} and max {high}")
    return tuple((int(a), int(b), int(c)) for a, b, c in items)


def declare(names: Sequence[str], axes: Mapping[int, Mapping[int, Any]], dims: Mapping[str, tuple[Range, ...]]) -> Dynamic:
    """Dims for the dynamic axes of inputs.

    Args:
        names: of the inputs.
        axes: input -> axis -> name of a dim, or ranges.
        dims: name -> ranges.

    Raises:
        ConfigError: a name without a range, or dims with different numbers of profiles.
    """
    result = Dynamic()
    for i, per_axis in axes.items():
        for axis, given in per_axis.items():
            name = given if isinstance(given, str) else f"{names[i]}.shape[{axis}]"
            if isinstance(given, str) and given not in dims:
                tip = f"dims={{{given!r}: (min, opt, max)}} gives it one"
                raise ConfigError(f"{names[i]}: the dim {given!r} has no range; {tip}")
            result.dims.setdefault(name, Dim(name, dims[given] if isinstance(given, str) else given))
            result.axes.setdefault(i, {})[axis] = name
    unused = set(dims) - set(result.dims)
    if unused:
        raise ConfigError(f"dims names {', '.join(map(repr, sorted(unused)))}, but no axis of an input is called so")
    _same_number_of_profiles(result)
    return result


def _same_number_of_profiles(dynamic: Dynamic) -> None:
    count = dynamic.profile_count
    for dim in dynamic.dims.values():
        if len(dim.ranges) == 1:
            dim.ranges *= count  # one range holds for all profiles
        if len(dim.ranges) != count:
            raise ConfigError(
                f"{dim.name} has {len(dim.ranges)} ranges, but another dim has {count}: each optimization profile needs one"
            )


def check_examples(names: Sequence[str], shapes: Sequence[Sequence[int]], dynamic: Dynamic) -> None:
    """Refuse example tensors that lie outside of every profile, or disagree on a shared dim.

    Raises:
        InputError
    """
    sizes: dict[str, tuple[int, str]] = {}
    for i, axes in dynamic.axes.items():
        for axis, name in axes.items():
            size, where = shapes[i][axis], f"axis {axis} of {names[i]}"
            if not dynamic.dims[name].allows(size):
                raise InputError(f"{where} is {size} in the example, outside of its range: {dynamic.dims[name]}")
            other, there = sizes.setdefault(name, (size, where))
            if other != size:
                raise InputError(f"{where} is {size} in the example, but {there} is {other}: both are the dim {name}")
