"""The inputs of a conversion as the user writes them: example tensors, Inputs, and which of their axes vary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .errors import ConfigError, InputError
from .shapes import Dynamic, Input, Range, axes_of, check_examples, declare, is_shape, ranges_of, triples
from .structure import Structure, call_names, flatten_call, unflatten

__all__ = ["fixed_inputs", "positional", "read_inputs"]

Axes = dict[int, dict[int, Any]]  # input -> axis -> name of a dim, or ranges
_FORMS = {
    "kwargs": "e.g. {'mask': m}; positional inputs go into the list",
    "dynamic": "e.g. {0: {0: (1, 8, 16)}} for axis 0 of the first input",
    "dims": "e.g. {'batch': (1, 8, 16)}",
}


def positional(inputs: Any) -> list[Any]:
    """The positional inputs as a list; a tensor alone is the only one.

    Raises:
        InputError: it is neither.
    """
    if isinstance(inputs, (torch.Tensor, Input)):
        return [inputs]
    if not isinstance(inputs, (list, tuple)):
        raise InputError(
            f"inputs must be a list of the positional inputs, e.g. convert(model, [x]), but is a {type(inputs).__name__}. "
            "Keyword inputs go into kwargs: convert(model, [x], {'mask': m})."
        )
    return list(inputs)


def fixed_inputs(model: nn.Module, inputs: Any, kwargs: Any, **shapes: Any) -> tuple[list[Any], dict[str, Any]]:
    """Example inputs for a model that is cut into parts; ``shapes`` are the arguments of ``convert`` that declare axes.

    Raises:
        ConfigError: an axis is declared dynamic.
        InputError: see ``read_inputs``.
    """
    args, keywords, _, declared = read_inputs(positional(inputs), kwargs or {}, device_of(model), **shapes)
    if declared:
        raise ConfigError(
            "dynamic shapes with fallback='torch', or in a plan for it, are not there yet: the engines of the parts have "
            f"fixed shapes, but {', '.join(map(str, declared.dims.values()))}"
        )
    return args, keywords


def device_of(model: nn.Module) -> torch.device:
    """Where a model is: examples are made there."""
    return next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def read_inputs(
    args: Sequence[Any], kwargs: Mapping[str, Any], device: torch.device, *, dynamic: Mapping[Any, Any] | None = None,
    dims: Mapping[str, Any] | None = None, min_shapes: Any = None, opt_shapes: Any = None, max_shapes: Any = None,
) -> tuple[list[Any], dict[str, Any], list[str], Dynamic]:  # fmt: skip
    """Example tensors in the place of every Input, what the tensors are called, and the axes that vary.

    ``convert()`` documents the arguments; ``device`` is where examples are made.

    Raises:
        ConfigError: ranges, names or axes that cannot be.
        InputError: an example tensor outside of its range.
    """
    for what, given in (("kwargs", kwargs), ("dynamic", dynamic), ("dims", dims)):
        if given is not None and not isinstance(given, Mapping):
            raise ConfigError(f"{what} is a {type(given).__name__}; it must be a dict, {_FORMS[what]}")
    leaves, structure = flatten_call(args, kwargs, (torch.Tensor, Input))
    names = [leaf.name if isinstance(leaf, Input) and leaf.name else n for leaf, n in zip(leaves, call_names(structure))]
    ranges = {n: ranges_of(r, f"dims[{n!r}]") for n, r in (dims or {}).items()}
    axes: Axes = {}
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Input):
            _merge(ranges, leaf.dims, names[i])
            _add(axes, i, leaf.axes(), names)
    for key, per_axis in (dynamic or {}).items():
        i = _position(key, structure, names)
        _add(axes, i, _short_form(per_axis, len(leaves[i].shape), names[i]), names)
    if min_shapes is not None or opt_shapes is not None or max_shapes is not None:
        for i, per_axis in _by_shapes(structure, leaves, names, min_shapes, opt_shapes, max_shapes).items():
            _add(axes, i, per_axis, names)
    result = declare(names, axes, ranges)
    examples = [leaf.example(result.dims, device) if isinstance(leaf, Input) else leaf for leaf in leaves]
    check_examples(names, [e.shape for e in examples], result)
    call = unflatten(structure, examples)
    return call["args"], call["kwargs"], names, result


def _merge(ranges: dict[str, tuple[Range, ...]], more: Mapping[str, tuple[Range, ...]], who: str) -> None:
    for name, given in more.items():
        if ranges.setdefault(name, given) != given:
            raise ConfigError(
                f"{who} gives the dim {name!r} the range {_text(given)}, but it was given {_text(ranges[name])} before"
            )


def _text(ranges: tuple[Range, ...]) -> str:
    return str(ranges[0] if len(ranges) == 1 else list(ranges))


def _add(axes: Axes, i: int, per_axis: Mapping[int, Any], names: Sequence[str]) -> None:
    for axis, given in per_axis.items():
        if axis in axes.setdefault(i, {}):
            raise ConfigError(f"axis {axis} of {names[i]} is declared twice")
        axes[i][axis] = given


def _position(key: Any, structure: Structure, names: Sequence[str]) -> int:
    """Which tensor a key of ``dynamic`` means: its position among all of them, its name, or a keyword."""
    if isinstance(key, int) and not isinstance(key, bool) and -len(names) <= key < len(names):
        return key % len(names)
    own = call_names(structure)
    for known in (list(names), own, [n.removeprefix("kwargs['").removesuffix("']") for n in own]):
        if key in known:
            return known.index(key)
    raise ConfigError(f"dynamic names the input {key!r}, but the tensors of the call are {', '.join(names)} (the first is 0)")


def _short_form(per_axis: Any, rank: int, name: str) -> dict[int, Any]:
    if not isinstance(per_axis, Mapping):
        raise ConfigError(f"dynamic: {name} is given {per_axis!r}; write {{axis: (min, opt, max)}} or {{axis: name of a dim}}")
    found = {}
    for axis, given in per_axis.items():
        if not isinstance(axis, int) or not -rank <= axis < rank:
            raise ConfigError(f"dynamic: {name} has {rank} dimensions, and no axis {axis!r}")
        found[axis % rank] = given if isinstance(given, str) else ranges_of(given, f"dynamic: axis {axis} of {name}")
    return found


def _by_shapes(
    structure: Structure, leaves: Sequence[Any], names: Sequence[str], low: Any, opt: Any, high: Any
) -> dict[int, dict[int, Any]]:
    """The axes that vary by ``min_shapes``, ``opt_shapes`` and ``max_shapes``, nested like the positional inputs."""
    if any(isinstance(leaf, Input) for leaf in leaves):
        raise ConfigError("min_shapes, opt_shapes and max_shapes go with example tensors; an Input has its own")
    positional = structure["items"][0]
    count = len(_tensors(positional))
    lists: dict[str, list[Any]] = {}
    for word, given in (("min_shapes", low), ("opt_shapes", opt), ("max_shapes", high)):
        if given is None and word == "opt_shapes":
            lists[word] = [None] * count
        elif given is None:
            raise ConfigError(f"{word} is missing: min_shapes and max_shapes go together; opt_shapes may be left out")
        elif is_shape(given) and count == 1:
            lists[word] = [given]
        else:
            lists[word] = _like(positional, given, word)
    found = {}
    for i in range(count):
        shape = tuple(leaves[i].shape)
        low_i, opt_i, high_i = (lists[word][i] for word in ("min_shapes", "opt_shapes", "max_shapes"))
        if opt_i is None:
            opt_i = shape if is_shape(low_i) else [shape] * len(low_i)
        shapes = triples(low_i, opt_i, high_i, f"the shapes of {names[i]}")
        if len(shapes[0][0]) != len(shape):
            raise ConfigError(f"{names[i]} has {len(shape)} dimensions, but its min_shapes {len(shapes[0][0])}")
        found[i] = axes_of(shapes, names[i])
        for axis, size in enumerate(shape):
            if axis not in found[i] and shapes[0][0][axis] != size:
                other = shapes[0][0][axis]
                raise InputError(f"axis {axis} of {names[i]} is {size} in the example, but {other} in all shapes given")
    return found


def _tensors(structure: Structure) -> list[Structure]:
    if structure["kind"] == "tensor":
        return [structure]
    return [t for item in structure.get("items", []) for t in _tensors(item)]


def _like(structure: Structure, given: Any, where: str) -> list[Any]:
    """One entry per tensor of ``structure``, taken from ``given``, which is nested like it."""
    if structure["kind"] == "tensor":
        return [given]
    if structure["kind"] == "plain":
        return []
    keys = structure.get("keys", range(len(structure["items"])))
    get: Callable[[Any], Any] = given.__getitem__ if isinstance(given, (Mapping, list, tuple)) else lambda k: getattr(given, k)
    found = []
    for key, item in zip(keys, structure["items"]):
        try:
            found += _like(item, get(key) if _tensors(item) else None, f"{where}[{key!r}]")
        except (KeyError, IndexError, AttributeError, TypeError) as error:
            raise ConfigError(f"{where} has no {key!r}; nest it like the inputs, with a shape for each tensor") from error
    if isinstance(given, (list, tuple)) and len(given) > len(structure["items"]):
        raise ConfigError(f"{where} has {len(given)} items for {len(structure['items'])} inputs")
    return found
