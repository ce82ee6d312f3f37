"""calibrate(): one pass of the data through the traced graph, and the largest magnitude of each of its points."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import CalibrationError, ConfigError
from ...graph import Graph, Op, Value
from .algorithms import ALL_ZERO, amax_of
from .cache import Cache
from .data import Batches, open_data
from .derived import Derived, no_data
from .distributed import Ranks, reduce, this_rank
from .intake import Intake
from .observers import Extremes, Histogram
from .progress import Progress
from .settings import Calibration, CalibrationWarning

__all__ = ["calibrate"]

FEW = 32  # samples
KEPT = 4  # batches
MASK = 1e30
Seen = tuple[int, int, list[str]]  # samples, batches, notes


def calibrate(
    graph: Graph, points: Mapping[str, Value], calibration: Calibration, *, args: Sequence[Any], kwargs: Mapping[str, Any],
    device: torch.device, model_hash: str = "", graph_hash: str = "", version: str = "", parameters: Sequence[str] = (),
    infinite: bool = False, tell: Callable[[str], None] | None = None, line: Callable[[str], None] | None = None,
    keep: list[list[torch.Tensor]] | None = None, notes: list[str] | None = None,
) -> dict[str, float]:  # fmt: skip
    """The largest magnitude that INT8 is to hold (amax) of every point; its scale is amax / 127.

    With torch.distributed initialized, every rank observes its share of the data and all return the same.

    Args:
        graph: the traced model; it is replayed by PyTorch.
        points: a stable name -> a value of the graph, inputs among them. Points of one value share its observation.
        calibration: the data and the algorithm.
        args: positional inputs of the conversion's example.
        kwargs: its keyword inputs.
        device: where the model is.
        model_hash: ``weights_hash`` of the model, for the cache.
        graph_hash: ``graph_hash`` of the traced ops, for the cache.
        version: of torch2edge, for the cache.
        parameters: names of the positional parameters of the model's forward; a dict as batch is read by them.
        infinite: a point that holds an infinity or float32's lowest number, as a masked one does, has the amax inf, and is
            no error.
        tell: takes what is to be said of the data, in the place of a ``CalibrationWarning``.
        line: takes lines on the progress, in the place of a bar on stderr.
        keep: gets the tensors of the first batches, for a check on the same kind of data; none where there is no data.
        notes: gets what is to be said of the cache.

    Raises:
        ConfigError: a cache of another conversion, one that lacks points without data, or a point that the graph does not
            compute.
        CalibrationError: no data, or a batch that the graph cannot take or that makes NaN or infinities.
    """
    ranks, intake = this_rank(), Intake(graph, args, kwargs, calibration, device, parameters)
    show = functools.partial(_observed, graph, intake, calibration, ranks, infinite, tell or _warn, line, keep)
    if calibration.cache is None:
        return show(points)[0]
    cache = Cache(Path(calibration.cache), calibration, model_hash, version, graph_hash)
    held: dict[str, float] | None = ranks.first(lambda: cache.read(points))
    known = held or {}
    _check_known(known, cache.path, infinite)
    lacking = {name: value for name, value in points.items() if name not in known}
    if held is not None and not lacking:
        if keep is not None and not no_data(calibration.data):
            _look(graph, intake, calibration, ranks, keep)
        return known
    if held is not None and notes is not None:
        notes.append(
            f"note: the calibration cache {cache.path} lacked {len(lacking)} of {len(points)} tensors; they were "
            "calibrated and added to it"
        )
    amax, samples, batches = show(lacking)
    ranks.first(lambda: cache.write(amax, samples, batches))
    return {name: known[name] if name in known else amax[name] for name in points}


def _observed(
    graph: Graph, intake: Intake, calibration: Calibration, ranks: Ranks, infinite: bool, tell: Callable[[str], None],
    line: Callable[[str], None] | None, keep: list[list[torch.Tensor]] | None, points: Mapping[str, Value],
) -> tuple[dict[str, float], int, int]:  # fmt: skip
    """The amax of each point from the data of all ranks; and of how many samples and batches it is."""
    observers = _observers(points, calibration.algorithm, intake.device)
    seen = ranks.agree(lambda: _pass(graph, intake, observers, calibration, ranks, infinite, line, keep))
    samples, batches = sum(s for s, _, _ in seen), sum(b for _, b, _ in seen)
    if not samples:
        raise CalibrationError(_nothing(calibration))
    reduce(list(observers.values()), ranks)
    _check_observed(observers.values())
    amax = _results(points, observers, calibration, infinite)
    if ranks.rank == 0:
        notes = list(dict.fromkeys(note for _, _, told in seen for note in told))
        for note in notes + _doubts(list(observers.values()), samples):
            tell(f"calibration{_whose(calibration)}: {note}")
    return amax, samples, batches


def _check_known(known: Mapping[str, float], path: Path, infinite: bool) -> None:
    """Refuse what a cache knows to hold infinities, as ``_observe`` does.

    Raises:
        CalibrationError
    """
    bad = [name for name, amax in known.items() if amax == math.inf]
    if bad and not infinite:
        raise CalibrationError(
            f"calibration: {', '.join(bad)} {'holds' if len(bad) == 1 else 'hold'} infinities, says the cache {path}: no "
            "scale holds them. Leave that module in floating point"
        )


def _whose(calibration: Calibration) -> str:
    return f" of {calibration.data.path}" if isinstance(calibration.data, Derived) else ""


def _nothing(calibration: Calibration) -> str:
    if isinstance(calibration.data, Derived):
        return calibration.data.nothing()
    return "calibration: no batch is as large as the example's, so nothing was observed; give more data"


def _warn(text: str) -> None:
    warnings.warn(text, CalibrationWarning, stacklevel=4)


def _observers(points: Mapping[str, Value], algorithm: str, device: torch.device) -> dict[int, Extremes]:
    """One per value, by its id."""
    names: dict[int, list[str]] = {}
    for name, value in points.items():
        if not value.dtype.is_floating_point:
            raise ConfigError(f"calibration: {name} is {value.dtype}; only floating point tensors have an INT8 scale")
        names.setdefault(id(value), []).append(name)
    kind = Extremes if algorithm == "minmax" else Histogram
    return {key: kind(of_value, device) for key, of_value in names.items()}


def _pass(
    graph: Graph, intake: Intake, observers: Mapping[int, Extremes], calibration: Calibration, ranks: Ranks, infinite: bool,
    line: Callable[[str], None] | None, keep: list[list[torch.Tensor]] | None,
) -> Seen:  # fmt: skip
    """Observe this rank's batches."""
    batches: Batches = open_data(calibration, graph.inputs, intake.examples, ranks)
    total = None if batches.known is None else min(batches.known, batches.limit)
    count, notes = 0, []
    with Progress(total, calibration.progress and ranks.rank == 0, line) as progress:
        for number, batch in batches:
            for tensors in intake.ready(intake.tensors(batch, number), number):
                _observe(graph, tensors, observers, number, infinite)
                if keep is not None and len(keep) < KEPT:
                    keep.append([t.clone() for t in tensors])
            progress.step()
            count = number + 1
    left = intake.left_over()
    if left and not intake.samples and ranks.world == 1:
        notes.append(f"there are only {left} samples, fewer than the example's batch; they were repeated to fill it")
        _observe(graph, intake.padded(), observers, count - 1, infinite)
    elif left:
        notes.append(f"the last {left} samples are left out: they do not fill a batch of the example's size")
    return intake.samples, count, notes


