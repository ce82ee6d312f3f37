"""trace() with axes that vary: symbolic shapes, what the model demands of them, ops that hang on a size alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.torch_features import FREE_SIZES
from torch import nn

from torch2edge.errors import ConfigError, InplaceError, TraceError
from torch2edge.graph import Constant, Graph
from torch2edge.shapes import declare
from torch2edge.sizes import text
from torch2edge.trace import trace

aten = torch.ops.aten
HERE = __file__
WHOLE = {
    aten.conv2d.default, aten.linear.default, aten.matmul.default, aten.relu.default, aten.add.Tensor, aten.mul.Tensor,
    aten.full.default, aten.arange.default, aten.expand.default, aten.slice.Tensor, aten.cat.default, aten.view.default,
    aten.reshape.default, aten.permute.default, aten.transpose.int, aten.max_pool2d.default, aten.adaptive_avg_pool2d.default,
    aten.upsample_bilinear2d.vec, aten.constant_pad_nd.default, aten.flatten.using_ints, aten.softmax.int, aten.where.self,
    aten.slice_scatter.default, aten.select_scatter.default, aten.embedding.default, aten.squeeze.default, aten.add.Scalar,
    aten.repeat.default, aten.sum.dim_IntList, aten.select.int, aten.tril.default, aten.mul.Scalar, aten.div.Tensor,
}  # fmt: skip
BT = {0: {0: ((1, 2, 5),), 1: ((4, 6, 64),)}}
IMAGE = {0: {0: ((1, 2, 3),), 2: ((16, 32, 65),), 3: ((16, 48, 65),)}}


class Net(nn.Module):
    """Calls a function with itself, its parameters and the inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.table = nn.Parameter(torch.randn(1, 64, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.linear = nn.Linear(8, 8)
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def traced(function: Callable[..., Any], *examples: torch.Tensor, axes: Any = None) -> Graph:
    examples = examples or (torch.randn(2, 6, 8),)
    names = [f"args[{i}]" for i in range(len(examples))]
    return trace(Net(function).eval(), examples, is_leaf=WHOLE.__contains__, dynamic=declare(names, axes or BT, {}))


def replays(function: Callable[..., Any], *sizes: tuple[int, ...], **options: Any) -> Graph:
    """The traced ops give the model's results at all sizes."""
    torch.manual_seed(0)
    net = Net(function).eval()
    examples = options.pop("examples", [torch.randn(2, 6, 8)])
    names = [f"args[{i}]" for i in range(len(examples))]
    graph = trace(net, examples, is_leaf=WHOLE.__contains__, dynamic=declare(names, options.pop("axes", BT), {}))
    for shape in sizes or ((1, 4, 8), (2, 6, 8), (5, 64, 8), (3, 11, 8)):
        x = torch.randn(shape) if examples[0].is_floating_point() else torch.randint(0, 20, shape)
        with torch.no_grad():
            wanted = net(x)
        wanted = list(wanted) if isinstance(wanted, tuple) else [wanted]
        given = graph.replay([x])
        assert [tuple(v.shape) for v in wanted] == [graph.shape_at(o, graph.sizes([x])) for o in graph.outputs]
        for a, b in zip(given, wanted, strict=True):
            torch.testing.assert_close(a, b)
    return graph


def targets(graph: Graph) -> list[str]:
    return [op.short_name for op in graph.ops]


def shown(graph: Graph, value: Any) -> list[str]:
    return [text(graph.symbolic(n)) for n in value.shape]


# ---- shapes ---------------------------------------------------------------------------------------------------------------


def test_shapes_are_symbolic_only_where_declared():
    graph = traced(lambda net, x: net.linear(x).relu())
    assert shown(graph, graph.inputs[0]) == ["args[0].shape[0]", "args[0].shape[1]", "8"]
    assert shown(graph, graph.outputs[0]) == ["args[0].shape[0]", "args[0].shape[1]", "8"]
    assert isinstance(graph.inputs[0].shape[2], int)
    assert graph.profiles() == [[((1, 4, 8), (2, 6, 8), (5, 64, 8))]]
    assert graph.constraints == []


def test_a_static_trace_has_no_symbol():
    graph = trace(Net(lambda net, x: net.linear(x)).eval(), [torch.randn(2, 6, 8)], is_leaf=WHOLE.__contains__)
    assert graph.dims == {}
    assert all(type(n) is int for v in (*graph.inputs, *graph.outputs) for n in v.shape)


def test_convolutions_and_poolings():
    def forward(net, x):
        y = F.max_pool2d(net.conv(x).relu(), 3, 2, 1)
        return y, F.adaptive_avg_pool2d(y, 1).flatten(1)

    sizes = ((1, 3, 16, 16), (2, 3, 32, 48), (3, 3, 65, 65), (2, 3, 33, 17), (1, 3, 35, 64))
    graph = replays(forward, *sizes, examples=[torch.randn(2, 3, 32, 48)], axes=IMAGE)
    assert graph.constraints == []  # PyTorch's pooling asks whether a division leaves a rest; the answer changes nothing


def test_channels_last_examples():
    x = torch.randn(2, 3, 32, 48).to(memory_format=torch.channels_last)
    graph = replays(lambda net, x: net.conv(x).flatten(2), (1, 3, 16, 16), (3, 3, 64, 20), examples=[x], axes=IMAGE)
    assert graph.constraints == []


@FREE_SIZES
def test_resize_to_the_size_of_another_and_pad_to_a_multiple():
    def forward(net, x):
        h, w = x.shape[-2:]
        up = F.interpolate(net.conv(x), size=(h, w), mode="bilinear")
        return up, F.pad(x, (0, -w % 8, 0, -h % 8))

    replays(forward, (1, 3, 16, 16), (3, 3, 65, 65), (2, 3, 19, 40), examples=[torch.randn(2, 3, 32, 48)], axes=IMAGE)


def test_shape_arithmetic():
    def forward(net, x):
        b, t, c = x.shape
        heads = x.view(b, t, 2, c // 2).transpose(1, 2).reshape(b * 2, t, -1)
        return heads, x.flatten(1), x.reshape(-1, c), x[:, 1:], x[:, :-1], x[:, : t // 2], x[:, ::2], x[:, -3:]

    replays(forward)


def test_linear_and_matmul_after_a_permute_demand_nothing():
    graph = replays(lambda net, x: net.linear(x.permute(1, 0, 2)) @ x.permute(1, 2, 0))
    assert graph.constraints == []


@FREE_SIZES
def test_parameters_cut_and_expanded_at_a_size():
    def forward(net, x):
        tokens = torch.cat([net.token.expand(x.shape[0], -1, -1), x[:, :-1]], 1)
        return tokens + net.table[:, : tokens.shape[1]]

    graph = replays(forward)
    expands = [op for op in graph.ops if op.short_name == "expand"]
    assert isinstance(expands[0].args[0], Constant)
    assert expands[0].args[0].name == "token"
    assert shown(graph, expands[0].outputs[0])[0] == "args[0].shape[0]"


def test_tensors_made_at_a_size():
    def forward(net, x):
        b, t, _ = x.shape
        mask = torch.ones(t, t).tril()
        steps = torch.arange(t)[None, :, None] * 1.0
        zeros = torch.zeros(b, t, 8) + torch.full_like(x, 2.0) + x.new_ones(b, 1, 8) + torch.empty(b, t, 8).fill_(3)
        return mask @ x, x * steps, zeros + torch.zeros_like(x)

    graph = replays(forward)
    assert {"full", "arange", "tril"} <= set(targets(graph))


def test_numbers_that_are_sizes():
    replays(lambda net, x: (x * x.shape[1], x / x.shape[1], x.sum(1) * x.shape[1] ** -0.5, x + x.numel()))


@FREE_SIZES
def test_writes_into_memory_made_at_a_size():
    def forward(net, x):
        padded = torch.zeros(x.shape[0], x.shape[1] + 2, 8)
        padded[:, 1:-1] = x
        fixed = torch.zeros(5, 64, 8)
        fixed[: x.shape[0], : x.shape[1]] = x
        y = x.clone()
        y[:, 0] = 0
        return padded, fixed, y.mul_(2)

    replays(forward)


def test_a_write_to_what_dropout_gives_back_reaches_the_view_that_it_got():
    def forward(net, x):
        y = x.clone()
        F.dropout(y[:, 1:], 0.5, training=False).zero_()
        return y

    replays(forward)


def test_a_write_after_a_view_that_was_cut_at_a_size():
    def forward(net, x):
        memory = torch.zeros(64, 8)
        part = memory[: x.shape[1]]
        memory.fill_(1)
        return x + part

    replays(forward)


def test_a_write_to_a_cut_parameter_is_refused():
    def forward(net, x):
        cut = net.table[:, : x.shape[1]]
        cut += 1
        return x + cut

    with pytest.raises(InplaceError, match=r"writes to .*the parameter table"):
        traced(forward)


def test_as_strided_over_a_dynamic_axis_is_refused():
    with pytest.raises(InplaceError, match=r"as_strided, .* over a dynamic axis"):
        traced(lambda net, x: x.as_strided((2, 6), (48, 8)) + 0)


# ---- constraints ----------------------------------------------------------------------------------------------------------


def branch(net, x):
    return x * 2 if x.shape[1] > 10 else x  # BRANCH


def loop(net, x):
    return sum(x[:, i] for i in range(x.shape[1]))  # LOOP


def table(net, x):
    return x.flatten(1) @ torch.ones(48, 2)  # TABLE


def number(net, x):
    return x * torch.tensor(x.shape[1])  # NUMBER


def line(mark: str) -> int:
    with open(HERE) as file:
        return next(i for i, text in enumerate(file, 1) if f"# {mark}" in text and "def" not in text)


@pytest.mark.parametrize(
    ("function", "mark", "condition"),
    [
        (branch, "BRANCH", r"t <= 10"),
        (loop, "LOOP", r"t == 6"),
        (number, "NUMBER", r"t == 6"),
        (table, "TABLE", r"8 \* t == 48|t == 6"),
    ],
)
def test_what_the_model_fixes_is_refused_with_its_line(function, mark, condition):
    dynamic = declare(["x"], {0: {0: "b", 1: "t"}}, {"b": ((1, 2, 5),), "t": ((4, 6, 64),)})
    with pytest.raises(ConfigError, match=rf"demands ({condition}) \(in .*{HERE}:{line(mark)}\), but m(in|ax) has t = (4|64)"):
        trace(Net(function).eval(), [torch.randn(2, 6, 8)], is_leaf=WHOLE.__contains__, dynamic=dynamic)


def test_a_constraint_that_the_profile_keeps_is_told():
    graph = traced(lambda net, x: x.view(x.shape[0], x.shape[1] // 2, 16), axes={0: {1: ((4, 6, 64),)}})
    assert graph.constraints
    assert graph.allows({"args[0].shape[1]": 8})
    assert not graph.allows({"args[0].shape[1]": 7})
    assert HERE in str(graph.constraints[0])


def test_a_comparison_that_the_range_answers_is_no_constraint():
    graph = traced(lambda net, x: x * 2 if x.shape[1] <= 64 and x.shape[0] < 6 else x)
    assert graph.constraints == []


def test_equal_sizes_of_two_inputs():
    axes = {0: {1: ((4, 6, 64),)}, 1: {1: ((4, 6, 64),)}}
    graph = traced(lambda net, x, y: x + y, torch.randn(2, 6, 8), torch.randn(2, 6, 8), axes=axes)
    assert [str(c).partition(" (")[0] for c in graph.constraints] == ["args[0].shape[1] == args[1].shape[1]"]
    axes[1][1] = ((4, 6, 32),)
    with pytest.raises(ConfigError, match=r"demands args\[0\]\.shape\[1\] == args\[1\]\.shape\[1\].*max has"):
        traced(lambda net, x, y: x + y, torch.randn(2, 6, 8), torch.randn(2, 6, 8), axes=axes)


def test_a_size_that_hangs_on_data_is_refused():
    with pytest.raises(TraceError, match="cannot tell the shape of its result without the data"):
        traced(lambda net, x: x.nonzero())


def test_examples_of_one_element_and_ranges_from_one():
    graph = traced(lambda net, x: net.linear(x), torch.randn(1, 6, 8))
    assert shown(graph, graph.outputs[0])[0] == "args[0].shape[0]"
    graph = traced(lambda net, x: net.linear(x), torch.randn(1, 6, 8), axes={0: {0: ((1, 1, 2),)}})
    assert shown(graph, graph.outputs[0])[0] == "args[0].shape[0]"


def test_the_profiles_of_several_ranges():
    graph = traced(lambda net, x: x + 1, axes={0: {0: ((1, 1, 1), (2, 4, 8))}})
    assert graph.profiles() == [[((1, 6, 8),) * 3], [((2, 6, 8), (4, 6, 8), (8, 6, 8))]]


def test_pytorch_is_left_as_it_was():
    from torch import _meta_registrations as rules

    before = rules.div_rtn
    traced(lambda net, x: x + 1)
    with pytest.raises(ConfigError):
        traced(loop)
    assert rules.div_rtn is before
