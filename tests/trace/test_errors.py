"""What the front end refuses, and what it says: what, where, why, what now."""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torch2edge
from torch2edge import (
    ConversionError,
    DataDependentError,
    InplaceError,
    InputError,
    RandomOpError,
    TraceError,
    TrainingModeError,
    UnsupportedOpError,
)

X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


class Inner(nn.Module):
    """Runs a function, a submodule deep."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: torch.Tensor) -> Any:
        return self.fn(x)


def model_of(fn: Callable[..., Any]) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Sequential(Inner(fn))).eval()


def refused(fn: Callable[..., Any], error: type[Exception], *parts: str, x: torch.Tensor = X) -> str:
    """Converting a model with ``fn`` in the submodule 1.0 raises ``error``; its message names that and the line of ``fn``."""
    with pytest.raises(error) as caught:
        torch2edge.convert(model_of(fn), [x])
    message = str(caught.value)
    line = inspect.getsourcelines(fn)[1]
    assert "in 1.0, " in message, message
    assert re.search(rf"test_errors\.py:({'|'.join(str(line + i) for i in range(4))})\b", message), message
    for part in parts:
        assert part in message, message
    return message


@pytest.mark.parametrize(
    ("fn", "what"),
    [
        (lambda x: x if x.sum() > 0 else -x, "branches in Python"),
        (lambda x: x if torch.equal(x, x * 2) else -x, "branches in Python"),
        (lambda x: x * x.sum().item(), "reads into Python"),
        (lambda x: x * int(x.sum()), "reads into Python"),
        (lambda x: x * float(x.sum()), "reads into Python"),
        (lambda x: x[0, x[0, 0].argmax()], "reads into Python"),
        (lambda x: x[: int(x.argmax())], "reads into Python"),
        (lambda x: x * x.tolist()[0][0][0], "takes data out of PyTorch"),
        (lambda x: torch.from_numpy(x.numpy()), "takes data out of PyTorch"),
        (lambda x: torch.from_numpy(numpy.asarray(x.detach().cpu())), "takes data out of PyTorch"),
        (lambda x: x * torch.tensor([x[0, 0, 0]]), "takes data out of PyTorch"),
        (lambda x: x[x > 0], "boolean mask"),
        (lambda x: x.nonzero(), "cannot tell the shape"),
        (lambda x: torch.where(x > 0)[0], "cannot tell the shape"),
        (lambda x: x.masked_select(x > 0), "cannot tell the shape"),
        (lambda x: x.unique(), "cannot tell the shape"),
    ],
)
def test_data_dependent(fn: Callable[..., Any], what: str) -> None:
    message = refused(fn, DataDependentError, what)
    assert any(way in message for way in ("torch.where", "PyTorch's ops")), message


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x + torch.rand(4),
        lambda x: x + torch.rand_like(x),
        lambda x: x + torch.randn(4, generator=torch.Generator()),
        lambda x: x + torch.randint(3, (4,)),
        lambda x: x[:, torch.randperm(3)],
        lambda x: F.dropout(x, 0.5),
        lambda x: F.dropout1d(x, 0.5),
        lambda x: torch.bernoulli(torch.sigmoid(x)),
        lambda x: x + torch.zeros(4).normal_(),
        lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1),
    ],
)
def test_random(fn: Callable[..., Any]) -> None:
    state = torch.get_rng_state()
    refused(fn, RandomOpError, "draws random numbers", "pass them in")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("draw", [random.random, numpy.random.rand])
def test_random_numbers_of_python_and_numpy(draw: Callable[[], float]) -> None:
    before = random.getstate(), str(numpy.random.get_state())
    with pytest.raises(RandomOpError, match="Python's random or NumPy's"):
        torch2edge.convert(model_of(lambda x: x + float(draw())), [X])
    assert (random.getstate(), str(numpy.random.get_state())) == before


def test_random_numbers_that_no_state_tells_of() -> None:
    with pytest.raises(torch2edge.VerificationError, match="tracing missed something"):
        torch2edge.convert(model_of(lambda x: x + float(numpy.random.default_rng().random())), [X])


class Writes(nn.Module):
    """Writes in place to what the caller names."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.target, self.weight, self.kept = target, nn.Parameter(torch.ones(4)), [torch.zeros(4)]
        self.register_buffer("steps", torch.zeros(4))
        self.plain = torch.zeros(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            where = {"input": x, "parameter": self.weight, "buffer": self.steps, "attribute": self.plain, "list": self.kept[0]}
            where[self.target].add_(1)
            return x + self.weight + self.steps + self.plain + self.kept[0]


@pytest.mark.parametrize(
    ("target", "what", "way"),
    [
        ("input", "writes to the input args[0]", "x.clone()"),
        ("parameter", "writes to the parameter w.weight", "as an output"),
        ("buffer", "writes to the buffer w.steps", "as an output"),
        ("attribute", "writes to the attribute w.plain", "as an output"),
        ("list", "writes to the attribute w.kept[0]", "as an output"),
    ],
)
def test_write_in_place(target: str, what: str, way: str) -> None:
    model = nn.Sequential()
    model.add_module("w", Writes(target))
    with pytest.raises(InplaceError) as caught:
        torch2edge.convert(model.eval(), [torch.ones(2, 4)])
    message = str(caught.value)
    assert "in w, " in message
    assert f"test_errors.py:{inspect.getsourcelines(Writes.forward)[1] + 3}" in message
    assert what in message
    assert way in message
    written: Any = model.w
    assert written.plain.sum() == written.steps.sum() == written.kept[0].sum() == 0


def test_training_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.BatchNorm1d(4), nn.Dropout()))
    with pytest.raises(TrainingModeError) as caught:
        torch2edge.convert(model, [torch.ones(2, 4)])
    assert str(caught.value).startswith("(the model itself), 0, 1 and 2 more are in training mode")
    assert "model.eval()" in str(caught.value)
    model.eval()[1][1].train()  # type: ignore[index]
    with pytest.raises(TrainingModeError, match=r"^1\.1 is in training mode"):
        torch2edge.convert(model, [torch.ones(2, 4)])


