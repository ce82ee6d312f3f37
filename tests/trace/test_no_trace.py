"""Nothing of a conversion stays behind in the user's model, inputs or process; also not after an error."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import logging
import queue
import random
import threading
from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import torch2edge
from torch2edge.trace import trace
from torch2edge.trace.tensor import Traced

aten = torch.ops.aten


class State:
    """An object of the user's, held by the model."""

    def __init__(self) -> None:
        self.last: Any = None
        self.inner = {"seen": [1]}


class Stateful(nn.Module):
    """Changes all that a forward can change."""

    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.extra = [nn.ReLU().eval()]
        self.fail, self.count, self.features = fail, 0, [torch.zeros(1)]
        self.nested: dict[str, Any] = {"a": [], "b": {"c": (1, [2])}}
        self.names, self.queue, self.state = {"x"}, deque([1, 2], maxlen=2), State()
        self.register_buffer("grid", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.extra[0](self.conv(x))
        self.count += 1
        self.features.append(y)
        self.nested["a"].append(y)
        self.nested["b"]["c"][1][0] = y
        self.nested["new"] = y
        self.names.add("y")
        self.queue.append(y)
        self.state.last = y
        self.state.inner["seen"].append(y)
        self.cache = y
        self.extra[0].cache = y
        self.conv.seen = y
        self.fail, del_me = self.fail, y
        self.conv.weight.requires_grad_(not self.conv.weight.requires_grad)
        self.train()
        torch.set_grad_enabled(True)
        torch.manual_seed(3)
        del self.grid
        if self.fail:
            raise ValueError("on purpose")
        return del_me


def snapshot(model: Stateful) -> Any:
    """All of it, as values that can be compared."""
    hooks = [
        {k: dict(v) for k, v in vars(m).items() if "hooks" in k and isinstance(v, dict)} for m in model.modules()
    ]  # fmt: skip
    return (
        hooks,
        [list(vars(m)) for m in model.modules()],
        [m.training for m in model.modules()],
        [(n, p.requires_grad, p._version, p.detach().clone().tolist()) for n, p in model.named_parameters()],
        [(n, b.tolist()) for n, b in model.named_buffers()],
        (model.count, [t.tolist() for t in model.features], copy.deepcopy(model.nested), set(model.names), list(model.queue)),
        (model.state.last, copy.deepcopy(model.state.inner), list(vars(model.extra[0]))),
    )


def process() -> Any:
    """The state of the process that a forward may reach."""
    numbers: Any = numpy.random.get_state()
    return (
        random.getstate(), (numbers[1].tolist(), *numbers[2:]), torch.get_rng_state().tolist(), torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(), torch.backends.mha.get_fastpath_enabled(), torch.get_default_dtype(),
        len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()),
    )  # fmt: skip


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_model_inputs_and_process_are_as_before(fail: bool, whole: bool) -> None:
    torch.manual_seed(0)
    model, x = Stateful(fail).eval(), torch.randn(1, 3, 16, 16)
    before, around, given = snapshot(model), process(), (x.clone(), x._version)
    with pytest.raises(torch2edge.InputError, match="ValueError: on purpose") if fail else contextlib.nullcontext():
        if whole:
            torch2edge.convert(model, [x])
        else:
            trace(model, [x], is_leaf=lambda op: True)
    after = snapshot(model)
    for a, b in zip(before, after, strict=True):
        assert a == b
    assert process() == around
    assert torch.equal(x, given[0])
    assert x._version == given[1]
    gc.collect()
    assert not [o for o in gc.get_objects() if type(o) is Traced]


def test_hooks_of_the_user_run_and_take_effect() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    calls: list[str] = []
    model[0].register_forward_pre_hook(lambda m, args: (calls.append("pre"), (args[0] + 1,))[1])
    model[0].register_forward_hook(lambda m, args, out: (calls.append("post"), out + args[0])[1])
    hooks = dict(model[0]._forward_pre_hooks), dict(model[0]._forward_hooks)
    leaves = {aten.linear.default, aten.add.Tensor, aten.relu.default}
    graph = trace(model, [torch.randn(2, 4)], is_leaf=leaves.__contains__)
    assert calls == ["pre", "post"]
    assert (dict(model[0]._forward_pre_hooks), dict(model[0]._forward_hooks)) == hooks
    assert [(op.short_name, op.module) for op in graph.ops] == [("add", "0"), ("linear", "0"), ("add", "0"), ("relu", "1")]
    x = torch.randn(2, 4)
    torch.testing.assert_close(graph.replay([x])[0], model(x).detach())


