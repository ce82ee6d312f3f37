"""A float32 graph in half and bfloat16: which ops change, which stay, and where the casts are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torch2edge.graph import Graph
from torch2edge.lower import registry
from torch2edge.lower.float32_ops import FLOAT32_OPS, MOVES
from torch2edge.lower.precision import Lowering, in_precision
from torch2edge.trace import trace

HALF, BF16, FLOAT = torch.float16, torch.bfloat16, torch.float32


class Of(nn.Module):
    """A function with submodules of its own."""

    def __init__(self, fn: Callable[..., Any], **held: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        for name, module in held.items():
            setattr(self, name, module)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.fn(self, *inputs)


def graph_of(fn: Callable[..., Any], *inputs: torch.Tensor, **held: nn.Module) -> Graph:
    model = Of(fn, **held).eval()
    return trace(model, list(inputs), is_leaf=registry().is_leaf, module_classes=registry().module_classes())


def lowered(graph: Graph, dtype: torch.dtype = HALF, **paths: torch.dtype) -> Lowering:
    return in_precision(graph, lambda path: paths.get(path, dtype))


def dtypes(lowering: Lowering) -> list[tuple[str, torch.dtype]]:
    return [(op.short_name, op.outputs[0].dtype) for op in lowering.graph.ops]


X = torch.randn(2, 3, 8, 8)
ROW = torch.randn(4, 6)


@pytest.mark.parametrize("dtype", [HALF, BF16])
def test_what_computes_is_low_and_the_ends_are_not(dtype: torch.dtype) -> None:
    graph = graph_of(lambda m, x: m.conv(x).relu().flatten(1), X, conv=nn.Conv2d(3, 4, 3))
    low = lowered(graph, dtype)
    assert dtypes(low) == [
        ("_to_copy", dtype), ("convolution", dtype), ("relu", dtype), ("flatten", dtype), ("_to_copy", FLOAT),
    ]  # fmt: skip
    assert [v.dtype for v in (*low.graph.inputs, *low.graph.outputs)] == [FLOAT, FLOAT]
    weights = [a for a in low.graph.ops[1].args if hasattr(a, "tensor")]
    assert [w.dtype for w in weights] == [dtype, dtype]
    assert sorted(low.names.values()) == ["conv.bias", "conv.weight"]
    assert [op.outputs[0].dtype for op in graph.ops] == [FLOAT] * len(graph.ops)  # the traced graph stays


def test_ops_of_the_list_stay_in_float32_and_what_follows_them_too() -> None:
    graph = graph_of(lambda m, x: m.b((m.a(x).softmax(-1) * 2).reshape(2, 2, 6)), ROW, a=nn.Linear(6, 6), b=nn.Linear(6, 2))
    assert dtypes(lowered(graph)) == [
        ("_to_copy", HALF), ("linear", HALF), ("_to_copy", FLOAT), ("softmax", FLOAT), ("mul", FLOAT), ("reshape", FLOAT),
        ("_to_copy", HALF), ("linear", HALF), ("_to_copy", FLOAT),
    ]  # fmt: skip


def test_casts_are_shared() -> None:
    graph = graph_of(lambda m, x: (m.a(x), m.b(x), x.exp()), ROW, a=nn.Linear(6, 2), b=nn.Linear(6, 2))
    names = [op.short_name for op in lowered(graph).graph.ops]
    assert names.count("_to_copy") == 3  # one of the input, one per low output


def test_modules_of_other_precisions() -> None:
    graph = graph_of(lambda m, x: m.b(m.a(x)), ROW, a=nn.Linear(6, 6), b=nn.Linear(6, 2))
    assert dtypes(lowered(graph, a=FLOAT)) == [("linear", FLOAT), ("_to_copy", HALF), ("linear", HALF), ("_to_copy", FLOAT)]
    assert dtypes(lowered(graph, a=BF16)) == [
        ("_to_copy", BF16), ("linear", BF16), ("_to_copy", HALF), ("linear", HALF), ("_to_copy", FLOAT),
    ]  # fmt: skip
    assert dtypes(lowered(graph, FLOAT)) == [("linear", FLOAT), ("linear", FLOAT)]


def test_integers_become_floats_in_float32() -> None:
    """Positions beyond 2048 are not exact in half."""
    graph = graph_of(lambda m, i: (i.float() * 0.5).cos(), torch.arange(5000))
    assert {dtype for _, dtype in dtypes(lowered(graph))} == {FLOAT}
    graph = graph_of(lambda m, i: m.e(i), torch.arange(5), e=nn.Embedding(5, 4))
    assert dtypes(lowered(graph)) == [("embedding", HALF), ("_to_copy", FLOAT)]


@pytest.mark.parametrize(
    ("fn", "why"),
    [
        (lambda m, x: m.a(x) + 1e5, "takes the number 100000"),
        (lambda m, x: m.a(x).masked_fill(x > 0, -3e38), "a constant of aten.where.self reaches 3e+38"),
        (lambda m, x: m.a(x) + torch.tensor([7e4] * 6), "a constant of aten.add.Tensor reaches 70000"),
        (lambda m, x: F.linear(m.a(x), torch.full((1, 6), -1e5)), "a constant of aten.linear.default reaches 100000"),
    ],
)
def test_what_half_has_no_room_for(fn: Any, why: str) -> None:
    graph = graph_of(fn, ROW, a=nn.Linear(6, 6))
    low = lowered(graph)
    assert why in low.kept[""][0]
    assert low.graph.ops[-1].outputs[0].dtype == FLOAT
    assert not lowered(graph, BF16).kept  # bfloat16 has float32's range


def test_values_seen_beyond_halfs_range() -> None:
    graph = graph_of(lambda m, x: m.a(x).relu(), ROW, a=nn.Linear(6, 6))
    index = graph.ops[0].outputs[0].index
    low = in_precision(graph, lambda path: HALF, {index: 1e5})
    assert low.kept == {"a": ["aten.linear.default gave 100000 for the example"]}
    assert dtypes(low)[0] == ("linear", FLOAT)
    assert not in_precision(graph, lambda path: BF16, {index: 1e5}).kept


def test_infinite_numbers_are_no_reason() -> None:
    graph = graph_of(lambda m, x: m.a(x).masked_fill(x > 0, float("-inf")), ROW, a=nn.Linear(6, 6))
    assert not lowered(graph).kept


def test_a_dtype_that_the_model_names_is_obeyed() -> None:
    graph = graph_of(lambda m, x: m.a(x).softmax(-1, dtype=torch.float32), ROW, a=nn.Linear(6, 6))
    assert dtypes(lowered(graph))[-1] == ("softmax", FLOAT)


def test_the_lists_name_ops_that_there_are() -> None:
    known = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    assert sorted((set(FLOAT32_OPS) | MOVES) - known) == []
    assert not set(FLOAT32_OPS) & MOVES
