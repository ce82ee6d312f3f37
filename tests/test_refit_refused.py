"""What EdgeModule.refit() refuses, and that nothing has changed then. Here the reference executor computes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.refits import Tied, gap, image_net, trained
from torch import nn

import torch2edge
from torch2edge import ConfigError, TraceError, VerificationError
from torch2edge._trt import why_not_executable
from torch2edge.roads import configure

pytestmark = [
    pytest.mark.skipif(not why_not_executable(), reason="here TensorRT executes: tests/run/test_refit_gpu.py has its tests"),
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
]


@pytest.fixture
def net() -> nn.Module:
    return image_net().eval()


@pytest.fixture
def engine(net: nn.Module) -> torch2edge.EdgeModule:
    return torch2edge.convert(net, [torch.randn(2, 3, 8, 8)], refittable=True)


@pytest.fixture
def unchanged(net: nn.Module, engine: torch2edge.EdgeModule) -> Iterator[None]:
    plan, metadata = engine._plan, copy.deepcopy(engine.metadata)
    yield
    assert engine._plan is plan
    assert engine.metadata == metadata
    assert gap(engine, net, 2, 3, 8, 8) < 1e-5


def other(index: int, layer: nn.Module) -> Callable[[nn.Module], nn.Module]:
    def change(net: nn.Module) -> nn.Module:
        changed = copy.deepcopy(net)
        changed[index] = layer
        return changed.eval()

    return change


ANOTHER = {
    "activation": (other(2, nn.SiLU()), "'2/relu', it has '2/silu/sigmoid' now"),
    "slope": (other(2, nn.LeakyReLU(0.2)), "'2/relu', it has '2/leaky_relu' now"),
    "kernel": (other(0, nn.Conv2d(3, 6, 5, padding=2)), "'0/convolution' differs: kernel was 162 of float32, now is 450"),
    "no bias": (other(9, nn.Linear(16, 5, bias=False)), "'9/linear"),
    "stride": (other(3, nn.ConvTranspose2d(6, 4, 4, 2, 1, bias=False)), "'3/convolution' differs: "),
    "epsilon": (other(6, nn.GroupNorm(2, 4, eps=1e-3)), "epsilon was"),
    "classes": (other(9, nn.Linear(16, 6)), "'outputs'|its outputs differs"),
    "more": (
        lambda net: nn.Sequential(*copy.deepcopy(net), nn.Sigmoid()).eval(),
        "layer '9/linear/elementwise' differs: outputs was",
    ),
}


@pytest.mark.parametrize("change", ANOTHER)
@pytest.mark.usefixtures("unchanged")
def test_another_model(net: nn.Module, engine: torch2edge.EdgeModule, change: str) -> None:
    make, told = ANOTHER[change]
    with pytest.raises(ConfigError, match=f"not the model that the engine was built from.*({told})"):
        engine.refit(make(net))


@pytest.mark.usefixtures("unchanged")
def test_no_models(engine: torch2edge.EdgeModule, net: nn.Module) -> None:
    with pytest.raises(torch2edge.TrainingModeError):
        engine.refit(copy.deepcopy(net).train())
    for wrong, told in (
        (3, "a int"), (None, "a NoneType"), ([net], "a list"), (nn.ReLU, "the class ReLU"),
        ("net.onnx", r"a path \('net\.onnx'\)"), (Path("net.pth"), "a path"),
    ):  # fmt: skip
        with pytest.raises(torch2edge.InputError, match=f"refit takes a model or a state dict, but was given {told}"):
            engine.refit(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="verify is 'no'"):
        engine.refit(net, verify="no")  # type: ignore[arg-type]
    with pytest.raises(torch2edge.InputError):
        engine.refit(nn.Linear(3, 4).eval())


@pytest.mark.usefixtures("unchanged")
def test_another_state_dict(net: nn.Module, engine: torch2edge.EdgeModule) -> None:
    state = net.state_dict()
    for changed, told in (
        ({k: v for k, v in state.items() if k != "9.bias"}, r"it lacks 9\.bias\."),
        ({**state, "10.weight": torch.ones(2)}, r"it has, and the model has not, 10\.weight"),
        ({**state, "9.weight": torch.ones(5, 17)}, r"9\.weight \[5, 17\] in the place of \[5, 16\]"),
        ({f"module.{k}": v for k, v in state.items()}, r"Take 'module\.' off its names"),
        ({}, "it lacks 0.weight, 0.bias, 1.weight, 1.bias, 1.running_mean and"),
        ({**state, "9.bias": "five"}, "does not take this state dict"),
    ):
        with pytest.raises(ConfigError, match=told):
            engine.refit(changed)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("verify", [True, False])
def test_another_dtype(net: nn.Module, engine: torch2edge.EdgeModule, verify: bool) -> None:
    half = copy.deepcopy(net).half()
    with pytest.raises(ConfigError, match=r"0\.weight is torch\.float16 and was torch\.float32"):
        engine.refit(half, verify=verify)
    other = copy.deepcopy(engine)
    other.refit(half.state_dict(), verify=verify)
    assert gap(other, half.float(), 2, 3, 8, 8) < 1e-5


class View(nn.Module):
    """A tensor outside of the state dict that is a view of a weight in it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.w, self.kind = nn.Parameter(torch.randn(8, 8)), kind
        view = self.w.detach().t()
        if kind == "buffer":
            self.register_buffer("v", view, persistent=False)
        elif kind == "attribute":
            self.v = view
        else:
            self.held = {"views": [view]}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w + x @ (self.held["views"][0] if self.kind == "nested" else self.v)


