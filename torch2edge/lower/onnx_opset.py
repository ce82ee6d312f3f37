"""An ONNX model of opset 18 as one of opset 17, for parsers that read 17 at most (TensorRT 8.6).

The dynamo exporter writes opset 18 whatever it is asked for, where its own conversion fails. That conversion is onnx's
``version_converter``, which (1.20) forgets the axes of reductions, so it is not asked.
"""

from __future__ import annotations

from typing import Any

from ..errors import ConversionError
from .onnx_names import nodes

__all__ = ["version_of", "write_as_17"]

_AXES_WERE_ATTRIBUTES = {
    "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceSumSquare",
}  # fmt: skip
# op -> attributes that 18 brought; without them, and with as many inputs as 17 has, the op means the same
_NEW_ATTRIBUTES = {"Resize": {"antialias", "axes", "keep_aspect_ratio_policy"}, "Split": {"num_outputs"}, "Pad": set()}
_INPUTS_IN_17 = {"Resize": 4, "Split": 2, "Pad": 3}
_SCATTERS = {"ScatterElements", "ScatterND"}


def version_of(proto: Any) -> int:
    """The opset of ONNX's own operators."""
    return next(int(o.version) for o in proto.opset_import if o.domain in ("", "ai.onnx"))


def write_as_17(proto: Any) -> None:
    """Rewrite a model of opset 18, in place.

    Raises:
        ConversionError: it uses what opset 17 has not (https://onnx.ai/onnx/operators/), or is of a later opset.
    """
    from onnx import defs

    if version_of(proto) != 18:
        raise ConversionError(f"it is of opset {version_of(proto)}, of which there is no way back to 17")
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in nodes(proto.graph):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in nodes(proto.graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type in _AXES_WERE_ATTRIBUTES:
            _axes_as_attribute(node, constants)
        elif defs.get_schema(node.op_type, max_inclusive_version=18).since_version == 18 and not _means_the_same(node):
            raise ConversionError(f"node {node.name!r} uses what {node.op_type} has from opset 18 on")
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = 17


def _means_the_same(node: Any) -> bool:
    attributes = {a.name: a for a in node.attribute}
    if node.op_type in _SCATTERS:
        return "reduction" not in attributes or attributes["reduction"].s in (b"none", b"add", b"mul")
    if node.op_type not in _NEW_ATTRIBUTES:
        return False
    return not _NEW_ATTRIBUTES[node.op_type] & set(attributes) and len(node.input) <= _INPUTS_IN_17[node.op_type]


def _axes_as_attribute(node: Any, constants: dict[str, Any]) -> None:
    from onnx import helper, numpy_helper

    attributes = {a.name: a for a in node.attribute}
    all_or_none = attributes.pop("noop_with_empty_axes", None)
    axes = node.input[1] if len(node.input) > 1 else ""
    if axes and axes not in constants:
        raise ConversionError(f"node {node.name!r} computes the axes of its {node.op_type}; opset 17 has fixed ones")
    values = numpy_helper.to_array(constants[axes]).tolist() if axes else []
    if not values and all_or_none is not None and all_or_none.i:
        raise ConversionError(f"node {node.name!r}: {node.op_type} over no axis, which opset 17 has not")
    del node.input[1:], node.attribute[:]
    node.attribute.extend(attributes.values())
    if values:
        node.attribute.append(helper.make_attribute("axes", values))