def _look(graph: Graph, intake: Intake, calibration: Calibration, ranks: Ranks, keep: list[list[torch.Tensor]]) -> None:
    """Only the first batches, of data whose ranges are known."""
    for number, batch in open_data(calibration, graph.inputs, intake.examples, ranks):
        keep += [[t.clone() for t in tensors] for tensors in intake.ready(intake.tensors(batch, number), number)]
        if len(keep) >= KEPT:
            return


def _observe(
    graph: Graph, tensors: Sequence[torch.Tensor], observers: Mapping[int, Extremes], number: int, infinite: bool
) -> None:  # fmt: skip
    """Replay the graph on one batch; a point that is not finite is named, infinities only where they are not allowed.

    Raises:
        CalibrationError
    """

    def look(op: Op, results: list[Any]) -> None:
        for value, result in zip(op.outputs, results):
            observer = observers.get(id(value))
            if observer is not None:
                observer.observe(result)

    for value, tensor in zip(graph.inputs, tensors):
        if id(value) in observers:
            observers[id(value)].observe(tensor)
    try:
        graph.replay(tensors, look)
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError) as error:
        reason = (str(error).splitlines() or ["no message"])[0]
        raise CalibrationError(
            f"calibration: the model does not run on batch {number}: {type(error).__name__}: {reason}"
        ) from error
    bounds = torch.stack([o.bounds for o in observers.values()]) if observers else torch.zeros(0, 2)
    for observer, pair in zip(observers.values(), bounds.tolist()):
        if any(math.isnan(b) or (b == math.inf and not infinite) for b in pair):
            bad = "NaN" if any(map(math.isnan, pair)) else "an infinity"
            raise CalibrationError(
                f"calibration: batch {number} makes {bad} in {', '.join(observer.names)}: no scale holds it. Look at the "
                "batch, or leave that module in floating point"
            )


def _check_observed(observers: Iterable[Extremes]) -> None:
    for observer in observers:
        if bool((observer.bounds == -math.inf).all()):
            raise ConfigError(f"calibration: the traced graph does not compute {', '.join(observer.names)}")


def _results(
    points: Mapping[str, Value], observers: Mapping[int, Extremes], calibration: Calibration, infinite: bool
) -> dict[str, float]:  # fmt: skip
    def amax(observer: Extremes) -> float:
        masked = infinite and _is_masked(observer)
        return math.inf if masked else amax_of(observer, calibration.algorithm, calibration.percentile)

    found = {key: amax(observer) for key, observer in observers.items()}
    return {name: found[id(value)] for name, value in points.items()}


def _is_masked(observer: Extremes) -> bool:
    """Whether it holds what stands for minus infinity in a mask: that, or float32's lowest number as transformers has it."""
    return bool((observer.bounds >= MASK).any())


def _doubts(observers: Sequence[Extremes], samples: int) -> list[str]:
    """What makes the result doubtful."""
    doubts = []
    if samples < FEW:
        doubts.append(
            f"only {samples} sample{'s' if samples > 1 else ''}; scales of fewer than {FEW} say little of other data"
        )
    zero: list[str] = []
    constant: list[str] = []
    for observer in observers:
        below, above = observer.bounds.tolist()
        if max(below, above) >= MASK:
            continue  # it has no scale
        if below == above == 0:
            zero += observer.names
        elif below == -above:
            constant += observer.names
    if zero:
        doubts.append(
            f"{', '.join(zero)} {'is' if len(zero) == 1 else 'are'} zero in all batches; amax is taken as {ALL_ZERO:g}"
        )
    if constant:
        doubts.append(f"{', '.join(constant)} {'is' if len(constant) == 1 else 'are'} one number in all batches")
    return doubts
