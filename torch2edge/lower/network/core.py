"""What all layers share: values, constants, names, devices, casts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..._trt import capabilities, carried, last_errors, to_trt_dtype, trt
from ...errors import ConfigError, ConversionError

__all__ = ["Core", "Layer", "Tensor", "Value"]


@dataclass(eq=False, slots=True)
class Tensor:
    """A tensor of the network: TensorRT's ITensor with torch's shape and dtype."""

    raw: Any
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


Value = Tensor | torch.Tensor | float | int | bool
"""What converters get and give: a tensor of the network, a constant, a number."""


@dataclass(eq=False, slots=True)
class Layer:
    """A layer, and where in the model it comes from."""

    raw: Any
    module: str
    op: str
    device: Any  # TensorRT's DeviceType, or None for the default


class Core:
    """The ground under the families of layers.

    Args:
        raw: TensorRT's INetworkDefinition.
        names: id of each parameter and buffer -> its name.
        device_of: module path -> TensorRT's DeviceType, or None.
    """

    def __init__(
        self, raw: Any, names: dict[int, str] | None = None, device_of: Callable[[str], Any] = lambda path: None
    ) -> None:
        self.raw = raw
        self.layers: list[Layer] = []
        self.outputs: list[Any] = []  # of the op at hand: objects with .shape and .dtype, or None
        self.weights_by_name: dict[str, list[str]] = {}  # parameter -> layers that hold it
        self._names, self._device_of = names or {}, device_of
        self._keep: list[torch.Tensor] = []  # TensorRT does not copy weights before the build
        self._constants: dict[Any, tuple[Any, Tensor]] = {}
        self._module, self._op, self._first = "", "", 0
        self._taken: set[str] = set()

    @property
    def out(self) -> Any:
        """The only result of the op at hand, as PyTorch computed its ``.shape`` and ``.dtype``."""
        return self.outputs[0]

    # ---- names and devices ------------------------------------------------------------------------------------------

    @contextmanager
    def scope(self, module: str, op: str, outputs: Sequence[Any]) -> Iterator[None]:
        """The layers added inside belong to ``op`` in ``module``."""
        before = self._module, self._op, self._first, self.outputs
        self._module, self._op, self._first, self.outputs = module, op, len(self.layers), list(outputs)
        try:
            yield
            self._final_names()
        finally:
            self._module, self._op, self._first, self.outputs = before

    def layer(self, raw: Any) -> Any:
        """Name a new layer after the module and op at hand, and give it the module's device.

        Raises:
            ConversionError: TensorRT refused to add it (``raw`` is None); with TensorRT's own words.
        """
        if raw is None:
            raise ConversionError("TensorRT refused the layer: " + ("; ".join(last_errors(2)) or "it gave no reason"))
        raw.name = self._free(f"{self._module}/{self._op}" if len(self.layers) == self._first else
                              f"{self._module}/{self._op}/{raw.type.name.lower()}")  # fmt: skip
        self.layers.append(Layer(raw, self._module, self._op, self._device_of(self._module)))
        return raw

    def _free(self, wanted: str) -> str:
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name

    def _final_names(self) -> None:
        """An op of several layers: the first one says too what it is."""
        added = self.layers[self._first :]
        if len(added) > 1:
            added[0].raw.name = self._free(f"{added[0].raw.name}/{added[0].raw.type.name.lower()}")

    # ---- values -----------------------------------------------------------------------------------------------------

    def result(self, layer: Any, dtype: torch.dtype, index: int = 0) -> Tensor:
        """An output of ``layer``, whose torch dtype is ``dtype``.

        Raises:
            ConversionError: TensorRT cannot tell its shape, so it found the layer's inputs wrong.
        """
        raw = layer.get_output(index)
        shape = tuple(raw.shape)
        if any(d < 0 for d in shape) and len(shape) == 0:
            raise ConversionError("; ".join(last_errors(2)))
        return Tensor(raw, shape, dtype)

    def tensor(self, value: Value, dtype: torch.dtype | None = None) -> Tensor:
        """``value`` as a tensor of the network, cast to ``dtype``; a constant becomes a constant layer."""
        if isinstance(value, Tensor):
            return value if dtype is None else self.cast(value, dtype)
        return self.constant(value, dtype)

    def constant(self, value: Any, dtype: torch.dtype | None = None) -> Tensor:
        """A constant layer. One and the same tensor gives one layer. Python floats are float32, float64 becomes float32."""
        is_tensor = isinstance(value, torch.Tensor)
        tensor = value.detach() if is_tensor else torch.tensor(value)
        dtype = dtype or (torch.float32 if tensor.dtype == torch.float64 else tensor.dtype)
        key = (id(value), dtype) if is_tensor else (repr(value), dtype)
        if key not in self._constants:
            weights = self.weights(tensor, dtype)
            layer = self.layer(self.raw.add_constant(tuple(tensor.shape), weights))
            self._constants[key] = (value, Tensor(layer.get_output(0), tuple(tensor.shape), dtype))
            if is_tensor and id(value) in self._names:
                self.weights_by_name.setdefault(self._names[id(value)], []).append(layer.name)
        return self._constants[key][1]

    def weights(self, tensor: torch.Tensor | None, dtype: torch.dtype | None = None) -> Any:
        """TensorRT's Weights over the memory of ``tensor`` (host, contiguous), kept alive with the network; empty for None.

        Raises:
            ConversionError: an int64 value does not fit where TensorRT carries int64 as INT32.
        """
        if tensor is None:
            return trt.Weights()
        dtype = dtype or tensor.dtype
        if dtype == torch.int64 and carried(dtype) == torch.int32:
            limit = torch.iinfo(torch.int32)
            # PyTorch's idiom for "to the end" is the largest int64; as a bound it means the same when clamped
            if tensor.numel() and (int(tensor.max()) > limit.max or int(tensor.min()) < limit.min):
                raise ConversionError(f"a constant needs int64 (up to {int(tensor.abs().max())}), which this TensorRT lacks")
        host = tensor.detach().to(device="cpu", dtype=carried(dtype)).contiguous()
        self._keep.append(host)
        return trt.Weights(to_trt_dtype(dtype), host.data_ptr(), host.numel())

    def note_weights(self, tensor: torch.Tensor | None, layer: Any) -> None:
        """Remember that ``layer`` holds the parameter ``tensor``, for the report and for refit."""
        if tensor is not None and id(tensor) in self._names:
            self.weights_by_name.setdefault(self._names[id(tensor)], []).append(layer.name)

    def cast(self, x: Value, dtype: torch.dtype) -> Tensor:
        """``x`` in ``dtype``; no layer where it has it already. Float to int truncates, as in PyTorch."""
        if not isinstance(x, Tensor):
            return self.constant(x, dtype)
        if x.dtype == dtype:
            return x
        try:
            wanted = to_trt_dtype(dtype)
        except ConfigError as error:
            raise ConversionError(f"a cast to {dtype}: {error}") from error
        if carried(x.dtype) == carried(dtype):
            return Tensor(x.raw, x.shape, dtype)
        return self.result(self.layer(self.raw.add_cast(x.raw, wanted)), dtype)

    def identity(self, x: Value) -> Tensor:
        """A tensor of its own with the value of ``x``."""
        t = self.tensor(x)
        return self.result(self.layer(self.raw.add_identity(t.raw)), t.dtype)

    def promote(self, *values: Value, dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
        """Tensors of one dtype: ``dtype``, or PyTorch's promotion of all of them (torch.result_type)."""
        dtype = dtype or self.result_type(*values)
        return tuple(self.tensor(v, dtype) for v in values)

    @staticmethod
    def result_type(*values: Value) -> torch.dtype:
        """PyTorch's type promotion, with the ranks of torch.result_type's rules: tensors, 0-d tensors, numbers."""
        stand_ins = [
            torch.empty((1,) * v.ndim, dtype=v.dtype, device="meta") if isinstance(v, (Tensor, torch.Tensor)) else v
            for v in values
        ]
        # categories do not depend on the order, so the pair-wise reduction must see the widest tensor first
        stand_ins.sort(key=lambda s: -s.dim() if isinstance(s, torch.Tensor) else 1)
        result = stand_ins[0]
        for other in stand_ins[1:]:
            dtype = torch.result_type(result, other)
            result = torch.empty((1,) * (result.dim() if isinstance(result, torch.Tensor) else 0), dtype=dtype, device="meta")
        return result.dtype if isinstance(result, torch.Tensor) else torch.tensor(result).dtype

    @property
    def capabilities(self) -> Any:
        """What the TensorRT at hand can do (``_trt.Capabilities``)."""
        return capabilities()
