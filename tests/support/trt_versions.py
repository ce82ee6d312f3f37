"""Which names each TensorRT version's Python API has (tests/data/tensorrt_api), and so what ``Capabilities`` finds in it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch2edge import _trt

DATA = Path(__file__).parent.parent / "data" / "tensorrt_api"
API: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text()) for path in sorted(DATA.glob("*.json"))}
VERSIONS = frozenset(API)
UNLISTED = {"Permutation"}  # has no public members, so the data leaves it out; it is in every version


def has(version: str, owner: str, member: str = "") -> bool:
    """Whether a version has the class ``owner`` and, where given, its ``member``."""
    if owner in UNLISTED or owner.startswith("__"):
        return True
    entry = API[version].get(owner)
    if entry is None or not member:
        return entry is not None
    known = {**entry.get("enum", {}), **entry.get("members", {})} if isinstance(entry, dict) else {}
    return member in known or member.startswith("__") or (member in ("name", "value") and "enum" in entry)


def capabilities_of(version: str) -> _trt.Capabilities:
    """What ``_trt.capabilities()`` finds where this version is installed."""

    class Owner:
        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, member: str) -> str:
            if not has(version, self._name, member):
                raise AttributeError(member)
            return member

    class Module:
        __name__ = "tensorrt_rtx" if version.startswith("rtx") else "tensorrt"
        __version__ = version.removeprefix("rtx")

        def __getattr__(self, name: str) -> Owner:
            if not has(version, name):
                raise AttributeError(f"TensorRT {version} has no {name}")
            return Owner(name)

    found, _trt._module = _trt._module, Module
    try:
        return _trt.capabilities.__wrapped__()
    finally:
        _trt._module = found


CAPABILITIES = {version: capabilities_of(version) for version in VERSIONS}
FIELDS = {f.name for f in fields(_trt.Capabilities)}
