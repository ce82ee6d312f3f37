"""A folder of finished engines, each under the hash of what it was made of.

An entry is an engine file (``run/engine_file.py``) whose header holds its key besides. Files are written whole under a lock
per key and read without one, so a folder may be shared by processes, and a folder that cannot be written still be read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .build.graph_key import digest
from .build.timing_cache import CacheWarning, TimingCache, timing_cache
from .errors import ConfigError, EngineFileError
from .files import locked, path_given, remove_leftovers, set_aside
from .run.engine_file import check_built_for_here, peek, read, write

__all__ = ["EngineCache", "Entry", "Key"]

_log = logging.getLogger("torch2edge.cache")
COMPARED = 64  # entries that a miss is compared with, the newest


@dataclass(frozen=True)
class Key:
    """What an engine is made of.

    Attributes:
        model: name of its class, for people.
        parts: what it is made of, by kind -> sha256 in hex.
    """

    model: str
    parts: Mapping[str, str]

    @property
    def file(self) -> str:
        """Name of the entry's file."""
        return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', self.model)[:40]}-{digest(dict(self.parts))[:40]}.engine"


@dataclass(frozen=True)
class Entry:
    """An engine from the cache.

    Attributes:
        path: of its file.
        plan: TensorRT's.
        metadata: the header, as ``account.metadata`` made it.
        built: when, and how long it took, in words.
    """

    path: Path
    plan: bytes = field(repr=False)
    metadata: dict[str, Any] = field(repr=False)
    built: str


class EngineCache:
    """Engines by their keys, and the timing cache beside them.

    Args:
        folder: is made where there is none. Where that cannot be, a ``CacheWarning`` says so, and nothing is kept.

    Raises:
        ConfigError: it is no path, or a file.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(path_given(folder, "cache_dir is the path of a folder"))
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"cache_dir: {self.folder} is a file; give the path of a folder")
        self._writable = True
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._cannot_write(f"the folder cannot be made ({error.strerror})")

    def timing(self) -> TimingCache | None:
        """The timing cache for this GPU, where TensorRT has one."""
        return timing_cache(self.folder) if self._writable else None

    def find(self, key: Key) -> Entry | None:
        """The engine of this key. A damaged file is set aside, with a ``CacheWarning``."""
        path = self.folder / key.file
        if not path.exists():
            return None
        try:
            metadata, plan = read(path)
            told = metadata.pop("cache", None)
            if told is None or told["parts"] != dict(key.parts):
                raise EngineFileError(f"{path} is of another conversion than its name says")
            check_built_for_here(metadata, str(path))
        except EngineFileError as error:
            self._set_aside(path, str(error))
            return None
        return Entry(path, plan, metadata, told["built"])

    def store(self, key: Key, plan: bytes, metadata: Mapping[str, Any], built: str) -> str:
        """Keep an engine, whose lock the caller holds; its path, or "" after a ``CacheWarning`` where it cannot be written."""
        path = self.folder / key.file
        if not self._writable:
            return ""
        try:
            remove_leftovers(path)
            write(path, {**metadata, "cache": {"model": key.model, "parts": dict(key.parts), "built": built}}, plan)
        except OSError as error:
            self._cannot_write(f"{path.name} cannot be written ({error.strerror})")
            return ""
        return str(path)

    def drop(self, entry: Entry) -> None:
        """Remove an engine that failed its check."""
        with contextlib.suppress(OSError):
            entry.path.unlink()

    @contextlib.contextmanager
    def lock(self, key: Key, say: Callable[[str], None] | None = None) -> Iterator[None]:
        """Be the only one who builds this key. Where no lock can be had, a ``CacheWarning``, and no lock.

        Args:
            say: told when another process builds it already; by default a warning of the logger ``torch2edge.cache``.
        """
        path = self.folder / f"{key.file}.lock"
        with contextlib.ExitStack() as stack:
            if self._writable:
                try:
                    stack.enter_context(locked(path, lambda: (say or _log.warning)(_waiting(path))))
                except OSError as error:
                    self._cannot_write(f"{path.name} cannot be locked ({error.strerror or error})")
            yield

    def nearest(self, key: Key) -> str:
        """Why there is no entry: what differs from the one that is most alike."""
        best: list[str] | None = None
        for path in self._newest():
            try:
                told = peek(path).get("cache") or {}
            except EngineFileError:
                continue
            if told.get("model") != key.model:
                continue
            theirs = told.get("parts", {})
            wrong = [name for name in sorted({*key.parts, *theirs}) if key.parts.get(name) != theirs.get(name)]
            best = wrong if best is None or len(wrong) < len(best) else best
        if best is None:
            return f"there is no engine of a {key.model} yet"
        return f"the engine of a {key.model} that is most alike has other {', '.join(best)}"

    def _newest(self) -> list[Path]:
        found = []
        for path in self.folder.glob("*.engine"):
            with contextlib.suppress(OSError):
                found.append((path.stat().st_mtime, path))
        return [path for _, path in sorted(found, reverse=True)[:COMPARED]]

    def _set_aside(self, path: Path, why: str) -> None:
        try:
            told = f"is set aside as {set_aside(path).name}"
        except OSError as error:
            told = f"cannot be used, nor set aside ({error.strerror})"
        warnings.warn(f"the cached engine {path} {told}, and another is built: {why}", CacheWarning, stacklevel=2)

    def _cannot_write(self, why: str) -> None:
        self._writable = False
        warnings.warn(
            f"the cache {self.folder} keeps nothing: {why}. The conversion goes on without it; free space, or name another "
            "cache_dir", CacheWarning, stacklevel=2,
        )  # fmt: skip


def _waiting(lock: Path) -> str:
    return f"another process builds this engine; waiting for it ({lock})"


def now() -> str:
    """The time in UTC, for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
