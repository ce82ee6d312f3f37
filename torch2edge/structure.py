"""Nested inputs and outputs: flatten to a list of tensors, describe as JSON, put together again.

A structure is the JSON form of a value with its tensors taken out: ``{"kind": "dict", "keys": [...], "items": [...]}``.
It travels in engine files, so that a loaded module takes and gives the same nested values as the original.
Tuples, lists, dicts, named tuples, dataclasses (Hugging Face's ``ModelOutput`` among them), None, numbers, strings.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .errors import InputError

__all__ = ["Structure", "describe", "flatten", "leaf_names", "unflatten"]

Structure = dict[str, Any]
_PLAIN = (bool, int, float, str, type(None))


def flatten(value: Any) -> tuple[list[torch.Tensor], Structure]:
    """The tensors of ``value`` in order, and its structure.

    Raises:
        InputError: an object in it is neither a tensor, a container of the kinds above, nor plain data.
    """
    tensors: list[torch.Tensor] = []
    return tensors, _describe(value, tensors, "value")


def describe(value: Any) -> Structure:
    """The structure of ``value`` alone."""
    return flatten(value)[1]


def _describe(value: Any, tensors: list[torch.Tensor], where: str) -> Structure:
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        return {"kind": "tensor"}
    if isinstance(value, _PLAIN):
        return {"kind": "plain", "value": value}
    kind, keys, items = _open(value, where)
    node: Structure = {"kind": kind, "items": [_describe(v, tensors, f"{where}[{k!r}]") for k, v in zip(keys, items)]}
    if kind not in ("tuple", "list"):
        node["keys"] = keys
    if kind in ("namedtuple", "dataclass", "size"):
        node["type"] = f"{type(value).__module__}:{type(value).__qualname__}"
    return node


def _open(value: Any, where: str) -> tuple[str, list[Any], list[Any]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return "dataclass", [k for k, _ in fields], [v for _, v in fields]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return "namedtuple", list(value._fields), list(value)
    if isinstance(value, (tuple, list)):
        return "list" if isinstance(value, list) else "tuple", list(range(len(value))), list(value)
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, (str, int)):
                raise InputError(f"{where} has the key {key!r}; only str and int keys can be saved with an engine")
        return "odict" if isinstance(value, OrderedDict) else "dict", list(value), list(value.values())
    raise InputError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}; an engine takes and gives tensors, numbers, "
        "strings and None, nested in tuples, lists, dicts, named tuples and dataclasses"
    )


def unflatten(structure: Structure, tensors: Sequence[Any]) -> Any:
    """Put ``tensors`` back into ``structure``; the inverse of ``flatten``."""
    return _build(structure, iter(tensors))


def _build(node: Structure, tensors: Iterator[Any]) -> Any:
    kind = node["kind"]
    if kind == "tensor":
        return next(tensors)
    if kind == "plain":
        return node["value"]
    items = [_build(item, tensors) for item in node["items"]]
    if kind == "list":
        return items
    if kind == "tuple":
        return tuple(items)
    if kind in ("dict", "odict"):
        return (OrderedDict if kind == "odict" else dict)(zip(node["keys"], items))
    return _construct(node, items)


def _construct(node: Structure, items: list[Any]) -> Any:
    """A named tuple or dataclass of its own class; ``init=False`` fields are set afterwards."""
    module, _, qualname = node["type"].partition(":")
    cls: Any = importlib.import_module(module)
    for part in qualname.split("."):
        if not hasattr(cls, part):
            raise InputError(f"{module}.{qualname}, the class of this engine's outputs, cannot be imported here")
        cls = getattr(cls, part)
    if node["kind"] == "namedtuple":
        return cls(*items)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    result = cls(**{k: v for k, v in zip(node["keys"], items) if fields[k].init})
    for key, item in zip(node["keys"], items):
        if not fields[key].init:
            object.__setattr__(result, key, item)
    return result


def leaf_names(structure: Structure, prefix: str = "") -> list[str]:
    """A readable name per tensor, e.g. ``args[0]['image']`` or ``output.logits``."""
    if structure["kind"] == "tensor":
        return [prefix]
    if structure["kind"] == "plain":
        return []
    keys = structure.get("keys", range(len(structure["items"])))
    dotted = structure["kind"] in ("namedtuple", "dataclass")
    return [
        name
        for key, item in zip(keys, structure["items"])
        for name in leaf_names(item, f"{prefix}.{key}" if dotted else f"{prefix}[{key!r}]")
    ]
