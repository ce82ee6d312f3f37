"""What a filled network is but for its weights, and its weights. Part of api.py: a refit compares networks by it.

All that TensorRT's Python API tells of a layer is read, so that a number that a converter took out of a parameter and put
into a layer (a slope, an index) is not mistaken for a weight.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ._trt import trt
from .check.reference import ReferenceExecutor
from .check.reference.layer import Layer

__all__ = ["Fingerprint", "Weight", "digest", "fingerprint", "first_difference"]

Weight = tuple[str, str]  # name of a layer, and a name of trt.WeightsRole (or of an attribute that has no role)

ROLES = {"kernel": "KERNEL", "bias": "BIAS", "shift": "SHIFT", "scale": "SCALE", "weights": "CONSTANT"}
# The forms of two axes of what has a form of any number of axes; TensorRT refuses them for three.
_TWICE = {"kernel_size", "window_size", "stride", "padding", "dilation", "pre_padding", "post_padding"}
# Orders of axes have room for 8, and behind the last axis there may be anything.
_ORDERS = ("first_transpose", "second_transpose")
# What is told already, and what is no matter of a layer's own.
_TOLD = {"name", "num_inputs", "num_outputs", "metadata"}


@dataclass
class Fingerprint:
    """A network without its weights, and its weights.

    Attributes:
        layers: name of a layer -> name of an attribute -> its value as text; "inputs" and "outputs" are the network's own.
        weights: every weight that is not empty: flat, on the host, a view of the memory that the network reads.
        empty: weights that a layer could have and has not.
    """

    layers: dict[str, dict[str, str]] = field(default_factory=dict)
    weights: dict[Weight, torch.Tensor] = field(default_factory=dict)
    empty: dict[Weight, Any] = field(default_factory=dict)

    def digests(self) -> dict[Weight, str]:
        """A digest per weight."""
        return {key: digest(tensor) for key, tensor in self.weights.items()}


def fingerprint(network: Any) -> Fingerprint:
    """Read a TensorRT INetworkDefinition; the tensors live as long as what owns the weights.

    Raises:
        UnsupportedLayerError: weights whose memory Python cannot reach.
    """
    found, scopes = Fingerprint(), dict[int, int]()
    found.layers["inputs"] = {t.name: _tensor(t) for t in (network.get_input(i) for i in range(network.num_inputs))}
    found.layers["outputs"] = {
        str(i): f"{t.name} {_tensor(t)}" for i, t in enumerate(network.get_output(i) for i in range(network.num_outputs))
    }
    for layer in ReferenceExecutor(network, trt).layers:
        told = {
            "kind": layer.kind,
            "inputs": " ".join("-" if t is None else t.name for t in layer.inputs),
            "outputs": " ".join(f"{t.name}: {t.kind} {t.shape}" for t in layer.outputs),
        }
        if layer.scope is not None:
            told["scope"] = str(scopes.setdefault(layer.scope, len(scopes)))
        for name, value in _attributes(layer):
            if isinstance(value, (np.ndarray, trt.Weights)):
                told[name] = f"{value.size} of {value.dtype}"
                _note_weights(found, layer, name)
            elif (text := _text(value)) is not None:
                told[name] = text
        found.layers[layer.name] = told
    return found


def _note_weights(found: Fingerprint, layer: Layer, attribute: str) -> None:
    key = (layer.name, ROLES.get(attribute, attribute.upper()))
    tensor = layer.weights(attribute)
    if tensor is None:
        found.empty[key] = layer.api.get_output(0).dtype
    else:
        found.weights[key] = tensor


def _attributes(layer: Layer) -> Iterator[tuple[str, Any]]:
    kind = type(layer.api)
    for name in sorted(dir(kind)):
        if name.startswith("_") or name in _TOLD or not isinstance(getattr(kind, name, None), property):
            continue
        if name in _TWICE and hasattr(kind, f"{name}_nd"):
            continue
        try:
            value = getattr(layer.api, name)
            yield name, value if name not in _ORDERS else [value[i] for i in range(_rank(layer, name))]
        except (RuntimeError, ValueError, TypeError):  # it has no such thing as it is, e.g. sizes that a tensor says
            yield name, "-"


def _rank(layer: Layer, order: str) -> int:
    tensor = layer.inputs[0] if order == "first_transpose" else layer.outputs[0]
    return 0 if tensor is None or tensor.shape is None else len(tensor.shape)


def _text(value: Any) -> str | None:
    """A plain value, an enum's member, or sizes; None for TensorRT's objects."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if hasattr(type(value), "__members__"):
        return str(value.name)
    try:
        return repr([item if isinstance(item, (int, float)) else int(item) for item in value])
    except ValueError:  # before TensorRT 10 sizes that are not set have the rank -1
        return "-"
    except TypeError:
        return None


def _tensor(tensor: Any) -> str:
    return f"{tensor.dtype.name} {_text(tensor.shape)}"


def digest(tensor: torch.Tensor) -> str:
    """Of the bits of a host tensor."""
    plain = tensor.contiguous().reshape(-1)
    return hashlib.blake2b(plain.view(torch.uint8).numpy().data, digest_size=16).hexdigest()


def first_difference(old: Mapping[str, Mapping[str, str]], new: Mapping[str, Mapping[str, str]]) -> str:
    """Where two ``Fingerprint.layers`` differ first, in words, or "" where they do not."""
    for name, other in zip(old, new):
        if name != other:
            if (name in new) == (other in old):
                return f"where it had the layer {name!r}, it has {other!r} now"
            return f"it has another layer, {other!r}, now" if name in new else f"it has no layer {name!r} now"
        changed = _changed(old[name], new[name])
        if changed:
            what = f"its {name}" if name in ("inputs", "outputs") else f"the layer {name!r}"
            return f"{what} differs: {changed}"
    if len(old) > len(new):
        return f"it has no layer {list(old)[len(new)]!r} now"
    return f"it has another layer, {list(new)[len(old)]!r}, now" if len(new) > len(old) else ""


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    told = [
        f"{key} was {old.get(key, 'not there')}, now is {new.get(key, 'not there')}"
        for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)
    ]  # fmt: skip
    return "; ".join(told[:2])
