"""The order of evaluation: layers sorted, each loop body a plan of its own, branches known by their condition."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from torch2edge.check.reference.layer import Layer
from torch2edge.errors import ReferenceExecutionError

#: The layers that bound a loop. What depends on the first two is computed anew in every iteration.
LOOP = ("RECURRENCE", "ITERATOR", "TRIP_LIMIT", "LOOP_OUTPUT")


@dataclass
class Loop:
    """One loop: its boundary layers and the plan of its body."""

    scope: int
    recurrences: list[Layer] = field(default_factory=list)
    iterators: list[Layer] = field(default_factory=list)
    limits: list[Layer] = field(default_factory=list)
    outputs: list[Layer] = field(default_factory=list)
    body: list[Step] = field(default_factory=list)
    condition: list[Step] = field(default_factory=list)

    @property
    def first(self) -> Layer:
        """The boundary layer that messages name."""
        return (self.outputs + self.recurrences + self.iterators + self.limits)[0]


@dataclass
class Step:
    """A layer or a loop, the branches in which it is needed, and the tensors that nothing needs after it."""

    work: Layer | Loop
    guards: frozenset[tuple[int, bool]] = frozenset()
    release: list[str] = field(default_factory=list)


class Planner:
    """Sorts the layers that the wanted tensors depend on."""

    def __init__(self, layers: Sequence[Layer], wanted: Collection[str]) -> None:
        self.wanted = set(wanted)
        self.producer = {tensor.name: layer for layer in layers for tensor in layer.outputs}
        self.layers = self._live(layers)
        self.loops = self._loops()
        self.inside = self._nesting()
        self.consumers = self._consumers()
        self.guards = self._guards()

    def plan(self) -> list[Step]:
        """All steps in order, with the release of every tensor after its last use."""
        return self._level(self.layers, frozenset(), self.wanted)

    def _live(self, layers: Sequence[Layer]) -> list[Layer]:
        """The layers that a wanted tensor or an assertion needs, with the boundary layers of every loop they use."""
        alive: dict[int, Layer] = {}
        trips: dict[int, list[Layer]] = {}
        for layer in layers:
            if layer.kind in ("TRIP_LIMIT", "CONDITION") and layer.scope is not None:
                trips.setdefault(layer.scope, []).append(layer)
        stack = [layer for layer in layers if layer.kind == "ASSERTION"]
        stack += [self.producer[name] for name in self.wanted if name in self.producer]
        while stack:
            layer = stack.pop()
            if layer.index in alive:
                continue
            alive[layer.index] = layer
            stack += [self.producer[t.name] for t in layer.inputs if t is not None and t.name in self.producer]
            if layer.scope is not None:
                stack += trips.get(layer.scope, [])
        return [alive[index] for index in sorted(alive)]

    def _loops(self) -> dict[int, Loop]:
        loops: dict[int, Loop] = {}
        for layer in self.layers:
            if layer.kind in LOOP and layer.scope is not None:
                loop = loops.setdefault(layer.scope, Loop(layer.scope))
                place = {"RECURRENCE": loop.recurrences, "ITERATOR": loop.iterators, "TRIP_LIMIT": loop.limits}
                place.get(layer.kind, loop.outputs).append(layer)
        return loops

    def _nesting(self) -> dict[int, frozenset[int]]:
        """The loops that each layer runs in: those whose recurrences or iterators it depends on.

        A loop's output is outside of it. A loop is inside another if one of its boundary layers depends on it; then
        all of its layers are.
        """
        inside: dict[int, frozenset[int]] = {layer.index: frozenset() for layer in self.layers}
        changed = bool(self.loops)
        while changed:
            changed = False
            for layer in self.layers:
                scopes = inside[layer.index].union(*(self._seen(inside, name) for name in _reads(layer, True)))
                if layer.kind in LOOP and layer.scope is not None:
                    scopes |= {layer.scope}
                for scope in scopes:
                    scopes |= self._around(inside, scope)
                changed |= scopes != inside[layer.index]
                inside[layer.index] = scopes
        return inside

    def _seen(self, inside: dict[int, frozenset[int]], name: str) -> frozenset[int]:
        """The loops that a tensor is visible in only."""
        layer = self.producer.get(name)
        if layer is None:
            return frozenset()
        return inside[layer.index] - ({layer.scope} if layer.kind == "LOOP_OUTPUT" else set())

    def _around(self, inside: dict[int, frozenset[int]], scope: int) -> frozenset[int]:
        loop = self.loops[scope]
        boundary = (*loop.recurrences, *loop.iterators, *loop.limits, *loop.outputs)
        return frozenset[int]().union(*(inside[layer.index] for layer in boundary))

    def _consumers(self) -> dict[str, list[Layer]]:
        consumers: dict[str, list[Layer]] = {}
        for layer in self.layers:
            for name in _reads(layer, back_edges=True):
                consumers.setdefault(name, []).append(layer)
        return consumers

    def _guards(self) -> dict[int, frozenset[tuple[int, bool]]]:
        """The branches that each layer is needed in only: only the branch that is taken may be computed.

        What a branch reshapes or asserts may be valid only if its condition holds. Computed as the greatest solution:
        start from "every branch" and take away, consumer by consumer.
        """
        everything = frozenset(
            (layer.scope, branch)
            for layer in self.layers
            for branch in (True, False)
            if layer.kind == "CONDITIONAL_OUTPUT" and layer.scope is not None
        )
        guards = {layer.index: everything for layer in self.layers}
        conditions = {layer.scope: layer for layer in self.layers if layer.kind == "CONDITION"}
        for layer in self.layers:
            if layer.kind == "CONDITIONAL_OUTPUT" and layer.scope not in conditions:
                raise layer.wrong("its conditional has no condition")
        changed = bool(everything)
        while changed:
            changed = False
            for layer in reversed(self.layers):
                needed = self._needed(layer, guards)
                needed = frozenset(g for g in needed if self.inside[conditions[g[0]].index] <= self.inside[layer.index])
                changed |= needed != guards[layer.index]
                guards[layer.index] = needed
        return guards

    def _needed(self, layer: Layer, guards: dict[int, frozenset[tuple[int, bool]]]) -> frozenset[tuple[int, bool]]:
        """The branches common to all uses of a layer."""
        uses: list[frozenset[tuple[int, bool]]] = []
        if layer.kind == "ASSERTION" or any(tensor.name in self.wanted for tensor in layer.outputs):
            return frozenset()
        if layer.kind in ("TRIP_LIMIT", "CONDITION"):
            kind = "LOOP_OUTPUT" if layer.kind == "TRIP_LIMIT" else "CONDITIONAL_OUTPUT"
            uses = [guards[o.index] for o in self.layers if o.kind == kind and o.scope == layer.scope]
        for tensor in layer.outputs:
            for user in self.consumers.get(tensor.name, []):
                names = [t.name if t else None for t in user.inputs]
                branch = user.kind == "CONDITIONAL_OUTPUT" and names.count(tensor.name) == 1 and user.scope is not None
                extra = {(user.scope or 0, names.index(tensor.name) == 0)} if branch else set()
                uses.append(guards[user.index] | extra)
        return frozenset.intersection(*uses) if uses else frozenset()

    def _level(self, layers: Iterable[Layer], level: frozenset[int], keep: set[str]) -> list[Step]:
        """The plan of the layers of one loop body (or of the network), the loops inside it as single steps."""
        units: dict[str, list[Layer]] = {}
        for layer in layers:
            inner = self.inside[layer.index] - level
            outermost = [s for s in inner if self._around(self.inside, s) - {s} <= level]
            units.setdefault(f"loop {outermost[0]}" if outermost else f"layer {layer.index}", []).append(layer)
        steps = [self._unit(members, level, keep, name) for name, members in self._sorted(units)]
        _release(steps, keep)
        return steps

    def _unit(self, members: list[Layer], level: frozenset[int], keep: set[str], name: str) -> Step:
        if name.startswith("layer"):
            return Step(members[0], self.guards[members[0].index])
        loop = self.loops[int(name.split()[1])]
        boundary = {id(x) for x in (*loop.recurrences, *loop.iterators, *loop.limits, *loop.outputs)}
        body = [layer for layer in members if id(layer) not in boundary]
        exported = keep | {n for layer in (*loop.recurrences, *loop.outputs, *loop.limits) for n in _reads(layer, True)}
        local = {t.name for layer in body for t in layer.outputs}
        first = self._ancestors(body, {n for layer in loop.limits for n in _reads(layer)})
        inner = level | {loop.scope}
        loop.condition = self._level([x for x in body if x.index in first], inner, exported | local)
        loop.body = self._level([x for x in body if x.index not in first], inner, exported)
        shared = [self.guards[layer.index] for layer in loop.outputs]
        return Step(loop, frozenset.intersection(*shared) if shared else frozenset())

    def _ancestors(self, body: list[Layer], names: set[str]) -> set[int]:
        """The layers of a body that a WHILE condition needs: computed before an iteration, not in it."""
        own = {tensor.name: layer for layer in body for tensor in layer.outputs}
        found: set[int] = set()
        stack = [own[name] for name in names if name in own]
        while stack:
            layer = stack.pop()
            if layer.index not in found:
                found.add(layer.index)
                stack += [own[name] for name in _reads(layer, True) if name in own]
                stack += [x for x in body if x.scope is not None and x.scope == layer.scope]
        return found

    def _sorted(self, units: dict[str, list[Layer]]) -> list[tuple[str, list[Layer]]]:
        """Units in dependency order, otherwise in the network's."""
        home = {tensor.name: unit for unit, members in units.items() for x in members for tensor in x.outputs}
        home |= {f"condition {x.scope}": unit for unit, members in units.items() for x in members if _decides(x)}
        needs = {unit: self._needs(unit, members, home) for unit, members in units.items()}
        users: dict[str, list[str]] = {}
        for unit, sources in needs.items():
            for source in sources:
                users.setdefault(source, []).append(unit)
        ready = [(units[unit][0].index, unit) for unit, sources in needs.items() if not sources]
        heapq.heapify(ready)
        order: list[tuple[str, list[Layer]]] = []
        while ready:
            _, unit = heapq.heappop(ready)
            order.append((unit, units[unit]))
            for user in users.get(unit, []):
                needs[user].discard(unit)
                if not needs[user]:
                    heapq.heappush(ready, (units[user][0].index, user))
        if len(order) < len(units):
            stuck = sorted(units[unit][0].title for unit, sources in needs.items() if sources)
            raise ReferenceExecutionError(f"the network has a cycle through {', '.join(stuck[:5])}")
        return order

    def _needs(self, unit: str, members: list[Layer], home: dict[str, str]) -> set[str]:
        names = {name for layer in members for name in _reads(layer, unit.startswith("loop"))}
        for layer in members:
            names |= {f"condition {scope}" for scope, _ in self.guards[layer.index]}
            if layer.kind == "CONDITIONAL_OUTPUT":
                names.add(f"condition {layer.scope}")
        return {home[name] for name in names if name in home} - {unit}


