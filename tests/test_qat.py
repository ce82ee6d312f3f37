"""Models prepared by torch.ao.quantization for quantization-aware training, end to end."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from torch2edge import TraceError, UnsupportedOpError, convert
from torch2edge.build import BuildSession
from torch2edge.lower import lower, registry
from torch2edge.options import Options
from torch2edge.trace import trace

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch.ao's own
    pytest.mark.filterwarnings("ignore:.*deprecated"),
    pytest.mark.filterwarnings("ignore:.*(reduce_range|must run observer)"),
]
tq: Any = torch.ao.quantization


def qconfig(activation: str = "FakeQuantize", weight: str = "FakeQuantize", narrow: bool = False) -> Any:
    """Symmetric int8, per tensor for activations and per channel for weights."""
    common = {"quant_max": 127, "dtype": torch.qint8}
    return tq.QConfig(
        activation=getattr(tq, activation).with_args(
            observer=tq.MovingAverageMinMaxObserver, qscheme=torch.per_tensor_symmetric, quant_min=-128, **common
        ),
        weight=getattr(tq, weight).with_args(
            observer=tq.MovingAveragePerChannelMinMaxObserver, qscheme=torch.per_channel_symmetric,
            quant_min=-127 if narrow else -128, **common,
        ),
    )  # fmt: skip


class Net(nn.Module):
    """Convolutions with batch norm, a residual addition, and a linear layer on more than two axes."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.first, self.norm, self.act = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8)
        self.add = nn.quantized.FloatFunctional()
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm(self.first(self.quant(x))))
        x = self.add.add(x, self.norm2(self.second(x)))
        return self.dequant(self.head(x.flatten(2).transpose(1, 2)))


