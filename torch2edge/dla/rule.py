"""What a row of the DLA's table is, and how a layer is held against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .layer import TARGETS, Layer, Setting, version

__all__ = ["AnyOf", "Holds", "Limit", "Nothing", "OneOf", "Range", "Rule", "broken"]


@dataclass(frozen=True)
class Range:
    """Every value lies between the two, both included."""

    low: int
    high: int

    def admits(self, values: list[Any]) -> bool:
        """Whether no value is outside."""
        return all(self.low <= value <= self.high for value in values)

    def offender(self, values: list[Any]) -> Any:
        """The first value that is outside."""
        return next(value for value in values if not self.low <= value <= self.high)

    def __str__(self) -> str:
        return f"[{self.low}, {self.high}]" if self.low != self.high else str(self.low)


@dataclass(frozen=True, init=False)
class OneOf:
    """Every value is one of these."""

    names: tuple[Any, ...]

    def __init__(self, *names: Any) -> None:
        object.__setattr__(self, "names", names)

    def admits(self, values: list[Any]) -> bool:
        """Whether each value is among them."""
        return all(value in self.names for value in values)

    def offender(self, values: list[Any]) -> Any:
        """The first value that is not."""
        return next(value for value in values if value not in self.names)

    def __str__(self) -> str:
        return ", ".join(map(str, self.names))


@dataclass(frozen=True, init=False)
class AnyOf(OneOf):
    """At least one value is one of these."""

    def admits(self, values: list[Any]) -> bool:
        """Whether there is such a value."""
        return any(value in self.names for value in values)

    def offender(self, values: list[Any]) -> Any:
        """What there is instead."""
        return ", ".join(map(str, values)) or "none"


@dataclass(frozen=True)
class Holds:
    """Every value is true: the predicate says what is asked."""

    def admits(self, values: list[Any]) -> bool:
        """Whether all are."""
        return all(values)

    def offender(self, values: list[Any]) -> Any:
        """Nothing to show."""
        return ""

    def __str__(self) -> str:
        return "required"


@dataclass(frozen=True)
class Nothing:
    """No layer of this type is taken."""

    def admits(self, values: list[Any]) -> bool:
        """Never."""
        return False

    def offender(self, values: list[Any]) -> Any:
        """The first value, for the message."""
        return values[0] if values else ""

    def __str__(self) -> str:
        return "none"


Limit = Range | OneOf | Holds | Nothing


@dataclass(frozen=True)
class Rule:
    """A row of the table. To correct a rule, edit its row.

    Attributes:
        name: what a plan calls it, unique.
        types: the names of TensorRT's LayerType that it is about; () for all that the DLA takes at all.
        what: what is limited.
        read: the values that are held against the limit, of a layer in a setting (``predicates.py``).
        limit: what they must be.
        reason: the message, in TensorRT's own words where a log has them; ``{name}`` and ``{type}`` of the layer,
            ``{value}`` the one in the way, ``{limit}``.
        source: where it stands, by the marks of ``rules.py``.
        confidence: "documented", "log" (seen in a published build log) or "remembered" (not checked against anything).
        precisions: it holds where the DLA may use one of these.
        targets: it holds on these.
        since: first version of TensorRT for which it holds, "" for all.
        until: first version for which it does not hold any more, "" for none.
    """

    name: str
    types: tuple[str, ...]
    what: str
    read: Callable[[Layer, Setting], Iterable[Any]]
    limit: Limit
    reason: str
    source: str
    confidence: str = "documented"
    precisions: tuple[str, ...] = ("fp16", "int8", "")
    targets: tuple[str, ...] = TARGETS
    since: str = ""
    until: str = ""

    def applies(self, layer_type: str, at: Setting) -> bool:
        """Whether it is about such layers in this setting."""
        return (
            (not self.types or layer_type in self.types)
            and at.target in self.targets
            and any(name in self.precisions for name in at.precisions or ("",))
            and (not self.since or at.version >= version(self.since))
            and (not self.until or at.version < version(self.until))
        )

    def complaint(self, layer: Layer, at: Setting) -> str:
        """Why a layer that it applies to stays off the DLA, or ""."""
        values = list(self.read(layer, at))
        if self.limit.admits(values):
            return ""
        return self.reason.format(name=layer.name, type=layer.type, value=self.limit.offender(values), limit=self.limit)


def broken(layer: Layer, rules: Iterable[Rule], at: Setting) -> tuple[Rule, str] | None:
    """The first rule that keeps a layer off the DLA, and its message."""
    for rule in rules:
        if rule.applies(layer.type, at) and (why := rule.complaint(layer, at)):
            return rule, why
    return None