@pytest.mark.parametrize("kind", ["buffer", "attribute", "nested"])
def test_a_view_of_a_weight_that_a_state_dict_does_not_reach(kind: str) -> None:
    """A model into which it is loaded has new values in the view; a copy of the model has no view."""
    model, new = View(kind).eval(), View(kind).eval()
    engine = torch2edge.convert(model, [torch.randn(2, 8)], refittable=True)
    name = r"a tensor of the model, \[8, 8\]," if kind == "nested" else "v"
    with pytest.raises(ConfigError, match=rf"refit: {name} shares memory with w, .* Give the model itself"):
        engine.refit(new.state_dict())
    assert gap(engine, model, 2, 8) < 1e-5
    engine.refit(new)
    assert gap(engine, new, 2, 8) < 1e-5


def test_one_tensor_of_two_names_and_two_values() -> None:
    model = Tied().eval()
    engine = torch2edge.convert(model, [torch.randn(3, 4)], refittable=True)
    state = dict(model.state_dict())
    with pytest.raises(ConfigError, match=r"first\.weight and second\.weight are one tensor"):
        engine.refit({**state, "second.weight": torch.randn(4, 4)})
    engine.refit({name: tensor * 2 for name, tensor in state.items()})


def test_a_number_that_was_taken_out_of_a_parameter() -> None:
    """It is in a layer, not among the weights: TensorRT cannot change it, and so it must not pass for unchanged."""

    class Net(nn.Module):
        def __init__(self, slope: float) -> None:
            super().__init__()
            self.fc, self.slope = nn.Linear(4, 4), nn.Parameter(torch.tensor(slope))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.leaky_relu(self.fc(x), self.slope.item())

    model = Net(0.25).eval()
    engine = torch2edge.convert(model, [torch.randn(2, 4)], refittable=True)
    with pytest.raises(ConfigError, match=r"the layer '/leaky_relu' differs: alpha was 0\.25, now is 0\.5"):
        engine.refit(Net(0.5).eval())
    new = Net(0.25).eval()
    engine.refit(new)
    assert gap(engine, new, 2, 4) < 1e-5


def test_a_branch_on_a_parameter() -> None:
    class Net(nn.Module):
        def __init__(self, gate: float) -> None:
            super().__init__()
            self.fc, self.gate = nn.Linear(4, 4), nn.Parameter(torch.tensor(gate))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.fc(x)) if self.gate > 0 else torch.sigmoid(self.fc(x))

    engine = torch2edge.convert(Net(1.0).eval(), [torch.randn(2, 4)], refittable=True)
    with pytest.raises(ConfigError, match="'/relu', it has '/sigmoid' now"):
        engine.refit(Net(-1.0).eval())


def test_another_structure_of_the_outputs() -> None:
    class Net(nn.Module):
        def __init__(self, key: str) -> None:
            super().__init__()
            self.fc, self.key = nn.Linear(4, 4), key

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {self.key: self.fc(x)}

    engine = torch2edge.convert(Net("a").eval(), [torch.randn(2, 4)], refittable=True)
    with pytest.raises(ConfigError, match=r"it returns .*b.*, and the engine .*a"):
        engine.refit(Net("b").eval())


