"""Constant folding of ONNX models: right values, and nothing that depends on an input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from torch2edge.lower.onnx_fold import LARGEST, SMALL, fold, light  # noqa: E402

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def model(nodes: list[Any], outputs: list[str], dims: Any = (2, 3, 4), **weights: Any) -> Any:
    graph = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def folded(before: Any) -> list[str]:
    """The op types that are left, after a comparison of the results."""
    expected = ReferenceEvaluator(before).run(None, {"x": X})
    fold(before)
    for a, b in zip(ReferenceEvaluator(before).run(None, {"x": X}), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    return [node.op_type for node in before.graph.node]


def node(op: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def test_a_slice_with_a_negative_step() -> None:
    """onnxslim 0.1.98 without ONNX Runtime folds it to the wrong order."""
    nodes = [
        node("Slice", "pads from to axis step", "turned"),
        node("Concat", "turned turned", "all", axis=0),
        node("Pad", "x all", "y", mode="edge"),
    ]  # fmt: skip
    weights = {"pads": [1, 2, 0], "from": [-1], "to": [-(2**63) + 1], "axis": [0], "step": [-1]}
    assert folded(model(nodes, ["y"], **{k: np.array(v, dtype=np.int64) for k, v in weights.items()})) == ["Pad"]


def test_sizes_of_known_shapes() -> None:
    nodes = [
        node("Relu", "x", "a"), node("Shape", "a", "s", start=1), node("Shape", "a", "all"), node("Gather", "all zero", "n"),
        node("Unsqueeze", "n axis", "n1"), node("Concat", "n1 minus", "dims", axis=0), node("Reshape", "a dims", "y"),
        node("Cast", "s", "z", to=TensorProto.FLOAT),
    ]  # fmt: skip
    weights = {"zero": np.int64(0), "axis": np.array([0]), "minus": np.array([-1])}
    assert folded(model(nodes, ["y", "z"], **weights)) == ["Relu", "Reshape", "Cast"]  # an output stays a node's


def test_sizes_of_open_shapes_stay() -> None:
    nodes = [node("Shape", "x", "s"), node("ConstantOfShape", "s", "y")]
    assert folded(model(nodes, ["y"], dims=("batch", 3, 4))) == ["Shape", "ConstantOfShape"]


def test_constants_of_all_kinds() -> None:
    nodes = [
        node("Constant", "", "i", value_ints=[1, 2]), node("Constant", "", "f", value_float=0.5),
        node("Constant", "", "t", value=numpy_helper.from_array(np.float32(2))), node("Mul", "f t", "m"),
        node("ReduceSum", "x i", "r"), node("Mul", "r m", "y"),
    ]  # fmt: skip
    for constant in nodes[:3]:
        del constant.input[:]
    assert folded(model(nodes, ["y"])) == ["ReduceSum", "Mul"]


def test_what_stays() -> None:
    big = int(LARGEST**0.5)
    nodes = [
        node("Expand", "one huge", "big"), node("RandomNormalLike", "one", "random"),
        node("QuantizeLinear", "one scale", "q"), node("Foo", "one", "foo", domain="mine"),
    ]  # fmt: skip
    before = model(nodes, ["big", "random", "q", "foo"], one=np.float32([1]), scale=np.float32(1), huge=np.array([big, big]))
    fold(before)
    assert [n.op_type for n in before.graph.node] == ["Expand", "RandomNormalLike", "QuantizeLinear", "Foo"]


def test_large_weights_are_inputs_of_the_light_model() -> None:
    weight = np.zeros(SMALL, dtype=np.float32)
    heavy = model([node("Add", "x one", "y"), node("ReduceSum", "w", "z")], ["y", "z"], w=weight, one=np.float32(1))
    copy = light(heavy)
    assert [i.name for i in copy.graph.input] == ["x", "w"]
    assert [t.name for t in copy.graph.initializer] == ["one"]
    fold(heavy)  # a constant weight, but folded from the real one
    assert [t.name for t in heavy.graph.initializer] == ["w", "one"]


def test_unused_weights_go() -> None:
    before = model([node("Add", "x b", "y")], ["y"], b=np.float32(1), unused=np.float32(2))
    fold(before)
    assert [t.name for t in before.graph.initializer] == ["b"]
