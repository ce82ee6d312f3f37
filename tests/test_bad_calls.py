"""Neighbours of issue 3's list of bad input (test_bad_input.py): models, options, inputs, and what looks wrong but is fine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.refusals import ROADS, Outside, Then, Two, X, convs, told
from support.torch_features import FREE_SIZES
from torch import nn
from torch.nn.utils import parametrizations

import torch2edge
from torch2edge import ConfigError, Input, InputError, TraceError, TrainingModeError, convert, plan

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch.jit's and torch.ao's own
    pytest.mark.filterwarnings("ignore:.*deprecated"),
]
B = "args[0].shape[0]"


def in_training() -> nn.Module:
    return nn.Sequential(nn.Dropout(), nn.Linear(8, 8))


def with_nan() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8)).eval()
    model[0].weight.data[0, 0] = float("nan")
    return model


MODELS: list[tuple[Callable[[], Any], type[Exception], list[str]]] = [
    (in_training, TrainingModeError, ["are in training mode", "model.eval()"]),
    (with_nan, TraceError, ["0.weight holds NaN", "checkpoint"]),
    (lambda: nn.LazyLinear(8).eval(), TraceError, ["weight has no shape yet", "run the model once"]),
    (lambda: nn.Linear(8, 8, device="meta").eval(), InputError, ["weight is on the meta device", "Load the weights first"]),
    (lambda: torch.relu, InputError, ["builtin_function_or_method: wrap a function in a module"]),
    (lambda: nn.ReLU, InputError, ["is the class ReLU: make an instance of it, e.g. ReLU().eval()"]),
    (lambda: nn.Linear(8, 8).state_dict(), InputError, ["OrderedDict: a state dict is the weights alone; load it into"]),
    (lambda: "model.pt", InputError, ["model.pt", "must be an .onnx file; else give the module"]),
    (lambda: "no/such/model.onnx", InputError, ["no/such/model.onnx: there is no such file"]),
]


@pytest.mark.parametrize("road", [*ROADS, "plan"])
@pytest.mark.parametrize(("model", "kind", "parts"), MODELS)
def test_models(model: Callable[[], Any], kind: type[Exception], parts: list[str], road: str) -> None:
    told(lambda: plan(model(), [X]) if road == "plan" else convert(model(), [X], fallback=road), kind, *parts)


def test_an_engine_is_no_model() -> None:
    engine = convert(nn.ReLU().eval(), [X], verify=False)
    for call in (convert, plan):
        told(lambda call=call: call(engine, [X]), InputError, "the model is an EdgeModule", "Convert the original module")


OPTIONS: list[tuple[dict[str, Any], list[str]]] = [
    ({"fallback": "ONNX"}, ["fallback is 'ONNX'; it must be one of 'error', 'onnx', 'torch'"]),
    ({"fallback": None}, ["fallback is None; it must be one of"]),
    ({"onnx_exporter": "jit"}, ["onnx_exporter is 'jit'; it must be one of 'torchscript', 'dynamo'"]),
    ({"device_types": {"00": torch2edge.trt.DeviceType.GPU}}, ["'00' is no submodule of the model; near it: 0"]),
    ({"device_types": ["0"]}, ["device_types is a list; write {submodule: trt.DeviceType.DLA}"]),
    ({"converters": ["relu"]}, ["converters is a list; write {torch.ops.aten.relu.default: function}"]),
    ({"tolerance": "1e-3"}, ["tolerance is the largest relative error of an output, a number, but is '1e-3'"]),
    ({"progress": True}, ["progress is True; it must be a function", "e.g. print"]),
    ({"optimization_level": True}, ["optimization_level must be 0 to 5, but is True"]),
    ({"optimization_level": 3.0}, ["optimization_level must be 0 to 5, but is 3.0"]),
    ({"tolerance": -1}, ["tolerance is the largest relative error of an output, from 0 on, but is -1"]),
    ({"tolerance": float("nan")}, ["from 0 on, but is nan"]),
    ({"compute_capabilities": [8.6]}, ["compute_capabilities is [8.6]; it must be texts", '["8.6", "8.9"]']),
    ({"compute_capabilities": 8.6}, ["compute_capabilities is 8.6; it must be texts"]),
    ({"cuda_graph": "yes"}, ["cuda_graph is 'yes'; it must be True or False"]),
    ({"cuda_graph": 1}, ["cuda_graph is 1; it must be True or False"]),
    ({"keep_network": "x"}, ["keep_network is 'x'; it must be True or False"]),
    ({"verify": None}, ["verify is None; it must be True or False"]),
    ({"best": 1}, ["best is 1; it must be True or False"]),
    ({"cache_dir": "a\0b"}, ["cache_dir is the path of a folder, but is 'a", "x00b'"]),
    ({"cache_dir": b"x"}, ["cache_dir is the path of a folder, but is b'x'"]),
]  # fmt: skip


@pytest.mark.parametrize("road", [None, "torch"])
@pytest.mark.parametrize(("options", "parts"), OPTIONS)
def test_options(options: dict[str, Any], parts: list[str], road: str | None) -> None:
    told(lambda: convert(convs(), [X], **({"fallback": road} if road else {}) | options), ConfigError, *parts)


def test_options_of_the_torch_road() -> None:
    model = Then(Outside.apply).eval()
    told(lambda: convert(model, [X], fallback="torch", min_ops="many"), ConfigError, "min_ops", "from 1 on, but is 'many'")
    told(lambda: plan(model, [X], min_ops=0), ConfigError, "min_ops", "from 1 on, but is 0")
    module = convert(model, [Input((2, 3, 8, 8))], fallback="torch", keep_network=True)
    assert module.body.edge_engine.network.num_layers == 3  # the option reaches the parts
    named = convert(convs(), [X], fallback="torch", input_names=["image"], keep_network=True)
    assert named.network.get_input(0).name == "image"


def test_a_plan_takes_what_convert_takes() -> None:
    program = torch.export.export(convs(), (X,))
    assert plan(program, [X]).engines == plan(convs(), [Input((2, 3, 8, 8))]).engines == [""]
    told(lambda: plan(convs(), {"input": X}), InputError, "inputs must be a list", "Keyword inputs go into kwargs")
    told(lambda: plan(convs(), [Input(min=(1, 3, 8, 8), opt=(2, 3, 8, 8), max=(4, 3, 8, 8))]), ConfigError, "not there yet")


def test_a_plan_of_a_file(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    file = tmp_path / "m.onnx"
    torch.onnx.export(convs(), (X,), str(file), dynamo=False)
    told(lambda: plan(str(file), [X]), ConfigError, "m.onnx is an ONNX file", "no submodules")
    told(lambda: convert(str(file), [X], dynamic={0: {0: (1, 2, 4)}}), ConfigError, "dynamic shapes of an ONNX file")


INPUTS: list[tuple[Callable[[], Any], type[Exception], list[str]]] = [
    (lambda: [X[0, 0]], InputError, ["without torch2edge either", "(in 0)", "args[0]: torch.float32 (8, 8)"]),
    (lambda: [X.long()], InputError, ["without torch2edge either", "args[0]: torch.int64", "the weights are torch.float32"]),
    (lambda: [X.half()], InputError, ["without torch2edge either", "args[0]: torch.float16", "the weights are torch.float32"]),
    (lambda: [(2, 3, 8, 8)], InputError, ["no tensor among the inputs", "Input((1, 3, 224, 224))"]),
    (lambda: (2, 3, 8, 8), InputError, ["no tensor among the inputs", "Input((1, 3, 224, 224))"]),
    (lambda: [X.numpy()], InputError, ["args[0] is a numpy.ndarray (torch.from_numpy makes a tensor of it)"]),
    (lambda: [{X: X}], InputError, ["args[0] has a Tensor as key; only str and int keys"]),
]


@pytest.mark.parametrize(("inputs", "kind", "parts"), INPUTS)
def test_inputs(inputs: Callable[[], Any], kind: type[Exception], parts: list[str]) -> None:
    told(lambda: convert(convs(), inputs()), kind, *parts)


def test_keyword_inputs_in_a_list() -> None:
    told(lambda: convert(Two().eval(), [X], [X]), ConfigError, "kwargs is a list; it must be a dict, e.g. {'mask': m}")


def test_a_half_model_with_float_inputs() -> None:
    told(lambda: convert(convs().half(), [X]), InputError, "args[0]: torch.float32", "the weights are torch.float16")
    assert convert(convs().half(), [Input((2, 3, 8, 8), dtype=torch.float16)]).report.check[0].passed


def test_an_example_that_the_model_itself_does_not_take() -> None:
    told(
        lambda: convert(nn.Embedding(4, 3).eval(), [Input((2, 3), dtype=torch.int64)]), InputError,
        "without torch2edge either: IndexError: index out of range", "Input(..., low=, high=)", "verify=False",
    )  # fmt: skip
    assert convert(nn.Embedding(4, 3).eval(), [Input((2, 3), dtype=torch.int64, high=4)]).report.check[0].passed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_here() -> None:
    module = convert(nn.ReLU().eval(), [X], verify=False)
    told(lambda: module(X.to("meta")), InputError, "meta")


@FREE_SIZES
def test_an_exported_program_keeps_its_own_sizes() -> None:
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(convs(), (X,), dynamic_shapes=({0: batch},))
    convert(program, [X], dynamic={0: {0: (1, 2, 8)}}, verify=False)
    told(lambda: convert(program, [X], dynamic={0: {0: (1, 2, 16)}}), ConfigError, f"demands {B} <= 8", f"max has {B} = 16")
    static = torch.export.export(convs(), (X,))
    told(lambda: convert(static, [X], dynamic={0: {0: (1, 2, 8)}}), ConfigError, f"demands {B} == 2", "dynamic_shapes=")
    told(lambda: convert(static, [X[:1]]), InputError, "without torch2edge either", "(1, 3, 8, 8)")


def hooked() -> nn.Module:
    model = convs()
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    return model


FINE: dict[str, Callable[[], nn.Module]] = {
    "DataParallel": lambda: nn.DataParallel(convs()).eval(),
    "hooks": hooked,
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(8, 8)).eval(),
    "old_spectral_norm": lambda: nn.utils.spectral_norm(nn.Linear(8, 8)).eval(),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(8, 8)).eval(),
    "old_weight_norm": lambda: nn.utils.weight_norm(nn.Linear(8, 8)).eval(),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", FINE)
def test_what_is_fine(name: str) -> None:
    model = FINE[name]()
    expected = model(X).detach()
    torch.testing.assert_close(convert(model, [X.clone().requires_grad_()])(X), expected, rtol=1e-4, atol=1e-5)
