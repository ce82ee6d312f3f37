"""The ONNX road: what it gives, what it says, and how it fails."""

from __future__ import annotations

import copy
import logging
import sys
import warnings
from typing import Any

import pytest
import torch
from support.onnx_models import Block, Nested, aten, nested_call, seeded, take_away
from support.torch_features import EXPORTERS
from torch import nn

import torch2edge
from torch2edge import ConfigError, ConversionError, UnsupportedOpError, VerificationError, trt
from torch2edge._trt import capabilities
from torch2edge.build import BuildSession
from torch2edge.lower import lower_by_onnx, onnx_road, registry
from torch2edge.lower.onnx_export import export
from torch2edge.options import Options
from torch2edge.trace import trace

pytest.importorskip("onnxslim")
pytestmark = pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
X = torch.randn(1, 4, 6, 6)
REFUSED = UnsupportedOpError(
    "1 op:\n  aten.x\nThe ways out: ...", [{"op": "aten.x", "module": "", "source": "f.py:1", "reason": "r"}]
)


@pytest.fixture(params=EXPORTERS)
def exporter(request: Any) -> str:
    if request.param == "dynamo":
        pytest.importorskip("onnxscript")
    return str(request.param)


def by_onnx(model: nn.Module, *args: Any, **options: Any) -> torch2edge.EdgeModule:
    return torch2edge.convert(model, list(args), fallback="onnx", **options)


# ---- what it gives ----------------------------------------------------------------------------------------------------


def test_nested_inputs_and_outputs(exporter: str, monkeypatch: Any) -> None:
    take_away(monkeypatch, aten.relu.default)
    model, (args, kwargs) = seeded(Nested), nested_call()
    module = torch2edge.convert(model, args, kwargs, fallback="onnx", onnx_exporter=exporter)
    given, expected = module(*args, **kwargs), model(*args, **kwargs)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    report = module.report
    assert report is not None
    assert all(row.passed for row in report.check)
    assert len(report.check) == 8
    assert f"dynamo={exporter == 'dynamo'}, opset_version=" in report.notes[0]
    assert "2 ops cannot be converted: aten.relu.default in layer1.0.act" in report.notes[0]
    assert "onnxslim" in report.notes[0]
    assert "no output depends on the input kwargs['ignored']" in report.notes[1]


def test_rows_of_the_report_are_modules(exporter: str, monkeypatch: Any) -> None:
    take_away(monkeypatch, aten.relu.default)
    args, kwargs = nested_call()
    report = torch2edge.convert(seeded(Nested), args, kwargs, fallback="onnx", onnx_exporter=exporter).report
    assert report is not None
    layers = {row.path: row.layers for row in report.modules}
    for path in ("layer1.0.conv", "layer1.0.act", "layer1.0", "layer1.1.0.conv", "heads.k", "heads.j", "ln", ""):
        assert layers[path] > 0, path
    assert layers["layer1.0.bn"] == 0  # folded into the convolution


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_models(exporter: str, dtype: torch.dtype, monkeypatch: Any) -> None:
    if dtype == torch.bfloat16 and not capabilities().bf16:
        pytest.skip("no bfloat16")
    take_away(monkeypatch, aten.relu.default)
    module = by_onnx(nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval().to(dtype), torch.randn(2, 8).to(dtype),
                     onnx_exporter=exporter)  # fmt: skip
    assert module.metadata["outputs"][0]["dtype"] == str(dtype).removeprefix("torch.")
    assert module.report.precision == {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]


def test_a_converter_that_fails_is_a_reason_too(monkeypatch: Any) -> None:
    def broken(net: Any, self: Any) -> Any:
        raise ValueError("not today")

    report = by_onnx(seeded(Block), X, converters={aten.relu.default: broken}).report
    assert "because aten.relu.default in act" in report.notes[0]
    assert "ValueError: not today" in report.notes[0]


def test_what_converts_does_not_go_by_onnx() -> None:
    report = by_onnx(seeded(Block), X).report
    assert report.notes == ["note: 1 batch norm is part of the convolution before"]


def test_a_recurrence() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 3, batch_first=True, bidirectional=True)

        def forward(self, x: torch.Tensor) -> Any:
            return self.lstm(x)

    model, x = seeded(Recurrent), torch.randn(2, 5, 4)
    graph = trace(model, [x], {}, is_leaf=registry().is_leaf)
    session = BuildSession(Options())
    lowered, _ = lower_by_onnx(model, [x], graph, session.network, REFUSED)
    assert {layer.module for layer in lowered.network.layers} == {"lstm"}
    given = torch2edge.check.reference.ReferenceExecutor(session.network, trt).run({"input_0": x})
    output, (h, c) = model(x)
    for name, expected in zip(lowered.output_names, (output, h, c)):
        torch.testing.assert_close(given[name], expected, rtol=1e-4, atol=1e-5)
    assert session.build()


