"""Writing files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["write_whole"]


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
