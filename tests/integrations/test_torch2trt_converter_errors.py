"""Wrong converters, and calls that cannot be converted as a whole, are told with their line."""

from __future__ import annotations

import threading
import types

import pytest
import torch
from support.torch2trt_users import convert, relu_layer
from torch import nn
from torch.nn import functional as F

from torch2edge import ConfigError, ConversionError, InplaceError
from torch2edge._trt import trt
from torch2edge.integrations import torch2trt as t2t
from torch2edge.integrations.torch2trt import CONVERTERS, tensorrt_converter, torch2trt

pytestmark = [pytest.mark.usefixtures("_registry"), pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")]


def test_a_function_that_writes_and_returns_something_else(library):
    library.spoil = types.FunctionType(
        compile("def spoil(x):\n y = x + 1\n x.mul_(2)\n return y", "spoil.py", "exec").co_consts[0], {}
    )
    tensorrt_converter("t2t_lib.spoil")(relu_layer)
    with pytest.raises(InplaceError, match=r"t2t_lib\.spoil.*converted as a whole, but it writes"):
        convert(lambda x: library.spoil(x * 1), torch.randn(3))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (lambda ctx: None, r"0 tensors in ctx\.method_return have a _trt.*returns 1"),
        (lambda ctx: ctx.network.add_input("x", trt.float32, (1,)), r"network\.add_input: an engine cannot have an input"),
        (lambda ctx: ctx.builder_config, r"no ctx\.builder_config; there are network, method_args"),
        (lambda ctx: ctx.network.add_nonsense(), "add_nonsense"),
        (lambda ctx: ctx.method_args[0].numpy(), "meta"),
        (
            lambda ctx: t2t.trt_(ctx.network, ctx.method_return),
            "depends on an input and has no _trt: it cannot become a const",
        ),
        (lambda ctx: t2t.trt_(ctx.network, ctx.method_args[0], "x"), "a tensor or a number is needed, but not a str"),
        (lambda ctx: setattr(ctx, "method_return", "x"), "0 tensors"),
        (lambda ctx: ctx.network.add_concatenation([]), "TensorRT refused the layer: .*[cC]oncat"),
    ],
)
def test_what_goes_wrong_in_a_converter_is_told_with_its_line(body, says):
    tensorrt_converter("torch.nn.functional.relu")(body)
    with pytest.raises(ConversionError, match=says) as caught:
        convert(lambda x: F.relu(x), torch.randn(2, 3))
    assert "functional.relu" in str(caught.value)
    assert __file__ in str(caught.value)


def test_a_wrong_converter_does_not_get_through():
    @tensorrt_converter("torch.nn.functional.relu")
    def wrong_shape(ctx):
        layer = ctx.network.add_shuffle(ctx.method_args[0]._trt)
        layer.reshape_dims = (6,)
        ctx.method_return._trt = layer.get_output(0)

    with pytest.raises(ConversionError, match=r"\[6\], PyTorch torch\.float32 \[2, 3\]"):
        convert(lambda x: F.relu(x), torch.randn(2, 3))


def test_the_result_may_be_replaced():
    @tensorrt_converter("torch.nn.functional.relu")
    def replaces(ctx):
        new = torch.empty_like(ctx.method_return)
        new._trt = ctx.network.add_activation(ctx.method_args[0]._trt, trt.ActivationType.RELU).get_output(0)
        ctx.method_return = new

    x = torch.randn(2, 3)
    assert torch.equal(convert(lambda x: F.relu(x), x)(x), x.relu())


def test_only_the_outermost_converter_runs():
    calls = []
    tensorrt_converter("torch.nn.ReLU.forward")(lambda ctx: (calls.append("module"), relu_layer(ctx, 1)))
    tensorrt_converter("torch.nn.functional.relu")(lambda ctx: (calls.append("function"), relu_layer(ctx)))
    x = torch.randn(2)
    torch2trt(nn.ReLU().eval(), [x])
    assert calls == ["module"]


def test_another_thread_keeps_its_functions():
    x, seen = torch.randn(2), []

    @tensorrt_converter("torch.nn.functional.relu")
    def convert_relu(ctx):
        relu_layer(ctx)

    class Model(nn.Module):
        def forward(self, x):
            thread = threading.Thread(target=lambda: seen.append(F.relu(torch.tensor([-1.0, 2.0]))))
            thread.start()
            thread.join()
            return F.relu(x)

    assert torch.equal(torch2trt(Model().eval(), [x], verify=False)(x), x.relu())
    assert torch.equal(seen[0], torch.tensor([0.0, 2.0]))


def test_keywords_for_converters():
    found = []

    @tensorrt_converter("torch.nn.functional.relu")
    def convert_relu(ctx):
        found.append((ctx.torch2trt_kwargs.get("my_slope"), ctx.torch2trt_kwargs["extra"], ctx.torch2trt_kwargs["fp16_mode"]))
        relu_layer(ctx)

    convert(lambda x: F.relu(x), torch.randn(2), my_slope=3, converter_kwargs={"extra": 4})
    assert found == [(3, 4, False)]
    with pytest.raises(TypeError, match=r"'my_slop'.*converter_kwargs=\{'my_slop': \.\.\.\}"):
        convert(lambda x: F.relu(x), torch.randn(2), my_slop=3)


def test_what_cannot_be_registered():
    with pytest.warns(UserWarning, match=r"no torch\.avg_pool17d here"):
        tensorrt_converter("torch.avg_pool17d")(relu_layer)
    tensorrt_converter("torch.relu", enabled=False)(relu_layer)
    assert not CONVERTERS
    for name, says in [
        ("nowhere_at_all.f", "no module 'nowhere_at_all'"),
        ("torch.nn.ReLU", r"name its forward: torch\.nn\.ReLU\.forward"),
        ("torch.float32", "is no function"),
        (lambda x: x, "local or a lambda"),
    ]:
        with pytest.raises(ConfigError, match=says):
            tensorrt_converter(name)(relu_layer)
    with pytest.raises(ConfigError, match="is_real=False"):
        tensorrt_converter("torch.relu", is_real=False)
