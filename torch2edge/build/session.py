"""One use of TensorRT's builder: an empty network to fill, then a serialized engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from .._trt import capabilities, clear_errors, last_errors, logger, recorded, to_trt_dtype, trt
from ..errors import BuildError
from ..modules import nearest
from ..options import DLA_POOLS, Options
from .calibration import raise_its_error
from .config import compute_capabilities, configure, set_flag
from .memory import SHORT, Need, Room, free_text, skipped_note
from .timing_cache import TimingCache

__all__ = ["BuildSession"]
_IN_INT8 = {"CONVOLUTION", "DECONVOLUTION"}
# A constant's precision is not ours to say; the others' types are what they do.
_UNPINNED = {"CONSTANT", "CAST", "SHAPE", "QUANTIZE", "DEQUANTIZE"}


class BuildSession:
    """Holds TensorRT's builder, network and config; they must outlive whatever reads the network.

    Attributes:
        strong: whether the network is strongly typed.
        log: what TensorRT said during the build, where a DLA is to take part.
        short: what it said of too little memory.
        weight_bytes: of the network's constants; whoever fills the network says it.
        network: an empty INetworkDefinition.
        compute_capabilities: the GPUs to build for, where they can be named.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        clear_errors()
        try:
            self.builder = trt.Builder(logger())
        except TypeError as error:  # pybind's word for a factory that gave none
            raise BuildError(_explain(f"TensorRT gave no builder{free_text()}")) from error
        if self.builder is None:
            raise BuildError(_explain(f"TensorRT gave no builder{free_text()}"))
        self.strong = options.strong
        self.calibrator: Any = None
        self.log: list[str] = []
        self.short: list[str] = []
        self.weight_bytes = 0
        self.network = self.builder.create_network(self._network_flags(options))
        self.config = self.builder.create_builder_config()
        self.compute_capabilities = compute_capabilities(options)
        configure(self.config, options, self.compute_capabilities)

    @staticmethod
    def _network_flags(options: Options) -> int:
        flags = 0
        explicit_batch = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)  # gone in TensorRT 11
        if explicit_batch is not None:
            flags |= 1 << int(explicit_batch)
        if capabilities().typed_networks:
            both = not capabilities().strongly_typed  # TensorRT 10; from 11 on there is no choice
            if both and options.strong:
                flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return flags

    def follow_dtypes(self, layers: Iterable[Any], constants: Iterable[torch.Tensor]) -> str:
        """Make a weakly typed TensorRT compute a model that holds half tensors as its dtypes say.

        Half kernels must be allowed, but then TensorRT takes them for float32 layers too: those are pinned to float32, and
        a build that cannot obey fails. Constants cannot be pinned: 8.6.0 on an H200 turned 1e5 into 65504. So where one
        lies outside of half's range, no half kernel is allowed at all.

        Args:
            layers: ``network.core.Layer`` of every layer.
            constants: the float32 constants of the network.

        Returns:
            A note for the report where everything is computed in float32, else "".
        """
        if capabilities().strongly_typed:
            return ""
        if self.strong:
            return ""
        if any(beyond_half(c) for c in constants):
            return (
                f"note: all layers are computed in float32: a float32 constant of the model does not fit half, and "
                f"{capabilities().title} would round it; fp16=True allows half all the same"
            )
        set_flag(self.config, "FP16", True)
        set_flag(self.config, "OBEY_PRECISION_CONSTRAINTS", True)
        for layer in layers:
            if layer.dtype == torch.float32 and layer.raw.type.name not in _UNPINNED:
                layer.raw.precision = trt.DataType.FLOAT
                layer.raw.set_output_type(0, trt.DataType.FLOAT)
        return ""

    def follow_precisions(self, layers: Iterable[Any]) -> None:
        """Make a weakly typed TensorRT compute the modules that were given a precision in it; a build that cannot fails."""
        if capabilities().strongly_typed:
            return
        if self.strong or not self.options.precisions:
            return
        set_flag(self.config, "OBEY_PRECISION_CONSTRAINTS", True)
        for layer in layers:
            given = nearest(self.options.precisions, layer.module)
            if given is None or layer.dtype != torch.float32 or layer.raw.type.name in _UNPINNED:
                continue
            if given == "int8":  # an order only where there are INT8 kernels for any shape
                if layer.raw.type.name in _IN_INT8:
                    layer.raw.precision = trt.DataType.INT8
                continue
            kind = to_trt_dtype(self.options.float_of(layer.module))
            layer.raw.precision = kind
            layer.raw.set_output_type(0, kind)

    def quantize(self, network: Any, tensor_names: Mapping[int, str], ranges: Mapping[int, float], explicit: bool) -> None:
        """Allow INT8 in a weakly typed network.

        Args:
            network: what ``lower`` filled; its ``layers`` are those of the network.
            tensor_names: index of a value of the graph -> the network's tensor that holds it.
            ranges: index of a value -> the largest magnitude that INT8 is to hold.
            explicit: the network has quantize layers.
        """
        if capabilities().strongly_typed:
            return
        if self.strong or not (ranges or explicit):
            return
        set_flag(self.config, "INT8", True)
        tensors = {self.network.get_input(i).name: self.network.get_input(i) for i in range(self.network.num_inputs)}
        for layer in network.layers:
            for i in range(layer.raw.num_outputs):
                tensors[layer.raw.get_output(i).name] = layer.raw.get_output(i)
        for index, largest in ranges.items():
            tensor = tensors.get(tensor_names.get(index, ""))
            if tensor is not None and tensor.dtype == trt.DataType.FLOAT:
                tensor.dynamic_range = (-largest, largest)

    def calibrate_with(self, calibrator: Any) -> None:
        """Let TensorRT find the ranges of INT8, with one of ``calibration.calibrator``'s."""
        if capabilities().strongly_typed:
            return
        self.calibrator = calibrator
        set_flag(self.config, "INT8", True)
        self.config.int8_calibrator = calibrator

    def pools(self) -> dict[str, int]:
        """The limits of the DLA's memory pools, in bytes, by the names of trt.MemoryPoolType."""
        return {name: self.config.get_memory_pool_limit(getattr(trt.MemoryPoolType, name)) for name in DLA_POOLS}

    def set_pools(self, limits: Mapping[str, int]) -> None:
        """Limit the DLA's memory pools: bytes, powers of two, by the names of trt.MemoryPoolType.

        Raises:
            BuildError: TensorRT does not take one.
        """
        clear_errors()
        for name, size in limits.items():
            kind = getattr(trt.MemoryPoolType, name)
            self.config.set_memory_pool_limit(kind, size)
            if self.config.get_memory_pool_limit(kind) != size:
                raise BuildError(_explain(f"TensorRT refused {size} bytes for {name}"))

    def add_profiles(self, input_names: Sequence[str], profiles: Sequence[Sequence[Sequence[Sequence[int]]]]) -> None:
        """Optimization profiles: each is the (smallest, most usual, largest) shape of every input.

        Args:
            input_names: of the network's inputs; "" for one that it has not.
            profiles: none where all shapes are fixed.

        Raises:
            BuildError: TensorRT does not take one.
        """
        for shapes in profiles:
            self._add_profile({name: given for name, given in zip(input_names, shapes) if name})
        sharing = getattr(trt.PreviewFeature, "PROFILE_SHARING_0806", None)  # newer versions always share
        if profiles and sharing is not None and "-PROFILE_SHARING_0806" not in self.options.preview_features:
            self.config.set_preview_feature(sharing, True)

    def _add_profile(self, shapes: Mapping[str, Sequence[Sequence[int]]]) -> None:
        clear_errors()
        profile = self.builder.create_optimization_profile()
        try:
            for name, (smallest, usual, largest) in shapes.items():
                profile.set_shape(name, tuple(smallest), tuple(usual), tuple(largest))
            added = self.config.add_optimization_profile(profile)
        except (ValueError, RuntimeError) as error:
            raise BuildError(_explain(f"TensorRT refused an optimization profile ({error})")) from error
        if added < 0:
            raise BuildError(_explain("TensorRT refused an optimization profile"))

    def stand_alone(self, inputs: Any, outputs: Any) -> None:
        """Build a DLA loadable for cuDLA: inputs and outputs in these formats (``dla.formats.Format``), nothing converted.

        In a strongly typed network the tensors have their dtypes already.
        """
        config, network = self.config, self.network
        config.engine_capability = trt.EngineCapability.DLA_STANDALONE
        config.clear_flag(trt.BuilderFlag.GPU_FALLBACK)
        config.set_flag(trt.BuilderFlag.DIRECT_IO)
        tensors = [(network.get_input(i), inputs) for i in range(network.num_inputs)]
        tensors += [(network.get_output(i), outputs) for i in range(network.num_outputs)]
        for tensor, told in tensors:
            tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, told.layout))
            if not self.strong:
                tensor.dtype = trt.DataType.INT8 if told.precision == "int8" else trt.DataType.HALF

    def place(self, layers: Iterable[Any]) -> None:
        """Give each layer (``network.core.Layer``) its device; the default is said to each too, to be read back."""
        for layer in layers:
            device = self.options.default_device_type if layer.device is None else layer.device
            if device is not None:
                self.config.set_device_type(layer.raw, device)

    def build(self, timing: TimingCache | None = None) -> bytes:
        """The serialized engine.

        Args:
            timing: what earlier builds measured, to be used and added to.

        Raises:
            BuildError: TensorRT built none; its last error lines, with module paths, are in the message.
            InputError: the calibration's data, where a calibrator reads it during the build.
        """
        clear_errors()
        need = Need.of(self.network, self.weight_bytes, self.workspace())
        room = Room.here(need)
        if room is not None:
            room.warn(need, self.options.offload)
        with contextlib.ExitStack() as stack:
            if self.options.wants_dla():
                self.log = stack.enter_context(recorded())
            self.short = stack.enter_context(recorded(SHORT))
            held = timing and timing.give(self.config)  # it must outlive the build
            plan = self.builder.build_serialized_network(self.network, self.config)
        if self.calibrator is not None:
            raise_its_error(self.calibrator)
        if plan is None:
            why = room.told(need, self.options.offload) if room and room.explains(need, self.short) else ""
            raise BuildError(_explain("TensorRT built no engine", self.short if why else (), why))
        if timing is not None and held is not None:
            timing.take(self.config)
        return bytes(plan)

    def notes(self) -> list[str]:
        """What to say of the build in a report."""
        skipped = skipped_note(self.short)
        return [skipped] if skipped else []

    def workspace(self) -> int:
        """The most that a layer's scratch may take, in bytes: what was asked for, or TensorRT's own limit."""
        return int(self.config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE))


def beyond_half(constant: torch.Tensor) -> bool:
    """Whether half cannot hold a constant: too large, infinite, or a single number that would lose its digits."""
    half = torch.finfo(torch.float16)
    magnitude = constant.detach().abs()
    if magnitude.numel() == 0 or float(magnitude.max()) > half.max:
        return magnitude.numel() > 0
    return magnitude.numel() == 1 and 0 < float(magnitude) < half.tiny


def _explain(what: str, short: Sequence[str] = (), why: str = "") -> str:
    """``what``, TensorRT's own lines, and where it had too little memory (``short``) ``why``."""
    lines = list(dict.fromkeys([*(line.strip() for line in short[:3]), *last_errors()]))
    told = "\n".join(f"  {line}" for line in lines) if lines else "  (TensorRT said nothing)"
    memory = f"\nThe GPU had too little memory: {why}" if why else ""
    return f"{what} with {capabilities().title}:\n{told}\nThe names in it are module paths of the model.{memory}"
