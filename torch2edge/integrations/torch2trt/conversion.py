"""torch2trt(): its arguments, and what they are to torch2edge.convert."""

from __future__ import annotations

import contextlib
import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ... import Calibration
from ..._trt import capabilities, logger_name, logging_levels, trt
from ...api import convert
from ...errors import ConfigError, InputError
from ...structure import flatten
from .converters import converters_for, keywords_read
from .dataset import Dataset, ListDataset
from .flattener import schema_of
from .module import TRTModule

__all__ = ["torch2trt"]

WORKSPACE = 1 << 25  # torch2trt's default, which only ever made engines slower: here it means TensorRT's own


def torch2trt(
    module: nn.Module,
    inputs: Any,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    log_level: Any = None,
    fp16_mode: bool = False,
    max_workspace_size: int = WORKSPACE,
    strict_type_constraints: bool = False,
    keep_network: bool = True,
    int8_mode: bool = False,
    int8_calib_dataset: Any = None,
    int8_calib_algorithm: Any = None,
    use_onnx: bool = False,
    default_device_type: Any = None,
    dla_core: int = 0,
    gpu_fallback: bool = True,
    device_types: Mapping[Any, Any] = {},  # torch2trt's default; nothing writes to it
    min_shapes: Any = None,
    max_shapes: Any = None,
    opt_shapes: Any = None,
    onnx_opset: int | None = None,
    max_batch_size: int | None = None,
    avg_timing_iterations: int | None = None,
    *,
    converter_kwargs: Mapping[str, Any] | None = None,
    verify: bool = True,
    tolerance: float | None = None,
    optimization_level: int | None = None,
    tactic_sources: int | None = None,
    **kwargs: Any,
) -> TRTModule:
    """Convert a module as torch2trt does, by ``torch2edge.convert``.

    Args:
        module: in eval mode.
        inputs: positional inputs in a list or tuple, nested or not, or a ``Dataset``, whose first item is the sample.
        input_names: of the engine's inputs, flat, dict keys in sorted order; by default input_0, input_1, ...
        output_names: the same for its outputs. The module runs once more to see how they are nested.
        log_level: severity of TensorRT's messages that go to Python's logger ``torch2edge.tensorrt`` meanwhile; by default
            none do, and errors are in the exceptions.
        fp16_mode: compute in half precision, see ``torch2edge.convert(fp16=)``.
        max_workspace_size: most memory for the builder's tactics, in every TensorRT; the default is TensorRT's own.
        strict_type_constraints: refused together with ``fp16_mode`` where TensorRT is weakly typed; else layers keep their
            types anyway.
        keep_network: keep the network, and with it the weights, as the result's ``network``.
        int8_mode: quantize, see ``torch2edge.convert(int8=)``.
        int8_calib_dataset: for ``int8_mode``: a ``Dataset``, or anything with a length and items that are inputs; by default
            ``inputs``.
        int8_calib_algorithm: for ``int8_mode``: ``trt.CalibrationAlgoType``, or one of ``torch2edge.Calibration``'s names; by
            default entropy. It is computed by PyTorch.
        use_onnx: ops without a converter send the model through ONNX, torch2edge's ``fallback="onnx"``.
        default_device_type: ``trt.DeviceType`` of layers that no entry of ``device_types`` reaches; GPU by default.
        dla_core: which DLA core to build for and to run on.
        gpu_fallback: layers that the DLA cannot take run on the GPU.
        device_types: submodule -> DeviceType; it holds for what is inside too, the innermost wins.
        min_shapes: refused where they are not the sample's, as are the next two: shapes are fixed.
        max_shapes: see ``min_shapes``.
        opt_shapes: see ``min_shapes``.
        onnx_opset: for ``use_onnx``.
        max_batch_size: refused where it is not the sample's batch size.
        avg_timing_iterations: how often TensorRT times each kernel.
        converter_kwargs: what registered converters find in ``ctx.torch2trt_kwargs`` besides all these arguments.
        verify: torch2edge's: compare with the model on fresh inputs.
        tolerance: torch2edge's: largest relative error of an output.
        optimization_level: torch2edge's: 0 (fast build) to 5 (fast engine).
        tactic_sources: torch2edge's: bit mask of ``trt.TacticSource``; 0 leaves cuBLAS, cuBLASLt and cuDNN out.
        kwargs: what a registered converter reads by name from ``ctx.torch2trt_kwargs``; anything else is a TypeError.

    Raises:
        TypeError: an unknown keyword; with the nearest known ones.
        ConfigError: an argument that torch2edge, or this TensorRT, cannot honour; with what to do.
        Torch2EdgeError: see ``torch2edge.convert``.
    """
    given = {k: v for k, v in locals().items() if k not in ("kwargs", "converter_kwargs")}
    _check_keywords(kwargs, set(given))
    _refuse(given)
    sample = _sample(inputs)
    _check_shapes(inputs, sample, given)
    on_dla = _names_dla(default_device_type, device_types)
    with _logging(log_level):
        edge: Any = convert(
            module, sample, fallback="onnx" if use_onnx else "error", onnx_opset=onnx_opset if use_onnx else None,
            fp16=fp16_mode, int8=int8_mode, calibration=_calibration(given, inputs) if int8_mode else None,
            device_types=dict(device_types),
            default_device_type=default_device_type if on_dla else None, dla_core=dla_core if on_dla or dla_core else None,
            gpu_fallback=gpu_fallback, workspace=None if max_workspace_size == WORKSPACE else max_workspace_size,
            converters=converters_for(module, {**given, **kwargs, **(converter_kwargs or {})}),
            input_names=_in_order(input_names, sample, "input"), keep_network=keep_network,
            output_names=_output_names(output_names, module, sample), verify=verify, tolerance=tolerance,
            optimization_level=optimization_level, tactic_sources=tactic_sources,
            avg_timing_iterations=avg_timing_iterations,
        )  # fmt: skip
    return TRTModule._of(edge)


