"""Where a model is cut: which submodules become engines, which stay PyTorch, why, and what crosses the boundaries."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from .errors import (
    CalibrationError,
    ConfigError,
    TensorRTNotFoundError,
    Torch2EdgeError,
    TrainingModeError,
    UnsupportedOpError,
)
from .report import table

__all__ = ["NOT_TO_SKIP", "CutRow", "Plan", "TooSmall", "decide"]

# true of the whole call, not of one submodule
NOT_TO_SKIP = (CalibrationError, ConfigError, TensorRTNotFoundError, TrainingModeError)


class TooSmall(Torch2EdgeError):
    """A submodule would convert, but is not worth an engine; nor are its children."""


@dataclass
class CutRow:
    """A submodule that becomes an engine, or one that stays PyTorch; what lies inside an engine has no row."""

    path: str
    kind: str  # name of its class
    runs: str  # "engine" or "PyTorch"
    calls: int  # in one forward
    ops: int  # ATen calls of the example run: with all inside for an engine, its own for PyTorch
    flops: int  # of matrix products and convolutions among them
    reason: str = ""  # why it stays PyTorch
    tensors: int = 0  # that cross into and out of the engine in one forward
    bytes: int = 0


@dataclass
class Plan:
    """Printable account of a cut; ``to_dict()`` is the same as JSON."""

    rows: list[CutRow] = field(default_factory=list)
    unsupported: list[dict[str, str]] = field(default_factory=list)  # op, module, source, reason; each once
    notes: list[str] = field(default_factory=list)

    @property
    def engines(self) -> list[str]:
        """Paths of the submodules that become engines; ``[""]`` is the whole model."""
        return [row.path for row in self.rows if row.runs == "engine"]

    @property
    def coverage(self) -> dict[str, float]:
        """Share of the ATen calls, and of the FLOPs of matrix products and convolutions, that run in engines."""
        return {"ops": self._share("ops"), "flops": self._share("flops")}

    def _share(self, what: str) -> float:
        total = sum(getattr(row, what) for row in self.rows)
        return sum(getattr(row, what) for row in self.rows if row.runs == "engine") / total if total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain dicts, lists, strings and numbers."""
        return {"coverage": self.coverage, "engines": self.engines, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of ``to_dict``."""
        return cls([CutRow(**row) for row in data["rows"]], list(data["unsupported"]), list(data["notes"]))

    def __str__(self) -> str:
        """A table of the submodules, then the reasons, then the ops without a converter."""
        parts = [self._head(), self._table()]
        reasons = [f"  {row.path or '(model)'}: {row.reason}" for row in self.rows if row.reason]
        if reasons:
            parts.append("\n".join(["stays PyTorch, because", *reasons]))
        if self.unsupported:
            rows = self.unsupported
            lines = [f"  {u['op']} in {u['module'] or 'the model itself'}, {u['source']}: {u['reason']}" for u in rows]
            parts.append("\n".join(["ops that cannot be converted", *lines]))
        return "\n\n".join([*parts, *(["\n".join(self.notes)] if self.notes else [])])

    def _head(self) -> str:
        if self.engines == [""]:
            return "the whole model becomes one engine"
        count, share = len(self.engines), self.coverage
        return (
            f"{count} engine{'s' * (count != 1)}: {share['flops']:.1%} of the FLOPs of matrix products and convolutions, "
            f"{share['ops']:.0%} of the ATen calls"
        )

    def _table(self) -> str:
        rows = [
            [r.path or "(model)", r.kind, r.runs, r.calls or "", r.ops, f"{r.flops / 1e6:.1f}",
             *((r.tensors, f"{r.bytes / 1024:.1f} KiB") if r.runs == "engine" else ("", ""))] for r in self.rows
        ]  # fmt: skip
        return table(["module", "class", "runs in", "calls", "ops", "MFLOPs", "tensors across", "bytes across"], rows)


Attempt = Callable[[str, nn.Module, Any], Any]


def decide(seen: Mapping[str, Any], attempt: Attempt, fresh: Mapping[str, Any] | None = None) -> tuple[Plan, dict[str, Any]]:
    """Find the largest submodules that convert, from the model itself downwards.

    Args:
        seen: what each submodule did in the example run (``trace.calls.observe``).
        attempt: converts the submodule of a path as its call says, or raises why not.
        fresh: the same run on other inputs of the same shapes; what is called with other shapes there is not replaced.

    Returns:
        The plan, and what ``attempt`` gave for each path that converts.
    """
    plan, made = Plan(), {}
    done: set[str] = set()

    def visit(path: str) -> None:
        if path in done:  # shared, and reached through another parent
            return
        done.add(path)
        one = seen[path]
        reason, deeper = "", True
        if one.problem:
            reason = one.problem
        elif one.calls:
            reason = _blocked(path, seen, fresh)
            if not reason:
                try:
                    made[path] = attempt(path, one.module, one.calls[0])
                except NOT_TO_SKIP:
                    raise
                except Torch2EdgeError as error:
                    reason, deeper = _reason(error, path), not isinstance(error, TooSmall)
                    plan.unsupported += [r for r in _unsupported(error, path) if r not in plan.unsupported]
                else:
                    plan.rows.append(_engine_row(path, seen))
                    return
        if not deeper:
            plan.rows.append(_torch_row(path, seen, reason, inside=True))
            return
        if one.ops or reason:
            plan.rows.append(_torch_row(path, seen, reason))
        for child in _children(path, seen):
            visit(child)

    visit("")
    return plan, made


def _children(path: str, seen: Mapping[str, Any]) -> Iterator[str]:
    """Paths of the direct submodules; a shared one is known by its first path."""
    paths = {id(one.module): p for p, one in seen.items()}
    for child in seen[path].module.children():
        if id(child) in paths:
            yield paths[id(child)]


def _inside(path: str, seen: Mapping[str, Any]) -> Sequence[Any]:
    """What was seen of a submodule and all that it holds."""
    held = {id(m) for m in seen[path].module.modules()}
    return [one for one in seen.values() if id(one.module) in held]


def _blocked(path: str, seen: Mapping[str, Any], fresh: Mapping[str, Any] | None) -> str:
    """Why a submodule must not be replaced, whether it converts or not."""
    one = seen[path]
    for call in one.calls:
        if call.problem:
            return str(call.problem)
    again = fresh[path].calls if fresh else []
    kinds = {call.signature: call.shown for call in one.calls}
    if len(kinds) > 1:
        return f"it is called with {len(kinds)} kinds of inputs in one forward: {_shapes(kinds)}"
    others = {call.signature: call.shown for call in again} | kinds
    if len(others) > 1:
        return f"its inputs hang on the data: {_shapes(others)} for other values of the same shapes"
    if path and one.written_afterwards():
        return "what it returns shares memory with its input or its parameters, and is written to afterwards"
    if path:  # the model itself is left to convert(), with its meaning
        for part in _inside(path, seen):
            if part.changed:
                where = next(p for p, o in seen.items() if o is part)
                return f"its forward sets the attribute {', '.join(part.changed)} of {where}, which other code may read"
    return ""


def _shapes(kinds: Mapping[str, str]) -> str:
    shown = list(dict.fromkeys(kinds.values()))
    return "; ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def _reason(error: Torch2EdgeError, path: str) -> str:
    """The first sentence, with the place named from the whole model."""
    if isinstance(error, UnsupportedOpError):
        count = len(error.rows)
        ops = ", ".join(dict.fromkeys(row["op"] for row in error.rows))
        return f"{count} op{'s' * (count != 1)} cannot be converted: {ops}"
    first = re.split(r"\.\s+(?=[A-Z])", str(error).splitlines()[0])[0]
    kind = "" if isinstance(error, TooSmall) else f"{type(error).__name__}: "
    return kind + first.replace("the model itself", path or "the model itself")


def _unsupported(error: Torch2EdgeError, path: str) -> list[dict[str, str]]:
    if not isinstance(error, UnsupportedOpError):
        return []
    return [{**row, "module": ".".join(p for p in (path, row["module"]) if p)} for row in error.rows]


def _engine_row(path: str, seen: Mapping[str, Any]) -> CutRow:
    one = seen[path]
    tensors = sum(c.inputs[0] + c.outputs[0] for c in one.calls)
    size = sum(c.inputs[1] + c.outputs[1] for c in one.calls)
    inside = _inside(path, seen)
    ops, flops = sum(part.ops for part in inside), sum(part.flops for part in inside)
    return CutRow(path, type(one.module).__name__, "engine", len(one.calls), ops, flops, "", tensors, size)


def _torch_row(path: str, seen: Mapping[str, Any], reason: str, inside: bool = False) -> CutRow:
    """A submodule that stays; ``inside``: with all that it holds, which has no rows of its own."""
    parts = _inside(path, seen) if inside else [seen[path]]
    ops, flops = sum(part.ops for part in parts), sum(part.flops for part in parts)
    return CutRow(path, type(seen[path].module).__name__, "PyTorch", len(seen[path].calls), ops, flops, reason)
