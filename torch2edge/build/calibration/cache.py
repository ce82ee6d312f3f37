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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import ConfigError
from ...files import write_whole
from .derived import Derived, no_data
from .settings import Calibration

__all__ = ["Cache", "read_tensorrt_cache", "weights_hash", "write_tensorrt_cache"]

FORMAT = 2  # 1 named values by what reads them, which the choice of precisions changes
_KEYS = {"algorithm", "percentile", "model", "graph", "samples", "batches", "amax"}
_HEADER = re.compile(r"TRT-\d+-\w+")
_LINE = re.compile(r"(?P<name>.+):\s*(?P<bits>[0-9a-fA-F]{1,8})")
_SHOWN = 5


@dataclass(frozen=True)
class Cache:
    """The JSON file of a calibration: amax by the name of a value, null for one that holds infinities.

    Args:
        path: of the file.
        calibration: what is asked for now.
        model: hash of the weights, or "" where it is not known.
        version: of torch2edge, written into the file for people.
        graph: hash of the traced ops, or "" where it is not known. A name tells the same value only among the same ops.
    """

    path: Path
    calibration: Calibration
    model: str
    version: str
    graph: str = ""

    def read(self, names: Iterable[str]) -> dict[str, float] | None:
        """amax of those among ``names`` that the file has, inf for one that holds infinities; None where there is no file.

        What is lacking then can be calibrated and added by ``write``: there is data, and the file is of this conversion.

        Raises:
            ConfigError: the file is no such cache, or of another model, graph or algorithm; or it lacks names and cannot be
                extended; or there is no file, and no data either or no folder for one.
        """
        held = self._held()
        if held is None:
            if no_data(self.calibration.data):
                raise ConfigError(
                    f"there is no calibration cache {self.path}{self._whose()}, and no data to calibrate from: look at the "
                    "path, or give Calibration(data, cache=...), which writes the file"
                )
            self._check_folder()
            return None
        wanted, differences = list(names), self._differences(held)
        amax: dict[str, float] = held["amax"]
        missing = [n for n in wanted if n not in amax]
        if differences and (missing or not self.calibration.force):
            lacks = [f"it lacks {_listed(missing)}"] if missing else []
            tip = "" if missing else f", or {_by_name(held, differences)}Calibration(..., force=True) takes it as it is"
            raise ConfigError(
                f"the calibration cache {self.path} is not of this conversion: {'; '.join(differences + lacks)}. Delete it, "
                f"or name another file, to calibrate anew{tip}"
            )
        if missing:
            self._check_extensible(held, missing, len(wanted))
        return {name: amax[name] for name in wanted if name in amax}

    def write(self, amax: Mapping[str, float], samples: int, batches: int) -> None:
        """Write the file, or add to that which is there; whoever reads it meanwhile sees the old one or the new one whole.

        Args:
            amax: inf for a value that holds infinities.
            samples: from which they are. A file that was extended says of how many each is at least.
            batches: the same.

        Raises:
            ConfigError: it cannot be written, or the file that is there is of another conversion.
        """
        held = self._held()
        if held is not None:
            if differences := self._differences(held):
                raise ConfigError(
                    f"the calibration cache {self.path} is of another conversion meanwhile: {'; '.join(differences)}. "
                    "Name another file"
                )
            if self._same_model(held):
                amax = held["amax"] | dict(amax)
                samples, batches = min(samples, held["samples"]), min(batches, held["batches"])
        content = {
            "format": FORMAT, **self._algorithm(), "samples": samples, "batches": batches, "model": self.model,
            "graph": self.graph, "torch2edge": self.version,
            "amax": {name: None if value == math.inf else value for name, value in amax.items()},
        }  # fmt: skip
        write_text(self.path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def _algorithm(self) -> dict[str, Any]:
        clips = self.calibration.algorithm == "percentile"
        return {
            "algorithm": self.calibration.algorithm, "percentile": float(self.calibration.percentile) if clips else None,
        }  # fmt: skip

    def _held(self) -> dict[str, Any] | None:
        """The file's content, with inf for null; None where there is no file."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the calibration cache {self.path} cannot be read: {error}") from error
        held = self._parsed(text)
        held["amax"] = {name: math.inf if value is None else value for name, value in held["amax"].items()}
        return held

    def _parsed(self, text: str) -> dict[str, Any]:
        if text.startswith("TRT-"):
            raise ConfigError(
                f"the calibration cache {self.path} is one of TensorRT's own, whose names are tensors of a network; "
                "read_tensorrt_cache() reads it"
            )
        try:
            held = json.loads(text)
            old = held["format"] == 1
            ok = held["format"] == FORMAT and held.keys() >= _KEYS
            ok = ok and all(value is None or _is_amax(value) for value in held["amax"].values())
            ok = ok and all(type(held[key]) is int for key in ("samples", "batches"))
            ok = ok and all(isinstance(held[key], str) for key in ("model", "graph"))
        except (ValueError, KeyError, TypeError, AttributeError):
            old = ok = False
        if old:
            raise ConfigError(
                f"the calibration cache {self.path} is of format 1, from an earlier torch2edge, which named tensors in "
                "another way; delete it to calibrate anew"
            )
        if not ok:
            raise ConfigError(
                f"{self.path} is no calibration cache of format {FORMAT}, or damaged; delete it to calibrate anew"
            )
        return dict(held)

    def _differences(self, held: Mapping[str, Any]) -> list[str]:
        wrong = []
        for key, wanted in self._algorithm().items():
            if held[key] != wanted:
                wrong.append(f"its {key} is {held[key]!r}, not {wanted!r}")
        if self.model and held["model"] and held["model"] != self.model:
            wrong.append(f"its model's weights have the hash {held['model'][:12]}, these {self.model[:12]}")
        if self.graph and held["graph"] and held["graph"] != self.graph:
            wrong.append(
                f"its model ran other ops (hash {held['graph'][:12]}, these {self.graph[:12]}): the forward, its numbers, "
                "its converters or torch changed, and the names may tell other tensors"
            )
        return wrong

    def _check_extensible(self, held: Mapping[str, Any], missing: list[str], wanted: int) -> None:
        """Refuse to add to a file, where that cannot be."""
        lacks = f"the calibration cache {self.path} lacks {len(missing)} of the {wanted} tensors that are to be INT8"
        if no_data(self.calibration.data):
            raise ConfigError(
                f"{lacks}: {_listed(missing)}; and there is no data to calibrate them from. With Calibration(data, cache=...) "
                "they are calibrated and added to the file"
            )
        if not self._same_model(held):
            raise ConfigError(
                f"{lacks}: {_listed(missing)}; and they are not added to it, for nothing says that it is of this model (a "
                "hash of the weights or of the ops is missing, there or here). Delete it, or name another file, to calibrate "
                "anew"
            )

    def _check_folder(self) -> None:
        """Refuse now what ``write`` would only refuse after the pass over the data."""
        if not self.path.parent.is_dir():
            raise ConfigError(
                f"the calibration cache {self.path} cannot be written: there is no folder {self.path.parent}. Make it, or "
                "name another file"
            )

    def _whose(self) -> str:
        """Which part's the file is, where it is one's."""
        data = self.calibration.data
        return f", which is that of the part {data.path}" if isinstance(data, Derived) else ""

    def _same_model(self, held: Mapping[str, Any]) -> bool:
        """Whether the hashes prove it."""
        return bool(self.model) and (self.model, self.graph) == (held["model"], held["graph"])


def _is_amax(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _by_name(held: Mapping[str, Any], differences: list[str]) -> str:
    """How to ask for what the file was made with, where only the algorithm is another."""
    name, of_algorithm = held["algorithm"], [d.startswith(("its algorithm", "its percentile")) for d in differences]
    if not all(of_algorithm) or not any(d.startswith("its algorithm") for d in differences):
        return ""
    return f"ask for its algorithm={name!r} (--algorithm {name}), or "


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def write_text(path: Path, text: str) -> None:
    """Write a cache, whole.

    Raises:
        ConfigError: it cannot be.
    """
    try:
        write_whole(path, text.encode())
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
    write_text(Path(path), "\n".join(lines) + "\n")