def _check_keywords(unknown: Mapping[str, Any], known: set[str]) -> None:
    for name in sorted(set(unknown) - keywords_read()):
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise TypeError(
            f"torch2trt() got an unexpected keyword argument {name!r}{hint} (What your own converters are to find in "
            f"ctx.torch2trt_kwargs goes into converter_kwargs={{{name!r}: ...}})"
        )


def _refuse(given: Mapping[str, Any]) -> None:
    caps = capabilities()
    if given["strict_type_constraints"] and given["fp16_mode"] and not caps.strongly_typed:
        raise ConfigError(
            f"strict_type_constraints=True with fp16_mode=True: torch2edge lets {caps.title} choose the types of layers. "
            "Convert model.half() with half inputs, whose types TensorRT has to obey."
        )


def _calibration(given: Mapping[str, Any], inputs: Any) -> Calibration:
    """torch2trt's dataset as calibration data; its items are the inputs of a call."""
    data = given["int8_calib_dataset"]
    if data is None:
        data = inputs if isinstance(inputs, Dataset) else [inputs]
    algorithm = given["int8_calib_algorithm"]
    name = str(getattr(algorithm, "name", algorithm or "entropy")).lower().removesuffix("_2").removesuffix("_calibration")
    items = (data[i] for i in range(len(data)))
    return Calibration(items, algorithm=name, batch_to_inputs=_as_call, progress=False)


def _as_call(item: Any) -> Any:
    """An item as the positional inputs of a call."""
    return item if isinstance(item, torch.Tensor) else tuple(item)


def _sample(inputs: Any) -> Any:
    if not isinstance(inputs, Dataset):
        return list(inputs) if isinstance(inputs, tuple) else inputs
    if len(inputs) == 0:
        raise InputError("the Dataset is empty: insert an item, or record the calls of a module")
    return list(inputs[0]) if isinstance(inputs[0], tuple) else inputs[0]


def _check_shapes(inputs: Any, sample: Any, given: Mapping[str, Any]) -> None:
    """Refuse shapes other than the sample's, which are the engine's."""
    own = [sample] if isinstance(sample, torch.Tensor) else sample
    dataset = inputs if isinstance(inputs, Dataset) else ListDataset([own])
    wanted = dataset.shapes_for_index(0, flat=True)
    batch = given["max_batch_size"]
    for what, found in (("min_shapes", dataset.min_shapes), ("max_shapes", dataset.max_shapes), ("opt_shapes", None)):
        if given[what] is not None:
            shapes = _flat(dataset, given[what], what)
        else:
            what, shapes = "the Dataset", wanted if found is None else found(flat=True)
        for number, (shape, size) in enumerate(zip(shapes, wanted)):
            if tuple(shape) != tuple(size):
                raise ConfigError(_fixed(f"{what} asks for {tuple(shape)} as the shape of input {number}", size))
            if batch is not None and tuple(size[:1]) != (1,) * (batch == 1):
                raise ConfigError(_fixed(f"max_batch_size={batch} asks for batches of 1 to {batch} in input {number}", size))


def _flat(dataset: Dataset, shapes: Any, what: str) -> list[Any]:
    try:
        return dataset.flattener.flatten(shapes)
    except ValueError as error:
        raise ConfigError(f"{what} must be nested like the inputs, with a shape for each tensor: {error}") from error


def _fixed(wish: str, shape: Sequence[int]) -> str:
    return (
        f"{wish}, but the sample's is {tuple(shape)}, and torch2trt() builds engines of fixed shapes only. Leave min_shapes, "
        "opt_shapes, max_shapes and max_batch_size out, give inputs of one shape, and convert once for each shape in use."
    )


def _names_dla(default_device_type: Any, device_types: Mapping[Any, Any]) -> bool:
    return trt.DeviceType.DLA in (default_device_type, *device_types.values())


def _in_order(names: Sequence[str] | None, value: Any, kind: str) -> list[str] | None:
    """Names in torch2trt's order (dict keys sorted) as names in torch2edge's (dict keys as they come)."""
    tensors, structure = flatten(value, kind)
    order = schema_of(structure)[1]
    names = [f"{kind}_{i}" for i in range(len(tensors))] if names is None else list(names)
    if len(names) != len(order):
        return names  # convert() says so
    placed = dict(zip(order, names))
    return [placed[position] for position in range(len(tensors))]


def _output_names(names: Sequence[str] | None, module: nn.Module, sample: Sequence[Any]) -> list[str] | None:
    if names is None:
        return None  # their order in the engine is free: TRTModule.output_names tells it
    with torch.no_grad():
        return _in_order(names, module(*sample), "output")


@contextlib.contextmanager
def _logging(log_level: Any) -> Iterator[None]:
    """TensorRT's messages from ``log_level`` on go to the logger, and to stderr where it has no handler."""
    if log_level is None:
        yield
        return
    levels = logging_levels()
    if log_level not in levels:
        raise ConfigError(f"log_level is {log_level!r}; it must be one of trt.Logger.ERROR, WARNING, INFO, VERBOSE")
    log = logging.getLogger(logger_name)
    before, handler = log.level, None if log.hasHandlers() else logging.StreamHandler()
    if handler is not None:
        log.addHandler(handler)
    log.setLevel(levels[log_level])
    try:
        yield
    finally:
        log.setLevel(before)
        if handler is not None:
            log.removeHandler(handler)
