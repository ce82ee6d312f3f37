"""One layer of a network, read once: its kind, its own attributes, the names of its tensors."""

from __future__ import annotations

import ctypes
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from torch2edge.errors import ReferenceExecutionError, UnsupportedLayerError

#: A layer's computation: the layer and its input tensors (None where an optional input is unset) -> its outputs.
Handler = Callable[["Layer", Sequence[Any]], Any]

HANDLERS: dict[str, Handler] = {}

#: DataType member name -> how the executor holds such a tensor. INT4 values live in int8 (torch has no int4).
DTYPES: dict[str, torch.dtype] = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
    "FP8": torch.float8_e4m3fn,
    "INT4": torch.int8,
}


def handles(*kinds: str) -> Callable[[Handler], Handler]:
    """Register a function as the computation of the layers whose `LayerType` has one of these names."""

    def register(handler: Handler) -> Handler:
        for kind in kinds:
            if kind in HANDLERS:
                raise ValueError(f"{kind} is computed by {HANDLERS[kind].__name__} and by {handler.__name__}")
            HANDLERS[kind] = handler
        return handler

    return register


@dataclass
class Tensor:
    """What the network says about one tensor. `shape` has -1 where the size is known only at run time."""

    name: str
    kind: str
    shape: tuple[int, ...] | None

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype, or an UnsupportedLayerError for the types the executor does not hold."""
        if self.kind not in DTYPES:
            raise UnsupportedLayerError(f"tensor '{self.name}' of type {self.kind}: the reference executor has no such")
        return DTYPES[self.kind]


@dataclass
class Layer:
    """A layer with its attributes in reach: `layer.api` is the TensorRT object under its own class."""

    index: int
    name: str
    kind: str
    api: Any
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    scope: int | None = None  # which loop, conditional or attention a boundary layer belongs to
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """How every message names this layer."""
        return f"layer '{self.name}' of type {self.kind}"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first output."""
        return self.outputs[0].dtype

    def has_input(self, index: int) -> bool:
        """Whether the optional input is set."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def option(self, attribute: str) -> str:
        """The name of an enum attribute's value. Enum integers differ between versions, names do not."""
        return str(getattr(self.api, attribute).name)

    def dims(self, attribute: str) -> tuple[int, ...] | None:
        """A `Dims` attribute; None where it is unset, overridden by an input, or unknown to this version.

        An unset Dims is None from TensorRT 10 on and a Dims of rank -1, which cannot be iterated, before it.
        """
        value = getattr(self.api, attribute, None)
        if value is None:
            return None
        try:
            return tuple(int(size) for size in value)
        except ValueError:
            return None

    def axes(self, rank: int) -> list[int]:
        """The bit mask `axes`: bit i is dimension i (NvInfer.h, addReduce)."""
        return [axis for axis in range(rank) if int(self.api.axes) >> axis & 1]

    def weights(self, attribute: str) -> torch.Tensor | None:
        """The flat weights of an attribute, a view where possible; None for empty weights. Read once."""
        if attribute not in self.cache:
            self.cache[attribute] = _view(getattr(self.api, attribute), self)
        tensor: torch.Tensor = self.cache[attribute]
        return tensor if tensor.numel() else None

    def unsupported(self, what: str = "this") -> UnsupportedLayerError:
        """The error for a documented layer, or a corner of one, that the executor leaves out."""
        return UnsupportedLayerError(f"{self.title}: the reference executor does not compute {what}")

    def wrong(self, why: str) -> ReferenceExecutionError:
        """The error for a network or values that TensorRT's documentation forbids or leaves undefined."""
        return ReferenceExecutionError(f"{self.title}: {why}")


class _WeightsStruct(ctypes.Structure):
    """nvinfer1::Weights (NvInferRuntimeBase.h): the type, a pointer to the values, their number."""

    _fields_ = [("type", ctypes.c_int32), ("values", ctypes.c_void_p), ("count", ctypes.c_int64)]


def _view(weights: Any, layer: Layer) -> torch.Tensor:
    """Flat weights as a tensor that shares their memory.

    numpy has no bfloat16 and no float8; such weights come back as a `Weights` object that has no way to its values in
    Python. It holds a pointer to the C++ struct (the first word after the object's header), which is checked against
    what Python says of it before the values are read.
    """
    if isinstance(weights, np.ndarray) and weights.ndim == 1 and weights.strides == (0,):
        # TensorRT 8.6.0's bindings hand out the right memory with a stride of 0: every element reads as the first
        weights = np.lib.stride_tricks.as_strided(weights, strides=(weights.itemsize,))
    if isinstance(weights, np.ndarray):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # read-only memory; nothing here writes to it
            return torch.from_numpy(weights.reshape(-1))
    kind = str(weights.dtype.name)
    if not weights.size:
        return torch.empty(0)
    if kind not in ("BF16", "FP8"):
        raise layer.unsupported(f"weights of type {kind}")
    pointer = ctypes.c_void_p.from_address(id(weights) + object.__basicsize__).value
    struct = _WeightsStruct.from_address(pointer or 0) if pointer else None
    if struct is None or struct.count != weights.size or struct.type != int(weights.dtype):
        raise layer.unsupported(f"weights of type {kind} in this TensorRT (their memory cannot be reached)")
    buffer = (ctypes.c_uint8 * int(weights.nbytes)).from_address(struct.values)
    return torch.frombuffer(buffer, dtype=DTYPES[kind])


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """Half, bfloat16 and float8 as float32, in which layers on them are computed; everything else as it is."""
    return tensor.float() if tensor.is_floating_point() and tensor.dtype != torch.float32 else tensor


def common(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """Operands ready for one computation: floats wide, and as one type where a weakly typed network mixes them."""
    widened = [wide(tensor) for tensor in tensors]
    dtype = widened[0].dtype
    for tensor in widened[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in widened]


def ints(tensor: torch.Tensor) -> list[int]:
    """The values of a shape tensor (1-d, or a scalar as a list of one)."""
    return [int(value) for value in tensor.reshape(-1).tolist()]


def volume(sizes: Sequence[int]) -> int:
    """The number of elements of a shape."""
    return math.prod(sizes)
