"""What an engine's file is: our own, or one that others wrote. Needs no TensorRT, and runs nothing that a file holds.

| who writes it | what it holds |
| --- | --- |
| torch2edge | ``engine_file``: JSON header, plan, checksum |
| trtexec, Polygraphy, ``IHostMemory`` | TensorRT's plan and nothing else |
| Ultralytics | 4 bytes length (little-endian), JSON of that length, plan |
| torch2trt, ``TRTModule`` | ``torch.save`` of a state dict: ``engine``, ``input_names``, ``output_names``, flatteners |
| ``torch.save(edge_module.state_dict(), ...)`` | a state dict whose ``_extra_state`` is our engine file |
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import EngineFileError
from .engine_file import MAGIC, unpack

__all__ = ["Found", "own_metadata", "recognised"]

TORCH2TRT = ("engine", "input_names", "output_names")
_SNIFFED = 64  # bytes that tell the kinds of files apart
_CONVERT = "Convert the model: torch2edge.convert(model, inputs)."
# How files begin that are often taken for engines, what they are, and the way out.
_OTHERS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file that it stands for", "Fetch that: git lfs pull."),
    (b"<", "a page of HTML or XML", "Download the file itself."),
    (b"\x1f\x8b", "compressed by gzip", "Unpack it: gunzip."),
    (b"\x7fELF", "a program or a shared library", "Give the engine's file."),
    (b"\x89HDF", "an HDF5 file", _CONVERT),
    (b"\x80NVCF", "a cache of CUDA kernels", "Give the engine's file."),
)


@dataclass(frozen=True)
class Found:
    """An engine that was read from a file.

    Attributes:
        kind: "torch2edge", "plan", "ultralytics" or "torch2trt".
        plan: TensorRT's bytes, without anything before or after them.
        metadata: our own header, None in the files of others.
        header: what Ultralytics wrote before the plan, or torch2trt beside it.
    """

    kind: str
    plan: bytes
    metadata: dict[str, Any] | None = None
    header: dict[str, Any] = field(default_factory=dict)

    @property
    def built_by(self) -> str:
        """Who built it, as far as the file tells."""
        if self.kind == "ultralytics":
            return f"Ultralytics {self.header.get('version', '')}".strip()
        return {"torch2edge": "torch2edge", "torch2trt": "torch2trt"}.get(
            self.kind, "trtexec, Polygraphy or another program (a plan does not say)"
        )


def recognised(path: str | os.PathLike[str]) -> Found:
    """The engine in a file of any of the kinds above.

    Raises:
        EngineFileError: there is no such file, it is damaged, or it is something else.
    """
    origin = os.fspath(path)
    try:
        with open(path, "rb") as file:
            start = file.read(_SNIFFED)
            file.seek(0)
            data = b"" if _of_torch(start) else file.read()
    except OSError as error:
        raise EngineFileError(f"cannot read {origin}: {error.strerror}") from error
    return _from_torch(Path(path), start, origin) if _of_torch(start) else _from_bytes(data, origin)


def own_metadata(header: Any, plan: bytes, origin: str) -> dict[str, Any]:
    """Our header in a state dict of torch2trt's form, which a ``TRTModule`` of ours adds.

    Raises:
        EngineFileError: it cannot be read, or the plan is another than it was written for.
    """
    try:
        content = json.loads(header)
        metadata, checksum = dict(content["metadata"]), content["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise EngineFileError(f"{origin} has no readable 'torch2edge' entry: {error}. Convert the model again.") from error
    if hashlib.sha256(plan).hexdigest() != checksum:
        raise EngineFileError(f"{origin} is damaged: its checksum does not match. Copy it again, or convert the model again.")
    return metadata


# ---- bytes --------------------------------------------------------------------------------------------------------------


def _from_bytes(data: bytes, origin: str) -> Found:
    if not data:
        raise EngineFileError(f"{origin} is empty: 0 bytes. Copy it again, or build the engine again.")
    if data.startswith(MAGIC):
        metadata, plan = unpack(data, origin)
        return Found("torch2edge", plan, metadata)
    if data[4:5] == b"{" and not _is_text(data):  # first: what precedes it is a number, which may look like anything
        return _from_ultralytics(data, origin)
    for prefix, what, way_out in _OTHERS:
        if data.startswith(prefix):
            raise EngineFileError(f"{origin} is no engine: it is {what}. {way_out}")
    if _is_onnx(data, origin):
        raise EngineFileError(
            f"{origin} is no engine: it is an ONNX file. Convert it: torch2edge.convert({origin!r}, inputs), or "
            f"torch2edge convert --model {origin}."
        )
    if data[8:10] == b'{"' and int.from_bytes(data[:8], "little") < len(data):
        raise EngineFileError(f"{origin} is no engine: it holds weights (safetensors). {_CONVERT}")
    if _is_text(data):
        raise EngineFileError(f"{origin} is no engine: it is a text file. Give the engine's file.")
    if len(data) < _SNIFFED:
        raise EngineFileError(
            f"{origin} was not saved by torch2edge, and is too short for an engine: {len(data)} bytes. Copy it again, or "
            "convert the model again."
        )
    return Found("plan", data)


def _is_text(data: bytes) -> bool:
    """A plan has zeros right at its beginning."""
    return len(data) >= 8 and not any(byte < 9 or 13 < byte < 32 for byte in data[:_SNIFFED])


def _is_onnx(data: bytes, origin: str) -> bool:
    """A ModelProto begins with its version (field 1, a small number) and then another of its fields."""
    fields = b"\x12\x1a\x32\x3a\x42"
    return origin.lower().endswith(".onnx") or (data[0] == 0x08 and data[1:2] < b"\x20" and data[2:3] in fields)


def _from_ultralytics(data: bytes, origin: str) -> Found:
    length = int.from_bytes(data[:4], "little", signed=True)
    try:
        header = json.loads(data[4 : 4 + length]) if length > 0 else None
    except ValueError:
        header = None
    if not isinstance(header, dict):
        what = "is truncated" if length > len(data) - 4 else "is damaged, or of a kind that torch2edge does not know"
        raise EngineFileError(
            f"{origin} {what}: it begins as Ultralytics' engines do, but no JSON of {length} bytes follows. Copy it again, or "
            "export the model again."
        )
    if len(data) < 4 + length + _SNIFFED:
        raise EngineFileError(
            f"{origin} is truncated: {len(data) - 4 - length} bytes follow Ultralytics' header, too few for an engine. Copy "
            "it again, or export the model again."
        )
    return Found("ultralytics", data[4 + length :], header=header)


# ---- what torch.save wrote ----------------------------------------------------------------------------------------------


def _of_torch(start: bytes) -> bool:
    """A zip archive, or a pickle, as old versions of torch wrote them."""
    return start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and len(start) > 1)


def _from_torch(path: Path, start: bytes, origin: str) -> Found:
    if start.startswith(b"PK"):
        _check_archive(path, origin)
    state = _loaded(path, origin)
    if not isinstance(state, Mapping):
        raise EngineFileError(f"{origin} is no engine: torch.save wrote a {type(state).__name__} there. {_CONVERT}")
    if all(key in state for key in TORCH2TRT):
        return _from_torch2trt(dict(state), origin)
    if list(state) == ["_extra_state"]:
        return _from_state(state["_extra_state"], origin)
    inside = [str(key) for key in state if str(key).endswith((".engine", "._extra_state"))]
    if inside:
        names = ", ".join(key.rpartition(".")[0] for key in inside[:3])
        raise EngineFileError(
            f"{origin} holds the state of a bigger module, with engines in it ({names}). Make that module, with an empty "
            "EdgeModule() in the place of each (a TRTModule() for torch2trt's), and give it the file by load_state_dict."
        )
    raise EngineFileError(
        f"{origin} is no engine: it holds weights ({', '.join(map(str, list(state)[:3])) or 'none'}). Load them into their "
        f"model, and convert that: torch2edge.convert(model, inputs)."
    )


def _check_archive(path: Path, origin: str) -> None:
    """Refuse what torch.load would warn of, or run."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise EngineFileError(f"{origin} is a truncated or damaged archive ({error}). Copy it again.") from error
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        raise EngineFileError(f"{origin} is no engine: it is a TorchScript module. {_CONVERT}")
    if any(name.endswith(("exported_program.json", "archive_format")) or "/models/" in name for name in names):
        raise EngineFileError(
            f"{origin} is no engine: it is an exported program. Convert it: "
            f"torch2edge.convert(torch.export.load({origin!r}), inputs)."
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise EngineFileError(f"{origin} is no engine: it is a zip archive of {', '.join(names[:3]) or 'nothing'}.")


def _loaded(path: Path, origin: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise EngineFileError(f"cannot read {origin}: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle fails in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if "bytearray" in str(error):
            raise EngineFileError(
                f"torch {torch.__version__} cannot read {origin} safely: weights_only=True takes no bytearray there, as which "
                "torch2trt saves engines. Load it with a newer torch, and save that by EdgeModule.save."
            ) from error
        raise EngineFileError(
            f"{origin} is no engine: it is a pickle or a file of torch.save that is damaged, or holds more than tensors and "
            f"plain data ({reason}). To load such a file can run any program, so torch2edge does not. If it is a model that "
            "you trust, load it by torch.load(..., weights_only=False) yourself, and convert it."
        ) from error


def _from_torch2trt(state: dict[str, Any], origin: str) -> Found:
    if not isinstance(state["engine"], (bytes, bytearray)):
        raise EngineFileError(f"{origin}: its engine is a {type(state['engine']).__name__} where a bytearray should be")
    plan = bytes(state.pop("engine"))
    if "torch2edge" in state:
        return Found("torch2edge", plan, own_metadata(state["torch2edge"], plan, origin))
    for key in TORCH2TRT[1:]:
        names = state[key]
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise EngineFileError(f"{origin}: its {key} are {names!r} where a list of strings should be")
    return Found("torch2trt", plan, header=state)


def _from_state(extra: Any, origin: str) -> Found:
    if not isinstance(extra, torch.Tensor) or extra.dtype != torch.uint8:
        raise EngineFileError(f"{origin} is no engine: its _extra_state is a {type(extra).__name__}, not an engine's bytes")
    data = extra.numpy().tobytes()
    if data == b"\x00":
        raise EngineFileError(f"{origin} is the state of an empty EdgeModule: there is no engine in it")
    metadata, plan = unpack(data, f"the engine in {origin}")
    return Found("torch2edge", plan, metadata)
