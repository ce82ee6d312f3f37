"""Expressions of sizes: from PyTorch's symbols to JSON, text and numbers."""

from __future__ import annotations

import json

import pytest
import torch
from support.torch_features import SYMBOLS_LEFT_ALONE

from torch2edge.errors import ConfigError
from torch2edge.graph import Graph
from torch2edge.shapes import Dim, Dynamic
from torch2edge.sizes import Constraint, compute, expression, has_symbolic, is_symbolic, names_in, settle, shape_text, text
from torch2edge.trace.symbolic import Symbols


@pytest.fixture
def symbols() -> Symbols:
    dims = {"b": Dim("b", ((1, 2, 9),)), "t": Dim("t", ((4, 6, 64),))}
    return Symbols(Dynamic({0: {0: "b", 1: "t"}}, dims), [(2, 6)])


CASES = [
    (lambda b, t: b + 1, "b + 1"),
    (lambda b, t: t - 1, "t - 1"),
    (lambda b, t: b * t, None),
    (lambda b, t: t // 3, "t // 3"),
    (lambda b, t: (t + 2 - 3) // 2 + 1, None),
    (lambda b, t: t % 5, "t % 5"),
    (lambda b, t: -t % 8, None),
    (lambda b, t: t * t - b, None),
    (lambda b, t: b * b, "b ** 2"),
    (lambda b, t: torch.sym_max(b, t), None),
    (lambda b, t: torch.sym_min(b * 3, t), None),
    (lambda b, t: -(-t // 4), None),
    (lambda b, t: 2 * b + t // 2, None),
]


@pytest.mark.parametrize(("function", "reads"), CASES)
def test_an_expression_computes_what_python_does(symbols, function, reads):
    b, t = symbols.dims["b"].symbol, symbols.dims["t"].symbol
    tree = expression(function(b, t), symbols.names)
    assert json.loads(json.dumps(tree)) == tree
    for sizes in ((1, 4), (2, 6), (9, 63), (5, 17)):
        values = dict(zip("bt", sizes))
        assert compute(tree, values) == int(function(*sizes)), text(tree)
    if reads:
        assert text(tree) == reads


@pytest.mark.parametrize("function", [lambda b, t: t / b, lambda b, t: t**-0.5, lambda b, t: 1 / t + 0.5])
def test_floats(symbols, function):
    tree = expression(function(symbols.dims["b"].symbol, symbols.dims["t"].symbol), symbols.names)
    assert compute(tree, {"b": 3, "t": 7}) == pytest.approx(function(3, 7))


def test_comparisons(symbols):
    b, t = symbols.dims["b"].symbol, symbols.dims["t"].symbol
    for condition, holds, reads in (
        (t % 2 == 0, [True, False], "t % 2 == 0"),
        (t > b, [True, True], None),
        (t * 2 <= 30, [True, False], None),
    ):
        constraint = Constraint(expression(condition.node.expr, symbols.names), "model.py:3")
        assert [constraint.holds({"b": 2, "t": n}) for n in (4, 17)] == holds
        assert str(constraint).endswith("(model.py:3)")
        assert reads is None or str(constraint).startswith(reads)


def test_constants_in_disguise_are_settled(symbols):
    b = symbols.dims["b"].symbol
    one = b * 4 // b - 3
    assert settle((torch.Size([2, 3]), [b, one], {"k": one})) == ((2, 3), [b, 1], {"k": 1})
    if SYMBOLS_LEFT_ALONE:
        assert settle([b / b]) == [1.0]
    assert not is_symbolic(4)
    assert not has_symbolic([1, {"a": (2, 3)}])
    assert has_symbolic([1, {"a": (2, b)}])


def test_what_cannot_be_followed_is_named(symbols):
    import sympy

    with pytest.raises(ConfigError, match="computed by sin"):
        expression(sympy.sin(symbols.dims["b"].symbol.node.expr), symbols.names)


def test_names_and_shapes():
    tree = ["Add", ["Mul", 2, ["dim", "t"]], ["dim", "b"], ["dim", "t"]]
    assert names_in(tree) == ["t", "b"]
    assert shape_text([["dim", "b"], 3, ["FloorDiv", ["dim", "h"], 2]]) == "(b, 3, h // 2)"
    assert shape_text([5]) == "(5,)"
    assert text(["Not", ["Equality", ["dim", "b"], 1]]) == "not (b == 1)"


def test_the_fields_of_a_static_graph_are_empty():
    graph = Graph([], [], [], [], [], {}, {})
    assert graph.profiles() == []
    assert graph.sizes([]) == {}
    assert graph.allows({})
