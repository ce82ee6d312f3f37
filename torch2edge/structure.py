"""Nested inputs and outputs: flatten to a list of tensors, describe as JSON, put together again.

A structure is the JSON form of a value with its tensors taken out: ``{"kind": "dict", "keys": [...], "items": [...]}``.
It travels in engine files, so that a loaded module takes and gives the same nested values as the original.
Tuples, lists, dicts, named tuples, dataclasses (Hugging Face's ``ModelOutput`` among them), None, numbers, strings.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from .errors import InputError

__all__ = ["Structure", "arrange", "call_names", "flatten", "flatten_call", "leaf_names", "same", "text", "unflatten"]

Structure = dict[str, Any]
_TYPED = ("namedtuple", "dataclass", "structseq", "mapping")
_PLAIN = (bool, int, float, str, type(None))
# Classes met in this process, by "module:qualname": those of a function or a notebook cannot be imported by that.
_met: dict[str, type] = {}


def flatten(value: Any, name: str = "value", leaf: Any = torch.Tensor) -> tuple[list[Any], Structure]:
    """The tensors (or what else is of the class ``leaf``) of ``value`` in order, and its structure.

    ``name`` is what messages call it.

    Raises:
        InputError: an object in it is neither a tensor, a container of the kinds above, nor plain data.
    """
    tensors: list[Any] = []
    return tensors, _describe(value, tensors, name, leaf)


def flatten_call(args: Sequence[Any], kwargs: Mapping[str, Any], leaf: Any = torch.Tensor) -> tuple[list[Any], Structure]:
    """The same for the arguments of a call; ``unflatten`` gives a dict with ``args`` (a list) and ``kwargs``."""
    (first, positional), (rest, by_name) = flatten(list(args), "args", leaf), flatten(dict(kwargs), "kwargs", leaf)
    return first + rest, {"kind": "dict", "keys": ["args", "kwargs"], "items": [positional, by_name]}


def call_names(structure: Structure) -> list[str]:
    """A readable name per tensor of a call, e.g. ``args[0]['image']``."""
    args, kwargs = structure["items"]
    return leaf_names(args, "args") + leaf_names(kwargs, "kwargs")


def _describe(value: Any, tensors: list[Any], where: str, leaf: Any) -> Structure:
    if isinstance(value, leaf):
        tensors.append(value)
        return {"kind": "tensor"}
    if isinstance(value, _PLAIN):
        return {"kind": "plain", "value": value}
    kind, keys, items = _open(value, where)
    node: Structure = {"kind": kind, "items": [_describe(v, tensors, f"{where}[{k!r}]", leaf) for k, v in zip(keys, items)]}
    if kind not in ("tuple", "list"):
        node["keys"] = keys
    if kind in _TYPED:
        node["type"] = f"{type(value).__module__}:{type(value).__qualname__}"
        _met[node["type"]] = type(value)
    return node


def _open(value: Any, where: str) -> tuple[str, list[Any], list[Any]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return "dataclass", [k for k, _ in fields], [v for _, v in fields]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return "namedtuple", list(value._fields), list(value)
    if isinstance(value, tuple) and hasattr(value, "n_sequence_fields"):  # torch.return_types.max and the like
        names = [n for n, member in vars(type(value)).items() if isinstance(member, types.MemberDescriptorType)]
        return "structseq", names[: len(value)], list(value)
    if isinstance(value, (tuple, list)):
        return "list" if isinstance(value, list) else "tuple", list(range(len(value))), list(value)
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, (str, int)):
                shown = f"a {type(key).__name__} as key" if isinstance(key, torch.Tensor) else f"the key {key!r}"
                raise InputError(f"{where} has {shown}; only str and int keys can be saved with an engine")
        kinds: dict[type, str] = {dict: "dict", OrderedDict: "odict", defaultdict: "dict"}
        return kinds.get(type(value), "mapping"), list(value), list(value.values())
    hint = " (torch.from_numpy makes a tensor of it)" if type(value).__module__ == "numpy" else ""
    raise InputError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}{hint}; an engine takes and gives tensors, numbers, "
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
    """A named tuple, dataclass or kind of dict of its own class; ``init=False`` fields are set afterwards."""
    cls = _class(node)
    if node["kind"] == "structseq":
        return cls(items)
    if node["kind"] == "mapping":
        return cls(zip(node["keys"], items))
    if node["kind"] == "namedtuple":
        return cls(*items)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    result = cls(**{k: v for k, v in zip(node["keys"], items) if fields[k].init})
    for key, item in zip(node["keys"], items):
        if not fields[key].init:
            object.__setattr__(result, key, item)
    return result


# What a class has to be, for a header could name anything that runs when it is called.
_IS: dict[str, Callable[[Any], bool]] = {
    "namedtuple": lambda cls: issubclass(cls, tuple) and hasattr(cls, "_fields"),
    "structseq": lambda cls: issubclass(cls, tuple) and hasattr(cls, "n_sequence_fields"),
    "dataclass": dataclasses.is_dataclass,
    "mapping": lambda cls: issubclass(cls, dict),
}


def _class(node: Structure) -> Any:
    name = node["type"]
    found = _met[name] if name in _met else _imported(name)
    if not isinstance(found, type) or not _IS[node["kind"]](found):
        raise InputError(
            f"{name}, which the engine's header names as a {node['kind']}, is none: the file is damaged or forged. Convert "
            "the model again."
        )
    return found


def _imported(name: str) -> Any:
    module, _, qualname = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"{module}.{qualname}, a class in this engine's inputs or outputs, cannot be imported here: {error}. Make it "
            "importable under that name."
        ) from error
    return found


def arrange(value: Any, structure: Structure) -> Any:
    """``value`` with the keys of its dicts in the order of ``structure``, where they are the same keys."""
    if type(value) in (list, tuple) and structure["kind"] == type(value).__name__ and len(value) == len(structure["items"]):
        return type(value)([arrange(v, s) for v, s in zip(value, structure["items"])])
    if type(value) in (dict, OrderedDict) and structure["kind"] in ("dict", "odict") and set(value) == set(structure["keys"]):
        ordered = {k: arrange(value[k], s) for k, s in zip(structure["keys"], structure["items"])}
        return OrderedDict(ordered) if isinstance(value, OrderedDict) else ordered
    return value


def same(a: Structure, b: Structure) -> bool:
    """Whether two structures are equal; 1, 1.0 and True are not, NaN is itself."""
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def text(node: Structure) -> str:
    """A structure for people: ``[tensor, {'mask': tensor}, None]``."""
    kind = node["kind"]
    if kind in ("tensor", "plain"):
        return "tensor" if kind == "tensor" else repr(node["value"])
    items = [text(item) for item in node["items"]]
    if kind == "list":
        return f"[{', '.join(items)}]"
    if kind == "tuple":
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if kind in ("dict", "odict", "mapping"):
        return "{" + ", ".join(f"{k!r}: {v}" for k, v in zip(node["keys"], items)) + "}"
    return f"{node['type'].rpartition(':')[2]}({', '.join(f'{k}={v}' for k, v in zip(node['keys'], items))})"


def leaf_names(structure: Structure, prefix: str = "") -> list[str]:
    """A readable name per tensor, e.g. ``args[0]['image']`` or ``output.logits``."""
    if structure["kind"] == "tensor":
        return [prefix]
    if structure["kind"] == "plain":
        return []
    keys = structure.get("keys", range(len(structure["items"])))
    dotted = structure["kind"] in ("namedtuple", "dataclass", "structseq")
    return [
        name
        for key, item in zip(keys, structure["items"])
        for name in leaf_names(item, f"{prefix}.{key}" if dotted else f"{prefix}[{key!r}]")
    ]
