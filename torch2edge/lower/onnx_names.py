"""Which module each layer of the ONNX road comes from: kept through the exporter, the simplifier and TensorRT's parser.

Three kinds of names lead from a layer back to its module. The exporter notes where each node was made; the simplifier
drops these notes but keeps most names of nodes and tensors, so paths are kept by name; then the nodes are renamed after
their modules, and TensorRT's parser writes the name of the node into each layer that it makes of it. Layers that it adds
on its own (broadcasts, constants) belong to the node that reads them.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from .._trt import from_trt_dtype
from .network import Network

__all__ = ["adopt_layers", "metadata_path", "named_paths", "nodes", "rename", "scoped_path"]

SCOPES = "pkg.torch.onnx.name_scopes"  # torch.onnx.export(dynamo=True): the modules around a node, outermost first
WEIGHTED = ("Conv", "ConvTranspose")  # folded with a batch norm they would carry its path
_METADATA = re.compile(r"\[ONNX Layer: (.*)\]")
_COUNTED = re.compile(r"_\d+$")
PathOf = Callable[[Any], str]


def nodes(graph: Any) -> Iterator[Any]:
    """Every node of an ONNX graph, those of If and Loop bodies included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from nodes(inner)


def metadata_path(node: Any) -> str | None:
    """The module path that ``torch.onnx.export(dynamo=True)`` wrote beside a node, None where there is none."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            scopes = ast.literal_eval(entry.value)
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return None


def scoped_path(node: Any) -> str:
    """The module path in a node's name as TorchScript's exporter writes it: ``/layer1/layer1.0/conv1/Conv``.

    It writes a module's own name, and before a number the name in front of it too.
    """
    path, before = "", ""
    for part in node.name.split("/")[1:-1]:
        again = bool(before) and part.rpartition(".")[0] == before
        path = path[: len(path) - len(before)] + part if again else f"{path}.{part}" if path else part
        before = part
    return path


def named_paths(model: Any, path_of: PathOf, weights: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Name of each node and of each tensor that a node makes -> module path.

    Args:
        path_of: the module path of a node.
        weights: name of a weight -> path of its module.
    """
    users = Counter(name for node in nodes(model.graph) if node.op_type in WEIGHTED for name in node.input[1:2])
    paths: dict[str, str] = {}
    for node in nodes(model.graph):
        path = path_of(node)
        if node.op_type in WEIGHTED and node.input[1] in weights:
            owner = weights[node.input[1]]
            beside = owner.rpartition(".")[0] == path.rpartition(".")[0]
            path = owner if beside or users[node.input[1]] == 1 else path  # else exporters merged equal weights
        paths.setdefault(node.name, path)
        for name in node.output:
            paths[name] = path
    paths.pop("", None)
    return paths


def rename(model: Any, paths: dict[str, str]) -> dict[str, str]:
    """Name each node ``path/Op``, once each; returns new name -> path.

    A node that the simplifier made anew is found by its result, or belongs where its inputs come from.
    """
    found: dict[str, str] = {}
    for node in nodes(model.graph):
        known = [paths[name] for name in (node.name, *node.output) if name in paths]
        path = known[0] if known else _shared([paths[name] for name in node.input if name in paths])
        for name in node.output:
            paths.setdefault(name, path)
        wanted = name = f"{path}/{node.op_type}"
        count = 0
        while name in found:
            count += 1
            name = f"{wanted}_{count}"
        node.name, found[name] = name, path
    return found


def _shared(paths: list[str]) -> str:
    """The innermost module around all of ``paths``."""
    parts = [path.split(".") for path in paths if path]
    common: list[str] = []
    for column in zip(*parts) if len(parts) == len(paths) else ():
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return ".".join(common)


def adopt_layers(net: Network, model: Any, paths: dict[str, str]) -> None:
    """Enter the layers that the parser added into ``net``, each with its module, named after it.

    Args:
        model: the ONNX model that was parsed, with the names of ``rename``.
        paths: name of each node -> module path.
    """
    layers = [net.raw.get_layer(i) for i in range(net.raw.num_layers)]
    made = {name: node.name for node in nodes(model.graph) for name in node.output if name}
    owners = _owners(layers, made, paths)
    for layer, owner in zip(layers, owners):
        if owner is None:
            net.adopt(layer, layer.name, "", layer.name, _dtype(layer))
            continue
        own = _told(layer, paths) is not None
        name = layer.name if own else f"{owner}/{layer.type.name.lower()}"
        net.adopt(layer, name, paths[owner], owner.rpartition("/")[2], _dtype(layer))


def _owners(layers: list[Any], made: dict[str, str], paths: dict[str, str]) -> list[str | None]:
    """The name of the node that each layer was made of or for."""
    owners = [_told(layer, paths) or next((made[n] for n in _outputs(layer) if n in made), None) for layer in layers]
    readers: dict[str, list[int]] = {}
    makers = {name: i for i, layer in enumerate(layers) for name in _outputs(layer)}
    for i, layer in enumerate(layers):
        for name in _inputs(layer):
            readers.setdefault(name, []).append(i)
    for i in reversed(range(len(layers))):  # what reads comes later, except around a loop
        if owners[i] is None:
            reading = [owners[j] for name in _outputs(layers[i]) for j in readers.get(name, [])]
            owners[i] = next((owner for owner in reading if owner is not None), None)
    for i, layer in enumerate(layers):
        if owners[i] is None:
            making = [owners[makers[name]] for name in _inputs(layer) if name in makers]
            owners[i] = next((owner for owner in making if owner is not None), None)
    return owners


def _told(layer: Any, paths: dict[str, str]) -> str | None:
    """The node that the parser says a layer was made of: in its metadata, else by its name."""
    noted = _METADATA.fullmatch(layer.metadata or "")
    for name in (noted.group(1) if noted else "", layer.name, _COUNTED.sub("", layer.name)):
        if name in paths:
            return str(name)
    return None


def _inputs(layer: Any) -> list[str]:
    tensors = [layer.get_input(i) for i in range(layer.num_inputs)]
    return [t.name for t in tensors if t is not None]


def _outputs(layer: Any) -> list[str]:
    tensors = [layer.get_output(i) for i in range(layer.num_outputs)]
    return [t.name for t in tensors if t is not None]


def _dtype(layer: Any) -> Any:
    """The torch dtype of a layer's first result; None where torch has none, or there is no result."""
    first = layer.get_output(0) if layer.num_outputs else None
    try:
        return None if first is None else from_trt_dtype(first.dtype)
    except StopIteration:
        return None
