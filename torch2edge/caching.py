"""cache_dir= of convert(): an engine is built once, and found again. Part of api.py, knows the stages too."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from . import _trt
from ._trt import dla_cores
from .build.graph_key import Unkeyable, digest, graph_digests, plain
from .check.verify import TOLERANCE
from .engine_cache import EngineCache, Entry, Key, now
from .environment import converters_folder, gpu, source, versions
from .errors import VerificationError
from .graph import Graph
from .lower import OnnxFile, Registry
from .lower.check import check
from .lower.registry import Converter, is_own
from .network_key import network_digest
from .options import Options
from .prepare import Call, Prepared, prepare
from .report import Report
from .roads import Road
from .run import EdgeModule
from .trace import names_of

__all__ = ["Work", "cached", "limit_of"]

PLAIN = (bool, int, float, str, type(None))  # defaults that a module keeps
CODE = (
    "a version-compatible engine holds code for the host, and is never taken out of a file; exclude_lean_runtime=True leaves "
    "that code out"
)
NOT_SHAPING = {"tolerance", "offload"}  # options that the engine does not hang on


@dataclass(frozen=True)
class Work:
    """A conversion on the way to its engine: what it is of, and the stages that are left.

    Attributes:
        road: lowers what was prepared.
        finish: builds the network of a road, or makes the module of an entry; and checks it if told to.
    """

    options: Options
    call: Call
    file: OnnxFile | None
    traced: Graph | None
    converting: Registry
    names: Mapping[str, Sequence[str] | None]
    verify: bool
    keep_network: bool
    clock: Any  # making.Clock
    road: Callable[[Prepared | None], Road]
    finish: Callable[[Road | None, Entry | None, bool], EdgeModule]


def limit_of(options: Options, precision: str) -> float:
    """The largest relative error of an output that the check allows."""
    return options.tolerance if options.tolerance is not None else max(TOLERANCE[p] for p in precision.split("+"))


def cached(cache: EngineCache, work: Work) -> EdgeModule:
    """The engine of a conversion: from the cache, or built and kept there.

    An engine from the cache was checked when it was built. It is checked now where it was not, or less strictly.
    """
    with work.clock("prepare"):
        prepared = _prepared(work)
    road = work.road(prepared) if _shows_in_network_only(work, prepared) else None
    with work.clock("cache"):
        key = _key(work, prepared, road)
        entry = cache.find(key) if isinstance(key, Key) else None

    def lowered() -> Road:
        return road or work.road(prepared)

    if isinstance(key, str):
        return _told(work.finish(lowered(), None, work.verify), f"not used: {key}")
    if entry is None:
        with cache.lock(key, work.call.line):
            entry = cache.find(key)  # somebody else may have built it meanwhile
            if entry is None:
                return _built(cache, key, work, lowered, cache.nearest(key))
    return _from(entry, cache, key, work, lowered)


def _has_code(options: Options) -> bool:
    return options.version_compatible and not options.exclude_lean_runtime


def _checked(entry: Entry, work: Work) -> bool:
    """Whether the check of an entry was as strict as this conversion's is."""
    report = Report.from_dict(entry.metadata["report"])
    return bool(report.checked_by) and report.tolerance <= limit_of(work.options, report.precision)


def _built(cache: EngineCache, key: Key, work: Work, lowered: Callable[[], Road], why: str) -> EdgeModule:
    start = time.perf_counter()
    module = work.finish(lowered(), None, work.verify)
    path = cache.store(key, module._plan, module.metadata, f"{now()}, in {time.perf_counter() - start:.1f} s")
    return _told(module, f"miss: {why}; " + (f"kept as {path}" if path else "it could not be kept"))


def _from(entry: Entry, cache: EngineCache, key: Key, work: Work, lowered: Callable[[], Road]) -> EdgeModule:
    """The module of an entry, checked if it was not."""
    checked = _checked(entry, work)
    check = work.verify and not checked
    here = not _trt.why_not_executable()  # else the reference executor computes the network
    needed = check or work.keep_network or work.options.refittable or not here
    try:
        module = work.finish(lowered() if needed else None, entry, check)
    except VerificationError:
        cache.drop(entry)
        raise
    said = f"hit: {entry.path}, built {entry.built}"
    if not check:
        return _told(module, f"{said}; the check is the one made then" if checked else said)
    if not here:  # the engine itself was not, so its entry is as unchecked as before
        return _told(module, f"{said}; checked now was the network that is lowered from the same, for no engine executes here")
    with cache.lock(key, work.call.line):
        cache.store(key, entry.plan, module.metadata, entry.built)
    return _told(module, f"{said}, and checked now")


