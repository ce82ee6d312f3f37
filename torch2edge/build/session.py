"""One use of TensorRT's builder: an empty network to fill, then a serialized engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from .._trt import capabilities, clear_errors, last_errors, logger, trt
from ..errors import BuildError
from ..options import Options

__all__ = ["BuildSession"]

DEFAULT_COMPUTE_CAPABILITY = "8.6"
_UNPINNED = {"CONSTANT", "CAST", "SHAPE"}  # a constant's precision is not ours to say; the others' types are what they do


class BuildSession:
    """Holds TensorRT's builder, network and config; they must outlive whatever reads the network.

    Attributes:
        network: an empty INetworkDefinition, strongly typed where this TensorRT knows no other.
        compute_capabilities: the GPUs to build for, where they can be named.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.builder = trt.Builder(logger())
        if self.builder is None:
            raise BuildError(_explain("TensorRT gave no builder"))
        self.network = self.builder.create_network(self._network_flags())
        self.config = self.builder.create_builder_config()
        self.compute_capabilities = self._compute_capabilities()
        self._configure()

    @staticmethod
    def _network_flags() -> int:
        explicit_batch = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)  # gone in TensorRT 11
        return 0 if explicit_batch is None else 1 << int(explicit_batch)

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
        if options.fp16:
            self._flag("FP16", True)
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
        if options.dla_core is not None:
            config.DLA_core = options.dla_core
        if options.gpu_fallback and (options.device_types or options.default_device_type is not None):
            self._flag("GPU_FALLBACK", True)

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

    def place(self, layers: Iterable[Any]) -> None:
        """Give each layer (``network.core.Layer``) its device."""
        for layer in layers:
            if layer.device is not None:
                self.config.set_device_type(layer.raw, layer.device)

    def build(self) -> bytes:
        """The serialized engine.

        Raises:
            BuildError: TensorRT built none; its last error lines, with module paths, are in the message.
        """
        clear_errors()
        plan = self.builder.build_serialized_network(self.network, self.config)
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
