"""What users get wrong, on every road: what each message must say. One place that goes through all of issue 3's list.

Details of single stages stand with them (test_inputs.py, trace/test_errors.py, test_api.py, lower/test_onnx_road.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.refusals import ROADS, Outside, Then, Two, X, convs, line, told
from support.torch_features import EXPORTERS, UNCOMPILED
from torch import nn

import torch2edge
from torch2edge import ConfigError, DataDependentError, Input, InputError, TraceError, convert, plan

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch.jit's and torch.ao's own
    pytest.mark.filterwarnings("ignore:.*deprecated"),
]


# ---- profiles ---------------------------------------------------------------------------------------------------------------

B = "args[0].shape[0]"
PROFILES: list[tuple[Callable[[], Any], list[str]]] = [
    (lambda: convert(convs(), [X], dynamic={0: {0: (4, 4, 2)}}), ["axis 0 of args[0]", "min 4 is larger than max 2"]),
    (lambda: convert(convs(), [X], min_shapes=[(4, 3, 8, 8)], max_shapes=[(1, 3, 8, 8)]), ["min 4 is larger than max 1"]),
    (lambda: convert(convs(), [X], opt_shapes=[(1, 3, 8, 8)]), ["min_shapes is missing", "opt_shapes may be left out"]),
    (lambda: convert(convs(), [X], min_shapes=1, max_shapes=4), ["nest it like the inputs, with a shape for each tensor"]),
    (lambda: convert(Two().eval(), [X, X], min_shapes=[(1, 3, 8, 8)], max_shapes=[(4, 3, 8, 8)]), ["min_shapes has no 1"]),
    (lambda: Input(min=(1.0, 3), opt=(1, 3), max=(2, 3)), ["min=(1.0, 3) is neither a shape (a tuple of whole numbers)"]),
    (lambda: Input(min=1, opt=2, max=3), ["min=1 is neither a shape"]),
    (lambda: Input(min=(-1, 3), opt=(1, 3), max=(2, 3)), ["the smallest size is -1; it must be at least 1"]),
    (lambda: Input((-1, 3)), ["the shape holds -1; a size is a positive integer"]),
    (lambda: Input(4), ["the shape is 4; write a tuple"]),  # type: ignore[arg-type]
    (lambda: Input((1, 3), dtype="float32"), ["dtype is 'float32'; it must be a torch.dtype"]),  # type: ignore[arg-type]
    (lambda: convert(convs(), [X], dynamic=[0]), ["dynamic is a list; it must be a dict", "{0: {0: (1, 8, 16)}}"]),
    (lambda: convert(convs(), [X], dims=["b"]), ["dims is a list; it must be a dict", "{'batch': (1, 8, 16)}"]),
    (lambda: convert(convs(), [X], dynamic={0: {0: (1, 2.5, 4)}}), ["is (1, 2.5, 4); it must be (min, opt, max)"]),
    (lambda: convert(convs(), [X], dynamic={"image": {0: (1, 2, 4)}}), ["names the input 'image'", "args[0]"]),
    (
        lambda: convert(Two().eval(), [Input(("b", 4), dims={"b": (1, 2, 3)}), Input(("b", 4), dims={"b": (1, 2, 4)})]),
        ["args[1] gives the dim 'b' the range (1, 2, 4), but it was given (1, 2, 3) before"],
    ),
    (
        lambda: convert(Two().eval(), [X, X], dynamic={0: {0: [(1, 2, 3)] * 2}, 1: {0: [(1, 2, 3)] * 3}}),
        [f"{B} has 2 ranges, but another dim has 3: each optimization profile needs one"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "parts"), PROFILES)
def test_profiles(call: Callable[[], Any], parts: list[str]) -> None:
    told(call, ConfigError, *parts)


def test_lists_and_sizes_are_shapes_too() -> None:
    for low, high in (([1, 3, 8, 8], [4, 3, 8, 8]), (torch.Size((1, 3, 8, 8)), torch.Size((4, 3, 8, 8)))):
        module = convert(convs(), [X], min_shapes=[low], max_shapes=[high], verify=False)
        assert module(X[:1]).shape == (1, 3, 4, 4)


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, 8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.position  # fixes the length


def test_an_axis_that_the_model_fixes() -> None:
    told(
        lambda: convert(Table().eval(), [Input(min=(1, 4, 4), opt=(1, 8, 4), max=(1, 16, 4))]), ConfigError,
        "the model itself demands args[0].shape[1] == 8", line(Table, "fixes the length"), "min has args[0].shape[1] = 4",
        "make the axis static",
    )  # fmt: skip


def test_a_call_outside_of_the_profile() -> None:
    module = convert(convs(), [Input(min=(1, 3, 8, 8), opt=(2, 3, 8, 8), max=(4, 3, 8, 8), name="image")], verify=False)
    told(lambda: module(X.repeat(3, 1, 1, 1)), InputError, "axis 0 of image is 6; the engine was built for 1 to 4 there")
    told(lambda: module(X[:, :, 1:]), InputError, "axis 2 of image is 7; the engine was built for 8 there")
    told(lambda: module(X.half()), InputError, "image is torch.float16", "torch.float32")


@pytest.mark.parametrize("road", ["onnx", "torch"])
def test_dynamic_shapes_where_they_are_not_there_yet(road: str) -> None:
    dynamic = Input(min=(1, 3, 8, 8), opt=(2, 3, 8, 8), max=(4, 3, 8, 8))
    told(lambda: convert(convs(), [dynamic], fallback=road), ConfigError, "dynamic shapes", "not there yet")
    told(lambda: convert(convs(), [X], min_shapes=[(1, 3, 8, 8)], fallback="torch"), ConfigError, "max_shapes is missing")


# ---- models -----------------------------------------------------------------------------------------------------------------


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return 2 * ctx.saved_tensors[0] * grad


@pytest.mark.parametrize("road", ROADS)
def test_a_custom_autograd_function(road: str) -> None:
    model = Then(Square.apply).eval()
    torch.testing.assert_close(convert(model, [X], fallback=road)(X), model(X).detach())
    outside = Then(Outside.apply).eval()
    if road == "torch":
        module = convert(outside, [X], fallback=road)
        assert module.report.plan.engines == ["body"]
        assert line(Outside, "leaves PyTorch") in str(module.report)
    else:
        told(
            lambda: convert(outside, [X], fallback=road), DataDependentError, "takes data out of PyTorch",
            line(Outside, "leaves PyTorch"), "PyTorch's ops",
        )  # fmt: skip


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, X)], ids=["scripted", "traced"])
def test_a_submodule_of_torch_jit(road: str, make: Callable[[nn.Module], nn.Module]) -> None:
    model = Then(make(nn.ReLU())).eval()
    if road != "torch":
        told(
            lambda: convert(model, [X], fallback=road), TraceError, "the submodule last is a ", "(torch.jit)", "Python module"
        )
        return
    module = convert(model, [X], fallback="torch")
    torch.testing.assert_close(module(X), model(X).detach())
    assert module.report.plan.engines == plan(model, [X]).engines == ["body"]
    assert any(row.path == "last" and "(torch.jit)" in row.reason for row in module.report.plan.rows)


@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, X)], ids=["scripted", "traced"])
def test_a_model_of_torch_jit(make: Callable[[nn.Module], nn.Module]) -> None:
    model = make(convs())
    told(lambda: convert(model, [X]), TraceError, "the model itself is a ", "(torch.jit)", "Convert the Python module")
    told(lambda: convert(model, [X], fallback="torch"), torch2edge.ConversionError, "there would be no engine", "torch.jit")


def doubled(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x) * 2


@pytest.mark.parametrize("road", ROADS)
def test_a_function_of_torch_jit_converts(road: str) -> None:
    model = Then(torch.jit.script(doubled)).eval()
    torch.testing.assert_close(convert(model, [X], fallback=road)(X), model(X).detach())


@UNCOMPILED
@pytest.mark.parametrize("road", ROADS)
def test_compiled_modules_are_unwrapped(road: str) -> None:
    for model in (Then(torch.compile(nn.ReLU())).eval(), torch.compile(convs()), Then(torch.compile(torch.relu)).eval()):
        assert convert(model, [X], fallback=road).report.check[0].passed


def quantized() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval(), {nn.Linear}).eval()


def test_quantized_modules() -> None:
    for road in ("error", "onnx"):
        told(
            lambda road=road: convert(Then(quantized()).eval(), [X], fallback=road), TraceError, "the submodule last.0 is a ",
            "torch.ao.nn.quantized.dynamic", "packed weights", "Convert the float model",
        )  # fmt: skip
    cut = plan(Then(quantized()).eval(), [X])
    assert cut.engines == ["body"]
    assert "last.0: TraceError: last.0 is a torch.ao.nn.quantized.dynamic" in str(cut).replace("the submodule ", "")


def test_a_model_that_is_prepared_for_quantization() -> None:
    model = convs().train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    prepared = torch.ao.quantization.prepare_qat(model).eval()
    told(
        lambda: convert(prepared, [X]),
        TraceError,
        "the submodule 0.weight_fake_quant is a torch.ao.quantization",
        "float model",
    )


class Shared(nn.Module):
    """Two branches: one module twice, one weight in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b, self.left, self.right = self.a, nn.Linear(6, 6), nn.Linear(6, 6)
        self.right.weight = self.left.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.left(self.a(x)) + self.right(self.b(x).relu())


@pytest.mark.parametrize("road", ROADS)
def test_branches_that_share_weights(road: str) -> None:
    model = Shared().eval()
    module = convert(model, [X], fallback=road)
    torch.testing.assert_close(module(X), model(X).detach(), rtol=1e-4, atol=1e-5)
    assert {row.path for row in module.report.modules} == {"", "a", "left", "right"}


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_export_that_fails_has_both_messages(exporter: str) -> None:
    model = Then(torch.special.bessel_j0).eval()
    words = {"torchscript": "aten::special_bessel_j0", "dynamo": "No ONNX function found"}[exporter]
    message = told(
        lambda: convert(model, [X], fallback="onnx", onnx_exporter=exporter),
        torch2edge.UnsupportedOpError,
        "aten.special_bessel_j0.default  in the model itself, ", "fallback='onnx' does not do either: torch.onnx.export(",
        words, "the other one; fallback='torch'",
    )  # fmt: skip
    assert "Next steps" not in message
    assert "stack trace" not in message
