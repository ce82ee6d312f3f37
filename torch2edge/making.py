"""From the traced model to a checked engine, built or taken from the cache. Part of api.py, knows the stages too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import _trt
from .account import metadata, report_of
from .account import precision as precision_of
from .build.offload import offloaded
from .caching import Work, cached, limit_of
from .check.onnx_model import OnnxModel
from .engine_cache import EngineCache, Entry
from .errors import ConfigError
from .graph import Graph
from .host_memory import HostPeak
from .lower import OnnxFile, Registry
from .options import Options
from .placement import prepare_dla, truth
from .prepare import Call, Prepared
from .refitting import make_refittable
from .report import Report
from .roads import Kept, Road, configure, network
from .run import EdgeModule
from .run.engine_file import FORMAT
from .shapes import Dynamic
from .sparsity import sparsity_note
from .verification import by_reference, verify_module

__all__ = ["Clock", "Todo", "engine"]


@dataclass(frozen=True)
class Todo:
    """What every engine of one conversion is made of."""

    call: Call
    file: OnnxFile | None
    traced: Graph | None
    converting: Registry
    names: Mapping[str, Sequence[str] | None]
    keep_network: bool
    cuda_graph: bool
    verify: bool
    clock: Clock
    cache: EngineCache | None
    declared: Dynamic


def engine(options: Options, todo: Todo) -> EdgeModule:
    """From the traced model to a checked engine."""

    def road(prepared: Prepared | None = None) -> Road:
        with todo.clock("lower"):
            return network(todo.call, todo.file, todo.traced, options, todo.converting, todo.names, prepared)

    finish = partial(_finished, options, todo)
    if todo.cache is None:
        return finish(road(), None, todo.verify)
    given = todo.call, todo.file, todo.traced, todo.converting, todo.names, todo.verify, todo.keep_network, todo.clock
    return cached(todo.cache, Work(options, *given, road, finish))


def _finished(options: Options, todo: Todo, road: Road | None, entry: Entry | None, check: bool) -> EdgeModule:
    """The module of a network that is built now, or of an engine from the cache; that needs its network to be checked only."""
    call, clock = todo.call, todo.clock
    if entry is None:
        assert road is not None
        plan, header = _built(options, todo, road)
    else:
        plan, header = entry.plan, entry.metadata
    report = Report.from_dict(header["report"])
    module = EdgeModule(plan, header, fallback=by_reference(road.session, road.lowered) if road else None)
    module.engine_host_code_allowed = options.version_compatible and entry is None  # what is in a folder is a file
    if todo.cuda_graph:
        module.enable_cuda_graph()
    if todo.keep_network and road:
        module.network, module._kept = road.session.network, Kept(call, road, options, todo.converting, todo.names)
    if options.refittable and road:
        make_refittable(module, report, call, road, todo.converting, todo.names, todo.declared)
    if check and road:
        report.tolerance = limit_of(options, report.precision)
        with clock("check"):
            verify_module(
                call.model, list(call.args), dict(call.kwargs), module, road.graph, road.lowered, road.session, report,
                call.seen, call.seen_are,
            )  # fmt: skip
        report.notes = list(dict.fromkeys(report.notes))  # a second check may say what the first said
    if not _trt.why_not_executable():
        module._fallback = None  # it holds the network and the weights
    for runner in module._runners.values():
        report.memory.activations = _trt.device_memory_size(runner.engine)
    report.memory.host = clock.host.added
    report.timings = dict(clock.seconds)
    module.metadata["report"] = report.to_dict()
    return module


def _built(options: Options, todo: Todo, road: Road) -> tuple[bytes, dict[str, Any]]:
    """The plan of a network, and the header of its engine file."""
    call, clock, lowered, session = todo.call, todo.clock, road.lowered, road.session
    precision = precision_of(road.network_graph, options)
    note, on_dla = configure(road, precision), prepare_dla(road)
    with clock("build"), offloaded(call.model, options.offload):
        plan = session.build(todo.cache.timing() if todo.cache else None)
    report = report_of(road.graph, road.network_graph, lowered, session, precision, len(plan))
    report.tolerance = limit_of(options, precision)
    report.placements, surprises = truth(road, on_dla)
    report.notes[:0] = road.notes
    report.notes += [
        n for n in (*surprises, note, sparsity_note(call.model, bool(options.wants_dla())) if options.sparse else "") if n
    ]
    if isinstance(call.model, OnnxModel):
        report.original = call.model.evaluator()
    return plan, metadata(call.model, road.graph, road.network_graph, lowered, session, report, FORMAT)


class Clock:
    """Seconds by stage, and the host's memory in them."""

    def __init__(self, progress: Callable[[str], None] | None) -> None:
        if progress is not None and not callable(progress):
            raise ConfigError(f"progress is {progress!r}; it must be a function that takes the name of a stage, e.g. print")
        self.seconds: dict[str, float] = {}
        self.host = HostPeak()
        self._progress = progress or (lambda stage: None)

    @contextmanager
    def __call__(self, stage: str) -> Any:
        """What runs in it is the stage."""
        self._progress(stage)
        start = time.perf_counter()
        with self.host.watching():
            yield
        self.seconds[stage] = round(time.perf_counter() - start, 3)
