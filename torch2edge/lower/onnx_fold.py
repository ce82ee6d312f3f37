"""Constant folding of an ONNX model, by the reference evaluator of the onnx package.

onnxslim folds with ONNX Runtime where that is installed; where it is not, it takes over values that its shape inference
guesses, among them wrong ones (a Slice with a negative step).
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["fold", "light"]

LARGEST = 2**20  # bytes: a larger result is kept only if it is no larger than what it is made of
SMALL = 2**12  # bytes: larger weights are no shapes
# random, with a body, or a note for TensorRT where values are quantized
_LEFT_ALONE = ("Random", "Bernoulli", "Multinomial", "If", "Loop", "Scan", "Quantize", "Dequantize", "Sequence")


def fold(model: Any) -> None:
    """Replace nodes whose result depends on no input by that result, in place.

    The sizes of tensors with a known shape are no inputs. What the evaluator cannot compute stays.
    """
    import onnx
    from onnx import numpy_helper

    while True:  # a shape that is folded makes more shapes known; each round leaves fewer nodes
        shapes = _shapes(model)
        values = _Constants(model)
        folded = []
        results = {output.name for output in model.graph.output}
        for node in model.graph.node:
            given = None if results & set(node.output) else _value(node, values, shapes, model.opset_import)
            if given is not None:
                folded.append(node)
                values.update({name: value for name, value in zip(node.output, given) if name})
        if not folded:
            break
        done = {id(node) for node in folded}
        kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node if id(n) not in done]
        new = [numpy_helper.from_array(np.asarray(values[name]), name) for node in folded for name in node.output if name]
        del model.graph.node[:]
        model.graph.node.extend(kept)
        model.graph.initializer.extend(new)
    _drop_unused(model)


class _Constants(dict[str, Any]):
    """The arrays of initializers by name, read when they are asked for."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._tensors

    def __missing__(self, name: str) -> Any:
        from onnx import numpy_helper

        self[name] = numpy_helper.to_array(self._tensors[name])
        return self[name]


def _shapes(model: Any) -> dict[str, list[int]]:
    """The known shapes of tensors, by onnx's own inference."""
    import onnx

    small = light(model)
    try:
        inferred = onnx.shape_inference.infer_shapes(small, data_prop=True)
    except Exception:  # a node that it does not understand: then sizes are not folded
        inferred = small
    known = {}
    for value in (*inferred.graph.input, *inferred.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            known[value.name] = [d.dim_value for d in dims]
    return known


def light(model: Any) -> Any:
    """The model with its large weights as inputs, for what would copy them or has a limit of 2 GB."""
    import onnx
    from onnx import helper

    copy = onnx.ModelProto()
    copy.ir_version = model.ir_version
    copy.opset_import.extend(model.opset_import)
    copy.graph.name = "shapes"
    copy.graph.node.extend(model.graph.node)
    copy.graph.input.extend(model.graph.input)
    copy.graph.output.extend(model.graph.output)
    copy.graph.value_info.extend(model.graph.value_info)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) < SMALL:
            copy.graph.initializer.append(tensor)
        else:
            copy.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return copy


def _value(node: Any, values: _Constants, shapes: dict[str, list[int]], opset: Any) -> list[Any] | None:
    """What a node gives, if that depends on no input."""
    if node.op_type == "Shape" and node.input[0] in shapes:
        bounds = {a.name: a.i for a in node.attribute}
        return [np.array(shapes[node.input[0]][bounds.get("start", 0) : bounds.get("end")], dtype=np.int64)]
    inputs = [name for name in node.input if name]
    if node.op_type.startswith(_LEFT_ALONE) or node.domain not in ("", "ai.onnx") or any(n not in values for n in inputs):
        return None
    results = _evaluated(node, {name: values[name] for name in inputs}, opset)
    if results is None or not all(isinstance(r, (np.ndarray, np.generic)) for r in results):
        return None
    before, after = sum(np.asarray(values[n]).nbytes for n in inputs), sum(np.asarray(r).nbytes for r in results)
    return results if node.op_type == "Constant" or after <= max(before, LARGEST) else None


def _evaluated(node: Any, inputs: dict[str, Any], opset: Any) -> list[Any] | None:
    import onnx
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    declared = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), list(a.shape)) for n, a in inputs.items()
    ]
    results = [helper.make_tensor_value_info(n, onnx.TensorProto.UNDEFINED, None) for n in node.output if n]
    graph = helper.make_graph([node], "one node", declared, results)
    try:
        return list(ReferenceEvaluator(helper.make_model(graph, opset_imports=opset)).run(None, inputs))
    except Exception:
        return None


def _drop_unused(model: Any) -> None:
    from .onnx_names import nodes

    read = {name for node in nodes(model.graph) for name in node.input} | {o.name for o in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    if len(kept) < len(model.graph.initializer):
        kept = [type(t).FromString(t.SerializeToString()) for t in kept]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
