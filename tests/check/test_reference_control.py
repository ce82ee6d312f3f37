"""Loops, conditionals and assertions: expectations by the same loops in Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from torch2edge.check.reference import ReferenceExecutor
from torch2edge.errors import ReferenceExecutionError

trt = pytest.importorskip("tensorrt_rtx")


def f32(values: Any) -> Any:
    """A float32 array."""
    return np.array(values, dtype=np.float32)


OP = trt.ElementWiseOperation


def add(bench: Any, a: Any, b: Any, op: Any = OP.SUM) -> Any:
    """The tensor of a binary layer."""
    return bench.network.add_elementwise(a, b, op).get_output(0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_counted_loop(bench: Any, reverse: bool, axis: int) -> None:
    x = torch.randn(4, 4, 3)
    loop = bench.network.add_loop()
    loop.add_trip_limit(bench.constant(4, np.int32), trt.TripLimit.COUNT)
    state = loop.add_recurrence(bench.constant(np.zeros((4, 3))))
    item = loop.add_iterator(bench.input(x), axis, reverse)
    total = add(bench, state.get_output(0), item.get_output(0))
    state.set_input(1, total)
    last = loop.add_loop_output(state.get_output(0), trt.LoopOutput.LAST_VALUE)
    outs = [last]
    for kind in (trt.LoopOutput.CONCATENATE, trt.LoopOutput.REVERSE):
        outs.append(loop.add_loop_output(total, kind, 1))
        outs[-1].set_input(1, bench.constant(4, np.int32))
    results = bench.run(*(out.get_output(0) for out in outs))
    order = [3, 2, 1, 0] if reverse else [0, 1, 2, 3]
    sums, steps = torch.zeros(4, 3), []
    for i in order:
        sums = sums + x.select(axis, i)
        steps.append(sums)
    torch.testing.assert_close(results[0], sums)
    torch.testing.assert_close(results[1], torch.stack(steps, 1))
    torch.testing.assert_close(results[2], torch.stack(steps[::-1], 1))


@pytest.mark.parametrize(("start", "expected"), [(1, 128), (200, 200)])
def test_while_loop_asks_before_each_iteration(bench: Any, start: int, expected: int) -> None:
    loop = bench.network.add_loop()
    state = loop.add_recurrence(bench.input(torch.tensor(start, dtype=torch.int32)))
    value = state.get_output(0)
    loop.add_trip_limit(add(bench, value, bench.constant(100, np.int32), OP.LESS), trt.TripLimit.WHILE)
    state.set_input(1, add(bench, value, value))
    assert bench.one(loop.add_loop_output(value, trt.LoopOutput.LAST_VALUE)) == expected


def test_count_and_while_together(bench: Any) -> None:
    loop = bench.network.add_loop()
    state = loop.add_recurrence(bench.constant(1, np.int32))
    value = state.get_output(0)
    loop.add_trip_limit(bench.input(torch.tensor(3, dtype=torch.int32)), trt.TripLimit.COUNT)
    loop.add_trip_limit(add(bench, value, bench.constant(100, np.int32), OP.LESS), trt.TripLimit.WHILE)
    state.set_input(1, add(bench, value, value))
    assert bench.one(loop.add_loop_output(value, trt.LoopOutput.LAST_VALUE)) == 8


def test_recurrences_advance_together(bench: Any) -> None:
    """Fibonacci: each state is the other's next value."""
    loop = bench.network.add_loop()
    loop.add_trip_limit(bench.constant(10, np.int32), trt.TripLimit.COUNT)
    a, b = (loop.add_recurrence(bench.constant(value, np.int32)) for value in (0, 1))
    a.set_input(1, b.get_output(0))
    b.set_input(1, add(bench, a.get_output(0), b.get_output(0)))
    outs = [loop.add_loop_output(x.get_output(0), trt.LoopOutput.LAST_VALUE).get_output(0) for x in (a, b)]
    assert [int(result) for result in bench.run(*outs)] == [55, 89]


