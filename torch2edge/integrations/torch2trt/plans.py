"""What a bare plan, as torch2trt saves it, says of itself: only the deserialised engine tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..._trt import capabilities, clear_errors, from_trt_dtype, gpu_name, last_errors, logger, trt, why_not_executable
from ...errors import EngineFileError, ExecutionError
from ...report import Report
from ...run.engine_file import FORMAT
from ...structure import Structure, leaf_names
from .flattener import Flattener, structure_of

__all__ = ["metadata_of"]


def metadata_of(
    plan: bytes, input_names: Sequence[str], output_names: Sequence[str], input_flattener: Flattener | None,
    output_flattener: Flattener | None, origin: str,
) -> dict[str, Any]:  # fmt: skip
    """The header that an engine file of ours would have.

    Raises:
        ExecutionError: nothing here can deserialise it.
        EngineFileError: TensorRT refuses it, it lacks an input or output of these names, or its shapes are not fixed.
    """
    tensors = _tensors(plan, origin)
    caps = capabilities()
    inputs, input_order = _structure(input_flattener, len(input_names), is_input=True)
    outputs, output_order = _structure(output_flattener, len(output_names), is_input=False)
    note = f"note: {origin} was not made by torch2edge: nothing is known of how exact it is"
    report = Report(caps.title, gpu_name(), "unknown", engine_bytes=len(plan), notes=[note])
    return {
        "format": FORMAT,
        "from_torch2trt": True,
        "torch2edge": "",
        "torch": torch.__version__,
        "tensorrt": caps.name,
        "version": caps.version,
        "title": caps.title,
        "target": gpu_name(),
        "compute_capabilities": [".".join(map(str, torch.cuda.get_device_capability()))],
        "precision": report.precision,
        "dla_core": None,
        "model": "",
        "parameters": [],
        "defaults": {},
        "inputs": _rows(tensors, [input_names[i] for i in input_order], leaf_names(inputs, "args"), origin),
        "outputs": _rows(tensors, [output_names[i] for i in output_order], leaf_names(outputs, "output"), origin),
        "input_structure": {
            "kind": "dict",
            "keys": ["args", "kwargs"],
            "items": [inputs, {"kind": "dict", "keys": [], "items": []}],
        },
        "output_structure": outputs,
        "report": report.to_dict(),
    }


def _structure(flattener: Flattener | None, count: int, is_input: bool) -> tuple[Structure, list[int]]:
    if flattener is None and count == 1 and not is_input:
        return {"kind": "tensor"}, [0]
    structure, order = structure_of(tuple(range(count)) if flattener is None else flattener.schema)
    if is_input:
        structure["kind"] = "list"  # the arguments of a call
    return structure, order


def _tensors(plan: bytes, origin: str) -> dict[str, tuple[str, list[int]]]:
    """Dtype and shape of each input and output by name."""
    reason = why_not_executable()
    if reason:
        raise ExecutionError(
            f"{origin} was not made by torch2edge, so only the deserialised engine tells its dtypes and shapes, but {reason}. "
            "Load it on the machine that is to run it."
        )
    clear_errors()
    engine = trt.Runtime(logger()).deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineFileError(
            f"{capabilities().title} cannot load {origin}: {'; '.join(last_errors(2)) or 'it gives no reason'}. An engine "
            "runs only in the TensorRT version, and on the kind of GPU, that it was built for."
        )
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    for name in names:
        if engine.get_tensor_location(name) == trt.TensorLocation.HOST:
            raise EngineFileError(f"{origin} has {name} in host memory (converted with CPU tensors): convert it again")
    return {n: (str(from_trt_dtype(engine.get_tensor_dtype(n)))[6:], list(engine.get_tensor_shape(n))) for n in names}


def _rows(
    tensors: dict[str, tuple[str, list[int]]], bindings: list[str], names: list[str], origin: str
) -> list[dict[str, Any]]:  # fmt: skip
    rows = []
    for binding, name in zip(bindings, names):
        if binding not in tensors:
            raise EngineFileError(f"{origin} has no {binding!r}; it has {', '.join(tensors)}")
        dtype, shape = tensors[binding]
        if -1 in shape:
            raise EngineFileError(
                f"{origin} takes shapes {shape} for {binding!r}, but torch2trt's engines run with fixed shapes only here: "
                "convert the model again for one shape"
            )
        rows.append({"name": name, "binding": binding, "dtype": dtype, "shape": shape})
    return rows
