"""Where in the user's code something happened."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from types import FrameType

import torch

__all__ = ["caller", "innermost", "place"]

_SKIP = (str(Path(torch.__file__).parent) + os.sep, str(Path(__file__).parent.parent) + os.sep)


def caller() -> str:
    """``file.py:123`` of the innermost frame that belongs neither to torch nor to torch2edge."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        if not filename.startswith(_SKIP):
            return f"{filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def innermost(error: BaseException) -> str:
    """The same for the place where an exception was raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_SKIP)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"


def place(module: str, source: str) -> str:
    """``in layer1.0.conv1, resnet.py:92``, for messages."""
    return f"in {module or 'the model itself'}, {source}"