def test_binding_names(exporter: str, monkeypatch: Any) -> None:
    take_away(monkeypatch, aten.relu.default)

    class Two(nn.Module):
        def forward(self, x: torch.Tensor, ignored: torch.Tensor, y: torch.Tensor) -> Any:
            return (x.relu() + y) * 2, x

    args = [torch.randn(3), torch.randn(3), torch.randn(3)]
    names = {"input_names": ["relu", "b", "add"], "output_names": ["mul", "val_0"]}  # such as exporters give to tensors
    module = by_onnx(Two().eval(), *args, onnx_exporter=exporter, **names)
    assert [i["binding"] for i in module.metadata["inputs"]] == ["relu", "", "add"]
    assert [o["binding"] for o in module.metadata["outputs"]] == ["mul", "val_0"]
    torch.testing.assert_close(module(*args), Two()(*args))
    with pytest.raises(ConfigError, match="input_names"):
        by_onnx(Two().eval(), *args, input_names=["a"])


def test_devices_by_module(exporter: str) -> None:
    model, x = nn.Sequential(seeded(Block), Block()).eval(), X
    graph = trace(model, [x], {}, is_leaf=registry().is_leaf)
    options = Options(device_types={"0": trt.DeviceType.GPU, "1.conv": trt.DeviceType.GPU})
    session = BuildSession(options)
    asked: list[str] = []

    def device_of(path: str) -> Any:
        asked.append(path)
        return options.device_of(path)

    lowered, _ = lower_by_onnx(model, [x], graph, session.network, REFUSED, exporter=exporter, device_of=device_of)
    devices = {layer.module: layer.device for layer in lowered.network.layers}
    assert devices["0"] == devices["0.act"] == devices["0.conv"] == devices["1.conv"] == trt.DeviceType.GPU
    assert devices["1"] is devices["1.act"] is None
    session.place(lowered.network.layers)
    for layer in lowered.network.layers:
        assert session.config.is_device_type_set(layer.raw) is (layer.device is not None)
    assert session.build()
    assert len(set(asked)) > 3


@pytest.mark.parametrize("opset", [13, 17])
def test_opset(opset: int, monkeypatch: Any) -> None:
    take_away(monkeypatch, aten.relu.default)
    report = by_onnx(seeded(Block), X, onnx_opset=opset).report
    assert f"opset_version={opset}" in report.notes[0]


def test_weights_beside_the_model(monkeypatch: Any) -> None:
    """As for models of more than 2 GB."""
    take_away(monkeypatch, aten.relu.default)
    monkeypatch.setattr(onnx_road, "EXTERNAL_FROM", 0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU()).eval()  # onnx writes only tensors of 1 KiB and more outside
    x = torch.randn(2, 64)
    torch.testing.assert_close(by_onnx(model, x)(x), model(x), rtol=1e-4, atol=1e-5)


# ---- what it leaves behind --------------------------------------------------------------------------------------------