def prepared(config: Any, fuse: bool = True) -> nn.Module:
    """Trained a little, in eval mode, with fixed scales."""
    torch.manual_seed(0)
    model = Net().train()
    if fuse:
        model = tq.fuse_modules_qat(model, [["first", "norm", "act"], ["second", "norm2"]])
    model.qconfig = config
    model = tq.prepare_qat(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(4):
        model(torch.randn(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval().apply(tq.disable_observer)  # type: ignore[no-any-return]


SESSIONS: list[Any] = []
CONFIGS = {
    "plain": lambda: qconfig(), "narrow": lambda: qconfig(narrow=True),
    "fused weights": lambda: qconfig(weight="FusedMovingAvgObsFakeQuantize"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "apart"])
def test_a_prepared_model_converts(name: str, fuse: bool) -> None:
    model = prepared(CONFIGS[name](), fuse)
    before = copy.deepcopy(model.state_dict())
    model_trt = convert(model, [torch.randn(2, 3, 8, 8)])
    assert all(row.passed for row in model_trt.report.check)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model_trt(x), model(x), rtol=0, atol=1e-5)


def layers_of(model: nn.Module) -> list[Any]:
    """The layers of its network; the session must outlive them."""
    session = BuildSession(Options())
    lowered = lower(trace(model, [torch.randn(2, 3, 8, 8)], is_leaf=registry().is_leaf), session.network, registry())
    SESSIONS.append((session, lowered))
    return [session.network.get_layer(i) for i in range(session.network.num_layers)]


def test_batch_norms_become_biases() -> None:
    """From quantize to quantize there is a convolution and its activation, which is what TensorRT fuses."""
    layers = layers_of(prepared(qconfig()))
    kinds = [x.type.name for x in layers]
    assert kinds.count("CONVOLUTION") == 2
    assert "SCALE" not in kinds
    assert kinds.count("ELEMENTWISE") == 2  # the residual addition, and the linear layer's bias
    by_output = {x.get_output(0).name: x.type.name for x in layers}
    for layer in layers:
        if layer.type.name == "CONVOLUTION":
            assert [by_output[layer.get_input(i).name] for i in range(2)] == ["DEQUANTIZE", "DEQUANTIZE"]


def test_the_folded_batch_norms_are_told() -> None:
    report = convert(prepared(qconfig()), [torch.randn(2, 3, 8, 8)]).report
    assert "2 batch norms are part of the convolutions before" in str(report)


@pytest.mark.parametrize("options", [{"int8": True}, {"fp16": True}, {"int8": True, "fp16": True}], ids=str)
def test_batch_norms_become_biases_in_low_precision_too(options: dict[str, bool]) -> None:
    report = convert(prepared(qconfig()), [torch.randn(2, 3, 8, 8)], **options).report  # type: ignore[arg-type]
    assert "2 batch norms are part of the convolutions before" in str(report)
    assert all(row.passed for row in report.check)


class OtherScale(nn.Module):
    """Divided by something that the batch norm does not undo, per channel or not."""

    def __init__(self, divisor: torch.Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        nn.init.normal_(self.norm.running_mean)
        self.register_buffer("divisor", divisor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch.fake_quantize_per_tensor_affine(self.conv.weight, 0.002, 0, -128, 127)
        return self.norm(torch.conv2d(x, weight) / self.divisor)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("shape", "folds"), [((1, 8, 1, 1), True), ((1, 1, 1, 6), False), ((8, 1, 1), False)])
def test_divisions_that_do_not_cancel(shape: tuple[int, ...], folds: bool) -> None:
    model = OtherScale(torch.rand(shape) + 1).eval()
    assert folds != bool({"ELEMENTWISE", "SCALE"} & {x.type.name for x in layers_of(model)})
    assert convert(model, [torch.randn(2, 3, 8, 8)]).report.check[0].passed


def test_dynamic_batches() -> None:
    model = prepared(qconfig())
    model_trt = convert(model, [torch.randn(2, 3, 8, 8)], dynamic={0: {0: (1, 2, 4)}})
    for batch in (1, 3, 4):
        x = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(model_trt(x), model(x), rtol=0, atol=1e-5)


def test_fake_quantization_that_is_off_leaves_no_layer() -> None:
    model = prepared(qconfig(weight="FusedMovingAvgObsFakeQuantize")).apply(tq.disable_fake_quant)
    assert not {"QUANTIZE", "DEQUANTIZE"} & {x.type.name for x in layers_of(model)}
    assert convert(model, [torch.randn(2, 3, 8, 8)]).report.check[0].passed


@pytest.mark.parametrize("kind", ["FakeQuantize", "FusedMovingAvgObsFakeQuantize"])
def test_an_observer_that_runs_is_refused_with_the_way_out(kind: str) -> None:
    model = prepared(qconfig(weight=kind)).apply(tq.enable_observer)
    with pytest.raises(TraceError, match=r"submodule quant\.activation_post_process .*disable_observer\)"):
        convert(model, [torch.randn(2, 3, 8, 8)])


def test_a_fused_observer_outside_of_its_module_is_refused() -> None:
    class Observes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("on", torch.ones(1, dtype=torch.long))
            for name in ("low", "high", "scale"):
                self.register_buffer(name, torch.ones(1))
            self.register_buffer("zero", torch.zeros(1, dtype=torch.int32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fused_moving_avg_obs_fake_quant(
                x, self.on, self.on, self.low, self.high, self.scale, self.zero, 0.1, -128, 127, 0, False, True
            )

    with pytest.raises(TraceError, match=r"with its observer on.*disable_observer"):
        convert(Observes().eval(), [torch.randn(2, 3)])


def test_a_model_prepared_for_calibration_is_refused() -> None:
    model = Net().eval()
    model.qconfig = tq.get_default_qconfig("x86")
    with pytest.raises(TraceError, match=r"takes down ranges while it runs\. Convert the float model"):
        convert(tq.prepare(model), [torch.randn(2, 3, 8, 8)])


def test_what_is_not_symmetric_is_refused_with_the_module_and_the_way_out() -> None:
    model = prepared(qconfig(activation="FusedMovingAvgObsFakeQuantize"))  # not symmetric behind a ReLU
    with pytest.raises(UnsupportedOpError, match=r"first\.activation_post_process.*zero point -128.*use a symmetric int8"):
        convert(model, [torch.randn(2, 3, 8, 8)])


def test_the_symbolic_graph_road_of_torch_ao() -> None:
    from torch.ao.quantization import quantize_fx

    torch.manual_seed(0)
    float_model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).train()
    mapping = tq.QConfigMapping().set_global(qconfig())
    x = torch.randn(2, 3, 8, 8)
    model = quantize_fx.prepare_qat_fx(float_model, mapping, (x,))
    for _ in range(3):
        model(torch.randn(2, 3, 8, 8))
    model_trt = convert(model.eval().apply(tq.disable_observer), [x])
    assert model_trt.report.check[0].passed
    assert "1 batch norm is part of the convolution before" in str(model_trt.report)


class Apart(nn.Module):
    """A convolution of fake-quantized weights, and a batch norm that knows nothing of it."""

    def __init__(self, per_channel: bool, negative: bool, lowest: int = -127, groups: int = 1) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.norm = nn.Conv2d(4, 8, 3, groups=groups), nn.BatchNorm2d(8)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)
        nn.init.normal_(self.norm.bias)
        if negative:
            self.norm.weight.data[::2] *= -1
        largest = self.conv.weight.detach().abs().amax((1, 2, 3)) if per_channel else self.conv.weight.detach().abs().max()
        self.register_buffer("scale", largest.reshape(-1) / 127)
        self.register_buffer("zero", torch.zeros(len(self.scale), dtype=torch.int32))
        if lowest == -128:
            self.conv.weight.data[0, 0, 0, 0] = -2 * largest.max()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.fake_quantize_per_tensor_affine(x, 0.03, 0, -128, 127)
        if len(self.scale) > 1:
            weight = torch.fake_quantize_per_channel_affine(self.conv.weight, self.scale, self.zero, 0, -128, 127)
        else:
            weight = torch.fake_quantize_per_tensor_affine(self.conv.weight, self.scale, self.zero, -128, 127)
        return self.norm(self.conv._conv_forward(x, weight, self.conv.bias))  # type: ignore[no-any-return]


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("negative", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norms_go_into_the_scales_of_the_weights(per_channel: bool, negative: bool, groups: int) -> None:
    model = Apart(per_channel, negative, groups=groups).eval()
    x = torch.randn(2, 4, 8, 8)
    model_trt = convert(model, [x])
    assert "1 batch norm is part of the convolution before" in str(model_trt.report)
    with torch.no_grad():
        torch.testing.assert_close(model_trt(x), model(x), rtol=0, atol=1e-5)


def test_the_lowest_code_is_not_turned_around() -> None:
    """-(-128) is no code: clamped to 127 it would be another weight."""
    model = Apart(True, True, lowest=-128).eval()
    model_trt = convert(model, [torch.randn(2, 4, 8, 8)])
    assert "batch norm is part" not in str(model_trt.report)
    assert model_trt.report.check[0].passed
    model = Apart(True, False, lowest=-128).eval()
    assert "1 batch norm is part" in str(convert(model, [torch.randn(2, 4, 8, 8)]).report)