def test_half_has_no_room_for_the_new_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    engine = torch2edge.convert(model, [torch.randn(2, 4)], fp16=True, refittable=True)
    new = trained(model)
    with torch.no_grad():
        new[0].weight.mul_(1e6)
        new[1].weight.mul_(1e-6)
    with pytest.raises(ConfigError, match=r"half.* has no room for 0 \(.*reaches.*precisions="):
        engine.refit(new)
    assert gap(engine, model, 2, 4) < 5e-3


def test_a_batch_norm_that_does_not_fold_any_more() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    engine = torch2edge.convert(model, [torch.randn(1, 3, 8, 8)], fp16=True, refittable=True)
    new = trained(model)
    with torch.no_grad():
        new[1].weight[0] = 1e-6
    with pytest.raises(ConfigError, match="the batch norm of 1 was part of the convolution before it"):
        engine.refit(new)


def test_sparse_weights_stay_sparse() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval()
    torch2edge.sparsify_2to4(model, ["2"])
    engine = torch2edge.convert(model, [torch.randn(2, 8)], sparse=True, refittable=True)
    new = trained(model)
    with pytest.raises(ConfigError, match="the weights of 2 had the 2:4 pattern"):
        engine.refit(new)
    torch2edge.sparsify_2to4(new, ["2"])
    engine.refit(new)
    assert gap(engine, new, 2, 8) < 1e-5


def test_a_check_that_fails_changes_nothing(net: nn.Module) -> None:
    engine = torch2edge.convert(net, [torch.randn(2, 3, 8, 8)], refittable=True, fp16=True, tolerance=1e-9, verify=False)
    plan, x = engine._plan, torch.randn(2, 3, 8, 8)
    before = engine(x)
    with pytest.raises(VerificationError, match="the module keeps its old weights, for with the new ones 1 of 1 outputs"):
        engine.refit(trained(net))
    assert engine._plan is plan
    assert torch.equal(engine(x), before)
    engine.refit(trained(net), verify=False)
    assert engine._plan is not plan


def test_what_was_not_made_to_be_refitted(net: nn.Module, engine: torch2edge.EdgeModule, tmp_path: Path) -> None:
    plain = torch2edge.convert(net, [torch.randn(2, 3, 8, 8)])
    for module in (plain, torch2edge.EdgeModule()):
        with pytest.raises(ConfigError, match="this EdgeModule cannot be refitted: convert with refittable=True"):
            module.refit(net)
    assert "refittable" not in plain.metadata
    assert engine.metadata["refittable"] is False  # no TensorRT that executes
    assert any("the engine itself cannot be refitted" in note for note in engine.report.notes)


def test_options_that_cannot_be_refitted(net: nn.Module) -> None:
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(ConfigError, match=r"a DLA cannot be refitted.*default_device_type"):
        torch2edge.convert(net, [x], refittable=True, fp16=True, default_device_type="dla")
    with pytest.raises(ConfigError, match=r"refittable=True: .*ONNX parser"):
        torch2edge.convert(net, [x], refittable=True, fallback="onnx")
    with pytest.raises(ConfigError, match="refittable is 1"):
        torch2edge.convert(net, [x], refittable=1)  # type: ignore[arg-type]


def test_the_builder_is_told_once(net: nn.Module) -> None:
    """Of an engine out of a cache it was not, and then a refit has to compare with a network that was."""
    dynamic = {0: {0: (1, 2, 4)}}
    engine = torch2edge.convert(net, [torch.randn(2, 3, 8, 8)], dynamic=dynamic, refittable=True, keep_network=True)
    road = engine._kept.road
    assert road.configured
    assert road.session.config.num_optimization_profiles == 1
    assert configure(road, "fp32") == ""
    assert road.session.config.num_optimization_profiles == 1


def test_a_trace_that_fails(engine: torch2edge.EdgeModule, net: nn.Module) -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(net)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 0:
                return self.net(x)
            return x

    with pytest.raises(TraceError):
        engine.refit(Writes().eval())
    assert gap(engine, net, 2, 3, 8, 8) < 1e-5
