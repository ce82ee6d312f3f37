"""Loops, conditionals and assertions: what decides which layers run, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from torch2edge.check.reference.layer import Layer, handles, ints
from torch2edge.check.reference.plan import Loop, Step


class Machine(Protocol):
    """What control needs of a running executor."""

    values: dict[str, Tensor]
    conditions: dict[int, bool]

    def steps(self, steps: Sequence[Step]) -> None:
        """Compute a plan."""

    def store(self, layer: Layer, results: object) -> None:
        """Keep a layer's outputs."""


@handles("ASSERTION")
def assertion(layer: Layer, inputs: Sequence[Tensor]) -> None:
    """An error with the layer's message if any element is false (NvInfer.h, IAssertionLayer)."""
    if not bool(inputs[0].all()):
        raise layer.wrong(f"assertion failed: {layer.api.message}")


def run_condition(machine: Machine, layer: Layer) -> Tensor | None:
    """CONDITION notes a scalar; CONDITIONAL_OUTPUT is input 0 where it is true, else input 1 (IIfConditional)."""
    scope = layer.scope or 0
    if layer.kind == "CONDITION":
        machine.conditions[scope] = bool(_value(machine, layer))
        return None
    return _value(machine, layer, 0 if machine.conditions[scope] else 1)


def _value(machine: Machine, layer: Layer, index: int = 0) -> Tensor:
    tensor = layer.inputs[index] if index < len(layer.inputs) else None
    if tensor is None:
        raise layer.wrong(f"input {index} is not set")
    return machine.values[tensor.name]


def run_loop(machine: Machine, loop: Loop) -> None:
    """Iterate until the COUNT is reached or the WHILE condition, asked before each iteration, is false.

    NvInfer.h, ILoop and TripLimit; developer guide, Working with Loops: the WHILE tensor "specifies whether an
    iteration should occur", and its subgraph holds no iterators, so that it is known before the iteration.
    """
    limits = {layer.option("kind"): layer for layer in loop.limits}
    if not limits:
        raise loop.first.wrong("its loop has no trip limit")
    count = ints(_value(machine, limits["COUNT"]))[0] if "COUNT" in limits else None
    slices: dict[int, list[Tensor]] = {x.index: [] for x in loop.outputs if x.option("kind") != "LAST_VALUE"}
    for layer in loop.recurrences:
        machine.store(layer, _value(machine, layer))
    done = 0
    while count is None or done < count:
        machine.steps(loop.condition)
        if "WHILE" in limits and not bool(_value(machine, limits["WHILE"])):
            break
        _iterate(machine, loop, done, count, slices)
        done += 1
    for layer in loop.outputs:
        machine.store(layer, _loop_output(machine, layer, slices.get(layer.index)))


def _iterate(machine: Machine, loop: Loop, done: int, count: int | None, slices: dict[int, list[Tensor]]) -> None:
    for layer in loop.iterators:
        machine.store(layer, _slice(machine, layer, done, count))
    machine.steps(loop.body)
    for layer in loop.outputs:
        if layer.index in slices:
            slices[layer.index].append(_value(machine, layer))
    following = [_value(machine, layer, 1) for layer in loop.recurrences]  # all read before the first is written
    for layer, value in zip(loop.recurrences, following, strict=True):
        machine.store(layer, value)


def _slice(machine: Machine, layer: Layer, done: int, count: int | None) -> Tensor:
    """The iteration's slice, counted from the trip count's end if reversed (NvInfer.h, IIteratorLayer)."""
    data, axis, place = _value(machine, layer), int(layer.api.axis), done
    if layer.api.reverse:
        if count is None:
            raise layer.wrong("a reversed iterator needs a trip limit of kind COUNT")
        place = count - 1 - done
    if not 0 <= place < data.shape[axis]:
        raise layer.wrong(f"iteration {done} reads slice {place} of an axis of length {data.shape[axis]}")
    return data.select(axis, place)


def _loop_output(machine: Machine, layer: Layer, slices: list[Tensor] | None) -> Tensor:
    """The last value of a recurrence, or the values of all iterations along a new axis (NvInfer.h, LoopOutput).

    The length of the axis is input 1. What stands in the slices of iterations that did not happen is documented
    nowhere, so a different number of iterations is an error.
    """
    if slices is None:
        return _value(machine, layer)
    length = ints(_value(machine, layer, 1))[0]
    if len(slices) != length or not slices:
        raise layer.wrong(f"{len(slices)} iterations for a concatenation of length {length}")
    slices = slices if layer.option("kind") == "CONCATENATE" else slices[::-1]
    return torch.stack(slices, dim=int(layer.api.axis))
