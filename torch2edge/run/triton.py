"""An engine as a model of NVIDIA's Triton Inference Server: its config.pbtxt.

By Triton's model_config.proto and its "Model Configuration" guide; what its TensorRT backend demands beyond that is from the
backend's source (CompareDimsSupported, GetProfileMaxBatchSize) and the server's ValidateModelIOConfig.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._trt import carried_by
from ..errors import ConfigError
from ..sizes import Constraint, names_in, shape_text

__all__ = ["TritonOptions", "config"]

_TYPES = {
    "float32": "TYPE_FP32", "float16": "TYPE_FP16", "bfloat16": "TYPE_BF16", "int8": "TYPE_INT8", "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32", "int64": "TYPE_INT64", "bool": "TYPE_BOOL",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class TritonOptions:
    """How Triton is to serve an engine.

    Attributes:
        name: of the model, and of its folder.
        version: the number of the folder that holds the plan.
        instances: how many copies of the engine run at once, on each GPU.
        gpus: their numbers; none stands for all that Triton sees.
        profiles: the optimization profiles to use; none stands for all.
        max_batch_size: the largest batch that Triton makes of requests; 0: it makes none, and requests have the engine's own
            shapes. None: as large as the engine takes, 0 where its first axes are no batch.
        preferred_batch_sizes: what the dynamic batcher makes at once, without waiting for more.
        max_queue_delay_us: microseconds that a request waits for others.

    Raises:
        ConfigError: a value that Triton does not take.
    """

    name: str
    version: int = 1
    instances: int = 1
    gpus: Sequence[int] = ()
    profiles: Sequence[int] = ()
    max_batch_size: int | None = None
    preferred_batch_sizes: Sequence[int] = ()
    max_queue_delay_us: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ConfigError(f"name={self.name!r}: a model's name is a folder's: letters, digits, '_', '-' and '.'")
        _check_number("version", self.version, 1)
        _check_number("instances", self.instances, 1)
        _check_number("max_queue_delay_us", self.max_queue_delay_us, 0)
        if self.max_batch_size is not None:
            _check_number("max_batch_size", self.max_batch_size, 0)
        for key, least in (("gpus", 0), ("profiles", 0), ("preferred_batch_sizes", 1)):
            if isinstance(getattr(self, key), str) or not isinstance(getattr(self, key), Sequence):
                raise ConfigError(f"{key}={getattr(self, key)!r}: a list of numbers is wanted, e.g. [{least}]")
            for value in getattr(self, key):
                _check_number(key, value, least)
            if len(set(getattr(self, key))) != len(getattr(self, key)):
                raise ConfigError(f"{key}={list(getattr(self, key))}: one is there twice")


def _check_number(key: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{key}: {value!r} is no whole number from {least} on")


def config(metadata: Mapping[str, Any], options: TritonOptions) -> tuple[str, list[str]]:
    """The text of config.pbtxt, and what whoever serves it has to know; that is in the text too.

    Args:
        metadata: of an engine file.

    Raises:
        ConfigError: Triton cannot serve this engine, or not in this way.
    """
    if metadata["tensorrt"] != "tensorrt":
        raise ConfigError(
            f"the engine was built with {metadata['title']}, and Triton's backend is TensorRT: convert the model again with "
            "tensorrt, in the version of the Triton container that is to serve it."
        )
    inputs = [row for row in metadata["inputs"] if row["binding"]]
    outputs = list(metadata["outputs"])
    profiles = _profiles(metadata, options)
    batch = _max_batch_size(metadata, inputs, outputs, profiles, options)
    notes = [*_notes(metadata, inputs, profiles, bool(batch))]
    lines = [
        *(f"# {line}" for note in notes for line in note.splitlines()),
        f"name: {_quoted(options.name)}",
        'platform: "tensorrt_plan"',
        'backend: "tensorrt"',
        f"max_batch_size: {batch}",
        *_tensors("input", inputs, metadata, bool(batch)),
        *_tensors("output", outputs, metadata, bool(batch)),
        *_instance_group(metadata, options, profiles),
        *(_dynamic_batching(options, batch) if batch else ()),
    ]
    return "\n".join(lines) + "\n", notes


# ---- profiles and batches -----------------------------------------------------------------------------------------------


def _profiles(metadata: Mapping[str, Any], options: TritonOptions) -> list[int]:
    """The optimization profiles to use, in ascending order."""
    count = max((len(ranges) for ranges in metadata.get("dims", {}).values()), default=1)
    for profile in options.profiles:
        if profile >= count:
            raise ConfigError(f"profiles: there is no profile {profile}; the engine has {count}, counted from 0")
    return sorted(options.profiles) or list(range(count))


def _max_batch_size(
    metadata: Mapping[str, Any], inputs: list[Any], outputs: list[Any], profiles: list[int], options: TritonOptions
) -> int:  # fmt: skip
    wanted = options.max_batch_size
    if wanted == 0:
        largest, reason = 0, "max_batch_size is 0"
    else:
        reason = _why_no_batch(metadata, inputs, outputs)
        largest = 0 if reason else _largest(metadata, inputs, profiles)
    if not largest:
        batching = {"max_batch_size": wanted, "preferred_batch_sizes": options.preferred_batch_sizes,
                    "max_queue_delay_us": options.max_queue_delay_us}  # fmt: skip
        if asked := [key for key, value in batching.items() if value]:
            raise ConfigError(f"{', '.join(asked)}: Triton cannot make batches for this engine: {reason}.")
    elif wanted is not None and wanted > largest:
        raise ConfigError(f"max_batch_size={wanted}: the engine takes {largest} at most in the profiles {profiles}")
    batch = largest if wanted is None else wanted
    if too_large := [size for size in options.preferred_batch_sizes if size > batch]:
        raise ConfigError(f"preferred_batch_sizes: {too_large} are larger than the largest batch, {batch}")
    return batch


def _why_no_batch(metadata: Mapping[str, Any], inputs: list[Any], outputs: list[Any]) -> str:
    """Why the first axes of all inputs and outputs are not one size that varies, else ""."""
    for row in [*inputs, *outputs]:
        if not row["shape"] or not (isinstance(row["shape"][0], list) or row["shape"][0] == -1):
            return f"the first axis of {row['binding']} {shape_text(row['shape'])} does not vary"
    if not inputs:
        return "no input is used"
    if metadata.get("built_by"):  # which sizes are equal, a plan does not say; Triton itself asks no more
        ranges = {json.dumps(metadata["dims"][row["shape"][0][1]]) for row in inputs}
        return "" if len(ranges) == 1 else "the first axes of its inputs have other ranges in its optimization profiles"
    first = inputs[0]["shape"][0]
    for row in [*inputs, *outputs]:
        if row["shape"][0] != first:
            return f"the first axis of {row['binding']} {shape_text(row['shape'])} is not that of {inputs[0]['binding']}"
        if any(set(names_in(first)) & set(names_in(size)) for size in row["shape"][1:]):
            return f"other axes of {row['binding']} {shape_text(row['shape'])} hang on its first"
    for constraint in metadata["constraints"]:
        if set(names_in(first)) & set(names_in(constraint["condition"])):
            return f"the model demands {Constraint(constraint['condition'], constraint['source'])}"
    return ""


def _largest(metadata: Mapping[str, Any], inputs: list[Any], profiles: list[int]) -> int:
    ranges = metadata["dims"][inputs[0]["shape"][0][1]]
    return max(int(ranges[p][2]) for p in profiles)


# ---- the text -----------------------------------------------------------------------------------------------------------


def _tensors(kind: str, rows: list[Any], metadata: Mapping[str, Any], batched: bool) -> Iterator[str]:
    yield f"{kind} ["
    for number, row in enumerate(rows):
        shape = [size if isinstance(size, int) else -1 for size in row["shape"][batched:]]
        if 0 in shape:
            raise ConfigError(f"{row['binding']} has the shape {shape_text(row['shape'])}; Triton takes no empty tensors")
        if not shape and not batched:
            raise ConfigError(
                f"the {kind} {row['binding']} has no axes, and Triton serves no scalars: give it one in the model "
                "(x.reshape(1)) and convert again."
            )
        yield "  {"
        yield f"    name: {_quoted(row['binding'])}"
        yield f"    data_type: {_TYPES[carried_by(row['dtype'], metadata['tensorrt'], metadata['version'])]}"
        yield f"    dims: [ {', '.join(map(str, shape or [1]))} ]"
        if not shape:  # one number per item of the batch, but the empty shape is not allowed there
            yield "    reshape: { shape: [ ] }"
        yield "  }" + "," * (number + 1 < len(rows))
    yield "]"


def _instance_group(metadata: Mapping[str, Any], options: TritonOptions, profiles: list[int]) -> Iterator[str]:
    yield "instance_group ["
    yield "  {"
    yield f"    count: {options.instances}"
    yield "    kind: KIND_GPU"
    if options.gpus:
        yield f"    gpus: [ {', '.join(map(str, options.gpus))} ]"
    if profiles != [0]:
        yield f"    profile: [ {', '.join(_quoted(str(p)) for p in profiles)} ]"
    if metadata.get("dla_core") is not None:
        yield f"    secondary_devices: [ {{ kind: KIND_NVDLA device_id: {metadata['dla_core']} }} ]"
    yield "  }"
    yield "]"


def _dynamic_batching(options: TritonOptions, batch: int) -> Iterator[str]:
    yield "dynamic_batching {"
    if options.preferred_batch_sizes:
        yield f"  preferred_batch_size: [ {', '.join(map(str, sorted(options.preferred_batch_sizes)))} ]"
    if options.max_queue_delay_us:
        yield f"  max_queue_delay_microseconds: {options.max_queue_delay_us}"
    yield "}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def _notes(metadata: Mapping[str, Any], inputs: list[Any], profiles: list[int], batched: bool) -> Iterator[str]:
    who = metadata.get("built_by") or "torch2edge"
    what = f"{metadata['model'] or 'an engine'}, built by {who} with {metadata['title']}"
    yield f"{what} for {metadata['target'] or 'an unknown GPU'}: Triton needs that version of TensorRT, and such a GPU"
    for row in metadata["inputs"]:
        if not row["binding"]:
            yield f"the engine does not take {row['name']}, on which no output depends: requests have no such input"
    for kind in ("inputs", "outputs"):
        for row in metadata[kind]:
            carried = carried_by(row["dtype"], metadata["tensorrt"], metadata["version"])
            if row["binding"] and carried != row["dtype"]:
                yield f"{row['binding']} is {row['dtype']} in the model, and {carried} in the engine: requests have that"
    for name, ranges in metadata.get("dims", {}).items():
        allowed = " or ".join(dict.fromkeys(f"{ranges[p][0]} to {ranges[p][2]}" for p in profiles))
        yield f"{name} lies in {allowed}"
    for constraint in metadata.get("constraints", []):
        yield f"the model demands {Constraint(constraint['condition'], constraint['source'])}, which Triton does not check"
    if batched:
        yield "requests are put together along the first axis: right only for a model that treats its items one by one"
        ranges = metadata["dims"][inputs[0]["shape"][0][1]]
        least = min(ranges[p][0] for p in profiles)
        if least > 1:
            yield f"no profile takes less than {least} items: a smaller batch fails"
