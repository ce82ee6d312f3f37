"""What all layers share: values, constants, names, devices, casts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..._trt import capabilities, carried, inside, last_errors, to_trt_dtype, trt
from ...errors import ConfigError, ConversionError
from ...structure import Structure
from .symbols import is_symbolic, same

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
    dtype: torch.dtype | None = None  # of its first result


def _category(dtype: torch.dtype) -> int:
    """bool < integers < floats, the order of PyTorch's promotion."""
    return 2 if dtype.is_floating_point else 1 if dtype != torch.bool else 0


def _dtype_of_number(value: Any) -> torch.dtype:
    """The dtype of a Python number, which may be symbolic, as a tensor."""
    if is_symbolic(value):
        return torch.int64 if isinstance(value, torch.SymInt) else torch.float32
    return torch.tensor(value).dtype


def _completed(inferred: tuple[int, ...], shape: Sequence[int]) -> tuple[int, ...]:
    """The shape that TensorRT infers, with the sizes that it leaves open (-1) as PyTorch computes them.

    Raises:
        ConversionError: the two contradict each other.
    """
    if len(inferred) != len(shape) or any(n != -1 and not same(n, wanted) for n, wanted in zip(inferred, shape)):
        raise ConversionError(f"TensorRT infers the shape {list(inferred)}, but it must be {list(shape)}")
    return tuple(shape)