def test_nan_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    with torch.no_grad():
        model[0].weight[1, 2] = float("nan")
        with pytest.raises(TraceError, match=r"0\.weight holds NaN.*checkpoint"):
            torch2edge.convert(model, [torch.ones(2, 4)])
        model[0].weight[1, 2] = 0
        model[1].running_var[0] = float("nan")  # type: ignore[index,operator]
        with pytest.raises(TraceError, match=r"1\.running_var holds NaN"):
            torch2edge.convert(model, [torch.ones(2, 4)])


def test_infinities_are_fine() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, float("inf"), float("-inf"), 0.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.mask

    y = torch2edge.convert(Masked().eval(), [torch.ones(2, 4)])
    assert y.report is not None
    assert y.report.check[0].passed


def test_lazy_modules() -> None:
    with pytest.raises(TraceError, match=r"weight has no shape yet.*run the model once"):
        torch2edge.convert(nn.LazyLinear(3).eval(), [torch.ones(2, 4)])


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        ([], ["no tensor among the inputs", "convert(model, [x])"]),
        ([3, None, "x"], ["no tensor among the inputs"]),
        ([torch.ones(0, 4)], ["args[0]", "(0, 4)", "a dimension is 0"]),
        ([torch.ones(2, 4, device="meta")], ["args[0]", "on meta", "on cpu"]),
        ([torch.ones(2, 4, dtype=torch.complex64)], ["args[0]", "complex64", "view_as_real"]),
        ([torch.ones(2, 4).to_sparse()], ["args[0]", "sparse", "to_dense"]),
        ([object()], ["object", "tensors"]),
        ([{1.5: torch.ones(2)}], ["1.5", "str and int keys"]),
        ([torch.ones(2, 4), torch.ones(2)], ["Linear.forward", "too many positional arguments"]),
        ({"input": torch.ones(2, 4)}, ["list", "kwargs"]),
        (torch.nn.Linear(1, 1), ["list", "Linear"]),
    ],
)
def test_inputs(inputs: Any, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        torch2edge.convert(nn.Linear(4, 4).eval(), inputs)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_missing_argument_and_unknown_keyword() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    with pytest.raises(InputError, match=r"Two\.forward does not take these inputs: missing a required argument: 'y'"):
        torch2edge.convert(Two().eval(), [X])
    with pytest.raises(InputError, match=r"unexpected keyword argument 'mask'.*It takes \(x: "):
        torch2edge.convert(Two().eval(), [X, X], {"mask": X})


def test_a_type_error_inside_of_forward_is_not_taken_for_a_wrong_call() -> None:
    refused(lambda x: torch.cat(3), InputError, "without torch2edge either: TypeError", "argument")  # type: ignore[call-overload]


def test_no_module() -> None:
    with pytest.raises(InputError, match=r"must be a torch\.nn\.Module, but is a builtin_function_or_method: wrap"):
        torch2edge.convert(torch.relu, [X])  # type: ignore[arg-type]


def test_meta_and_spread_models() -> None:
    with pytest.raises(InputError, match="weight is on the meta device: it has no values"):
        torch2edge.convert(nn.Linear(4, 4, device="meta").eval(), [torch.ones(2, 4)])


@pytest.mark.parametrize("trace_it", [False, True])
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripted_submodule(trace_it: bool) -> None:
    part = torch.jit.trace(nn.ReLU(), torch.ones(2)) if trace_it else torch.jit.script(nn.ReLU())
    with pytest.raises(TraceError, match=r"submodule 1 is a .*torch\.jit.*Convert the Python module"):
        torch2edge.convert(nn.Sequential(nn.ReLU(), part).eval(), [X])


def test_exception_in_forward() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise KeyError("no such head")

    refused(broken, InputError, "without torch2edge either: KeyError", "no such head")
    refused(lambda x: x.view(7, 7), InputError, "RuntimeError", "shape '[7, 7]'", "args[0]: torch.float32 (2, 3, 4)")
    refused(
        lambda x: x @ torch.ones(5, 5), InputError, "without torch2edge either", "mat1 and mat2 shapes cannot be multiplied"
    )


def test_outputs_that_cannot_leave() -> None:
    with pytest.raises(TraceError, match=r"output cannot leave an engine: .*object.*tensors, numbers"):
        torch2edge.convert(model_of(lambda x: (x, object())), [X])
    with pytest.raises(TraceError, match=r"returns no tensor, but \[3, None\]"):
        torch2edge.convert(model_of(lambda x: [3, None]), [X])


def test_float64() -> None:
    with pytest.raises((ConversionError, InputError), match=r"args\[0\] is torch\.float64.*model\.float\(\)"):
        torch2edge.convert(nn.Linear(4, 4).double().eval(), [torch.ones(2, 4).double()])


def test_every_op_without_a_converter_is_listed() -> None:
    def several(x: torch.Tensor) -> torch.Tensor:
        y = torch.special.airy_ai(x)
        return torch.cholesky_inverse(y @ y.mT) + torch.special.airy_ai(x).sum()

    with pytest.raises(UnsupportedOpError) as caught:
        torch2edge.convert(model_of(several), [X])
    message, line = str(caught.value), inspect.getsourcelines(several)[1]
    assert message.startswith("3 ops cannot be converted")
    assert message.count("aten.special_airy_ai.default  in 1.0") == 2
    assert f"test_errors.py:{line + 1}" in message
    assert f"test_errors.py:{line + 2}" in message
    assert "converters={" in message
    assert "converters " in message  # the folder where it would go
    assert [row["op"] for row in caught.value.rows].count("aten.cholesky_inverse.default") == 1


def test_batch_norm_that_trains_out_of_reach_of_eval() -> None:
    hidden = [nn.BatchNorm1d(3)]
    with pytest.raises((InplaceError, UnsupportedOpError), match=r"batch_norm|num_batches_tracked|add_"):
        torch2edge.convert(model_of(lambda x: hidden[0](x)), [X])
    assert hidden[0].num_batches_tracked == 0


def test_write_to_a_tensor_from_elsewhere() -> None:
    cache = torch.zeros(4)
    message = refused(lambda x: x + cache.add_(1), InplaceError, "a tensor that it did not make")
    assert "as an output" in message
    assert cache.sum() == 0
    refused(lambda x: x + torch.add(x[0, 0], 1, out=cache), InplaceError, "a tensor that it did not make")
    refused(lambda x: x + cache.view(2, 2).fill_(1).reshape(-1), InplaceError, "a tensor that it did not make")
    refused(lambda x: cache.copy_(x[0, 0]) + x, InplaceError, "a tensor that it did not make")
    assert cache.sum() == 0


def test_write_to_a_tensor_of_its_own() -> None:
    def fill(x: torch.Tensor) -> torch.Tensor:
        made = [torch.zeros(4), torch.tensor([0.0] * 4), torch.full((4,), 0.0), x.new_zeros(4), torch.eye(4)[0]]
        for m in [*made, made[0].clone()]:
            m[1:] = 2.0
            x = x + m.mul_(2)
        return x

    torch2edge.convert(model_of(fill), [X])


def test_a_custom_op_without_a_shape_rule() -> None:
    @torch.library.custom_op("torch2edge_tests::twice", mutates_args=(), schema="(Tensor x) -> Tensor")
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    refused(lambda x: twice(x), TraceError, "torch2edge_tests::twice", "register_fake")
    library = torch.library.Library("torch2edge_tests", "FRAGMENT")
    library.define("thrice(Tensor x) -> Tensor")
    library.impl("thrice", lambda x: x * 3, "CPU")
    refused(lambda x: torch.ops.torch2edge_tests.thrice(x), TraceError, "torch2edge_tests.thrice.default", "register_fake")


def test_another_thread_cannot_take_part() -> None:
    def elsewhere(x: torch.Tensor) -> torch.Tensor:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(torch.relu, x).result()

    with pytest.raises(TraceError, match=r"in 1\.0, .*handed to another thread"):
        torch2edge.convert(model_of(elsewhere), [X])


def test_data_of_a_tensor_replaced() -> None:
    weight = nn.Parameter(torch.ones(4))

    def own(x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros_like(x)
        y.data = x * 3  # without the refusal this reads memory that is not there
        return y + 1

    def renormed(x: torch.Tensor) -> torch.Tensor:
        weight.data = weight.data.clamp(max=0.5)
        return x * weight

    for fn in (own, renormed):
        refused(fn, InplaceError, "tensor.data = ...", "Compute a new tensor")
    refused(lambda x: nn.Linear.half(hidden)(x), InplaceError, "module.half()")
    assert weight.sum() == 4
    assert hidden.weight.dtype == torch.float32


hidden = nn.Linear(4, 4).eval()