def test_hooks_of_a_submodule_that_is_converted_whole_stay_outside_of_it() -> None:
    class Whole(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.erfinv(x)

    model = nn.Sequential(Whole(), nn.ReLU()).eval()
    model[0].register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    model[0].register_forward_hook(lambda m, args, out: out + 2)
    leaves = {aten.add.Tensor, aten.relu.default}
    graph = trace(model, [torch.randn(2, 4)], is_leaf=leaves.__contains__, module_classes=(Whole,))
    assert [op.short_name for op in graph.ops] == ["add", Whole.__qualname__, "add", "relu"]
    assert graph.ops[1].args[0] is graph.ops[0].outputs[0]
    assert graph.ops[2].args[0] is graph.ops[1].outputs[0]
    assert graph.ops[1].instance is model[0]


def test_an_error_of_ours_that_the_forward_swallows_is_still_told() -> None:
    class Swallows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                if x.sum() > 0:
                    return x + 1
            except Exception:
                pass
            return x - 1

    with pytest.raises(torch2edge.DataDependentError, match="is_nonzero"):
        trace(Swallows().eval(), [torch.ones(2)], is_leaf=lambda op: True)


class Slow(nn.Module):
    """Waits in its forward while it is traced."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.entered, self.go = threading.Event(), threading.Event()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        if threading.current_thread().name == "tracing":
            self.entered.set()
            assert self.go.wait(30)
        return self.b(y) + self.attention(y, y, y, need_weights=False)[0]


def test_a_thread_that_traces_does_not_disturb_one_that_runs_the_same_model() -> None:
    model, x = Slow().eval(), torch.randn(2, 3, 4)
    with torch.no_grad():
        expected = model(x)
    graphs: list[Any] = []
    thread = threading.Thread(
        target=lambda: graphs.append(trace(model, [x], is_leaf=lambda op: True)), name="tracing"
    )  # fmt: skip
    thread.start()
    assert model.entered.wait(30)
    with torch.no_grad():
        meanwhile = model(x)
    model.go.set()
    thread.join(30)
    torch.testing.assert_close(meanwhile, expected)
    assert graphs, "the tracing thread failed"
    assert {op.module for op in graphs[0].ops} >= {"a", "b"}
    torch.testing.assert_close(graphs[0].replay([x])[0], expected)


def test_two_threads_trace_at_a_time() -> None:
    torch.backends.mha.set_fastpath_enabled(True)
    results: dict[int, Any] = {}

    def work(i: int) -> None:
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
        results[i] = [len(trace(model, [torch.randn(2, 4)], is_leaf=lambda op: True).ops) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    assert results == {i: [3] * 5 for i in range(4)}
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_kept_tensor_of_the_tracing_is_loud() -> None:
    kept: list[torch.Tensor] = []
    model = nn.ReLU().eval()
    model.register_forward_hook(lambda m, args, out: kept.append(out))
    trace(model, [torch.ones(2)], is_leaf=lambda op: True)
    with pytest.raises(RuntimeError, match="outside of the traced forward"):
        kept[0] + 1


def test_whatever_a_model_may_hold() -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lock, self.log, self.queue = threading.Lock(), logging.getLogger("x"), queue.Queue[int]()
            self.numbers, self.partial = numpy.ones(3), functools.partial(torch.add, other=1)
            self.config, self.me, self.generator = SimpleNamespace(sizes=[1]), [self], torch.Generator()
            self.loop: list[Any] = []
            self.loop.append(self.loop)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.config.sizes.append(x)
            self.config.more = x
            with self.lock:
                return x + float(self.numbers.sum())

    model = Holds().eval()
    graph = trace(model, [torch.ones(2)], is_leaf=lambda op: True)
    assert vars(model.config) == {"sizes": [1]}
    assert graph.replay([torch.ones(2)])[0].tolist() == [4, 4]
