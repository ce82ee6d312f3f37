"""A layer as the DLA's rules see it: plain values, nothing of TensorRT's in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError

__all__ = ["COMPARISONS", "TARGETS", "Layer", "Setting", "Tensor", "batch_of", "chw_of", "version"]

TARGETS = ("orin", "xavier")
COMPARISONS = ("EQUAL", "GREATER", "LESS")
"""The element-wise operations that give booleans."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of the network."""

    name: str
    dtype: str  # the name of TensorRT's DataType: FLOAT, HALF, INT8, ...
    shape: tuple[int, ...] | None  # -1 where a size is open, None where not even the rank is known
    constant: bool = False  # it depends on no input of the network: known when the engine is built
    output: bool = False  # of the network
    range: float | None = None  # the largest magnitude that INT8 is to hold, where the network says


@dataclass(eq=False)
class Layer:
    """A layer of the network.

    Attributes:
        type: the name of TensorRT's LayerType.
        module: path of the submodule that it comes from, as far as that is known.
        inputs: without the weights that a layer holds itself; None where an optional one is not set.
        options: what else there is to it, by the names of ``reading.py``.
        makers: the layers that it reads from, those that are folded left out.
        readers: the layers that read from it.
        folded: it is computed while the engine is built, and is no layer of the engine.
    """

    index: int
    name: str
    type: str
    module: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    makers: list[Layer] = field(default_factory=list)
    readers: list[Layer] = field(default_factory=list)
    folded: bool = False

    @property
    def data(self) -> list[Tensor]:
        """The inputs that are known only when the engine runs."""
        return [t for t in self.inputs if t is not None and not t.constant]

    @property
    def first(self) -> Tensor:
        """The first input that is data, else the first output."""
        return (self.data or list(self.outputs))[0]

    @property
    def compares(self) -> bool:
        """Whether its result is boolean."""
        return self.type == "ELEMENTWISE" and self.options["op"] in COMPARISONS


@dataclass(frozen=True)
class Setting:
    """What is asked: which chip, which TensorRT on it, which precisions the builder may use.

    Raises:
        ConfigError: no such target or version, or that TensorRT has no DLA there.
    """

    target: str = "orin"
    tensorrt: str = "8.6"
    fp16: bool = True
    int8: bool = False

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ConfigError(f"target is {self.target!r}; it must be one of {', '.join(map(repr, TARGETS))}")
        if not self.has_dla():
            raise ConfigError(
                f"tensorrt={self.tensorrt!r}: TensorRT has DLA up to 10.7, and again from 11.4.1 on (Jetson AGX Orin only), "
                f"but not {self.tensorrt} on {self.target}. Name the version that is on the board"
            )

    @property
    def version(self) -> tuple[int, ...]:
        """TensorRT's version as numbers."""
        return version(self.tensorrt)

    @property
    def strongly_typed(self) -> bool:
        """Whether the dtypes of the network are the precisions (from TensorRT 11 on)."""
        return self.version >= (11,)

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that the DLA may use."""
        return tuple(name for name, on in (("int8", self.int8), ("fp16", self.fp16)) if on)

    @property
    def element_size(self) -> int:
        """Bytes of an element on the DLA, in the lowest precision allowed."""
        return 1 if self.int8 else 2

    def has_dla(self) -> bool:
        """Facts section 0: 10.7 was the last of 10, 11.4.1 has it again on Jetson AGX Orin."""
        if self.version >= (11, 4, 1):
            return self.target == "orin"
        return self.version < (10, 8)


def version(text: str) -> tuple[int, ...]:
    """``"8.6.1"`` as numbers, to compare.

    Raises:
        ConfigError: it is none.
    """
    parts = text.split(".") if isinstance(text, str) else []
    if not parts or not all(part.isdigit() for part in parts):
        raise ConfigError(f"tensorrt is {text!r}; write the version that is on the board, e.g. '8.6' or '10.3'")
    return tuple(map(int, parts))


def chw_of(shape: Sequence[int]) -> tuple[int, ...]:
    """The sizes that are no batch: the last three, or of a matrix the last."""
    return tuple(shape[-3:] if len(shape) > 2 else shape[1:])


def batch_of(shape: Sequence[int]) -> int:
    """The DLA's batch: the product of all sizes in front of C, H and W (the guide's NPQRS has N * P)."""
    return math.prod(shape[: len(shape) - len(chw_of(shape))])
