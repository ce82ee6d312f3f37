"""TensorRT's timing cache in a file: what it measured in one build, it need not measure in the next.

Layout: 8 bytes magic, TensorRT's serialized cache, 32 bytes SHA-256 of all before, for TensorRT does not promise to see every
damage.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._trt import capabilities
from ..errors import EngineFileError
from ..files import locked, remove_leftovers, set_aside, write_whole

__all__ = ["CacheWarning", "TimingCache", "timing_cache"]

MAGIC = b"T2ETIME\x01"
DIGEST = hashlib.sha256().digest_size


class CacheWarning(UserWarning):
    """Something in a cache folder was damaged, or could not be written; the conversion went on without it."""


@dataclass(frozen=True)
class TimingCache:
    """The file of one TensorRT version and one GPU.

    Processes that build at the same time join what they measured: each writes the file's content at that moment together
    with its own.
    """

    path: Path

    def read(self) -> bytes:
        """TensorRT's bytes; empty where there is no file. A damaged one is set aside, with a ``CacheWarning``."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            self._warn(f"cannot be read ({error.strerror}); the build measures anew")
            return b""
        try:
            return _unpack(data)
        except EngineFileError as error:
            self._set_aside(str(error))
            return b""

    def give(self, config: Any) -> Any:
        """Let a builder's config use it.

        Returns:
            TensorRT's ITimingCache, which must outlive the build; None where TensorRT gives none.
        """
        held = self.read()
        cache = _given(config, held)
        if cache is None and held:
            self._set_aside("TensorRT does not take it")
            cache = _given(config, b"")
        return cache

    def take(self, config: Any) -> None:
        """After a build: write what the config's cache holds, together with what others wrote meanwhile.

        A file that cannot be written is a ``CacheWarning``.
        """
        try:
            with locked(self.path.with_name(f"{self.path.name}.lock")):
                remove_leftovers(self.path)
                held = self.read()
                data = _joined(config, held)
                if data != held:
                    write_whole(self.path, MAGIC + data + hashlib.sha256(MAGIC + data).digest())
        except OSError as error:
            self._warn(f"cannot be written ({error.strerror or error}); what this build measured is lost")

    def _set_aside(self, why: str) -> None:
        try:
            self._warn(f"is set aside as {set_aside(self.path).name}, and the build measures anew: {why}")
        except OSError as error:
            self._warn(f"cannot be used, nor set aside ({error.strerror}), and the build measures anew: {why}")

    def _warn(self, what: str) -> None:
        warnings.warn(f"the timing cache {self.path} {what}", CacheWarning, stacklevel=2)


def timing_cache(folder: Path) -> TimingCache | None:
    """The timing cache in ``folder`` for this TensorRT and this GPU; None where timings do not count (TensorRT-RTX)."""
    if not capabilities().timing_cache or not torch.cuda.is_available():
        return None
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    told = f"{capabilities().name}-{capabilities().version}-{gpu.name}-sm{gpu.major}{gpu.minor}-{gpu.multi_processor_count}"
    return TimingCache(folder / f"timing-{re.sub(r'[^A-Za-z0-9.-]+', '_', told)}.cache")


def _given(config: Any, held: bytes) -> Any:
    """A cache of these bytes in the config, or None where TensorRT takes neither."""
    try:
        cache = config.create_timing_cache(held)
        return cache if cache is not None and config.set_timing_cache(cache, False) else None
    except RuntimeError:
        return None


def _joined(config: Any, held: bytes) -> bytes:
    """What the config's cache holds, added to ``held``; where TensorRT does not join them, what is more of the two."""
    own = config.get_timing_cache()
    data = bytes(own.serialize())
    both = config.create_timing_cache(held) if held else None
    if both is not None and both.combine(own, False):
        data = bytes(both.serialize())
    return max(data, held, key=len)


def _unpack(data: bytes) -> bytes:
    if not data.startswith(MAGIC):
        raise EngineFileError("it is no timing cache of torch2edge")
    if len(data) < len(MAGIC) + DIGEST or hashlib.sha256(data[:-DIGEST]).digest() != data[-DIGEST:]:
        raise EngineFileError("it is truncated or damaged: its checksum does not match")
    return data[len(MAGIC) : -DIGEST]
