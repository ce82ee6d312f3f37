"""At which sizes a conversion is checked, and what a trace that does not hold at size 1 is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import torch2edge
from torch2edge.check.sizes import between, check_size_one, sizes_to_check
from torch2edge.check.verify import Trial, draw, verify_sizes
from torch2edge.errors import ConfigError
from torch2edge.graph import Graph, Op, Value
from torch2edge.shapes import Dim
from torch2edge.sizes import Constraint

EVEN = Constraint(["Equality", ["Mod", ["dim", "t"], 2], 0], "model.py:1")


def graph(b: tuple[int, int, int] = (1, 2, 9), t: tuple[int, int, int] = (4, 8, 64), *more: Any, **fields: Any) -> Graph:
    """One input of (b, t, 3) and no op."""
    dims = {"b": Dim("b", (b, *(m[0] for m in more))), "t": Dim("t", (t, *(m[1] for m in more)))}
    value = Value(0, (b[1], t[1], 3), torch.float32)
    return Graph([value], [], [value], ["x"], ["y"], {}, {}, dims=dims, axes={0: {0: "b", 1: "t"}}, **fields)


def test_smallest_usual_largest_and_an_odd_one_in_between():
    found = sizes_to_check(graph(), [torch.zeros(3, 8, 3)])
    assert [where for where, _ in found] == ["b = 1, t = 4", "b = 2, t = 8", "b = 9, t = 64", "b = 5, t = 33"]
    assert [shapes for _, shapes in found][3] == ((5, 33, 3),)


def test_the_examples_own_sizes_are_not_checked_twice():
    assert [where for where, _ in sizes_to_check(graph(), [torch.zeros(2, 8, 3)])] == [
        "b = 1, t = 4", "b = 9, t = 64", "b = 5, t = 33",
    ]  # fmt: skip


def test_every_profile():
    found = sizes_to_check(graph((1, 1, 1), (4, 4, 4), ((2, 4, 8), (5, 6, 7))), [torch.zeros(1, 4, 3)])
    assert [where for where, _ in found] == ["b = 2, t = 5", "b = 4, t = 6", "b = 8, t = 7", "b = 5, t = 6"]


def test_sizes_in_between_are_such_as_the_model_takes():
    sizes = between(graph(constraints=[EVEN]), 0)
    assert sizes["b"] == 5
    assert sizes["t"] % 2 == 0
    assert sizes["t"] not in (4, 8, 64)


def test_sizes_that_hang_on_each_other_move_together():
    same = Constraint(["Equality", ["dim", "b"], ["dim", "t"]], "model.py:2")
    assert between(graph((2, 4, 20), (2, 4, 20), constraints=[same]), 0) == {"b": 11, "t": 11}


def test_inputs_are_drawn_in_other_shapes_and_of_the_examples_kind():
    examples = [torch.randn(2, 8, 3), torch.tensor([3, 7]), torch.tensor([True])]
    trial = Trial(1, shapes=((5, 33, 3), (50,), (4, 4)), where="b = 5")
    x, n, m = draw(examples, trial)
    assert x.shape == (5, 33, 3)
    assert set(n.tolist()) == {3, 4, 5, 6, 7}
    assert m.shape == (4, 4)
    assert m.dtype == torch.bool
    assert str(trial) == "b = 5, seed 1, N(0, 1)"


def test_an_error_at_one_size_alone_is_found_and_named():
    def run(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        return [inputs[0] * (1.1 if len(inputs[0]) == 9 else 1)]

    sizes = [("b = 1", ((1, 3),)), ("b = 9", ((9, 3),))]
    [row], trial = verify_sizes(run, lambda inputs: [inputs[0]], [torch.randn(4, 3)], ["y"], 1e-4, sizes)
    assert not row.passed
    assert row.trial.startswith("b = 9, seed ")
    assert trial.shapes == ((9, 3),)
    assert draw([torch.randn(4, 3)], trial)[0].shape == (9, 3)


def test_size_one_of_a_trace_that_holds():
    check_size_one(graph(), lambda inputs: inputs, [torch.randn(2, 8, 3)], 1e-4)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (lambda inputs: [inputs[0] * (2 if len(inputs[0]) == 1 else 1)], "y has other values"),
        (lambda inputs: [inputs[0].squeeze(0)], r"y has the shape \(8, 3\), and \(1, 8, 3\)"),
        (lambda inputs: [inputs[0] / 0 if len(inputs[0]) > 1 else [][1]], "the model raises IndexError: list index"),
    ],
)
def test_size_one_of_a_trace_that_does_not(reference, message):
    with pytest.raises(ConfigError, match=rf"with b = 1, t = 8 the model does not do .*{message}.*let b begin at 2"):
        check_size_one(graph(), reference, [torch.randn(2, 8, 3)], 1e-4)


def test_two_sizes_that_may_be_one():
    class Model(torch.nn.Module):
        def forward(self, ids, mask):
            return (ids * mask[torch.arange(ids.shape[0])]).relu()

    inputs = [torch.randn(2, 3), torch.randn(2, 3)]
    ranges = {0: {0: (1, 2, 4)}, 1: {0: (1, 2, 4)}}
    with pytest.raises(ConfigError, match=r"Are args\[0\]\.shape\[0\] and args\[1\]\.shape\[0\] always equal\? Then give"):
        torch2edge.convert(Model().eval(), inputs, dynamic=ranges)
    torch2edge.convert(Model().eval(), inputs, dynamic={0: {0: "n"}, 1: {0: "n"}}, dims={"n": (1, 2, 4)})


def test_an_op_whose_rank_hangs_on_the_size():
    made = graph()
    made.outputs = [Value(1, (2, 8, 3), torch.float32)]
    made.ops = [Op(torch.ops.aten.squeeze.default, (made.inputs[0],), {}, made.outputs, "neck", "model.py:7")]
    with pytest.raises(ConfigError, match=r"aten\.squeeze\.default in neck, model\.py:7, gives the shape \(8, 3\)"):
        check_size_one(made, lambda inputs: [inputs[0].squeeze()], [torch.randn(2, 8, 3)], 1e-4)


def test_size_one_is_not_tried_where_it_is_not_allowed():
    def never(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        raise AssertionError

    check_size_one(graph((2, 3, 9)), never, [torch.randn(2, 8, 3)], 1e-4)