def test_the_model_is_left_as_it_was(exporter: str, monkeypatch: Any, capfd: Any) -> None:
    take_away(monkeypatch, aten.relu.default)
    model = seeded(Block)
    before = copy.deepcopy(model.state_dict())
    levels = [logging.getLogger(name).level for name in ("onnxscript", "torch.onnx", "")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_onnx(model, X, onnx_exporter=exporter)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert not model.training
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()
    assert levels == [logging.getLogger(name).level for name in ("onnxscript", "torch.onnx", "")]
    assert capfd.readouterr() == ("", "")


# ---- how it fails -----------------------------------------------------------------------------------------------------


class Bessel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


def test_an_op_that_nobody_knows(exporter: str, capfd: Any) -> None:
    with pytest.raises(UnsupportedOpError) as caught:
        by_onnx(Bessel().eval(), torch.randn(3), onnx_exporter=exporter)
    text, other = str(caught.value), {"torchscript": "dynamo", "dynamo": "torchscript"}[exporter]
    assert "aten.special_bessel_j0.default  in the model itself" in text  # ours
    assert "bessel_j0" in text.partition("fallback='onnx' does not do either: torch.onnx.export(")[2]  # the exporter's
    assert f"onnx_exporter='{other}'" in text
    assert text.count("The ways out") == 1
    assert caught.value.rows[0]["op"] == "aten.special_bessel_j0.default"
    assert "Torch IR graph" not in "".join(capfd.readouterr())


def test_the_first_error_names_both_ways_out() -> None:
    with pytest.raises(UnsupportedOpError, match=r"fallback='onnx'.*fallback='torch'"):
        torch2edge.convert(Bessel().eval(), [torch.randn(3)])


def test_an_op_that_the_parser_does_not_know(monkeypatch: Any) -> None:
    """No op of a model that traces is one: so one is put in."""
    model, x = nn.Sequential(seeded(Block)).eval(), X
    graph = trace(model, [x], {}, is_leaf=registry().is_leaf)

    def with_a_stranger(*args: Any, **kwargs: Any) -> Any:
        proto, paths = export(*args, **kwargs)
        relu = next(node for node in proto.graph.node if node.op_type == "Relu")
        relu.op_type = "Det"
        return proto, paths

    monkeypatch.setattr(onnx_road, "export", with_a_stranger)
    with pytest.raises(UnsupportedOpError) as caught:
        lower_by_onnx(model, [x], graph, BuildSession(Options()).network, REFUSED)
    text = str(caught.value)
    assert "gives a model, but the ONNX parser of" in text
    assert "0.act/Det" in text  # the node in the user's words
    assert "aten.x" in text


def test_onnx_checker_refuses(monkeypatch: Any) -> None:
    model, x = seeded(Block), X
    graph = trace(model, [x], {}, is_leaf=registry().is_leaf)

    def broken(*args: Any, **kwargs: Any) -> Any:
        proto, paths = export(*args, **kwargs)
        proto.graph.node[0].input.extend(["", "", "", "", ""])
        return proto, paths

    monkeypatch.setattr(onnx_road, "export", broken)
    with pytest.raises(ConversionError, match=r"not today.*\n.*onnx\.checker refuses it"):
        lower_by_onnx(model, [x], graph, BuildSession(Options()).network, ConversionError("not today"))


def test_a_simplifier_that_fails_is_no_obstacle(monkeypatch: Any) -> None:
    take_away(monkeypatch, aten.relu.default)
    import onnxslim

    def slim(model: Any, **_: Any) -> Any:
        raise KeyError("oops")

    monkeypatch.setattr(onnxslim, "slim", slim)
    report = by_onnx(seeded(Block), X).report
    assert f"not simplified: onnxslim {onnxslim.__version__} failed with KeyError: 'oops'" in report.notes[0]
    assert report.check[0].passed


def test_a_meaning_that_is_lost_is_found(monkeypatch: Any) -> None:
    take_away(monkeypatch, aten.relu.default)

    def wrong(*args: Any, **kwargs: Any) -> Any:
        proto, paths = export(*args, **kwargs)
        next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "Sigmoid"
        return proto, paths

    monkeypatch.setattr(onnx_road, "export", wrong)
    with pytest.raises(VerificationError, match="the meaning was lost on the way through ONNX"):
        by_onnx(seeded(Block), X)


@pytest.mark.parametrize("package", ["onnx", "onnxslim"])
def test_a_missing_package_says_what_to_install(package: str, monkeypatch: Any) -> None:
    take_away(monkeypatch, aten.relu.default)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"aten.relu.default[\s\S]*{package}[\s\S]*pip install 'torch2edge\[onnx\]'"):
        by_onnx(seeded(Block), X)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"fallback": "ONNX"}, "fallback is 'ONNX'; it must be one of 'error', 'onnx', 'torch'"),
        ({"onnx_exporter": "script"}, "onnx_exporter is 'script'; it must be one of 'torchscript', 'dynamo'"),
        ({"onnx_opset": 8}, "onnx_opset must be a whole number from 9 on, but is 8"),
        ({"onnx_opset": True}, "onnx_opset must be a whole number"),
    ],
)
def test_wrong_options(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        torch2edge.convert(seeded(Block), [X], **options)


def test_opset_17_of_an_exporter_that_writes_18(exporter: str, monkeypatch: Any) -> None:
    """TensorRT 8.6 parses up to 17; the mean over two axes had lost them."""
    take_away(monkeypatch, aten.relu.default)
    args, kwargs = nested_call()
    module = torch2edge.convert(seeded(Nested), args, kwargs, fallback="onnx", onnx_exporter=exporter, onnx_opset=17)
    assert "opset_version=17" in module.report.notes[0]
    assert all(row.passed for row in module.report.check)


def test_an_opset_that_the_exporter_lacks(monkeypatch: Any) -> None:
    take_away(monkeypatch, aten.relu.default)
    with pytest.raises(UnsupportedOpError, match="opset_version=99"):
        by_onnx(seeded(Block), X, onnx_opset=99)


@torch.library.custom_op("torch2edge_tests::softsign", mutates_args=(), schema="(Tensor x) -> Tensor")
def softsign(x: torch.Tensor) -> torch.Tensor:
    """An op that no converter and no exporter knows."""
    return x / (1 + x.abs())


softsign.register_fake(torch.empty_like)


class Symbolic(torch.autograd.Function):
    """The same, as its author exports it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return softsign(x)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Softsign", x)


class Calls(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.fc, self.function = nn.Linear(4, 4), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.fc(x))


def test_an_op_that_only_onnx_knows_by_its_functions_symbolic() -> None:
    model, x = Calls(Symbolic.apply).eval(), torch.randn(2, 4)
    module = torch2edge.convert(model, [x], fallback="onnx")
    torch.testing.assert_close(module(x), model(x).detach())
    assert "torch2edge_tests.softsign.default" in module.report.notes[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_op_that_only_onnx_knows_by_registration() -> None:
    model, x = Calls(softsign).eval(), torch.randn(2, 4)
    with pytest.raises(UnsupportedOpError, match="unrecognized namespace torch2edge_tests::softsign"):
        torch2edge.convert(model, [x], fallback="onnx")
    torch.onnx.register_custom_op_symbolic("torch2edge_tests::softsign", lambda g, x: g.op("Softsign", x), 17)
    try:
        module = torch2edge.convert(model, [x], fallback="onnx")
    finally:
        torch.onnx.unregister_custom_op_symbolic("torch2edge_tests::softsign", 17)
    torch.testing.assert_close(module(x), model(x).detach())
