"""Which shapes an engine takes: its dims, optimization profiles and constraints, as its metadata holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..errors import InputError
from ..shapes import Dim
from ..sizes import Constraint

__all__ = ["Sizes"]


class Sizes:
    """The shapes of an engine whose inputs have dynamic axes.

    Args:
        metadata: of an engine file, with ``dims``.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._dims = {name: Dim(name, tuple((a, b, c) for a, b, c in ranges)) for name, ranges in metadata["dims"].items()}
        self._constraints = [Constraint(c["condition"], c["source"]) for c in metadata["constraints"]]
        rows = metadata["inputs"]
        self._inputs = [(r["name"], [n[1] if isinstance(n, list) else n for n in r["shape"]]) for r in rows]
        self._profiles = range(len(next(iter(self._dims.values())).ranges))

    def profile(self, tensors: Sequence[torch.Tensor]) -> int:
        """The first optimization profile that takes these inputs.

        Raises:
            InputError: there is none, the inputs do not fit together, or the model does not take their sizes; names the
                input, the axis and what is allowed.
        """
        sizes: dict[str, int] = {}
        places: dict[str, str] = {}
        for (name, wanted), tensor in zip(self._inputs, tensors):
            if len(wanted) != tensor.dim():
                raise InputError(f"{name} has {tensor.dim()} dimensions; the engine was built for {len(wanted)}")
            for axis, (size, want) in enumerate(zip(tensor.shape, wanted)):
                where = f"axis {axis} of {name}"
                if isinstance(want, int):
                    if size != want:
                        raise InputError(f"{where} is {size}; the engine was built for {want} there, for ever")
                elif sizes.setdefault(want, size) != size:
                    raise InputError(f"{where} is {size}, but {places[want]} is {sizes[want]}: both are the dim {want}")
                else:
                    places.setdefault(want, where)
                    self._check_range(where, size, self._dims[want])
        for constraint in self._constraints:
            if not constraint.holds(sizes):
                raise InputError(f"the inputs have {_text(sizes)}, but the model demands {constraint}")
        for profile in self._profiles:
            if all(dim.allows(sizes[name], profile) for name, dim in self._dims.items()):
                return profile
        known = " or ".join(map(self._range, self._profiles))
        raise InputError(f"no optimization profile of the engine takes {_text(sizes)}: there is {known}")

    def _range(self, profile: int) -> str:
        """A profile for people."""
        return ", ".join(f"{n} from {d.ranges[profile][0]} to {d.ranges[profile][2]}" for n, d in self._dims.items())

    @staticmethod
    def _check_range(where: str, size: int, dim: Dim) -> None:
        if not dim.allows(size):
            raise InputError(
                f"{where} is {size}; the engine was built for {dim.allowed} there. Convert the model with a wider range."
            )


def _text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())