def test_nested_loops_with_an_inner_count_from_outside(bench: Any) -> None:
    """sum over i of (i added i times): the inner loop depends on the outer one through its trip count only."""
    outer = bench.network.add_loop()
    outer.add_trip_limit(bench.constant(5, np.int32), trt.TripLimit.COUNT)
    index = outer.add_recurrence(bench.constant(0, np.int32))
    index.set_input(1, add(bench, index.get_output(0), bench.constant(1, np.int32)))
    inner = bench.network.add_loop()
    inner.add_trip_limit(index.get_output(0), trt.TripLimit.COUNT)
    count = inner.add_recurrence(bench.constant(0, np.int32))
    count.set_input(1, add(bench, count.get_output(0), bench.constant(2, np.int32)))
    twice = inner.add_loop_output(count.get_output(0), trt.LoopOutput.LAST_VALUE).get_output(0)
    total = outer.add_recurrence(bench.constant(0, np.int32))
    total.set_input(1, add(bench, total.get_output(0), twice))
    after = outer.add_loop_output(total.get_output(0), trt.LoopOutput.LAST_VALUE).get_output(0)
    result = bench.run(add(bench, after, bench.constant(1000, np.int32)))
    assert int(result[0]) == 1000 + sum(2 * i for i in range(5))


def test_inner_loop_that_uses_an_outer_tensor(bench: Any) -> None:
    x = torch.randn(3, 2)
    outer = bench.network.add_loop()
    outer.add_trip_limit(bench.constant(3, np.int32), trt.TripLimit.COUNT)
    row = outer.add_iterator(bench.input(x), 0).get_output(0)
    inner = bench.network.add_loop()
    inner.add_trip_limit(bench.constant(2, np.int32), trt.TripLimit.COUNT)
    state = inner.add_recurrence(bench.constant([1.0, 1.0]))
    state.set_input(1, add(bench, state.get_output(0), row, OP.PROD))
    square = inner.add_loop_output(state.get_output(0), trt.LoopOutput.LAST_VALUE).get_output(0)
    out = outer.add_loop_output(square, trt.LoopOutput.CONCATENATE, 0)
    out.set_input(1, bench.constant(3, np.int32))
    np.testing.assert_allclose(bench.one(out), x.numpy() ** 2, rtol=1e-6)


def test_concatenation_longer_than_the_loop(bench: Any) -> None:
    loop = bench.network.add_loop()
    loop.add_trip_limit(bench.constant(2, np.int32), trt.TripLimit.COUNT)
    state = loop.add_recurrence(bench.constant([0.0]))
    state.set_input(1, state.get_output(0))
    out = loop.add_loop_output(state.get_output(0), trt.LoopOutput.CONCATENATE, 0)
    out.set_input(1, bench.constant(3, np.int32))
    with pytest.raises(ReferenceExecutionError, match="of type LOOP_OUTPUT: 2 iterations"):
        bench.one(out)


def conditional(bench: Any, condition: torch.Tensor) -> tuple[Any, Any]:
    """An if-conditional on an input."""
    branch = bench.network.add_if_conditional()
    branch.set_condition(bench.input(condition))
    return branch, branch.add_input(bench.input(torch.tensor([1.0, 2.0, 3.0, 4.0]), (-1,))).get_output(0)


@pytest.mark.parametrize("taken", [True, False])
def test_only_the_taken_branch_is_computed(bench: Any, taken: bool) -> None:
    branch, x = conditional(bench, torch.tensor(taken))
    exp = bench.network.add_unary(x, trt.UnaryOperation.EXP)
    negative = bench.network.add_unary(x, trt.UnaryOperation.NEG)
    exp.name, negative.name = "exp", "negative"
    out = branch.add_output(exp.get_output(0), negative.get_output(0)).get_output(0)
    seen: list[str] = []
    bench.network.mark_output(out)
    results = ReferenceExecutor(bench.network, trt).run(bench.values, on_layer=lambda name, _: seen.append(name))
    data = f32([1, 2, 3, 4])
    np.testing.assert_allclose(results[out.name].numpy(), np.exp(data) if taken else -data, rtol=1e-6)
    assert ("exp" in seen, "negative" in seen) == (taken, not taken)


