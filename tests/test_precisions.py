"""convert(fp16=, bf16=, precisions=) where the network is strongly typed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import torch2edge
from torch2edge import ConfigError
from torch2edge._trt import capabilities, trt
from torch2edge.lower import registry
from torch2edge.options import Options
from torch2edge.prepare import Call, _at_risk, in_half
from torch2edge.trace import trace

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
    pytest.mark.skipif(not capabilities().strongly_typed, reason="a weakly typed TensorRT takes flags"),
]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU()) for _ in range(2))
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        pooled = x.mean((2, 3))
        return {"logits": self.head(pooled), "p": self.head(pooled).softmax(-1)}


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


X = torch.randn(2, 3, 8, 8)


def precisions(module: Any) -> dict[str, str]:
    return {row.path: row.precision for row in module.report.modules}


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_the_whole_model(net: Net, name: str) -> None:
    module = torch2edge.convert(net, [X], **{name: True})
    assert module.report.precision == f"{name}+fp32"
    assert precisions(module)["stem.0"] == precisions(module)["blocks.1.0"] == name
    assert all(row.passed for row in module.report.check)
    fresh = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        given, expected = module(fresh), net(fresh)
    assert {t.dtype for t in given.values()} == {torch.float32}
    errors = {key: float((given[key] - expected[key]).norm() / expected[key].norm()) for key in expected}
    limit = {"fp16": 2e-3, "bf16": 2e-2}[name]  # some units in the last place of 11 and 8 bits
    assert all(1e-7 < error < limit for error in errors.values()), errors  # it is not float32 either


def test_weights_are_stored_low(net: Net) -> None:
    full, half = (torch2edge.convert(net, [X], fp16=on, keep_network=True, verify=False) for on in (False, True))

    def kinds(module: Any) -> set[str]:
        found = set()
        for i in range(module.network.num_layers):
            layer = module.network.get_layer(i)
            if layer.type == trt.LayerType.CONVOLUTION:
                layer.__class__ = trt.IConvolutionLayer
                found.add(str(layer.kernel.dtype))
        return found

    assert kinds(full) == {"float32"}
    assert kinds(half) == {"float16"}


def test_modules_and_patterns(net: Net) -> None:
    chosen = {"blocks.*": "bf16", net.blocks[1]: "fp16", "blocks.1.0": "fp32", "head": "fp16"}
    module = torch2edge.convert(net, [X], precisions=chosen)
    found = precisions(module)
    assert {path: found[path] for path in ("stem.0", "blocks.0.0", "blocks.0.1", "blocks.1.0", "head")} == {
        "stem.0": "fp32", "blocks.0.0": "bf16", "blocks.0.1": "bf16", "blocks.1.0": "fp32", "head": "fp16",
    }  # fmt: skip
    assert module.report.precision == "bf16+fp16+fp32"


def test_a_module_kept_out(net: Net) -> None:
    module = torch2edge.convert(net, [X], fp16=True, precisions={net.head: "fp32"})
    assert precisions(module)["head"] == "fp32"
    assert precisions(module)["stem.0"] == "fp16"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"haed": "fp16"}, r"precisions: 'haed' is no submodule of the model; near it: head"),
        ({"block.*": "fp16"}, r"the pattern 'block.\*' matches no submodule"),
        ({nn.ReLU(): "fp16"}, "precisions: a ReLU is no submodule"),
        ({"unused": "fp16"}, r"nothing ran in 'unused' when the model was traced"),
        ({"head": "half"}, r"precisions\['head'\] is 'half'; it must be one of 'fp32', 'fp16', 'bf16', 'int8'"),
        (["head"], r"precisions is a list; write \{submodule: 'fp32'\}"),
    ],
)
def test_wrong_entries(net: Net, given: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        torch2edge.convert(net, [X], precisions=given)


def test_weights_beyond_halfs_range_are_named(net: Net) -> None:
    net.head.weight.data[0, 0] = 1e5
    module = torch2edge.convert(net, [X], fp16=True)
    assert "head (head.weight of aten.linear.default reaches 100000)" in module.report.notes[0]
    assert precisions(module)["head"] == "fp32"
    assert all(row.passed for row in module.report.check)


def test_values_beyond_halfs_range_are_named(net: Net) -> None:
    net.blocks[0][0].weight.data *= 1e5
    net.stem[1].weight.data *= 30
    module = torch2edge.convert(net, [X], fp16=True, verify=False)
    assert "blocks.0.0 (aten.convolution.default gave" in module.report.notes[0]
    assert precisions(module)["blocks.0.0"] == "fp32"


def test_the_cut_keeps_precisions(net: Net) -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.more = net, nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.net(x)["logits"]
            return self.more(y) if y.sum() < 1e9 else y

    options = {"fallback": "torch", "fp16": True, "precisions": {"net.head": "fp32"}}
    module = torch2edge.convert(Branch().eval(), [X], **options)
    parts = {path: part for path, part in module.named_modules() if isinstance(part, torch2edge.EdgeModule)}
    assert set(parts) == {"module.net.edge_engine", "module.more.edge_engine"}
    assert precisions(parts["module.net.edge_engine"])["head"] == "fp32"
    assert precisions(parts["module.net.edge_engine"])["stem.0"] == "fp16"


def test_sizes_that_vary(net: Net) -> None:
    module = torch2edge.convert(net, [X], fp16=True, dynamic={0: {0: (1, 2, 8)}})
    fresh = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(module(fresh)["p"], net(fresh)["p"], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0"])
def test_models_that_half_breaks_elsewhere(name: str) -> None:
    """Torch-TensorRT's own tests expect these two to fail."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 2)
    model.eval()
    module = torch2edge.convert(model, [torch.randn(1, 3, 96, 96)], fp16=True)
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        cosine = torch.cosine_similarity(module(x).double(), model(x).double())
    assert float(cosine) > 0.999


