"""max_error= and metric= of convert(): which modules must not be low, found by measuring. Part of api.py, knows the stages.

What each module contributes (``contribution.py``) gives the order in which modules are moved back, and a first guess of how
many. Engines then decide: groups of 1, 2, 4, ... more, and in the end the smallest number that holds, by bisection.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .contribution import Contribution, Step, moved
from .errors import ConfigError, VerificationError
from .graph import Graph
from .lower import Registry
from .modules import nearest
from .options import Options
from .prepare import Call
from .report import Report
from .run import EdgeModule

__all__ = ["BUILDS", "Goal", "goal_of", "search"]

BUILDS = 12  # engines at most


@dataclass(frozen=True)
class Goal:
    """What a module must reach: an error of its outputs, or a metric that is not much below the model's."""

    max_error: float | None = None
    metric: Callable[[Callable[..., Any]], float] | None = None
    max_drop: float = 0.0

    def holds(self, score: float) -> bool:
        """Whether a score, an error or a drop of the metric, is small enough."""
        return score <= self.limit

    @property
    def limit(self) -> float:
        """The largest score."""
        return self.max_drop if self.max_error is None else self.max_error

    def told(self, score: float) -> str:
        """A score in words."""
        if self.max_error is not None:
            return f"a relative L2 error of {score:.3g} (max_error={self.max_error:g})"
        return f"a metric that is {score:.4g} below the model's (max_drop={self.max_drop:g})"


def goal_of(
    options: Options, max_error: Any, metric: Any, max_drop: Any, verify: bool, file: Any
) -> Goal | None:  # fmt: skip
    """The goal that ``convert`` was given, or None.

    Raises:
        ConfigError: it is no goal, or cannot be searched for with the other options.
    """
    if max_error is None and metric is None and max_drop is None:
        return None
    if max_error is not None and (metric is not None or max_drop is not None):
        raise ConfigError("max_error and metric are two goals: give max_error=, or metric= with max_drop=")
    if max_error is None and (not callable(metric) or max_drop is None):
        raise ConfigError(
            f"metric is {metric!r} and max_drop {max_drop!r}; give both: metric=function of a module, higher is better, and "
            "max_drop=how much less is allowed"
        )
    name, limit = ("max_drop", max_drop) if max_error is None else ("max_error", max_error)
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 <= limit < math.inf:
        raise ConfigError(f"{name} is {limit!r}; it must be a number from 0 on")
    if options.fallback != "error" or file is not None:
        way = f"fallback={options.fallback!r}" if file is None else "an ONNX file"
        raise ConfigError(f"{name} needs the modules of the model, of which nothing is known by way of {way}; leave it out")
    if options.tolerance is not None:
        raise ConfigError(f"{name} and tolerance both say what is good enough: give one")
    if max_error is not None and not verify:
        raise ConfigError("max_error is the error that the check finds: leave verify at True")
    return Goal(max_error, metric, max_drop or 0.0)


def search(
    options: Options, goal: Goal, call: Call, graph: Graph, converting: Registry, engine: Callable[[Options], EdgeModule]
) -> EdgeModule:  # fmt: skip
    """The engine with the fewest modules moved back that was found to hold the goal.

    Args:
        options: to begin with.
        graph: as traced.
        engine: builds with other options; its report has the check.

    Raises:
        ConfigError: nothing is low to begin with.
        VerificationError: none of at most ``BUILDS`` engines holds it, among them one with everything moved back.
    """
    if not any(map(options.uses, ("fp16", "bf16", "int8"))):
        name = "max_error" if goal.metric is None else "metric"
        raise ConfigError(
            f"{name}: nothing is low, so nothing can be moved back; give fp16=, bf16=, int8= or precisions= to begin with"
        )
    if call.calibration is not None and hasattr(call.calibration.data, "__next__"):  # it may be needed again
        held = list(itertools.islice(call.calibration.data, call.calibration.batches))
        call.calibration = replace(call.calibration, data=held)
    tries = _Tries(options, goal, call, sorted({op.module for op in graph.ops}), engine)
    if not tries.holds(0):
        contribution = Contribution(options, call, graph, converting)
        tries.steps = contribution.steps()
        _narrow(tries, _guess(contribution, tries.steps, goal.max_error))
    return tries.finish()


def _guess(contribution: Contribution, steps: Sequence[Step], max_error: float | None) -> int:
    """How many steps will do; 1 where the goal is a metric, of which nothing is known."""
    first, last = 1, len(steps)
    while max_error is not None and first < last:
        middle = (first + last) // 2
        if contribution.error(moved(contribution.given, steps[:middle])) <= max_error:
            last = middle
        else:
            first = middle + 1
    return first


