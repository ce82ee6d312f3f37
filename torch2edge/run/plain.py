"""What a plan that others built says of itself, by TensorRT; and the header that an engine file of ours would have.

Only the deserialised engine tells: where TensorRT cannot run, nothing is known but the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from .._trt import (
    capabilities,
    clear_errors,
    from_trt_dtype,
    gpu_name,
    last_errors,
    load_plugins,
    logger,
    trt,
    why_not_executable,
)
from ..errors import EngineFileError, ExecutionError
from ..report import DimRow, Report
from ..structure import Structure, leaf_names
from .engine_file import FORMAT

__all__ = ["Facts", "Nested", "Tensor", "flat", "metadata_of", "read_plan", "with_output_shapes"]

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The smallest, most usual and largest shape of an input in one optimization profile."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine.

    Attributes:
        name: by which TensorRT knows it.
        is_input: or an output.
        dtype: of torch, without "torch.": ``float32``.
        shape: its sizes, -1 where they vary; of an output by ``with_output_shapes``.
        profiles: of an input whose sizes vary: its shapes in each optimization profile.
    """

    name: str
    is_input: bool
    dtype: str
    shape: tuple[int, ...]
    profiles: tuple[Shapes, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What TensorRT tells of an engine: its tensors in its own order, and where it runs.

    Attributes:
        tensors: inputs and outputs.
        portable: it runs on GPUs of another compute capability too.
    """

    tensors: tuple[Tensor, ...]
    portable: bool = False

    def inputs(self) -> list[Tensor]:
        """In the engine's order."""
        return [t for t in self.tensors if t.is_input]

    def outputs(self) -> list[Tensor]:
        """In the engine's order."""
        return [t for t in self.tensors if not t.is_input]


@dataclass(frozen=True)
class Nested:
    """How a call gives tensors to the engine, or takes them.

    Attributes:
        bindings: the engine's names, in the order of the tensors of ``structure``.
        structure: of the positional arguments (a list), or of the outputs.
    """

    bindings: Sequence[str]
    structure: Structure

    def names(self, prefix: str) -> list[str]:
        """What messages call each: its own name, or ``args[0]['image']`` where they are nested."""
        return list(self.bindings) if _is_flat(self.structure) else leaf_names(self.structure, prefix)


def flat(tensors: Sequence[Tensor]) -> Nested:
    """A list of inputs; a tuple of outputs, or the tensor where there is one."""
    kind = "list" if tensors and tensors[0].is_input else "tuple"
    structure: Structure = {"kind": kind, "items": [{"kind": "tensor"} for _ in tensors]}
    if kind == "tuple" and len(tensors) == 1:
        structure = {"kind": "tensor"}
    return Nested([t.name for t in tensors], structure)


def _is_flat(structure: Structure) -> bool:
    return structure["kind"] == "tensor" or all(item["kind"] == "tensor" for item in structure["items"])


# ---- by TensorRT --------------------------------------------------------------------------------------------------------


def read_plan(plan: bytes, origin: str, dla_core: int | None = None, host_code: bool = False) -> Facts:
    """What TensorRT tells of a plan.

    Args:
        origin: the source, in messages.
        dla_core: the DLA core that it was built for.
        host_code: run the code for the host that is in a version-compatible plan.

    Raises:
        ExecutionError: nothing here can deserialise it.
        EngineFileError: TensorRT refuses it, or it is of a kind that an EdgeModule cannot run.
    """
    engine = _deserialised(plan, origin, dla_core, host_code)
    if getattr(engine, "has_implicit_batch_dimension", False):
        raise EngineFileError(
            f"{origin} was built with an implicit batch dimension, which TensorRT gave up. Build it again with an explicit "
            "one: ONNX files always have that."
        )
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    for name in names:
        _check_tensor(engine, name, origin)
    _check_told(engine, names, origin)
    facts = Facts(tuple(_tensor(engine, name, origin) for name in names), _portable(engine))
    if not facts.inputs() or not facts.outputs():
        raise EngineFileError(f"{origin} has {len(facts.inputs())} inputs and {len(facts.outputs())} outputs: nothing to call")
    return with_output_shapes(facts, _calls(engine, facts, origin), origin)


def _deserialised(plan: bytes, origin: str, dla_core: int | None, host_code: bool) -> Any:
    reason = why_not_executable()
    clear_errors()
    try:
        load_plugins()  # trtexec's plans may hold them
        runtime = trt.Runtime(logger())
    except (TypeError, RuntimeError) as error:  # what pybind11 makes of no CUDA
        raise ExecutionError(_unreadable(origin, reason or str(error))) from error
    if dla_core is not None:
        runtime.DLA_core = dla_core
    runtime.engine_host_code_allowed = host_code
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is not None:
        return engine
    said = last_errors(3)
    if reason and not any("Serialization" in line for line in said):  # without a GPU it looks at the first bytes all the same
        raise ExecutionError(_unreadable(origin, reason))
    lines = "\n".join(f"  {line}" for line in said) or "  (it gives no reason)"
    raise EngineFileError(
        f"{capabilities().title} cannot load {origin}:\n{lines}\nIt is no engine, is damaged, or was built by another version "
        "of TensorRT or for another GPU: a plan runs only in the version, and on the kind of GPU, that it was built for. "
        "Copy it again, or build it again here."
    )


def _unreadable(origin: str, reason: str) -> str:
    return (
        f"{origin} was not made by torch2edge, so only the deserialised engine tells its inputs and outputs, but {reason}. "
        "Load it on the machine that is to run it; EdgeModule.save there writes a file that can be read everywhere."
    )


def _check_tensor(engine: Any, name: str, origin: str) -> None:
    """Refuse what a call could not honour."""
    if engine.get_tensor_location(name) == trt.TensorLocation.HOST or engine.is_shape_inference_io(name):
        raise EngineFileError(
            f"{origin} has {name} in host memory (a shape tensor, or converted with CPU tensors), which an EdgeModule cannot "
            "pass. Build it again without."
        )
    layout = engine.get_tensor_format(name)
    if layout != trt.TensorFormat.LINEAR:
        raise EngineFileError(
            f"{origin} has {name} in the memory layout {layout.name}; tensors of PyTorch are linear. Build it again without "
            "--inputIOFormats and --outputIOFormats."
        )


def _check_told(engine: Any, names: Sequence[str], origin: str) -> None:
    """Refuse an engine that does not tell the rank of a tensor: TensorRT 8.6, of outputs that hang on values.

    Such outputs come first, for with one of them 8.6.0 does not tell the shapes of the inputs either.
    """
    untold = [name for name in names if _shape(engine, name) is None]
    outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
    for name in outputs:
        if name in untold:
            raise _hangs_on_values(name, "of unknown rank", origin)
    if untold:
        for name in outputs:
            if -1 in (shape := _shape(engine, name) or ()):
                raise _hangs_on_values(name, str(shape), origin)
        raise EngineFileError(f"{origin}: TensorRT does not tell the shape of the input {untold[0]}")


def _tensor(engine: Any, name: str, origin: str) -> Tensor:
    is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
    dtype = engine.get_tensor_dtype(name)
    try:
        torch_dtype = str(from_trt_dtype(dtype)).removeprefix("torch.")
    except StopIteration:
        raise EngineFileError(f"{origin} has {name} in {dtype.name}, which an EdgeModule does not take or give") from None
    shape = _shape(engine, name)
    assert shape is not None  # _check_told
    profiles = tuple(_profile_shapes(engine, name)) if is_input and -1 in shape else ()
    return Tensor(name, is_input, torch_dtype, shape, profiles)


def _profile_shapes(engine: Any, name: str) -> Iterator[Shapes]:
    for profile in range(engine.num_optimization_profiles):
        low, opt, high = (tuple(dims) for dims in engine.get_tensor_profile_shape(name, profile))
        yield low, opt, high


def _portable(engine: Any) -> bool:
    """TensorRT-RTX's plans are for several GPUs anyway, and do not say for which."""
    return capabilities().compute_capabilities or engine.hardware_compatibility_level != trt.HardwareCompatibilityLevel.NONE


def _calls(engine: Any, facts: Facts, origin: str) -> list[dict[str, tuple[int, ...]]]:
    """The outputs' shapes by name, with the smallest, most usual and largest inputs of each optimization profile.

    An execution context tells them: what TensorRT 8.6 has the engine itself tell is true of the first profile only. There
    are none where no input varies.
    """
    varying = [t for t in facts.inputs() if t.profiles]
    if not varying:
        return []
    context = engine.create_execution_context()
    if context is None:
        raise ExecutionError(f"TensorRT gave no execution context for {origin}: " + "; ".join(last_errors(2)))
    calls, stream = [], torch.cuda.Stream()
    try:
        for profile in range(engine.num_optimization_profiles):
            if not context.set_optimization_profile_async(profile, stream.cuda_stream):
                raise ExecutionError(f"TensorRT refused profile {profile} of {origin}: " + "; ".join(last_errors(2)))
            for which in range(3):
                _tell_shapes(context, {t.name: t.profiles[profile][which] for t in varying}, origin)
                calls.append({t.name: _told_shape(context, t.name, origin) for t in facts.outputs()})
    finally:
        stream.synchronize()  # the context ends with this function, and its copies to the GPU have to be done before
    return calls


def _tell_shapes(context: Any, shapes: Mapping[str, tuple[int, ...]], origin: str) -> None:
    for name, shape in shapes.items():
        if not context.set_input_shape(name, shape):
            raise ExecutionError(f"TensorRT refused the shape {shape} of {name} in {origin}: " + "; ".join(last_errors(2)))


def _told_shape(context: Any, name: str, origin: str) -> tuple[int, ...]:
    shape = _shape(context, name)
    if shape is None:
        raise _hangs_on_values(name, "of unknown rank", origin)
    return shape


def _shape(source: Any, name: str) -> tuple[int, ...] | None:
    """By an engine, or by an execution context; None where TensorRT does not even know how many axes it has."""
    try:
        return tuple(source.get_tensor_shape(name))
    except ValueError:  # of a rank of -1, pybind11's: __len__() should return >= 0
        return None


def _hangs_on_values(name: str, what: str, origin: str) -> EngineFileError:
    return EngineFileError(
        f"{origin} has {name}, {what}, whose size hangs on the values of the inputs (NonZero, NMS): an EdgeModule cannot run "
        "that. Let the model pad it to a fixed size."
    )


def with_output_shapes(facts: Facts, calls: Sequence[Mapping[str, tuple[int, ...]]], origin: str) -> Facts:
    """The facts with -1 on every axis of an output whose size is not the same in all calls.

    Args:
        facts: with the outputs' shapes as the engine tells them.
        calls: the outputs' shapes by name, with inputs of different shapes; none where no input varies.
        origin: the source, in messages.

    Raises:
        EngineFileError: a size is not known even so: it hangs on the values of the inputs, and no buffer can be made before
            the call.
    """
    seen = {t.name: [call[t.name] for call in calls] or [t.shape] for t in facts.outputs()}
    for name, shapes in seen.items():
        for shape in shapes:
            if -1 in shape:
                raise _hangs_on_values(name, str(shape), origin)
    return replace(facts, tensors=tuple(t if t.is_input else _varied(t, seen[t.name]) for t in facts.tensors))


def _varied(output: Tensor, shapes: Sequence[tuple[int, ...]]) -> Tensor:
    """Where the engine itself says -1, that stays: it may know more than these calls show."""
    axes = zip(output.shape, *shapes, strict=True)
    return replace(output, shape=tuple(sizes[0] if len(set(sizes)) == 1 else -1 for sizes in axes))


# ---- the header ---------------------------------------------------------------------------------------------------------


def metadata_of(
    facts: Facts, origin: str, *, size: int, built_by: str, inputs: Nested | None = None, outputs: Nested | None = None,
    dla_core: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The header that an engine file of ours would have.

    Each axis that varies is a dim of its own, ``images.shape[0]``, with the ranges of the engine's optimization profiles:
    which axes have to be equal, a plan does not say, and nothing compares them before TensorRT does.

    Args:
        size: of the plan, in bytes.
        built_by: for the report.
        inputs: how they are nested; by default not at all, in the engine's order, and by name.
        outputs: by default a tuple in the engine's order, or the tensor where there is one.

    Raises:
        EngineFileError: the engine has no tensors of these names.
    """
    inputs, outputs = inputs or flat(facts.inputs()), outputs or flat(facts.outputs())
    rows, dims = _input_rows(facts, inputs, origin)
    caps = capabilities()
    report = Report(
        caps.title, gpu_name(), "unknown", engine_bytes=size, built_by=built_by,
        dims=[DimRow(name, where, ranges) for name, (where, ranges) in dims.items()],
        notes=[f"note: {origin} was not made by torch2edge: nothing is known of its precisions, and how exact it is"],
    )  # fmt: skip
    return {
        "format": FORMAT,
        "built_by": built_by,
        "torch2edge": "",
        "torch": torch.__version__,
        "tensorrt": caps.name,
        "version": caps.version,
        "title": caps.title,
        "target": gpu_name(),
        "compute_capabilities": _compute_capabilities(facts),
        "precision": report.precision,
        "dla_core": dla_core,
        "on_dla": dla_core is not None,
        "model": "",
        "parameters": list(inputs.bindings) if _is_flat(inputs.structure) else [],
        "defaults": {},
        "dims": {name: ranges for name, (_, ranges) in dims.items()},
        "constraints": [],
        "inputs": rows,
        "outputs": [
            {"name": name, "binding": t.name, "dtype": t.dtype, "shape": list(t.shape)}
            for name, t in zip(outputs.names("output"), _named(facts.outputs(), outputs, origin))
        ],
        "input_structure": {
            "kind": "dict",
            "keys": ["args", "kwargs"],
            "items": [inputs.structure, {"kind": "dict", "keys": [], "items": []}],
        },
        "output_structure": outputs.structure,
        "report": report.to_dict(),
    }


def _named(tensors: Sequence[Tensor], wanted: Nested, origin: str) -> list[Tensor]:
    known: Mapping[str, Tensor] = {t.name: t for t in tensors}
    for binding in wanted.bindings:
        if binding not in known:
            raise EngineFileError(f"{origin} has no {binding!r}; it has {', '.join(known)}")
    missing = sorted(set(known) - set(wanted.bindings))
    if missing:
        raise EngineFileError(f"{origin} has {', '.join(missing)} too, but only {', '.join(wanted.bindings)} are named")
    return [known[binding] for binding in wanted.bindings]


def _input_rows(
    facts: Facts, wanted: Nested, origin: str
) -> tuple[list[dict[str, Any]], dict[str, tuple[str, list[list[int]]]]]:  # fmt: skip
    """The inputs, and of each dim where it is and its (min, opt, max) per profile."""
    rows: list[dict[str, Any]] = []
    dims: dict[str, tuple[str, list[list[int]]]] = {}
    for name, tensor in zip(wanted.names("args"), _named(facts.inputs(), wanted, origin)):
        shape: list[Any] = list(tensor.shape)
        for axis in (a for a, size in enumerate(tensor.shape) if size == -1):
            dim = f"{name}.shape[{axis}]"
            shape[axis] = ["dim", dim]
            dims[dim] = (f"axis {axis} of {name}", [[sizes[axis] for sizes in profile] for profile in tensor.profiles])
        rows.append({"name": name, "binding": tensor.name, "dtype": tensor.dtype, "shape": shape})
    return rows, dims


def _compute_capabilities(facts: Facts) -> list[str]:
    if facts.portable or not torch.cuda.is_available():
        return []
    return [".".join(map(str, torch.cuda.get_device_capability()))]
