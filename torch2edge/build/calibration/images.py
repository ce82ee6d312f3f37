"""A folder of images as calibration data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import ConfigError, InputError
from ...graph import Value

__all__ = ["ImageFolder"]

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_MODES = {1: "L", 3: "RGB"}


class ImageFolder:
    """The images of a folder and of those in it, by the order of their paths: float32 of shape (C, H, W) in [0, 1].

    RGB, or grey where the model's input has one channel; resized to H x W with bilinear filtering, whatever the proportions;
    divided by 255. No mean is subtracted and nothing is cropped.

    Args:
        folder: where to look.
        inputs: of the model: one, of shape (N, 3, H, W) or (N, 1, H, W), floating point.
        sizes: the example's N, C, H and W.

    Raises:
        ConfigError: the model does not take images, Pillow is not installed, or the folder holds none.
    """

    def __init__(self, folder: str | os.PathLike[str], inputs: list[Value], sizes: tuple[int, ...]) -> None:
        self.folder = Path(folder)
        taken = len(inputs) == 1 and inputs[0].dtype.is_floating_point and len(sizes) == 4 and sizes[1] in _MODES
        if not taken:
            shown = ", ".join(f"{v.dtype} of {len(v.shape)} dimensions" for v in inputs)
            raise ConfigError(
                f"calibration: {self.folder} is a folder of images, for a model with one floating point input of shape "
                f"(N, 3, H, W) or (N, 1, H, W); this one takes {shown}. Give a Dataset or an iterable of batches"
            )
        self._mode, self._size = _MODES[sizes[1]], (sizes[3], sizes[2])
        try:
            from PIL import Image
        except ImportError as error:
            raise ConfigError(
                "calibration: reading images needs Pillow, which is not installed: pip install 'torch2edge[vision]'"
            ) from error
        self._open, self._bilinear = Image.open, Image.Resampling.BILINEAR
        self.paths = sorted(p for p in self.folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
        if not self.paths:
            raise ConfigError(f"calibration: {self.folder} holds no image; known endings are {', '.join(ENDINGS)}")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        try:
            with self._open(self.paths[index]) as image:
                pixels: Any = np.array(image.convert(self._mode).resize(self._size, self._bilinear))
        except (OSError, ValueError, SyntaxError) as error:  # Pillow raises each of them for damaged files
            raise InputError(f"{self.paths[index]} cannot be read as an image: {error}") from error
        return torch.from_numpy(pixels).reshape(*pixels.shape[:2], -1).permute(2, 0, 1).contiguous().float() / 255
