"""network_digest(): a hash of all that TensorRT's Python API tells of a filled network.

It stands for what made the network: converters of the user, which may do anything, or ONNX's exporter. Part of api.py.
"""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import numpy as np
import torch

from ._trt import capabilities, clear_errors, trt
from .build.graph_key import Unkeyable, digest, plain
from .check.reference import ReferenceExecutor
from .check.reference.executor import CLASSES
from .check.reference.layer import Layer
from .errors import ReferenceExecutionError, UnsupportedLayerError

__all__ = ["network_digest"]

_OWNERS = ("loop", "conditional", "attention")  # Layer.scope tells them apart
# Without attributes of their own, but for what their outputs' types tell.
_PLAIN_LAYERS = {"IDENTITY", "NON_ZERO", "PARAMETRIC_RELU", "SELECT", "SHAPE", "SQUEEZE", "UNSQUEEZE"}
_COMPUTED = ("is_shape_tensor", "is_execution_tensor")  # by TensorRT, of the layers


def network_digest(network: Any) -> str:
    """sha256, in hex, over every layer of an INetworkDefinition, in order: its type, attributes, weights and tensors.

    Raises:
        Unkeyable: a layer's attributes cannot be read: that of a plugin, say.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated attributes are attributes too
            layers = ReferenceExecutor(network, trt).layers
            scopes: dict[int | None, int] = {}
            told = [[scopes.setdefault(layer.scope, len(scopes)), *_layer(layer)] for layer in layers]
            inputs = [_input(network.get_input(i)) for i in range(network.num_inputs)]
            outputs = [_attributes(network.get_output(i)) for i in range(network.num_outputs)]
    except (UnsupportedLayerError, ReferenceExecutionError) as error:
        raise Unkeyable(str(error)) from error
    finally:
        clear_errors()  # an attribute that a layer has not is an error line of TensorRT's
    return digest([told, inputs, outputs])


def _layer(layer: Layer) -> list[Any]:
    if layer.kind not in CLASSES and layer.kind not in _PLAIN_LAYERS:
        raise Unkeyable(f"{layer.title}, whose attributes cannot be read")
    attributes = {}
    for name in _properties(layer.api):
        if name not in _OWNERS:
            attributes[name] = _attribute(layer, name)
    places = range(layer.api.num_outputs)
    if not capabilities().strongly_typed:
        attributes["output types"] = [[layer.api.output_type_is_set(i), plain(layer.api.get_output_type(i))] for i in places]
    outputs = [_attributes(layer.api.get_output(place)) for place in places]
    return [layer.kind, attributes, [t and t.name for t in layer.inputs], outputs]


def _properties(api: Any) -> list[str]:
    return [name for name in dir(type(api)) if isinstance(getattr(type(api), name, None), property)]


def _attribute(layer: Layer, name: str) -> Any:
    value = _value(layer.api, name)
    if isinstance(value, (np.ndarray, trt.Weights)):
        held = layer.weights(name)
        if held is None:
            return {"weights": 0}
        return {
            "weights": hashlib.sha256(held.contiguous().view(torch.uint8).numpy().data).hexdigest(),
            "dtype": str(held.dtype),
        }
    return _plain(value, f"{layer.title}: {name}")


def _attributes(tensor: Any) -> dict[str, Any]:
    """What a tensor of the network says of itself."""
    return {name: _plain(_value(tensor, name), name) for name in _properties(tensor) if name not in _COMPUTED}


def _input(tensor: Any) -> dict[str, Any]:
    return _attributes(tensor) | {"dimensions": [tensor.get_dimension_name(axis) for axis in range(len(tensor.shape))]}


def _value(api: Any, name: str) -> Any:
    try:
        return getattr(api, name)
    except Exception as error:  # of an attribute that this layer has not, each binding raises another
        return f"{type(error).__name__}: {error}"


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, trt.ITensor):
        return {"tensor": value.name}
    if isinstance(value, (trt.Dims, trt.Permutation)):
        try:
            return [int(size) for size in value]
        except ValueError:  # a Dims that is not set
            return None
    try:
        return plain(value)
    except Unkeyable as error:
        raise Unkeyable(f"{where} is {error}") from error