def _told(module: EdgeModule, text: str) -> EdgeModule:
    """Say in the report how the cache was used."""
    module.metadata["report"] = {**module.metadata["report"], "cache": text}
    return module


# ---- the key ------------------------------------------------------------------------------------------------------------


def _prepared(work: Work) -> Prepared | None:
    """The graph in its precisions, where they hang on numbers that only a run of the model gives.

    Else they follow from the traced graph and the options, and a hit needs no run: the ranges of INT8 come from data; where
    half stays float32 in a strongly typed network, from the example; and ``io_dtype`` is refused where it cannot hold that.
    """
    options = work.options
    runs = work.call.calibration is not None or options.io_dtype is not None or (options.strong and options.uses("fp16"))
    if work.traced is None or options.fallback == "onnx" or not runs:
        return None
    check(work.traced.ops, work.converting)
    return prepare(work.traced, options, work.converting, work.call)


def _shows_in_network_only(work: Work, prepared: Prepared | None) -> bool:
    """Whether the graph does not tell what the network will be: a converter of the user's, or ONNX's exporter, makes it."""
    if work.file is not None:
        return False
    if prepared is None:  # what prepare() would make is made of any ops
        return work.options.fallback == "onnx" or not all(map(_is_ours, work.converting.all().values()))
    return not all(_is_ours(work.converting.get(op.target)) for op in prepared.graph.ops)


def _key(work: Work, prepared: Prepared | None, road: Road | None) -> Key | str:
    """What the engine is made of, or why that cannot be told.

    Args:
        road: where the network alone tells it.
    """
    try:
        if _has_code(work.options):
            raise Unkeyable(CODE)
        if work.options.calibrator == "tensorrt" and work.call.calibration is not None:
            raise Unkeyable("TensorRT's own calibrator finds the ranges of INT8 during the build")
        return Key(type(work.call.model).__name__, _parts(work, prepared, road))
    except Unkeyable as error:
        return str(error)


def _parts(work: Work, prepared: Prepared | None, road: Road | None) -> dict[str, str]:
    code = source()
    if not code:
        raise Unkeyable("a source file of torch2edge changed after it was imported; start Python anew")
    return {
        **(_of_graph(work, prepared, road) if work.file is None else _of_file(work, work.file)),
        "options": digest(_options(work.options)),
        "interface": digest([_signature(work.call.model), plain(work.names)]),
        "GPU": digest(gpu()),
        "versions": digest(versions()),
        "torch2edge": code,
    }


def _of_graph(work: Work, prepared: Prepared | None, road: Road | None) -> dict[str, str]:
    graph = prepared.graph if prepared else work.traced
    assert graph is not None
    names = names_of(work.call.model) | (prepared.names if prepared else {})
    told = graph_digests(graph, names, prepared.ranges if prepared else {}, opaque=road is not None)
    return told if road is None else {**told, "network": network_digest(road.session.network)}


def _of_file(work: Work, file: OnnxFile) -> dict[str, str]:
    """An ONNX file's content, with the weights that lie beside it, and what it is called with."""
    try:
        content = file.proto.SerializeToString(deterministic=True)
    except Exception as error:  # protobuf holds 2 GB at most
        raise Unkeyable(f"{file.path} cannot be hashed: {error}") from error
    given = [[list(t.shape), str(t.dtype)] for t in work.call.tensors]
    made_by = {name: importlib.metadata.version(name) for name in ("onnx", "onnxslim")}
    called = digest([given, sorted(work.call.kwargs), made_by])
    return {"file": hashlib.sha256(content).hexdigest(), "call": called}


def _is_ours(found: Converter | None) -> bool:
    """Whether a converter is that of torch2edge for this op, and its code, which is in the key, lies in converters/.

    A wrapper of one may have its name and module, but not its code; one of ours may be registered for another op.
    """
    code = getattr(found.function, "__code__", None) if found else None
    return code is not None and is_own(found) and _lies_in_converters(code.co_filename)


@functools.cache
def _lies_in_converters(file: str) -> bool:
    return Path(file).resolve().is_relative_to(converters_folder())


def _options(options: Options) -> dict[str, Any]:
    told = {f.name: plain(getattr(options, f.name)) for f in dataclasses.fields(options) if f.name not in NOT_SHAPING}
    return told | {"DLA cores": dla_cores() if options.wants_dla() else 0}


def _signature(model: nn.Module) -> list[Any]:
    """What a call of the module may look like."""
    found = inspect.signature(model.forward).parameters.values()
    return [[p.name, str(p.kind), repr(p.default) if isinstance(p.default, PLAIN) else ""] for p in found]