def test_a_branch_that_would_fail_is_left_alone(bench: Any) -> None:
    branch, x = conditional(bench, torch.tensor(False))
    bad = bench.network.add_slice(x, (3,), (4,), (1,)).get_output(0)
    good = bench.network.add_slice(x, (0,), (4,), (1,)).get_output(0)
    assert bench.one(branch.add_output(bad, good)).tolist() == [1, 2, 3, 4]


def test_conditional_in_a_loop(bench: Any) -> None:
    """Collatz from 6: 3, 10, 5, 16, 8, 4, 2, 1."""
    loop = bench.network.add_loop()
    loop.add_trip_limit(bench.constant(8, np.int32), trt.TripLimit.COUNT)
    state = loop.add_recurrence(bench.constant(6, np.int32))
    value, two = state.get_output(0), bench.constant(2, np.int32)
    half = add(bench, value, two, OP.FLOOR_DIV)
    even = add(bench, add(bench, half, two, OP.PROD), value, OP.EQUAL)
    branch = bench.network.add_if_conditional()
    branch.set_condition(even)
    inside = branch.add_input(value).get_output(0)
    down = add(bench, inside, two, OP.FLOOR_DIV)
    triple = add(bench, inside, bench.constant(3, np.int32), OP.PROD)
    up = add(bench, triple, bench.constant(1, np.int32))
    state.set_input(1, branch.add_output(down, up).get_output(0))
    out = loop.add_loop_output(state.get_output(0), trt.LoopOutput.CONCATENATE, 0)
    out.set_input(1, bench.constant(8, np.int32))
    assert bench.one(out).tolist() == [6, 3, 10, 5, 16, 8, 4, 2]


@pytest.mark.parametrize("taken", [True, False])
def test_loop_in_a_branch(bench: Any, taken: bool) -> None:
    branch, x = conditional(bench, torch.tensor(taken))
    loop = bench.network.add_loop()
    loop.add_trip_limit(bench.constant(3, np.int32), trt.TripLimit.COUNT)
    state = loop.add_recurrence(x)
    state.set_input(1, add(bench, state.get_output(0), state.get_output(0)))
    eightfold = loop.add_loop_output(state.get_output(0), trt.LoopOutput.LAST_VALUE).get_output(0)
    calls: list[str] = []
    out = branch.add_output(eightfold, bench.network.add_identity(x).get_output(0)).get_output(0)
    (result,) = bench.run(out, on_layer=lambda name, _: calls.append(name))
    factor = 8 if taken else 1
    assert result.tolist() == [factor * value for value in (1, 2, 3, 4)]
    assert any("ElementWise" in name for name in calls) == taken


def test_assertion(bench: Any) -> None:
    x = bench.input(torch.randn(3), (-1,))
    shape = bench.network.add_shape(x).get_output(0)
    ok = add(bench, shape, bench.input(torch.tensor([4])), OP.EQUAL)
    bench.network.add_assertion(ok, "it has four")
    with pytest.raises(ReferenceExecutionError, match="of type ASSERTION: assertion failed: it has four"):
        bench.one(bench.network.add_identity(x))


def test_intermediates_are_freed(bench: Any) -> None:
    """A chain of layers holds a handful of tensors at a time, not all of them."""
    import gc
    import weakref

    tensor = bench.input(torch.randn(1000))
    for _ in range(30):
        tensor = bench.network.add_unary(tensor, trt.UnaryOperation.NEG).get_output(0)
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def watch(_: str, outputs: Any) -> None:
        nonlocal most
        alive.extend(weakref.ref(output) for output in outputs)
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))

    bench.run(tensor, on_layer=watch)
    assert most <= 3
