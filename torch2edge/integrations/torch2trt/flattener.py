"""Flattener: nested values as flat lists, described by a schema that torch2trt's files hold."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from ...structure import Structure

__all__ = ["Flattener", "schema_of", "structure_of"]

Schema = Any  # an int per tensor, None for what is none, nested in tuples, lists and dicts


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


class Flattener:
    """Takes the tensors out of a nested value, and puts others in their place.

    Args:
        schema: the nested value with a number in the place of each tensor, None in that of anything else.
        size: how many tensors.
    """

    def __init__(self, schema: Schema, size: int) -> None:
        self._schema, self._size = schema, size

    @staticmethod
    def from_value(value: Any, condition: Callable[[Any], bool] = _is_tensor) -> Flattener:
        """For values like ``value``, in which ``condition`` says what a tensor is; tensors of every dtype are."""
        count = itertools.count()
        schema = _schema_from(value, condition, count)
        return Flattener(schema, next(count))

    @staticmethod
    def from_dict(x: dict[str, Any]) -> Flattener:
        """The inverse of ``dict``."""
        return Flattener(x["schema"], x["size"])

    def dict(self) -> dict[str, Any]:
        """Schema and size as plain data."""
        return {"schema": self.schema, "size": self.size}

    @property
    def schema(self) -> Schema:
        """See the class."""
        return self._schema

    @property
    def size(self) -> int:
        """How many tensors."""
        return self._size

    def __len__(self) -> int:
        return self._size

    def flatten(self, value: Any) -> list[Any]:
        """What stands in ``value`` at the numbers of the schema.

        Raises:
            ValueError: ``value`` is nested in another way.
        """
        result: list[Any] = [None] * self._size
        _take(self._schema, value, result)
        return result

    def unflatten(self, flattened: Sequence[Any]) -> Any:
        """``flattened`` nested as the schema says; None where it has none."""
        return _put(self._schema, flattened)


def _schema_from(value: Any, condition: Callable[[Any], bool], count: Iterator[int]) -> Schema:
    if condition(value):
        return next(count)
    if isinstance(value, (list, tuple)):
        schema = [_schema_from(v, condition, count) for v in value]
        return tuple(schema) if isinstance(value, tuple) else schema
    if isinstance(value, dict):
        return {k: _schema_from(value[k], condition, count) for k in _ordered(value)}
    if dataclasses.is_dataclass(value):
        raise TypeError(f"a Flattener knows tuples, lists and dicts, but not the dataclass {type(value).__qualname__}")
    return None


def _ordered(keys: Iterable[Any]) -> list[Any]:
    """Keys of a dict in torch2trt's order."""
    try:
        return sorted(keys)
    except TypeError:
        return sorted(keys, key=repr)  # mixed types, which torch2trt does not take


def _take(schema: Schema, value: Any, result: list[Any]) -> None:
    if isinstance(schema, int):
        result[schema] = value
    elif isinstance(schema, dict):
        if not isinstance(value, dict) or set(value) != set(schema):
            raise ValueError(f"a dict with the keys {list(schema)} was expected, but not {_shown(value)}")
        for key in schema:
            _take(schema[key], value[key], result)
    elif schema is not None:
        if not isinstance(value, (list, tuple)) or len(value) != len(schema):
            raise ValueError(f"a tuple or list of {len(schema)} was expected, but not {_shown(value)}")
        for inner, item in zip(schema, value):
            _take(inner, item, result)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"one with {list(value)}"
    return f"one of {len(value)}" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}"


def _put(schema: Schema, flattened: Sequence[Any]) -> Any:
    if isinstance(schema, int):
        return flattened[schema]
    if isinstance(schema, dict):
        return {key: _put(inner, flattened) for key, inner in schema.items()}
    if schema is None:
        return None
    items = [_put(inner, flattened) for inner in schema]
    return tuple(items) if isinstance(schema, tuple) else items


# ---- torch2edge's structures ------------------------------------------------------------------------------------------


def schema_of(structure: Structure, has: Callable[[int], bool] = lambda position: True) -> tuple[Schema, list[int]]:
    """The schema of a structure, and for each of its numbers the position among the structure's tensors.

    Dataclasses and named tuples become tuples, for a schema has no word for them. ``has`` says which positions it is to
    hold.
    """
    order: list[int] = []
    return _numbered(_positions(structure, itertools.count()), has, order), order


def _positions(node: Structure, count: Iterator[int]) -> Any:
    if node["kind"] == "tensor":
        return next(count)
    if node["kind"] == "plain":
        return None
    items = [_positions(item, count) for item in node["items"]]
    if node["kind"] in ("dict", "odict", "mapping"):
        return dict(zip(node["keys"], items))
    return items if node["kind"] == "list" else tuple(items)


def _numbered(tree: Any, has: Callable[[int], bool], order: list[int]) -> Schema:
    if isinstance(tree, int):
        if not has(tree):
            return None
        order.append(tree)
        return len(order) - 1
    if isinstance(tree, dict):
        return {key: _numbered(tree[key], has, order) for key in _ordered(tree)}
    if tree is None:
        return None
    items = [_numbered(item, has, order) for item in tree]
    return tuple(items) if isinstance(tree, tuple) else items


def structure_of(schema: Schema) -> tuple[Structure, list[int]]:
    """The structure of a schema, and for each of its tensors the number in the schema."""
    if isinstance(schema, int):
        return {"kind": "tensor"}, [schema]
    if schema is None:
        return {"kind": "plain", "value": None}, []
    inner = [structure_of(item) for item in (schema.values() if isinstance(schema, dict) else schema)]
    node: Structure = {"kind": type(schema).__name__, "items": [structure for structure, _ in inner]}
    if isinstance(schema, dict):
        node["keys"] = list(schema)
    return node, [number for _, numbers in inner for number in numbers]
