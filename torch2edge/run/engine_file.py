"""Engine files: TensorRT's plan behind a JSON header that says what it is, with a checksum over all of it.

Layout: 8 bytes magic, 8 bytes header length (little-endian), header (JSON, UTF-8), plan, 32 bytes SHA-256 of all before.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .._trt import capabilities, same_major
from ..errors import EngineFileError
from ..files import write_whole

__all__ = ["check_built_for_here", "describe", "pack", "peek", "pieces", "read", "unpack", "write"]

MAGIC = b"T2EDGE\x00\x01"
FORMAT = 1  # of the header
AMPERE = (8, 0)  # compute capability
DIGEST = hashlib.sha256().digest_size


def pieces(metadata: dict[str, Any], plan: bytes) -> tuple[bytes, bytes, bytes]:
    """What an engine file consists of, one behind the other; the plan is not copied."""
    header = json.dumps(metadata).encode()
    head = MAGIC + len(header).to_bytes(8, "little") + header
    digest = hashlib.sha256(head)
    digest.update(plan)
    return head, plan, digest.digest()


def pack(metadata: dict[str, Any], plan: bytes) -> bytes:
    """The bytes of an engine file."""
    return b"".join(pieces(metadata, plan))


def unpack(data: bytes, origin: str) -> tuple[dict[str, Any], bytes]:
    """Metadata and plan; ``origin`` names the source in messages.

    Raises:
        EngineFileError: foreign, truncated or damaged bytes.
    """
    if not data.startswith(MAGIC):
        hint = "it is too short" if len(data) <= len(MAGIC) else "if others built it, torch2edge.load reads their files"
        raise EngineFileError(f"{origin} was not saved by torch2edge: {hint}. Or convert the model again and save that.")
    if len(data) < len(MAGIC) + 8 + DIGEST or hashlib.sha256(memoryview(data)[:-DIGEST]).digest() != data[-DIGEST:]:
        raise EngineFileError(
            f"{origin} is truncated or damaged: its checksum does not match its {len(data)} bytes. Copy it again, or convert "
            "the model again."
        )
    start = len(MAGIC) + 8
    end = start + int.from_bytes(data[len(MAGIC) : start], "little")
    return _metadata(data[start:end], origin), data[end:-DIGEST]


def _metadata(header: bytes, origin: str) -> dict[str, Any]:
    try:
        metadata = dict(json.loads(header))
    except (ValueError, TypeError) as error:
        raise EngineFileError(f"{origin} has no readable header ({error}). Convert the model again and save that.") from error
    if metadata.get("format") != FORMAT:
        raise EngineFileError(
            f"{origin} was saved by torch2edge {metadata.get('torch2edge')} in the format {metadata.get('format')}, but this "
            f"torch2edge reads the format {FORMAT}. Use that torch2edge, or convert the model again."
        )
    return metadata


def write(path: str | os.PathLike[str], metadata: dict[str, Any], plan: bytes) -> None:
    """Save an engine file; an existing one is replaced only when the new one is whole."""
    write_whole(Path(path), *pieces(metadata, plan))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], bytes]:
    """Metadata and plan of an engine file.

    Raises:
        EngineFileError: there is no such file, or see ``unpack``.
    """
    try:
        with open(path, "rb") as file:
            pieces = _pieces(file)
        if pieces is None:  # unpack() says what is wrong
            return unpack(Path(path).read_bytes(), os.fspath(path))
    except OSError as error:
        raise EngineFileError(f"cannot read {os.fspath(path)}: {error.strerror}") from error
    return _metadata(pieces[0], os.fspath(path)), pieces[1]


def _pieces(file: BinaryIO) -> tuple[bytes, bytes] | None:
    """Header and plan, each read once: a plan is large. None where the file is not whole."""
    start = file.read(len(MAGIC) + 8)
    header = int.from_bytes(start[len(MAGIC) :], "little")
    plan = os.fstat(file.fileno()).st_size - len(start) - header - DIGEST
    if not start.startswith(MAGIC) or plan < 0:
        return None
    pieces = file.read(header), file.read(plan)
    told = hashlib.sha256(start)
    for piece in pieces:
        told.update(piece)
    return pieces if told.digest() == file.read() else None


def peek(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Metadata of an engine file alone, whose checksum is not looked at: for lists, not to run it.

    Raises:
        EngineFileError: it cannot be read, or has no header of ours.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(MAGIC) + 8)
            header = file.read(int.from_bytes(start[len(MAGIC) :], "little")) if start.startswith(MAGIC) else b""
        return dict(json.loads(header))
    except (OSError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise EngineFileError(f"{os.fspath(path)} has no readable header ({error})") from error


def describe(metadata: dict[str, Any]) -> str:
    """``built with TensorRT 8.6.0 for NVIDIA H200``"""
    return f"built with {metadata['title']} for {metadata['target']}"


def check_built_for_here(metadata: dict[str, Any], origin: str) -> None:
    """Refuse an engine that this TensorRT, or this GPU, can never run.

    A plan runs in the TensorRT version that built it, and on GPUs of the compute capability that it was built for. A
    version-compatible one runs in other versions of the same major one too (no road leads from 8.6.0 to 10 or 11), and one
    with ``hardware_compatibility="ampere+"`` on every GPU from Ampere (8.0) on.

    Raises:
        EngineFileError: what was built where, and what is here.
    """
    caps = capabilities()
    if not _runs_in(metadata, caps.name, caps.version):
        raise EngineFileError(
            f"{origin} was {describe(metadata)}, but here is {caps.title}. An engine runs only in the TensorRT version that "
            f"built it{_ways(metadata)}: install {metadata['title']}, or convert the model again here."
        )
    if torch.cuda.is_available() and not _runs_on(metadata, torch.cuda.get_device_capability()):
        raise EngineFileError(
            f"{origin} was {describe(metadata)} (compute capability {', '.join(metadata['compute_capabilities'])}), but "
            f"here is {torch.cuda.get_device_name()} (compute capability "
            f"{'.'.join(map(str, torch.cuda.get_device_capability()))}). Convert the model again here."
        )


def _runs_in(metadata: dict[str, Any], name: str, version: str) -> bool:
    if metadata["tensorrt"] != name:
        return False
    return bool(metadata["version"] == version or (metadata.get("version_compatible") and same_major(metadata["version"])))


def _ways(metadata: dict[str, Any]) -> str:
    return ", or, built with version_compatible=True, in others of that major version" * bool(
        metadata.get("version_compatible")
    )


def _runs_on(metadata: dict[str, Any], here: tuple[int, int]) -> bool:
    if metadata.get("hardware_compatibility") == "ampere_plus":
        return here >= AMPERE
    return not metadata["compute_capabilities"] or ".".join(map(str, here)) in metadata["compute_capabilities"]
