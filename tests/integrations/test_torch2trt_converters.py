"""Converters written against torch2trt's protocol, as its users have them in their files."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from support.torch2trt_users import convert, relu_layer
from torch import nn
from torch.nn import functional as F

from torch2edge import ConversionError
from torch2edge._trt import trt
from torch2edge.integrations import torch2trt as t2t
from torch2edge.integrations.torch2trt import CONVERTERS, get_arg, tensorrt_converter, torch2trt

pytestmark = [pytest.mark.usefixtures("_registry"), pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")]


def test_a_function_by_dotted_name():
    seen = []

    @tensorrt_converter("torch.nn.functional.relu")
    def convert_relu(ctx):
        x = get_arg(ctx, "input", 0, None)
        assert isinstance(x, torch.Tensor)
        assert (x.shape, x.dtype, x.dim()) == ((2, 3), torch.float32, 2)
        assert isinstance(x._trt, trt.ITensor)
        assert ctx.method_return.shape == (2, 3)
        assert not hasattr(ctx.method_return, "_trt")
        seen.append((ctx.method_str, ctx.current_module_name(), get_arg(ctx, "inplace", 1, "default")))
        ctx.method_return._trt = ctx.network.add_activation(x._trt, trt.ActivationType.RELU).get_output(0)

    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 3), nn.ReLU()).eval()
    x = torch.randn(2, 3)
    model_trt = torch2trt(model, [x])
    assert torch.allclose(model_trt(x), model(x), atol=1e-5)
    assert seen == [("torch.nn.functional.relu", "1", True), ("torch.nn.functional.relu", "3", False)]
    assert F.relu.__module__ == "torch.nn.functional"  # nothing stays replaced
    names = [model_trt.network.get_layer(i).name for i in range(model_trt.network.num_layers)]
    assert {"1/relu", "3/relu"} <= set(names)


def test_the_documented_example():
    """docs/usage/custom_converter.md of torch2trt, in its words."""

    @tensorrt_converter("torch.nn.ReLU.forward")
    def convert_ReLU(ctx):
        input = ctx.method_args[1]
        output = ctx.method_return
        assert type(ctx.method_args[0]) is nn.ReLU
        layer = ctx.network.add_activation(input=input._trt, type=trt.ActivationType.RELU)
        output._trt = layer.get_output(0)

    for inplace in (False, True):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace), nn.Conv2d(4, 2, 1)).eval()
        x = torch.randn(1, 3, 8, 8)
        assert torch.allclose(torch2trt(model, [x])(x), model(x), atol=1e-4)


def test_weights_and_numpy_arrays():
    @tensorrt_converter("torch.nn.functional.linear")
    def convert_linear(ctx):
        x, weight = get_arg(ctx, "input", 0, None), get_arg(ctx, "weight", 1, None)
        bias = get_arg(ctx, "bias", 2, None)
        kernel = weight.detach().cpu().numpy().T  # not contiguous
        matrix = ctx.network.add_constant(kernel.shape, kernel).get_output(0)
        shift = ctx.network.add_constant((1, len(bias)), trt.Weights(np.ascontiguousarray(bias.detach().numpy()[None])))
        none = trt.MatrixOperation.NONE
        product = ctx.network.add_matrix_multiply(x._trt, none, matrix, none).get_output(0)
        layer = ctx.network.add_elementwise(product, shift.get_output(0), trt.ElementWiseOperation.SUM)
        ctx.method_return._trt = layer.get_output(0)

    model, x = nn.Linear(3, 5).eval(), torch.randn(2, 3)
    assert torch.allclose(torch2trt(model, [x])(x), model(x), atol=1e-5)


@pytest.mark.parametrize("name", ["torch.Tensor.mul", "torch.mul", "torch.Tensor.__mul__"])
def test_methods_and_builtins(name):
    calls = []

    @tensorrt_converter(name)
    def convert_mul(ctx):
        a, b = ctx.method_args[0], ctx.method_args[1]
        calls.append(name)
        a_trt, b_trt = t2t.trt_(ctx.network, a, b)
        ctx.method_return._trt = ctx.network.add_elementwise(a_trt, b_trt, trt.ElementWiseOperation.PROD).get_output(0)

    function = {
        "torch.Tensor.mul": lambda x, y: x.mul(y).mul(2.0),
        "torch.mul": lambda x, y: torch.mul(torch.mul(x, y), 2.0),
        "torch.Tensor.__mul__": lambda x, y: x * y * 2.0,
    }[name]
    before = vars(torch.Tensor).get("mul"), vars(torch.Tensor).get("__mul__"), torch.mul
    x, y = torch.randn(2, 3), torch.randn(3)
    assert torch.allclose(convert(function, x, y)(x, y), function(x, y))
    assert calls == [name] * 2
    assert before == (vars(torch.Tensor).get("mul"), vars(torch.Tensor).get("__mul__"), torch.mul)


def test_helpers():
    weight = nn.Parameter(torch.randn(1, 1, 3))

    @tensorrt_converter("torch.add")
    def convert_add(ctx):
        tensors = [ctx.method_args[0], ctx.method_args[1]]
        raw = t2t.add_missing_trt_tensors(ctx.network, tensors)
        assert tensors[1]._trt is raw[1]
        assert tuple(raw[1].shape) == (3,)  # leading ones are gone
        raw = t2t.broadcast_trt_tensors(ctx.network, raw, 3)
        ctx.method_return._trt = ctx.network.add_elementwise(*raw, trt.ElementWiseOperation.SUM).get_output(0)

    @tensorrt_converter("torch.mean")
    def convert_mean(ctx):
        dim = t2t.torch_dim_resolve_negative(get_arg(ctx, "dim", 1, None), ctx.method_args[0].dim())
        axes, keep = t2t.torch_dim_to_trt_axes(dim), get_arg(ctx, "keepdim", 2, False)
        layer = ctx.network.add_reduce(ctx.method_args[0]._trt, trt.ReduceOperation.AVG, axes, keep)
        one = t2t.add_trt_constant(ctx.network, torch.ones([1] * len(layer.get_output(0).shape)))
        scaled = ctx.network.add_elementwise(layer.get_output(0), one, trt.ElementWiseOperation.PROD)
        ctx.method_return._trt = scaled.get_output(0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = weight

        def forward(self, x):
            return torch.mean(torch.add(x, self.weight), dim=(-1, 0))

    model, x = Model().eval(), torch.randn(2, 4, 3)
    for _ in range(2):
        assert torch.allclose(torch2trt(model, [x])(x), model(x), atol=1e-6)
        assert not hasattr(weight, "_trt")  # the next conversion must not find an ITensor of this one
    with pytest.raises(ValueError, match="counted from the end"):
        t2t.torch_dim_to_trt_axes(-1)
    assert t2t.torch_dtype_from_trt(t2t.torch_dtype_to_trt(torch.float16)) == torch.float16
    with pytest.raises(ConversionError, match="one dtype"):
        t2t.check_torch_dtype(torch.ones(1), torch.ones(1).half())


def test_a_users_function_also_where_it_was_imported_by_name(library):
    calls = []

    @tensorrt_converter("t2t_lib.scaled")
    def convert_scaled(ctx):
        calls.append((ctx.method_args[1], dict(ctx.method_kwargs)))
        relu_layer(ctx)

    def function(x):
        return library.scaled(x, 2.0) + sys.modules["t2t_user"].scaled(x, factor=3.0)

    x = torch.randn(4)
    with pytest.raises(ConversionError, match=r"t2t_lib\.scaled.*IndexError"):
        convert(function, x, verify=False)  # get_arg would have been the way
    CONVERTERS.clear()

    @tensorrt_converter(library.scaled)
    def convert_again(ctx):
        calls.append(get_arg(ctx, "factor", 1, None))
        relu_layer(ctx)

    calls.clear()
    module_trt = convert(function, x, verify=False)
    assert calls == [2.0, 3.0]
    assert torch.allclose(module_trt(x), 2 * x.relu())
    assert sys.modules["t2t_user"].scaled is library.scaled


def test_methods_of_a_users_class(library):
    tensorrt_converter("t2t_lib.Gate.__call__")(lambda ctx: relu_layer(ctx, 1))
    tensorrt_converter("t2t_lib.Gate.fixed")(relu_layer)
    gate, x = library.Gate(), torch.randn(4)
    module_trt = convert(lambda x: gate(x) + gate.fixed(x), x, verify=False)
    assert torch.allclose(module_trt(x), 2 * x.relu())
    assert isinstance(vars(library.Gate)["fixed"], staticmethod)


def test_the_forward_of_a_users_module_and_of_what_inherits_it(library):
    @tensorrt_converter("t2t_lib.Block.forward")
    def convert_block(ctx):
        module, x, y = ctx.method_args[0], ctx.method_args[1], get_arg(ctx, "y", 2, None)
        weight = t2t.add_missing_trt_tensors(ctx.network, [module.weight, y])[0]
        scaled = ctx.network.add_elementwise(*t2t.broadcast_trt_tensors(ctx.network, [weight, y._trt], 2),
                                             trt.ElementWiseOperation.PROD)  # fmt: skip
        layer = ctx.network.add_elementwise(x._trt, scaled.get_output(0), trt.ElementWiseOperation.SUM)
        ctx.method_return._trt = layer.get_output(0)

    block, sub, other = library.Block(3), library.Sub(3), library.Other(3)
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    module_trt = convert(lambda x, y: other(sub(block(x, y=y), y), y), x, y, held=(block, sub, other), verify=False)
    assert torch.allclose(module_trt(x, y), x + block.weight * y + sub.weight * y - y, atol=1e-6)


def test_nested_results_and_keywords(library):
    @tensorrt_converter("t2t_lib.both")
    def convert_both(ctx):
        x, y, returned = ctx.method_args[0], ctx.method_kwargs["y"], ctx.method_return
        add = lambda op: ctx.network.add_elementwise(x._trt, y._trt, op).get_output(0)  # noqa: E731
        returned["sum"]._trt = add(trt.ElementWiseOperation.SUM)
        returned["parts"][1][0]._trt = add(trt.ElementWiseOperation.SUB)
        returned["parts"][1][1]._trt = ctx.network.add_activation(y._trt, trt.ActivationType.RELU).get_output(0)
        assert returned["parts"][0] is None  # x itself, which needs no layer

    x, y = torch.randn(3), torch.randn(3)
    module_trt = convert(lambda x, y: library.both(x * 1, y=y), x, y)
    for a, b in zip(module_trt(x, y)["parts"][1], library.both(x, y)["parts"][1]):
        assert torch.equal(a, b)


def test_views_and_writes_after_a_whole_function():
    """What a view shares with its tensor holds after a function was converted as a whole."""

    @tensorrt_converter("torch.flatten")
    def convert_flatten(ctx):
        layer = ctx.network.add_shuffle(ctx.method_args[0]._trt)
        layer.reshape_dims = tuple(ctx.method_return.shape)
        ctx.method_return._trt = layer.get_output(0)

    def function(x):
        x = x * 2
        flat = torch.flatten(x)
        x[0].add_(1)
        seen = flat * 3
        flat.mul_(10)
        return x, flat, seen

    x = torch.randn(2, 3)
    for a, b in zip(convert(function, x)(x), function(x)):
        assert torch.allclose(a, b)
