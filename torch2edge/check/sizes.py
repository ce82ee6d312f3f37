"""At which sizes a conversion with dynamic axes is checked, and whether its trace holds where PyTorch does not look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import ConfigError
from ..graph import Graph, Op
from .verify import Trial, compare, draw

__all__ = ["check_size_one", "sizes_to_check"]

Sizes = dict[str, int]
Reference = Callable[[list[torch.Tensor]], list[torch.Tensor]]


def sizes_to_check(graph: Graph, examples: Sequence[torch.Tensor]) -> list[tuple[str, tuple[tuple[int, ...], ...]]]:
    """The smallest, most usual, largest and an odd size in between of every profile, without those of the examples.

    Returns:
        What to call them, and the shapes of the inputs.
    """
    found: list[Sizes] = []
    for profile in range(len(graph.profiles())):
        corners = [{n: d.ranges[profile][which] for n, d in graph.dims.items()} for which in range(3)]
        for sizes in (*corners, between(graph, profile)):
            if sizes not in found and sizes != graph.sizes(examples):
                found.append(sizes)
    return [(text(sizes), graph.shapes(sizes)) for sizes in found]


def between(graph: Graph, profile: int) -> Sizes:
    """Sizes inside of a profile, odd and unlike its three where the model takes such."""
    sizes = {n: d.ranges[profile][1] for n, d in graph.dims.items()}
    together = {n: wanted[0] for n in graph.dims if (wanted := _odd_first(graph.dims[n].ranges[profile]))}
    if graph.allows({**sizes, **together}):
        return {**sizes, **together}
    for name, dim in graph.dims.items():
        for size in _odd_first(dim.ranges[profile]):
            if graph.allows({**sizes, name: size}):
                sizes[name] = size
                break
    return sizes


def _odd_first(given: tuple[int, int, int]) -> list[int]:
    """The sizes between min and max but those three, the odd ones and the middle ones first."""
    low, opt, high = given
    inside = [n for n in range(low + 1, high) if n != opt]
    return sorted(inside, key=lambda n: (n % 2 == 0, abs(2 * n - low - high)))[:1000]


def text(sizes: Sizes) -> str:
    """``batch = 16, height = 224``"""
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())


def _one_name(graph: Graph) -> str:
    """The way out where sizes vary one by one that may have to be equal: ids and their mask, say."""
    ranges: dict[Any, list[str]] = {}
    for name, dim in graph.dims.items():
        ranges.setdefault(tuple(dim.ranges), []).append(name)
    alike = next((names for names in ranges.values() if len(names) > 1), None)
    if alike is None:
        return ""
    return f" Are {' and '.join(alike)} always equal? Then give these axes one name, with its range in dims."


def check_size_one(graph: Graph, reference: Reference, examples: Sequence[torch.Tensor], tolerance: float) -> None:
    """Refuse a trace that does not hold where a dim is 1, which PyTorch takes for granted never to be.

    Raises:
        ConfigError: the dim, and what differs.
    """
    ones = [name for name, dim in graph.dims.items() if dim.min == 1]
    usual = {n: d.ranges[0][1] for n, d in graph.dims.items()}
    together = [{n: d.min for n, d in graph.dims.items()}] if len(ones) > 1 else []
    for sizes in [*({**usual, name: 1} for name in ones), *together]:
        if not graph.allows(sizes):
            continue
        inputs = draw(examples, Trial(7, 1.0, 0.5, shapes=graph.shapes(sizes)))
        why = _difference(graph, reference, inputs, tolerance)
        if why:
            names = " and ".join(n for n in ones if sizes[n] == 1)
            raise ConfigError(
                f"with {text(sizes)} the model does not do what it does for larger sizes: {why}. An engine does the same for "
                f"all sizes: let {names} begin at 2, or make the axis static." + _one_name(graph)
            )


def _difference(graph: Graph, reference: Reference, inputs: list[torch.Tensor], tolerance: float) -> str:
    """Where the traced ops and the model part, "" where they do not."""
    try:
        expected = reference([t.clone() for t in inputs])
    except Exception as error:
        return f"the model raises {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    sizes = graph.sizes(inputs)
    found: list[str] = []

    def look(op: Op, results: list[Any]) -> None:
        where = f"{op.name} in {op.module or 'the model itself'}, {op.source}"
        for value, result in zip(op.outputs, results):
            if value is not None and not found and tuple(result.shape) != (wanted := graph.shape_at(value, sizes)):
                found.append(f"{where}, gives the shape {tuple(result.shape)} in the place of {wanted}")

    try:
        given = graph.replay(inputs, look)
    except Exception as error:
        return f"the ops that were traced fail: {(str(error).splitlines() or [''])[0]}"
    if found:
        return found[0]
    for name, mine, wanted in zip(graph.output_names, given, expected):
        if mine.shape != wanted.shape:
            return f"{name} has the shape {tuple(wanted.shape)}, and {tuple(mine.shape)} by the ops that were traced"
        if not compare(mine, wanted, name, "", tolerance).passed:
            return f"{name} has other values"
    return ""
