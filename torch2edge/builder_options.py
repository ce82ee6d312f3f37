"""The options of TensorRT's builder that hold for any network, under TensorRT's and trtexec's names, checked when made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._trt import capabilities, members, trt
from .errors import ConfigError

__all__ = ["BUILDER_FLAGS", "DLA_POOLS", "BuilderOptions", "memory_size", "signed_names"]

DLA_POOLS = ("DLA_MANAGED_SRAM", "DLA_LOCAL_DRAM", "DLA_GLOBAL_DRAM")
# Those that no option of its own sets, and that change nothing of what a module and its file do.
BUILDER_FLAGS = (
    "DEBUG", "DISABLE_COMPILATION_CACHE", "DISABLE_TIMING_CACHE", "DISTRIBUTIVE_INDEPENDENCE", "EDITABLE_TIMING_CACHE",
    "ERROR_ON_TIMING_CACHE_MISS", "MONITOR_MEMORY", "STRICT_NANS",
)  # fmt: skip
_ELSEWHERE = {  # builder flags with another door, or none
    "BF16": "write bf16=True", "DIRECT_IO": "build_loadable sets it",
    "EXCLUDE_LEAN_RUNTIME": "write exclude_lean_runtime=True", "FP16": "write fp16=True",
    "GPU_FALLBACK": "write gpu_fallback=True", "INT8": "write int8=True",
    "REFIT": "write refittable=True",
    "SAFETY_SCOPE": "a safety engine does not run in TensorRT's ordinary runtime", "SPARSE_WEIGHTS": "write sparse=True",
    "STRIP_PLAN": "an engine without its weights is not there yet", "TF32": "write tf32=True",
    "VERSION_COMPATIBLE": "write version_compatible=True",
    "WEIGHT_STREAMING": "weights that stay in host memory are not there yet",
}  # fmt: skip
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_COUNTS = {"avg_timing_iterations": 1, "max_num_tactics": 1, "max_aux_streams": 0}  # the smallest value of each
_INT32 = 2**31 - 1


@dataclass(frozen=True)
class BuilderOptions:
    """How TensorRT's builder works; ``convert()`` documents each field. Sizes become bytes, names a tuple of signed names.

    Raises:
        ConfigError: a value is out of range, or the installed TensorRT has no such thing.
    """

    optimization_level: int | None = None
    workspace: int | str | None = None
    memory_pools: Mapping[str, int | str] = field(default_factory=dict)
    avg_timing_iterations: int | None = None
    max_num_tactics: int | None = None
    tactic_sources: int | str | Sequence[str] | None = None
    max_aux_streams: int | None = None
    tiling_optimization_level: str | None = None
    l2_limit_for_tiling: int | str | None = None
    hardware_compatibility: str | None = None
    version_compatible: bool = False
    exclude_lean_runtime: bool = False
    profiling_verbosity: str | None = None
    preview_features: str | Sequence[str] = ()
    engine_capability: str | None = None
    builder_flags: Sequence[str] = ()
    offload: bool = False
    compute_capabilities: tuple[str, ...] = ()

    def check_builder(self) -> None:
        """Refuse what cannot be, and bring what is given in several forms into one."""
        for name in ("version_compatible", "exclude_lean_runtime", "offload"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be True or False")
        level = self.optimization_level
        if level is not None and (isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= 5):
            raise ConfigError(f"optimization_level must be 0 to 5, but is {self.optimization_level!r}")
        for name, smallest in _COUNTS.items():
            _check_count(name, getattr(self, name), smallest)
        self._check_memory()
        self._check_names()
        self._check_compatibility()

    def _settle(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_memory(self) -> None:
        if self.workspace is not None:
            self._settle("workspace", memory_size(self.workspace, "workspace"))
        if self.l2_limit_for_tiling is not None:
            self._settle("l2_limit_for_tiling", memory_size(self.l2_limit_for_tiling, "l2_limit_for_tiling"))
        if not isinstance(self.memory_pools, Mapping):
            raise ConfigError(
                f"memory_pools is a {type(self.memory_pools).__name__}; write {{'TACTIC_DRAM': '4G'}}, sizes by the names of "
                "trt.MemoryPoolType"
            )
        known = sorted(set(members("MemoryPoolType")) - set(DLA_POOLS))
        pools = {}
        for name, size in self.memory_pools.items():
            if name in DLA_POOLS:
                raise ConfigError(f"memory_pools: {name} is of a DLA; write dla_pools={{{name!r}: {size!r}}}")
            if name not in known:
                raise ConfigError(f"memory_pools: {capabilities().title} has no pool {name!r}, only {', '.join(known)}")
            pools[name] = memory_size(size, f"memory_pools[{name!r}]")
        if self.workspace is not None and "WORKSPACE" in pools:
            raise ConfigError("workspace and memory_pools['WORKSPACE'] are one limit: give it once")
        self._settle("memory_pools", pools)

    def _check_names(self) -> None:
        if self.tactic_sources is not None:
            self._settle("tactic_sources", _tactic_sources(self.tactic_sources))
        self._settle("preview_features", signed_names(self.preview_features, "preview_features", "PreviewFeature"))
        for option, enum in (
            ("profiling_verbosity", "ProfilingVerbosity"), ("tiling_optimization_level", "TilingOptimizationLevel"),
        ):  # fmt: skip
            given = getattr(self, option)
            if given is not None:
                self._settle(option, _one_of(given, option, enum))
        self._check_flags()
        self._check_capability()

    def _check_capability(self) -> None:
        if self.engine_capability in (None, "standard"):
            return
        if self.engine_capability == "dla_standalone":
            raise ConfigError(
                "engine_capability='dla_standalone': convert makes modules; build_loadable writes such a loadable"
            )
        if self.engine_capability == "safety":
            raise ConfigError(
                "engine_capability='safety': such an engine needs TensorRT's safety runtime, and a module runs in the "
                "ordinary one. trtexec --safe builds it, from an .onnx file"
            )
        raise ConfigError(f"engine_capability is {self.engine_capability!r}; it must be 'standard'")

    def _check_flags(self) -> None:
        flags = _texts(self.builder_flags, "builder_flags")
        there = [name for name in BUILDER_FLAGS if name in members("BuilderFlag")]
        for name in flags:
            if name in there:
                continue
            if name in _ELSEWHERE:
                raise ConfigError(f"builder_flags: {name} is not set there: {_ELSEWHERE[name]}")
            raise ConfigError(f"builder_flags: {capabilities().title} has {', '.join(there)}, but {name!r} is not among them")
        self._settle("builder_flags", flags)

    def _check_compatibility(self) -> None:
        caps = capabilities()
        if self.max_num_tactics is not None and not caps.max_num_tactics:
            raise ConfigError(f"max_num_tactics: {caps.title} knows no such limit, TensorRT from 10.4 on does; leave it out")
        if self.l2_limit_for_tiling is not None and not caps.tiling:
            raise ConfigError(f"l2_limit_for_tiling: {caps.title} has no tiling, TensorRT from 10.8 on has; leave it out")
        if self.exclude_lean_runtime and not self.version_compatible:
            raise ConfigError("exclude_lean_runtime=True: only an engine with version_compatible=True has one in it")
        if self.hardware_compatibility is not None:
            if not caps.hardware_compatibility:
                raise ConfigError(
                    f"hardware_compatibility: {caps.title} does not support it; it builds for several GPUs by "
                    'compute_capabilities=["8.6", "8.9"]'
                )
            self._settle("hardware_compatibility", _hardware(self.hardware_compatibility))
        given = self.compute_capabilities
        if not isinstance(given, (list, tuple)) or not all(isinstance(version, str) for version in given):
            raise ConfigError(f'compute_capabilities is {given!r}; it must be texts, e.g. ["8.6", "8.9"]')
        if given and not caps.compute_capabilities:
            raise ConfigError(f"compute_capabilities: {caps.title} builds for the GPU of this machine only")
        self._settle("compute_capabilities", tuple(dict.fromkeys(self.compute_capabilities)))
        for version in self.compute_capabilities:
            if not hasattr(trt.ComputeCapability, "SM" + version.replace(".", "")):
                names = [f"{n[2:-1]}.{n[-1]}" for n in dir(trt.ComputeCapability) if n[:2] == "SM" and n[2:].isdigit()]
                raise ConfigError(
                    f"compute_capabilities: {caps.title} does not build for {version!r}, only for {', '.join(sorted(names))}"
                )


def memory_size(given: Any, option: str) -> int:
    """Bytes of a size: a whole number of them, or a number with K, M or G behind it (of 1024), e.g. ``"512M"``, ``"1.5G"``.

    Raises:
        ConfigError: it is no size, or not above zero; with ``option``, whose it is.
    """
    size = 0.0
    if isinstance(given, int) and not isinstance(given, bool):
        size = given
    elif isinstance(given, str) and (found := re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)(?:i?B)?", given.strip(), re.IGNORECASE)):
        size = float(found[1]) * _UNITS[found[2].upper()]
    if size < 1 or size != int(size):
        raise ConfigError(f'{option} is a size in bytes, or written as "512M" or "2G", but is {given!r}')
    return int(size)


def signed_names(given: Any, option: str, enum: str) -> tuple[str, ...]:
    """``"+A,-B"``, or a sequence of such names, as ``("+A", "-B")``, all of them in TensorRT's ``enum``.

    Raises:
        ConfigError: a name without a sign, twice with different signs, or that this TensorRT lacks.
    """
    found: dict[str, str] = {}
    for text in _texts(given, option):
        sign, name = text[:1], text[1:]
        if sign not in ("+", "-") or not name:
            raise ConfigError(
                f"{option}: {text!r} has no sign; write +NAME to add one to TensorRT's own, -NAME to take one away"
            )
        if name not in members(enum):
            raise ConfigError(f"{option}: {capabilities().title} has no {name!r}, only {', '.join(sorted(members(enum)))}")
        if found.setdefault(name, sign) != sign:
            raise ConfigError(f"{option}: {name} is both added and taken away")
    return tuple(sign + name for name, sign in found.items())


def _texts(given: Any, option: str) -> tuple[str, ...]:
    """Names: one text with commas between them, or a sequence."""
    split = given.split(",") if isinstance(given, str) else given
    names = tuple(split) if isinstance(split, Iterable) else (None,)
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{option} is {given!r}; it must be names, as 'A,B' or ['A', 'B']")
    return tuple(name.strip() for name in names if name and name.strip())


def _tactic_sources(given: Any) -> int | tuple[str, ...]:
    """A bit mask of sources that this TensorRT has, or signed names."""
    if isinstance(given, bool):
        raise ConfigError(f"tactic_sources is a bit mask of trt.TacticSource, or '+CUBLAS,-CUDNN', but is {given!r}")
    if not isinstance(given, int):
        return signed_names(given, "tactic_sources", "TacticSource")
    known = {name: 1 << int(value) for name, value in members("TacticSource").items()}
    if given < 0 or given & ~sum(known.values()):
        has = ", ".join(f"{name} ({bit})" for name, bit in known.items())
        raise ConfigError(f"tactic_sources: {capabilities().title} has {has}, but the mask {given} has other bits")
    return given


def _one_of(given: Any, option: str, enum: str) -> str:
    """A name of TensorRT's ``enum`` in small letters."""
    known = members(enum)
    if not known:
        raise ConfigError(f"{option}: {capabilities().title} has no such option; leave it out")
    if not isinstance(given, str) or given.upper() not in known:
        raise ConfigError(f"{option} is {given!r}; {capabilities().title} has {', '.join(repr(n.lower()) for n in known)}")
    return given.lower()


def _hardware(given: Any) -> str:
    """``ampere+`` as in trtexec and ``ampere_plus`` as in TensorRT are one level."""
    return _one_of(given.replace("+", "_plus") if isinstance(given, str) else given, "hardware_compatibility",
                   "HardwareCompatibilityLevel")  # fmt: skip


def _check_count(option: str, given: Any, smallest: int) -> None:
    if given is None:
        return
    if isinstance(given, bool) or not isinstance(given, int) or not smallest <= given <= _INT32:
        raise ConfigError(f"{option} must be a whole number from {smallest} on, but is {given!r}")