class Core:
    """The ground under the families of layers.

    Args:
        raw: TensorRT's INetworkDefinition.
        names: id of each parameter and buffer -> its name.
        device_of: module path -> TensorRT's DeviceType, or None.
        own: copy all weights, for a network that is read when the model may have been written to.
    """

    def __init__(
        self, raw: Any, names: dict[int, str] | None = None, device_of: Callable[[str], Any] = lambda path: None,
        own: bool = False,
    ) -> None:  # fmt: skip
        self.raw, self._own = raw, own
        self.layers: list[Layer] = []
        self.quantizes = False  # the model has quantizers of its own, which become layers
        self.outputs: list[Any] = []  # of the op at hand: objects with .shape and .dtype, or None
        self.nesting: Structure | None = None  # of these outputs, where a submodule or function is converted as a whole
        self.weights_by_name: dict[str, list[str]] = {}  # parameter -> layers that hold it
        self.codes: dict[str, Any] = {}  # name of a tensor -> the constant that it quantizes; see quantize.py
        self.weight_bytes = 0  # of what TensorRT's Weights point to
        self._names, self._device_of = dict(names or {}), device_of
        self._keep: list[Any] = []  # TensorRT does not copy weights before the build
        self._constants: dict[Any, tuple[Any, Tensor]] = {}
        self._module, self._op, self._first = "", "", 0
        self._taken: set[str] = set()

    @property
    def out(self) -> Any:
        """The only result of the op at hand, as PyTorch computed its ``.shape`` and ``.dtype``."""
        return self.outputs[0]

    # ---- names and devices ------------------------------------------------------------------------------------------

    @property
    def module(self) -> str:
        """Path of the submodule of the op at hand."""
        return self._module

    @contextmanager
    def scope(self, module: str, op: str, outputs: Sequence[Any], nesting: Structure | None = None) -> Iterator[None]:
        """The layers added inside belong to ``op`` in ``module``."""
        before = self._module, self._op, self._first, self.outputs, self.nesting
        self._module, self._op, self._first, self.outputs = module, op, len(self.layers), list(outputs)
        self.nesting = nesting
        try:
            yield
            self._final_names()
        finally:
            self._module, self._op, self._first, self.outputs, self.nesting = before

    def layer(self, raw: Any) -> Any:
        """Name a new layer after the module and op at hand, and give it the module's device.

        Raises:
            ConversionError: TensorRT refused to add it (``raw`` is None); with TensorRT's own words.
        """
        if raw is None:
            raise ConversionError("TensorRT refused the layer: " + ("; ".join(last_errors(2)) or "it gave no reason"))
        name = f"{self._module}/{self._op}"
        raw.name = self._free(f"{name}/{raw.type.name.lower()}" if self._added() else name)
        self.layers.append(Layer(raw, self._module, self._op, self._device_of(self._module)))
        return raw

    def _added(self) -> list[Layer]:
        """The layers of the op at hand so far, without the sizes that were computed for it."""
        return [a for a in self.layers[self._first :] if (a.module, a.op) == (self._module, self._op)]

    def adopt(self, raw: Any, name: str, module: str, op: str, dtype: torch.dtype | None) -> None:
        """Enter a layer that TensorRT's ONNX parser has added to the network: its name, its module's device."""
        raw.name = self._free(name)
        self.layers.append(Layer(raw, module, op, self._device_of(module), dtype))

    def keep(self, owner: Any) -> None:
        """Hold what owns memory that TensorRT reads until the build."""
        self._keep.append(owner)

    def _free(self, wanted: str) -> str:
        name, count = wanted, 0
        while name in self._taken:
            count += 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name

    def _final_names(self) -> None:
        """An op of several layers: the first one says too what it is."""
        added = self._added()
        if len(added) > 1:
            first, before = added[0].raw, added[0].raw.name
            first.name = self._free(f"{before}/{first.type.name.lower()}")
            for holders in self.weights_by_name.values():
                holders[:] = [first.name if name == before else name for name in holders]

    # ---- values -----------------------------------------------------------------------------------------------------

    def result(self, layer: Any, dtype: torch.dtype, shape: Sequence[int] = (), index: int = 0) -> Tensor:
        """An output of ``layer``, whose torch dtype is ``dtype``; ``shape`` is read where TensorRT leaves a size open.

        Raises:
            ConversionError: TensorRT cannot tell its shape, so it found the layer's inputs wrong; or it infers another.
        """
        raw = layer.get_output(index)
        if self.layers and self.layers[-1].raw is layer and index == 0:
            self.layers[-1].dtype = dtype
        try:
            inferred = tuple(raw.shape)
        except (RuntimeError, ValueError) as error:  # before TensorRT 10 a wrong layer has a shape of rank -1
            raise ConversionError("; ".join(last_errors(2)) or str(error)) from error
        return Tensor(raw, inferred if -1 not in inferred else _completed(inferred, shape), dtype)

    def tensor(self, value: Value, dtype: torch.dtype | None = None) -> Tensor:
        """``value`` as a tensor of the network, cast to ``dtype``; a constant becomes a constant layer."""
        if isinstance(value, Tensor):
            return value if dtype is None else self.cast(value, dtype)
        return self.constant(value, dtype)

    def constant(self, value: Any, dtype: torch.dtype | None = None, rank: int = 0) -> Tensor:
        """A constant layer of at least ``rank`` dimensions, axes of size 1 in front.

        One and the same tensor gives one layer. Python floats are float32, float64 becomes float32.
        """
        is_tensor = isinstance(value, torch.Tensor)
        tensor = value.detach() if is_tensor else torch.tensor(value)
        dtype = dtype or (torch.float32 if tensor.dtype == torch.float64 else tensor.dtype)
        shape = (1,) * (rank - tensor.dim()) + tuple(tensor.shape)
        key = (id(value) if is_tensor else repr(value), dtype, len(shape))
        if key not in self._constants:
            infinite = tensor.numel() == 1 and not self.capabilities.infinite_scalars and bool(tensor.isinf().any())
            weights = self.weights(tensor, dtype)
            layer = self._infinite(tensor, shape, dtype) if infinite else self.layer(self.raw.add_constant(shape, weights))
            self._constants[key] = (value, Tensor(layer.get_output(0), shape, dtype))
            if is_tensor and id(value) in self._names and not infinite:
                self.weights_by_name.setdefault(self._names[id(value)], []).append(layer.name)
        return self._constants[key][1]

    def _infinite(self, tensor: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        """A layer that takes an infinite number out of a table: TensorRT 8.6 keeps that one infinite."""
        table = self.layer(
            self.raw.add_constant((2,), self.weights(torch.stack([tensor.new_zeros(()), tensor.reshape(())]), dtype))
        )
        index = self.layer(self.raw.add_constant(shape, self.weights(torch.ones(shape, dtype=torch.int32))))
        layer = self.raw.add_gather_v2(table.get_output(0), index.get_output(0), trt.GatherMode.DEFAULT)
        return self.layer(layer)

    def constants(self, dtype: torch.dtype) -> list[torch.Tensor]:
        """The values of the constant layers of a dtype."""
        held = [value for value, t in self._constants.values() if t.dtype == dtype]
        return [v if isinstance(v, torch.Tensor) else torch.tensor(v) for v in held]

    def weights(self, tensor: torch.Tensor | None, dtype: torch.dtype | None = None) -> Any:
        """TensorRT's Weights over the memory of ``tensor`` (host, contiguous) or of a copy; empty for None.

        It is kept alive with the network.

        Raises:
            ConversionError: TensorRT has no such dtype, or an int64 value does not fit where it carries int64 as INT32.
        """
        if tensor is None:
            return trt.Weights()
        dtype = dtype or tensor.dtype
        data_type = self.data_type(dtype)
        if dtype == torch.int64 and carried(dtype) == torch.int32:
            limit = torch.iinfo(torch.int32)
            if tensor.numel() and (int(tensor.max()) > limit.max or int(tensor.min()) < limit.min):
                largest = max(int(tensor.max()), -int(tensor.min()))
                raise ConversionError(
                    f"a constant needs int64 (its largest magnitude is {largest}), which this TensorRT lacks"
                )
        host = tensor.detach().to(device="cpu", dtype=dtype).to(inside(dtype)).contiguous()
        if self._own and host.data_ptr() == tensor.data_ptr():
            host = host.clone()
        self._keep.append(host)
        self.weight_bytes += host.numel() * host.element_size()
        if host.numel() == 0:  # the memory of an empty array is somewhere, and TensorRT takes none
            return trt.Weights(data_type)
        if host.dtype == torch.bfloat16:  # NumPy has no such type; every TensorRT that has it takes a pointer
            return trt.Weights(data_type, host.data_ptr(), host.numel())
        array = host.numpy()
        self._keep.append(array)
        return trt.Weights(array)

    def note_weights(self, tensor: torch.Tensor | None, layer: Any) -> None:
        """Remember that ``layer`` holds the parameter ``tensor``, for the report and for refit."""
        if tensor is not None and id(tensor) in self._names:
            self.weights_by_name.setdefault(self._names[id(tensor)], []).append(layer.name)

    def stand_in(self, tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """``tensor``, whose constant layer is known by the name of ``parameter``, of which it was computed."""
        self.keep(tensor)
        if id(parameter) in self._names:
            self._names[id(tensor)] = self._names[id(parameter)]
        return tensor

    def enter(self, raw: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An input of the network as layers take it."""
        if inside(dtype) == carried(dtype):
            return Tensor(raw, shape, dtype)
        with self.scope("", "input", []):
            return self.result(self.layer(self.raw.add_cast(raw, self.data_type(dtype))), dtype, shape)

    def leave(self, tensor: Tensor, own: bool) -> Tensor:
        """``tensor`` as an output of the network; ``own``: it must be a tensor of its own."""
        if inside(tensor.dtype) != carried(tensor.dtype):
            layer = self.layer(self.raw.add_cast(tensor.raw, to_trt_dtype(tensor.dtype)))
            return self.result(layer, tensor.dtype, tensor.shape)
        return self.identity(tensor) if own else tensor

    def cast(self, x: Value, dtype: torch.dtype) -> Tensor:
        """``x`` in ``dtype``; no layer where it has it already. Float to int truncates, as in PyTorch."""
        if not isinstance(x, Tensor):
            return self.constant(x, dtype)
        if x.dtype == dtype:
            return x
        wanted = self.data_type(dtype)
        if inside(x.dtype) == inside(dtype):
            return Tensor(x.raw, x.shape, dtype)
        return self.result(self.layer(self.raw.add_cast(x.raw, wanted)), dtype, x.shape)

    @staticmethod
    def data_type(dtype: torch.dtype) -> Any:
        """TensorRT's DataType for values of a torch dtype inside the network.

        Raises:
            ConversionError: it has none; with the way out.
        """
        try:
            return to_trt_dtype(inside(dtype))
        except ConfigError as error:
            way_out = "keep the model in float32 (model.float(), no .double())" if dtype.is_floating_point else "cast to int32"
            raise ConversionError(f"{error}: {way_out}") from error

    def identity(self, x: Value) -> Tensor:
        """A tensor of its own with the value of ``x``."""
        t = self.tensor(x)
        return self.result(self.layer(self.raw.add_identity(t.raw)), t.dtype, t.shape)

    def promote(self, *values: Value, dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
        """Tensors of one dtype: ``dtype``, or PyTorch's promotion of all of them (torch.result_type)."""
        dtype = dtype or self.result_type(*values)
        return tuple(self.tensor(v, dtype) for v in values)

    @staticmethod
    def result_type(*values: Value) -> torch.dtype:
        """torch.result_type of any number of values: tensors outrank 0-d tensors, which outrank numbers."""
        ranks: list[torch.dtype | None] = [None, None, None]  # of tensors, 0-d tensors, numbers
        for value in values:
            is_tensor = isinstance(value, (Tensor, torch.Tensor))
            dtype = value.dtype if is_tensor else _dtype_of_number(value)  # type: ignore[union-attr]
            rank = (0 if value.ndim else 1) if is_tensor else 2  # type: ignore[union-attr]
            ranks[rank] = dtype if ranks[rank] is None else torch.promote_types(ranks[rank], dtype)  # type: ignore[arg-type]
        result = None
        for higher in filter(None, ranks):  # a lower rank counts only where it is of a higher category
            if result is None or _category(higher) > _category(result):
                result = higher if result is None else torch.promote_types(result, higher)
        assert result is not None
        return result

    @property
    def capabilities(self) -> Any:
        """What the TensorRT at hand can do (``_trt.Capabilities``)."""
        return capabilities()
