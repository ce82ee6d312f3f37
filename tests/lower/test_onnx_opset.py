"""Opset 18 written as 17: what means the same, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from torch2edge.errors import ConversionError
from torch2edge.lower.onnx_opset import version_of, write_as_17

AXES = numpy_helper.from_array(np.array([1, 2]), "axes")


def model(*nodes: Any, opset: int = 18, inputs: tuple[str, ...] = ("x",)) -> Any:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in inputs]
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    graph = helper.make_graph(list(nodes), "test", values, outputs, [AXES])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(proto: Any, x: Any) -> Any:
    return ReferenceEvaluator(proto).run(None, {"x": x})[0]


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp"])
@pytest.mark.parametrize("inputs", [["x", "axes"], ["x"], ["x", "made"]])
def test_axes_become_an_attribute(op: str, inputs: list[str]) -> None:
    made = helper.make_node("Constant", [], ["made"], value=numpy_helper.from_array(np.array([-1]), ""))
    proto = model(made, helper.make_node(op, inputs, ["y"], keepdims=0))
    x = np.random.default_rng().standard_normal((2, 3, 4)).astype(np.float32)
    before = run(proto, x)
    write_as_17(proto)
    assert version_of(proto) == 17
    assert len(proto.graph.node[1].input) == 1
    after = run(proto, x)
    assert after.shape == before.shape
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_what_did_not_change_stays() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Pad", ["a", "axes"], ["b"]),
        helper.make_node("Resize", ["b", "", "s"], ["c"], mode="nearest"),
        helper.make_node("ScatterND", ["c", "i", "u"], ["y"], reduction="add"),
    ]
    proto = model(*nodes)
    write_as_17(proto)
    assert list(proto.graph.node) == nodes


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (helper.make_node("Mish", ["x"], ["y"], "m"), r"'m' uses what Mish has from opset 18 on"),
        (helper.make_node("Resize", ["x", "", "s"], ["y"], "r", antialias=1), "Resize has from opset 18"),
        (helper.make_node("Pad", ["x", "p", "", "axes"], ["y"], "p"), "Pad has from opset 18"),
        (helper.make_node("Split", ["x"], ["y"], "s", num_outputs=1), "Split has from opset 18"),
        (helper.make_node("ScatterND", ["x", "i", "u"], ["y"], "s", reduction="max"), "ScatterND has from opset 18"),
        (helper.make_node("ReduceMean", ["x", "z"], ["y"], "m"), "computes the axes of its ReduceMean"),
        (helper.make_node("ReduceMean", ["x"], ["y"], "m", noop_with_empty_axes=1), "over no axis"),
    ],
)
def test_what_17_has_not_is_refused(node: Any, why: str) -> None:
    with pytest.raises(ConversionError, match=why):
        write_as_17(model(node, inputs=("x", "z")))


def test_a_later_opset_is_refused() -> None:
    with pytest.raises(ConversionError, match="opset 20, of which there is no way back"):
        write_as_17(model(helper.make_node("Relu", ["x"], ["y"]), opset=20))
