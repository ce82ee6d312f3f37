"""One use of TensorRT's builder: an empty network to fill, then a serialized engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from .._trt import capabilities, clear_errors, dla_cores, last_errors, logger, recorded, to_trt_dtype, trt, why_not_executable
from ..errors import BuildError
from ..modules import nearest
from ..options import DLA_POOLS, Options
from .calibration import raise_its_error

__all__ = ["BuildSession"]
DEFAULT_COMPUTE_CAPABILITY = "8.6"
_IN_INT8 = {"CONVOLUTION", "DECONVOLUTION"}
# A constant's precision is not ours to say; the others' types are what they do.
_UNPINNED = {"CONSTANT", "CAST", "SHAPE", "QUANTIZE", "DEQUANTIZE"}


class BuildSession:
    """Holds TensorRT's builder, network and config; they must outlive whatever reads the network.

    Attributes:
        strong: whether the network is strongly typed.
        log: what TensorRT said during the build, where a DLA is to take part.
        network: an empty INetworkDefinition.
        compute_capabilities: the GPUs to build for, where they can be named.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.builder = trt.Builder(logger())
        if self.builder is None:
            raise BuildError(_explain("TensorRT gave no builder"))
        self.strong = options.strong
        self.calibrator: Any = None
        self.log: list[str] = []
        self.network = self.builder.create_network(self._network_flags(options))
        self.config = self.builder.create_builder_config()
        self.compute_capabilities = self._compute_capabilities()
        self._configure()

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

    def _compute_capabilities(self) -> tuple[str, ...]:
        if not capabilities().compute_capabilities:
            return ()
        if self.options.compute_capabilities:
            return self.options.compute_capabilities
        if torch.cuda.is_available():
            return (".".join(map(str, torch.cuda.get_device_capability())),)
        return (DEFAULT_COMPUTE_CAPABILITY,)

    def _configure(self) -> None:
        options, config = self.options, self.config
        self._flag("TF32", options.tf32)
        if options.sparse:
            self._flag("SPARSE_WEIGHTS", True)
        if options.refittable and not why_not_executable():
            self._flag("REFIT", True)
        self._allow_precisions()
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
        if options.tactic_sources is not None:
            config.set_tactic_sources(options.tactic_sources)
        if self.compute_capabilities:
            self._name_compute_capabilities()
        if options.default_device_type is not None:
            config.default_device_type = options.default_device_type
        if options.dla_core is not None and dla_cores():
            config.DLA_core = options.dla_core
        if options.gpu_fallback and (options.device_types or options.default_device_type is not None):
            self._flag("GPU_FALLBACK", True)

    def _allow_precisions(self) -> None:
        """A weakly typed TensorRT may take kernels of these precisions."""
        if capabilities().strongly_typed:
            return
        if self.strong:
            return
        if self.options.uses("fp16"):
            self._flag("FP16", True)
        if self.options.uses("int8"):
            self._flag("INT8", True)
        if capabilities().bf16 and self.options.uses("bf16"):
            self._flag("BF16", True)

    def _flag(self, name: str, on: bool) -> None:
        flag = getattr(trt.BuilderFlag, name)
        (self.config.set_flag if on else self.config.clear_flag)(flag)

    def _name_compute_capabilities(self) -> None:
        self.config.num_compute_capabilities = len(self.compute_capabilities)
        for i, version in enumerate(self.compute_capabilities):
            self.config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + version.replace(".", "")), i)

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
        self._flag("FP16", True)
        self._flag("OBEY_PRECISION_CONSTRAINTS", True)
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
        self._flag("OBEY_PRECISION_CONSTRAINTS", True)
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
        self._flag("INT8", True)
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
        self._flag("INT8", True)
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
        if profiles and sharing is not None:
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

    def build(self) -> bytes:
        """The serialized engine.

        Raises:
            BuildError: TensorRT built none; its last error lines, with module paths, are in the message.
            InputError: the calibration's data, where a calibrator reads it during the build.
        """
        clear_errors()
        with contextlib.ExitStack() as stack:
            if self.options.wants_dla():
                self.log = stack.enter_context(recorded())
            plan = self.builder.build_serialized_network(self.network, self.config)
        if self.calibrator is not None:
            raise_its_error(self.calibrator)
        if plan is None:
            raise BuildError(_explain("TensorRT built no engine"))
        return bytes(plan)


def beyond_half(constant: torch.Tensor) -> bool:
    """Whether half cannot hold a constant: too large, infinite, or a single number that would lose its digits."""
    half = torch.finfo(torch.float16)
    magnitude = constant.detach().abs()
    if magnitude.numel() == 0 or float(magnitude.max()) > half.max:
        return magnitude.numel() > 0
    return magnitude.numel() == 1 and 0 < float(magnitude) < half.tiny


def _explain(what: str) -> str:
    lines = last_errors()
    told = "\n".join(f"  {line}" for line in lines) if lines else "  (TensorRT said nothing)"
    return f"{what} with {capabilities().title}:\n{told}\nThe names in it are module paths of the model."