def _decides(layer: Layer) -> bool:
    return layer.kind == "CONDITION"


def _reads(layer: Layer, back_edges: bool = False) -> list[str]:
    """The tensors that a layer reads. The second input of a recurrence is the loop's back edge."""
    inputs = layer.inputs[:1] if layer.kind == "RECURRENCE" and not back_edges else layer.inputs
    return [tensor.name for tensor in inputs if tensor is not None]


def _members(step: Step) -> list[Layer]:
    """All layers of a step, those of a loop's body included."""
    if isinstance(step.work, Layer):
        return [step.work]
    loop = step.work
    boundary = [*loop.recurrences, *loop.iterators, *loop.limits, *loop.outputs]
    return boundary + [layer for inner in (*loop.condition, *loop.body) for layer in _members(inner)]


def _release(steps: list[Step], keep: set[str]) -> None:
    """Note at each step which tensors made at this level are read by no later one."""
    last: dict[str, int] = {}
    made: set[str] = set()
    for place, step in enumerate(steps):
        for layer in _members(step):
            last |= dict.fromkeys(_reads(layer, True), place)
            last |= {tensor.name: place for tensor in layer.outputs}
            made |= {tensor.name for tensor in layer.outputs}
    for name, place in last.items():
        if name in made and name not in keep:
            steps[place].release.append(name)
