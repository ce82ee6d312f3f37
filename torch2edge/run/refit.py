"""New weights for an engine that was built with BuilderFlag.REFIT: TensorRT's Refitter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .._trt import capabilities, clear_errors, last_errors, logger, to_trt_dtype, trt
from ..errors import ConfigError, ExecutionError

__all__ = ["plan_of", "refit_engine", "refittable_weights"]

Weight = tuple[str, str]  # name of a layer, name of a trt.WeightsRole
SHOWN = 5


def refittable_weights(engine: Any) -> set[Weight]:
    """The weights that an ICudaEngine can be given anew, by layer and role.

    Raises:
        ConfigError: it was not built to be refitted.
    """
    return _listed(_refitter(engine).get_all())


def refit_engine(engine: Any, weights: Mapping[Weight, torch.Tensor], empty: Mapping[Weight, Any]) -> None:
    """Put weights into an ICudaEngine of which nothing runs, and that has no execution context yet.

    Args:
        weights: flat host tensors of the dtypes and sizes that the network had; those that the engine cannot be given are
            left out. They may go when this returns.
        empty: weights that a layer could have and has not -> TensorRT's DataType of that layer.

    Raises:
        ConfigError: the engine was not built to be refitted.
        ExecutionError: TensorRT refuses; what the engine holds then is not known.
    """
    clear_errors()
    refitter = _refitter(engine)
    roles = {role.name: role for role in trt.WeightsRole.__members__.values()}
    kept: list[Any] = []  # TensorRT reads the memory until it is done
    for layer, name in sorted(_listed(refitter.get_all()) & weights.keys()):
        held = _weights(weights[layer, name], kept)
        if not refitter.set_weights(layer, roles[name], held):
            raise ExecutionError(f"TensorRT refused new weights for {layer} ({name}): {_told()}")
    missing = _listed(refitter.get_missing())
    for layer, name in sorted(missing & empty.keys()):
        kept.append(trt.Weights(empty[layer, name]))
        refitter.set_weights(layer, roles[name], kept[-1])
    missing = _listed(refitter.get_missing())
    if missing:
        names = ", ".join(f"{layer} ({name})" for layer, name in sorted(missing)[:SHOWN])
        raise ExecutionError(f"TensorRT wants weights that the network does not have: {names}: {_told()}")
    if not refitter.refit_cuda_engine():
        raise ExecutionError(f"TensorRT could not refit the engine: {_told()}")


def plan_of(engine: Any) -> bytes:
    """The serialized engine, which can be refitted if it could be before.

    Raises:
        ExecutionError: TensorRT does not serialize it.
    """
    clear_errors()
    if capabilities().include_refit:
        config = engine.create_serialization_config()
        config.set_flag(trt.SerializationFlag.INCLUDE_REFIT)
        plan = engine.serialize_with_config(config)
    else:
        plan = engine.serialize()
    if plan is None:
        raise ExecutionError(f"TensorRT could not serialize the engine: {_told()}")
    return bytes(plan)


def _refitter(engine: Any) -> Any:
    if not engine.refittable:
        raise ConfigError("this engine was not built to be refitted. Convert with refittable=True, where TensorRT can execute")
    return trt.Refitter(engine, logger())


def _listed(told: Any) -> set[Weight]:
    layers, roles = told
    return {(layer, role.name) for layer, role in zip(layers, roles)}


def _weights(tensor: torch.Tensor, kept: list[Any]) -> Any:
    """TensorRT's Weights over the memory of a flat host tensor."""
    tensor = tensor.contiguous()
    kept.append(tensor)
    if tensor.dtype == torch.bfloat16:  # NumPy has no such type; every TensorRT that has it takes a pointer
        return trt.Weights(to_trt_dtype(tensor.dtype), tensor.data_ptr(), tensor.numel())
    kept.append(tensor.numpy())
    return trt.Weights(kept[-1])


def _told() -> str:
    return "; ".join(last_errors(3)) or "it gave no reason"
