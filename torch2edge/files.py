"""Writing files that other processes read and write too."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import ConfigError

__all__ = ["check_target", "locked", "path_given", "remove_leftovers", "set_aside", "write_whole"]


def path_given(given: Any, what: str) -> str:
    """A path that a user gave, with the home folder in the place of ``~``.

    Raises:
        ConfigError: it is none; with ``what`` it should be, e.g. "plain is the path of a file".
    """
    path = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(f"{what}, but is {given!r}")
    return os.path.expanduser(path)


def check_target(path: str | os.PathLike[str], *read: str | os.PathLike[str] | None) -> None:
    """Refuse a file that cannot be written, before the work and not after it.

    Args:
        read: files that the same work reads; what is none is not looked at.

    Raises:
        ConfigError: there is no such folder, it is a folder itself, it may not be written, or it is one of ``read``.
    """
    folder, name = Path(path).parent, os.fspath(path)
    if not folder.is_dir():
        raise ConfigError(f"cannot write {name}: there is no folder {folder}")
    if not name or Path(path).is_dir():
        raise ConfigError(f"cannot write {name!r}: it is a folder")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write {name}: no permission to write in {folder}")
    for other in read:
        if other is not None and os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other):
            raise ConfigError(f"cannot write {name}: it is read here, and would be gone. Give another name")


def write_whole(path: Path, *data: bytes) -> None:
    """All of it, piece by piece, or nothing: into a file beside it, which then takes its name.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in data:
                file.write(piece)
        os.chmod(beside, 0o644)  # mkstemp's are for the owner alone
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def remove_leftovers(path: Path) -> None:
    """Remove what writers of ``path`` that were killed left beside it; the caller keeps others from writing it."""
    for leftover in path.parent.glob(f".{path.name}.*"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def set_aside(path: Path) -> Path:
    """Rename a damaged file, over the one that was set aside before.

    Raises:
        OSError: it cannot be renamed.
    """
    aside = path.with_name(f"{path.name}.damaged")
    os.replace(path, aside)
    return aside


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file ``path``, against other processes and other threads; it is free again when its holder dies.

    Args:
        waiting: called once if somebody else holds it.

    Raises:
        OSError: it cannot be made, or the file system knows no locks.
    """
    import filelock

    lock = filelock.FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            waiting()
            lock.acquire()
    except NotImplementedError as error:
        raise OSError(f"no locks in {path.parent}: {error}") from error
    try:
        yield
    finally:
        lock.release()