@pytest.mark.skipif(not capabilities().quantizes_half, reason="this TensorRT's quantize layers take float32")
def test_halves_are_quantized_as_they_are(net: Net) -> None:
    """A cast between a dequantize layer and a convolution would keep TensorRT from computing it in INT8."""
    data = torch2edge.Calibration([torch.randn(2, 3, 8, 8) for _ in range(16)], progress=False)
    module = torch2edge.convert(net, [X], fp16=True, int8=True, calibration=data, keep_network=True)
    layers = [module.network.get_layer(i) for i in range(module.network.num_layers)]
    made_by = {layer.get_output(0).name: layer.type.name for layer in layers}
    operands = [layer.get_input(k) for layer in layers if layer.type == trt.LayerType.CONVOLUTION for k in (0, 1)]
    assert {t.dtype for t in operands} == {trt.DataType.HALF}
    assert {made_by[t.name] for t in operands} == {"DEQUANTIZE"}


HALF = nn.Sequential(nn.Linear(8, 8)).eval().half()


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        (HALF, {"int8": True, "calibration": [torch.randn(4, 8).half()]}, "nothing is INT8"),
        (HALF, {"precisions": {"0": "fp32", "": "fp16"}}, "precisions has no effect on 0"),
        (HALF, {"bf16": True}, "bf16=True has no effect"),
        (nn.Sequential(nn.ReLU()).eval(), {"int8": True, "calibration": [torch.randn(4, 8)]}, "nothing is INT8"),
    ],
)
@pytest.mark.filterwarnings("ignore::torch2edge.CalibrationWarning")
def test_options_that_nothing_can_take_are_named(model: nn.Module, options: dict[str, Any], told: str) -> None:
    x = torch.randn(4, 8).half() if model is HALF else torch.randn(4, 8)
    assert any(told in note for note in torch2edge.convert(model, [x], **options).report.notes)


@pytest.mark.parametrize("factor", [1e5, 1e-6])
@pytest.mark.filterwarnings("ignore::torch2edge.CalibrationWarning")
def test_ranges_are_seen_through_quantizers(factor: float) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 32), nn.Linear(32, 8)
            self.b.weight.data /= factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b((self.a(x) * factor).relu())

    data = torch2edge.Calibration([torch.randn(8, 16) for _ in range(17)], algorithm="minmax", progress=False)
    module = torch2edge.convert(Scaled().eval(), [torch.randn(8, 16)], int8=True, fp16=True, calibration=data)
    assert all(row.rel_l2 < 0.05 for row in module.report.check)
    assert any("b (" in note and "half has no room" in note for note in module.report.notes)


def test_an_infinity_hides_no_large_number() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = nn.Linear(3, 3)
            self.register_buffer("c", torch.tensor([-float("inf"), 0.0, 1e5]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.l(x) + self.c) * 1e-3

    report = torch2edge.convert(Masked().eval(), [torch.randn(4, 3)], fp16=True).report
    assert any("reaches 100000" in note for note in report.notes)


@pytest.mark.parametrize("scale", [1e6, 1e-6])
def test_what_half_has_no_room_for_is_found_and_named(scale: float) -> None:
    """Weights of 1e-7, and activations of 1e6 on their way into the layer that makes them small again."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    net[2].weight.data *= scale
    net[2].bias.data *= scale
    net[4].weight.data /= scale
    x = torch.randn(4, 8)
    module = torch2edge.convert(net, [x], fp16=True)
    fresh = torch.randn(4, 8)
    with torch.no_grad():
        torch.testing.assert_close(module(fresh), net(fresh), rtol=2e-2, atol=2e-3)
    told = next(note for note in module.report.notes if "half has no room" in note)
    assert {name for name in ("2 (", "4 (") if f" {name}" in told} == {"2 (", "4 ("}, told
    assert {row.path: row.precision for row in module.report.modules}["0"] != "fp32"


@pytest.mark.parametrize("scale", [1e6, 1e-6])
def test_where_tensorrt_chooses_it_is_named(scale: float) -> None:
    """On weakly typed TensorRT half is allowed, not ordered: the note says for which modules to order float32."""
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    net[0].weight.data *= scale
    net[0].bias.data *= scale
    net[2].weight.data /= scale
    x = torch.randn(4, 8)
    graph = trace(net, [x], is_leaf=registry().is_leaf)
    call = Call(net, [x], {})
    (note,) = _at_risk(in_half(graph, Options(fp16=True), call, call.largest(graph)).kept)
    assert "half has no room for 0 (" in note
    assert "precisions={'0': 'fp32', '2': 'fp32'}" in note
    plain = nn.Linear(8, 3).eval()
    graph, call = trace(plain, [x], is_leaf=registry().is_leaf), Call(plain, [x], {})
    assert _at_risk(in_half(graph, Options(fp16=True), call, call.largest(graph)).kept) == []


def test_no_false_notes() -> None:
    """A Dropout that a pattern matches is not half, nor are integers."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout()).eval()
    report = torch2edge.convert(model, [torch.randn(4, 8)], fp16=True, precisions={"[012]": "fp32"}).report
    assert not any("no effect" in note for note in report.notes)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors", "ignore::torch2edge.CalibrationWarning")
def test_weights_without_elements_have_no_codes() -> None:
    model = nn.Sequential(nn.Linear(8, 0), nn.Linear(0, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    data = torch2edge.Calibration([torch.randn(2, 8) for _ in range(20)], progress=False)
    assert all(row.passed for row in torch2edge.convert(model, [torch.randn(2, 8)], int8=True, calibration=data).report.check)
