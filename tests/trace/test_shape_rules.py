"""Shapes by our own rules are PyTorch's, at other sizes than the example's too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from torch2edge.inputs import read_inputs
from torch2edge.sizes import compute, expression
from torch2edge.trace import symbolic
from torch2edge.trace.shape_rules import OTHER_FORMS, agree
from torch2edge.trace.symbolic import Symbols
from torch2edge.trace.tensor import storage_key

aten = torch.ops.aten
SIZES = {"b": (1, 2, 9), "h": (4, 12, 40), "w": (4, 10, 40)}
Make = Callable[..., Any]


def symbols() -> tuple[Symbols, torch.Tensor]:
    """A (b, 8, h, w) tensor of symbolic sizes."""
    dynamic = {0: {0: "b", 2: "h", 3: "w"}}
    *_, declared = read_inputs([torch.randn(2, 8, 12, 10)], {}, torch.device("cpu"), dynamic=dynamic, dims=SIZES)
    made = Symbols(declared, [(2, 8, 12, 10)])
    return made, made.input(torch.empty(2, 8, 12, 10), 0)


def tokens(s: Symbols, x: torch.Tensor) -> torch.Tensor:
    return s.empty((x.shape[0], x.shape[2] * x.shape[3], 8), None, torch.float32)


def heads(s: Symbols, x: torch.Tensor) -> torch.Tensor:
    """(b, 2, h * w, 4), in memory (b, h * w, 2, 4)."""
    t = s.empty((x.shape[0], x.shape[2] * x.shape[3], 2, 4), None, torch.float32)
    return s.call(aten.transpose.int, (t, 1, 2), {})


CASES: dict[str, Callable[[Symbols, torch.Tensor], tuple[Any, tuple[Any, ...]]]] = {
    "add": lambda s, x: (aten.add.Tensor, (x, s.empty((8, 1, 1), None, torch.float16))),
    "add a scalar": lambda s, x: (aten.add.Tensor, (x, 2)),
    "compare": lambda s, x: (aten.gt.Scalar, (x, 0)),
    "where": lambda s, x: (aten.where.self, (s.call(aten.gt.Scalar, (x, 0), {}), x, s.empty((), None, torch.float64))),
    "linear": lambda s, x: (aten.linear.default, (tokens(s, x), s.empty((5, 8), None, torch.float32))),
    "matmul": lambda s, x: (aten.matmul.default, (x, s.empty((x.shape[0], 8, x.shape[3], 3), None, torch.float32))),
    "attention": lambda s, x: (aten.scaled_dot_product_attention.default, (heads(s, x), heads(s, x), heads(s, x))),
    "masked attention": lambda s, x: (
        aten.scaled_dot_product_attention.default,
        (heads(s, x), heads(s, x), heads(s, x), s.empty((x.shape[0], 1, 1, x.shape[2] * x.shape[3]), None, torch.bool)),
    ),
    "layer norm": lambda s, x: (aten.layer_norm.default, (tokens(s, x), [8])),
    "batch norm": lambda s, x: (aten.group_norm.default, (x, 2)),
    "softmax in half": lambda s, x: (aten.softmax.int, (x, -1, torch.float16)),
    "convolution": lambda s, x: (aten.conv2d.default, (x, s.empty((6, 8, 3, 5), None, torch.float32), None, [2, 1], [1, 2])),
    "dilated": lambda s, x: (
        aten.convolution.default,
        (x, s.empty((6, 4, 3, 3), None, torch.float32), None, [3, 2], [2, 3], [2, 2], False, [0, 0], 2),
    ),
    "upsample by a factor": lambda s, x: (aten.upsample_bilinear2d.vec, (x, None, False, [1.5, 2.0])),
    "upsample to a size": lambda s, x: (aten.upsample_nearest2d.vec, (x, [x.shape[2] * 2, 7], None)),
    "mean": lambda s, x: (aten.mean.dim, (x, [-1, 2], True)),
    "sum of ints": lambda s, x: (aten.sum.dim_IntList, (s.empty(x.shape, None, torch.int32), [1])),
    "amax of all": lambda s, x: (aten.amax.default, (x,)),
    "cat": lambda s, x: (aten.cat.default, ([x, s.empty((x.shape[0], 3, *x.shape[2:]), None, torch.float16)], 1)),
    "cat along a dynamic axis": lambda s, x: (
        aten.cat.default, ([x, x, s.empty((x.shape[0], 8, 5, x.shape[3]), None, x.dtype)], 2),
    ),
    "embedding": lambda s, x: (
        aten.embedding.default, (s.empty((100, 7), None, torch.float16), s.empty(x.shape[:2], None, torch.int64)),
    ),
    "pad": lambda s, x: (aten.constant_pad_nd.default, (x, [1, 2, 0, 3])),
    "view": lambda s, x: (aten.view.default, (tokens(s, x), [x.shape[0], x.shape[2], x.shape[3], 8])),
    "view with a rest": lambda s, x: (aten.view.default, (tokens(s, x), [x.shape[0], -1, 2, 4])),
    "reshape to a copy": lambda s, x: (aten.reshape.default, (heads(s, x), [x.shape[0] * 2, x.shape[2] * x.shape[3], 4])),
    "flatten": lambda s, x: (aten.flatten.using_ints, (x, 2)),
    "flatten some": lambda s, x: (aten.flatten.using_ints, (x, 1, 2)),
    "permute": lambda s, x: (aten.permute.default, (x, [0, 3, -3, 2])),
    "transpose": lambda s, x: (aten.transpose.int, (x, -1, 1)),
    "unsqueeze": lambda s, x: (aten.unsqueeze.default, (x, -1)),
    "unsqueeze in front": lambda s, x: (aten.unsqueeze.default, (x, 0)),
    "contiguous": lambda s, x: (aten.contiguous.default, (x,)),
    "contiguous copy": lambda s, x: (aten.contiguous.default, (heads(s, x),)),
}  # fmt: skip


def at(sizes: Any, s: Symbols, values: dict[str, int]) -> list[int]:
    return [compute(expression(size, s.names), values) for size in sizes]


@pytest.mark.parametrize("case", CASES)
def test_rule(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s, x = symbols()
    func, args = CASES[case](s, x)
    guards = len(s._noted)
    own = s._by_own_rule(func, args, {})
    assert own is not None, "no rule took it"
    assert len(s._noted) == guards, "a rule asked something"
    monkeypatch.setattr(symbolic.Symbols, "_by_own_rule", lambda *args: None)
    reference = s.call(func, args, {})
    assert own.dtype == reference.dtype
    for values in ({"b": 2, "h": 12, "w": 10}, {"b": 9, "h": 13, "w": 37}, {"b": 3, "h": 40, "w": 5}):
        assert at(own.shape, s, values) == at(reference.shape, s, values)
        if func in symbolic.VIEW_RULES:
            assert at(own.stride(), s, values) == at(reference.stride(), s, values)
    if isinstance(args[0], torch.Tensor):
        assert (storage_key(own) == storage_key(args[0])) == (storage_key(reference) == storage_key(args[0]))


UNCLEAR: dict[str, Callable[[Symbols, torch.Tensor], tuple[Any, tuple[Any, ...]]]] = {
    "two dynamic sizes": lambda s, x: (aten.add.Tensor, (x, s.empty((x.shape[3], 1), None, torch.float32))),
    "a window larger than its padding": lambda s, x: (aten.conv2d.default, (x, s.empty((6, 8, 5, 5), None, torch.float32))),
    "glu halves": lambda s, x: (aten.glu.default, (x, 1)),
    "sizes that divide at the example only": lambda s, x: (aten.view.default, (x, [x.shape[0], 8, -1, 4])),
    "negative padding": lambda s, x: (aten.constant_pad_nd.default, (x, [-1, 0])),
    "channels that vary": lambda s, x: (aten.group_norm.default, (s.empty((2, x.shape[3], 4), None, torch.float32), 2)),
}  # fmt: skip


@pytest.mark.parametrize("case", UNCLEAR)
def test_what_a_rule_cannot_tell_is_left_to_pytorch(case: str) -> None:
    s, x = symbols()
    assert s._by_own_rule(*UNCLEAR[case](s, x), {}) is None


def test_sizes_agree_as_expressions() -> None:
    _, x = symbols()
    h, w = x.shape[2:]
    assert agree(h * w, w * h)
    assert agree(2 * h, h + h)
    assert agree(3, 3)
    assert not agree(h, w)
    assert not agree(h, 12)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_one_step_of_a_recurrent_op_tells_the_shapes_of_all(
    kind: type[nn.RNNBase], bidirectional: bool, batch_first: bool
) -> None:
    module = kind(3, 5, num_layers=2, bidirectional=bidirectional, batch_first=batch_first).eval().to("meta")
    func = {nn.LSTM: aten.lstm.input, nn.GRU: aten.gru.input, nn.RNN: aten.rnn_tanh.input}[kind]
    state = torch.empty(4 if bidirectional else 2, 6, 5, device="meta")
    arguments = (
        torch.empty((6, 7, 3) if batch_first else (7, 6, 3), device="meta"),
        [state, state] if kind is nn.LSTM else state, module._flat_weights, True, 2, 0.0, False, bidirectional, batch_first,
    )  # fmt: skip
    with torch.inference_mode():
        given, expected = OTHER_FORMS[func](*arguments), func(*arguments)
    assert [(t.shape, t.stride(), t.dtype) for t in given] == [(t.shape, t.stride(), t.dtype) for t in expected]