def _narrow(tries: _Tries, guess: int) -> None:
    """Find the smallest number of steps that holds: upwards from a guess, or down from it, and by bisection in the end."""
    failed, count, stride = 0, max(1, guess), 1
    if not tries.steps:
        return
    while not tries.holds(count):
        if count == len(tries.steps):
            return
        failed, count, stride = count, min(len(tries.steps), count + stride), 2 * stride
    stride = 1 if failed == 0 else count  # above a failure only what lies between is left
    while count - failed > 1 and tries.left:
        middle = max((failed + count) // 2, count - stride)
        if tries.holds(middle):
            count, stride = middle, 2 * stride
        else:
            failed, stride = middle, count


def shortest(wanted: Mapping[str, str], given: Mapping[str, str], default: str) -> dict[str, str]:
    """``precisions=`` that gives every module in ``wanted`` its own: ``given`` with as few more entries as do.

    An entry holds for all inside of a module; so it stands at the outermost module in which all agree.
    """
    result = dict(given)
    for path in sorted(wanted):  # a module comes before those inside
        if (nearest(result, path) or default) == wanted[path]:
            continue
        result[_outermost(path, wanted, result)] = wanted[path]
    return result


def _outermost(path: str, wanted: Mapping[str, str], given: Mapping[str, str]) -> str:
    """The outermost module around ``path`` (or itself) below the last entry, in which all want the same."""
    parts = path.split(".")
    for length in range(1, len(parts)):
        outer = ".".join(parts[:length])
        inside = [p for p in (*wanted, *given) if p == outer or p.startswith(outer + ".")]
        if not any(p in given or wanted[p] != wanted[path] for p in inside):
            return outer
    return path


# ---- engines ------------------------------------------------------------------------------------------------------------


@dataclass
class _Tried:
    count: int  # of steps
    score: float
    report: Report | None
    module: EdgeModule | None = None


@dataclass
class _Tries:
    """Engines by the number of steps; only the best is kept."""

    options: Options
    goal: Goal
    call: Call
    paths: list[str]
    engine: Callable[[Options], EdgeModule]
    steps: list[Step] = field(default_factory=list)
    scores: dict[int, float] = field(default_factory=dict)
    best: _Tried | None = None
    baseline: float | None = None

    def __post_init__(self) -> None:
        self.calibration = self.call.calibration

    @property
    def left(self) -> int:
        """How many may be built yet."""
        return BUILDS - len(self.scores)

    def holds(self, count: int) -> bool:
        """Whether the engine after so many steps holds the goal."""
        if count not in self.scores:
            tried = self._build(count)
            self.scores[count] = tried.score
            if self.best is None or self._rank(tried) < self._rank(self.best):
                self.best = tried
        return self.goal.holds(self.scores[count])

    def _rank(self, tried: _Tried) -> tuple[bool, float]:
        """What holds comes first, of that the fewest steps; else the smallest score."""
        held = self.goal.holds(tried.score)
        return not held, tried.count if held else tried.score

    def precisions(self, count: int) -> dict[str, str]:
        """``precisions=`` after so many steps."""
        options = self.options
        wanted = moved({path: options.precision_of(path) for path in self.paths}, self.steps[:count])
        return shortest(wanted, options.precisions, "int8" if options.int8 else options.low)

    def _use(self, count: int) -> Options:
        """The options after so many steps; without INT8 there is nothing to calibrate."""
        options = replace(self.options, precisions=self.precisions(count))
        self.call.calibration = self.calibration if options.uses("int8") or count == 0 else None
        return options

    def _build(self, count: int) -> _Tried:
        options = self._use(count)
        if self.goal.metric is None:
            module = self.engine(replace(options, tolerance=math.inf))
            report = module.report
            assert report is not None
            return _Tried(
                count, max((row.rel_l2 if row.passed else math.inf for row in report.check), default=0), report, module
            )
        try:
            module = self.engine(options)
        except VerificationError as error:
            return _Tried(count, math.inf, error.report if isinstance(error.report, Report) else None)
        return _Tried(count, self._drop(self.goal.metric, module), module.report, module)

    def _drop(self, metric: Callable[[Callable[..., Any]], float], module: EdgeModule) -> float:
        with torch.no_grad():
            if self.baseline is None:
                self.baseline = _number(metric(self.call.model))
                if not math.isfinite(self.baseline):
                    raise ConfigError(f"metric gives {self.baseline} for the model itself; it must be a finite number")
            reached = _number(metric(module))
        return math.inf if math.isnan(reached) else self.baseline - reached

    def finish(self) -> EdgeModule:
        """The best engine, with what was found in its report.

        Raises:
            VerificationError: it does not hold the goal.
        """
        best = self.best
        assert best is not None
        self._use(best.count)
        report, chosen = best.report, self.precisions(best.count)
        builds = f"{len(self.scores)} build{'s' * (len(self.scores) != 1)}"
        if report is not None:
            report.precisions = chosen
            if self.goal.metric is None:
                report.tolerance = self.goal.limit
                report.check = [replace(r, passed=r.passed and r.rel_l2 <= self.goal.limit) for r in report.check]
        if best.module is None or not self.goal.holds(best.score):
            raise VerificationError(self._missed(best, chosen, builds), report)
        assert report is not None
        report.notes.append(
            f"note: {self.goal.told(best.score)} after {builds}, with {best.count} of {len(self.steps)} steps back to higher "
            f"precisions. The next time at once with precisions={chosen!r}"
        )
        best.module.metadata["report"] = report.to_dict()
        return best.module

    def _missed(self, best: _Tried, chosen: Mapping[str, str], builds: str) -> str:
        rounded = f"io_dtype={self.options.io_dtype}, " if self.options.io_dtype is not None else ""
        return (
            f"no choice of precisions does: the best of {builds}, precisions={dict(chosen)!r}, has "
            f"{self.goal.told(best.score)}. With every module in float32 it does not hold either, so the rest is no matter of "
            f"precisions: it is {rounded}float32's own rounding, quantizers in the model, or the conversion; "
            "torch2edge.compare(model, convert(..., keep_network=True)) tells them apart"
        )


def _number(given: Any) -> float:
    try:
        return float(given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"metric gave a {type(given).__name__}; it must give a number, higher is better") from error
