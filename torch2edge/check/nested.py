"""Nested outputs whose lengths hang on the data: detections are compared row by row, in whatever order they come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ..errors import InputError
from ..report import CheckRow
from ..structure import flatten, leaf_names, same
from .verify import PEAK, compare, floor_of

__all__ = ["MISSED", "compare_nested", "floors_of"]

# Score thresholds and NMS compare numbers; where two of them agree to the last bits, rounding decides. This share of the
# rows (at least one) may come or go for that.
MISSED = 0.02
_NARROW = 64  # elements a row: fields up to this size find the partner of a row, larger ones (masks) are then compared


def floors_of(references: Sequence[Any]) -> dict[str, tuple[float, float]]:
    """``verify.floor_of`` each tensor of the nested outputs of several trials, by its name."""
    found: dict[str, list[torch.Tensor]] = {}
    for reference in references:
        try:
            tensors, structure = flatten(reference, "output")
        except InputError:  # compare_nested tells
            continue
        for name, tensor in zip(leaf_names(structure, "output"), tensors):
            found.setdefault(name, []).append(tensor)
    return {name: floor_of(tensors) for name, tensors in found.items()}


def compare_nested(
    given: Any, reference: Any, trial: str, tolerance: float, floors: Mapping[str, tuple[float, float]] | None = None
) -> list[CheckRow]:
    """A row per tensor of the reference, or per table where a dict's tensors have one length and the plain order differs.

    A table is a dict of at least two tensors with one common first size: boxes, labels and scores of an image. ``floors`` are
    those of the tensors that are in no table.
    """
    try:
        (a, shape_a), (b, shape_b) = flatten(given, "output"), flatten(reference, "output")
    except InputError as error:
        return [_failed("output", str(error))]
    if not same(shape_a, shape_b):
        return [_failed("output", "another structure")]
    names = leaf_names(shape_b, "output")
    tables = list(_tables(given, reference, "output"))
    in_tables = {id(t) for _, _, fields in tables for t in fields.values()}
    held = floors or {}
    rows = [
        compare(x, y, n, trial, tolerance, held.get(n, (0.0, 0.0))) for x, y, n in zip(a, b, names) if id(y) not in in_tables
    ]
    for name, mine, theirs in tables:
        plain = [compare(mine[k], theirs[k], f"{name}[{k!r}]", trial, tolerance) for k in theirs]
        rows += plain if all(row.passed for row in plain) else [_matched(mine, theirs, name, trial, tolerance)]
    return rows


def _failed(name: str, why: str) -> CheckRow:
    return CheckRow(name, math.inf, math.inf, 0.0, math.inf, why, False)


def _tables(given: Any, reference: Any, name: str) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    if isinstance(reference, Mapping):
        if _is_table(reference) and _is_table(given):
            yield name, given, reference
            return
        for key, value in reference.items():
            yield from _tables(given[key], value, f"{name}[{key!r}]")
    elif isinstance(reference, (list, tuple)):
        for i, (mine, theirs) in enumerate(zip(given, reference)):
            yield from _tables(mine, theirs, f"{name}[{i}]")


def _is_table(value: Mapping[str, Any]) -> bool:
    fields = list(value.values())
    tensors = len(fields) > 1 and all(isinstance(v, torch.Tensor) and v.ndim > 0 for v in fields)
    return tensors and len({len(v) for v in fields}) == 1


def _matched(given: Mapping[str, Any], reference: Mapping[str, Any], name: str, trial: str, tolerance: float) -> CheckRow:
    """Every row of the reference against its nearest unused row; the figures are of the rows that have a partner."""
    if any(given[k].dtype != v.dtype or given[k].shape[1:] != v.shape[1:] for k, v in reference.items()):
        return _failed(name, "other dtypes or shapes")
    mine, theirs = ({k: _flat(v) for k, v in fields.items()} for fields in (given, reference))
    count, other = len(next(iter(theirs.values()))), len(next(iter(mine.values())))
    scale = {k: float(v.abs().max()) if v.numel() else 0.0 for k, v in theirs.items()}
    exact = {k for k, v in reference.items() if not v.is_floating_point()}
    narrow = [k for k, v in theirs.items() if v.shape[1] <= _NARROW]
    partner = _partners(mine, theirs, narrow, exact, scale, PEAK * tolerance, count, other)
    wide = [k for k in theirs if k not in narrow]

    def agrees(i: int, j: int) -> bool:
        return all(float((mine[k][j] - theirs[k][i]).abs().max()) <= PEAK * tolerance * (scale[k] or 1.0) for k in wide)

    pairs = [(i, j) for i, j in enumerate(partner) if j is not None and agrees(i, j)]
    left, right = [i for i, _ in pairs], [j for _, j in pairs]
    missed = max(count, other) - len(pairs)
    errors = [((mine[k][right] - theirs[k][left]), theirs[k][left]) for k in theirs if k not in exact]
    max_abs = max((float(e.abs().max()) for e, _ in errors if e.numel()), default=0.0)
    relative = max((float(e.norm()) / (float(r.norm()) or 1.0) for e, r in errors), default=0.0)
    passed = missed <= max(1, MISSED * max(count, other)) and (bool(pairs) or missed == 0) and relative <= tolerance
    text = f"{trial}; {len(pairs)} of {count} rows found among {other}, in any order"
    return CheckRow(name, max_abs, relative, float(passed), max(scale.values(), default=0.0), text, passed, len(pairs))


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().double().unsqueeze(-1).flatten(1)


def _partners(
    mine: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor], narrow: list[str], exact: set[str],
    scale: Mapping[str, float], limit: float, count: int, other: int,
) -> list[int | None]:  # fmt: skip
    distance = torch.zeros(count, other, dtype=torch.float64)
    for key in narrow:
        apart = (theirs[key][:, None] - mine[key][None]).abs().amax(-1)
        apart = torch.where(apart == 0, 0.0, math.inf) if key in exact else apart / (scale[key] or 1.0)
        distance = torch.maximum(distance, apart)
    found: list[int | None] = [None] * count
    for i in range(count if other else 0):
        nearest = int(distance[i].argmin())
        if float(distance[i, nearest]) <= limit:
            found[i] = nearest
            distance[:, nearest] = math.inf
    return found
