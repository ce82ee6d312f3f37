"""Calibration caches: ours (JSON), and TensorRT's own text format.

TensorRT's cache is text. The first line names version and algorithm, ``TRT-8600-EntropyCalibration2``; each other line is
``name: 3c010a14``, where the eight digits are the bits of the tensor's scale as a float32, and the scale is amax / 127.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import ConfigError
from .settings import Calibration

__all__ = ["Cache", "read_tensorrt_cache", "weights_hash", "write_tensorrt_cache"]

FORMAT = 1
_HEADER = re.compile(r"TRT-\d+-\w+")
_LINE = re.compile(r"(?P<name>.+):\s*(?P<bits>[0-9a-fA-F]{1,8})")
_SHOWN = 5


@dataclass(frozen=True)
class Cache:
    """The JSON file of a calibration.

    Args:
        path: of the file.
        calibration: what is asked for now.
        model: hash of the weights, or "" where it is not known.
        version: of torch2edge, written into the file for people.
    """

    path: Path
    calibration: Calibration
    model: str
    version: str

    def read(self, names: Iterable[str]) -> dict[str, float] | None:
        """amax by name, or None where there is no file.

        Raises:
            ConfigError: the file is no such cache, or of another model, algorithm or set of points.
        """
        names = list(names)
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the calibration cache {self.path} cannot be read: {error}") from error
        held = self._parsed(text)
        amax: dict[str, float] = held["amax"]
        missing, more = [n for n in names if n not in amax], sorted(set(amax) - set(names))
        wrong = [] if self.calibration.force else self._differences(held, more)
        if missing:
            wrong.append(f"it lacks {_listed(missing)}")
        if wrong:
            tip = "" if missing else ", or Calibration(..., force=True) takes it as it is"
            raise ConfigError(
                f"the calibration cache {self.path} is not of this conversion: {'; '.join(wrong)}. Delete it, or name another "
                f"file, to calibrate anew{tip}"
            )
        return {name: amax[name] for name in names}

    def write(self, amax: Mapping[str, float], samples: int, batches: int) -> None:
        """Write the file; whoever reads it meanwhile sees the old one or the new one whole.

        Raises:
            ConfigError: it cannot be written.
        """
        content = {
            "format": FORMAT, **self._algorithm(), "samples": samples, "batches": batches, "model": self.model,
            "torch2edge": self.version, "amax": dict(amax),
        }  # fmt: skip
        write_whole(self.path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def _algorithm(self) -> dict[str, Any]:
        clips = self.calibration.algorithm == "percentile"
        return {
            "algorithm": self.calibration.algorithm, "percentile": float(self.calibration.percentile) if clips else None,
        }  # fmt: skip

    def _parsed(self, text: str) -> dict[str, Any]:
        if text.startswith("TRT-"):
            raise ConfigError(
                f"the calibration cache {self.path} is one of TensorRT's own, whose names are tensors of a network; "
                "read_tensorrt_cache() reads it"
            )
        try:
            held = json.loads(text)
            ok = held["format"] == FORMAT and {"algorithm", "percentile", "model"} <= held.keys()
            ok = ok and all(_is_amax(value) for value in held["amax"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            ok = False
        if not ok:
            raise ConfigError(
                f"{self.path} is no calibration cache of format {FORMAT}, or damaged; delete it to calibrate anew"
            )
        return dict(held)

    def _differences(self, held: Mapping[str, Any], more: list[str]) -> list[str]:
        wrong = []
        for key, wanted in self._algorithm().items():
            if held[key] != wanted:
                wrong.append(f"its {key} is {held[key]!r}, not {wanted!r}")
        if self.model and held["model"] and held["model"] != self.model:
            wrong.append(f"its model's weights have the hash {held['model'][:12]}, these {self.model[:12]}")
        if more:
            wrong.append(f"it also has {_listed(more)}, which this conversion has not")
        return wrong


def _is_amax(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def write_whole(path: Path, text: str) -> None:
    """All of it or nothing: into a file beside it, which then takes its name."""
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(beside, 0o644)  # mkstemp's are for the owner alone
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
    except OSError as error:
        raise ConfigError(f"the calibration cache {path} cannot be written: {error.strerror or error}") from error


def weights_hash(model: nn.Module) -> str:
    """sha256, in hex, over names, dtypes, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_tensorrt_cache(path: str | os.PathLike[str]) -> dict[str, float]:
    """amax (127 times the scale) by the name of the tensor, from a cache of TensorRT's calibrators.

    Raises:
        ConfigError: no such file, no such cache, or a scale that is not a positive finite number.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the TensorRT calibration cache {os.fspath(path)} cannot be read: {error}") from error
    if not lines or not _HEADER.fullmatch(lines[0].strip()):
        shown = lines[0][:60] if lines else ""
        raise ConfigError(
            f"{os.fspath(path)} is no calibration cache of TensorRT: its first line is {shown!r}, not one like "
            "'TRT-8600-EntropyCalibration2'"
        )
    amax = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line.strip())
        scale = struct.unpack("!f", bytes.fromhex(found["bits"].zfill(8)))[0] if found else math.nan
        if found is None or not math.isfinite(scale) or scale <= 0:
            why = "is not 'name: eight hex digits'" if found is None else f"gives the scale {scale}"
            raise ConfigError(f"{os.fspath(path)}, line {number}: {line.strip()[:80]!r} {why}")
        amax[found["name"]] = scale * 127
    return amax


def write_tensorrt_cache(
    path: str | os.PathLike[str], amax: Mapping[str, float], header: str = "TRT-8600-EntropyCalibration2"
) -> None:
    """Write amax / 127 as the scales of a cache of TensorRT's calibrators.

    Args:
        path: of the file.
        amax: by the name of the tensor in the network.
        header: the version and the algorithm that TensorRT is to find; it refuses a cache of another.

    Raises:
        ConfigError: a header, name or amax that TensorRT cannot read, or the file cannot be written.
    """
    if not _HEADER.fullmatch(header):
        raise ConfigError(f"the header of a TensorRT cache is {header!r}; it must be like 'TRT-8600-EntropyCalibration2'")
    lines = [header]
    for name, value in amax.items():
        scale = float(torch.tensor(value / 127, dtype=torch.float32)) if _is_amax(value) else math.nan
        if not math.isfinite(scale) or scale <= 0 or not name.strip() or name != name.strip() or "\n" in name:
            raise ConfigError(f"a TensorRT calibration cache cannot hold the amax {value!r} of {name!r}")
        lines.append(f"{name}: {struct.pack('!f', scale).hex()}")
    write_whole(Path(path), "\n".join(lines) + "\n")
