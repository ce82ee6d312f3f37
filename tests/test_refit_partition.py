"""PartitionedModule.refit(): its engines and its PyTorch part take other weights together."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.partition_models import Cut, error
from support.refits import trained
from torch import nn

import torch2edge
from torch2edge import ConfigError, InputError, VerificationError
from torch2edge._trt import why_not_executable

pytestmark = [
    pytest.mark.skipif(not why_not_executable(), reason="here TensorRT executes: tests/run/test_refit_gpu.py has its tests"),
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
]


class Between(Cut):
    """With a weight in what stays in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(6, 1, 1))

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x) * self.factor + x


@pytest.fixture
def net() -> nn.Module:
    return Between().eval()


@pytest.fixture
def made(net: nn.Module) -> torch2edge.PartitionedModule:
    made = torch2edge.convert(net, [torch.randn(2, 3, 8, 8)], fallback="torch", refittable=True)
    assert isinstance(made, torch2edge.PartitionedModule)
    assert sorted(made.report.engines) == ["first", "second"]
    return made


def fresh() -> list[torch.Tensor]:
    return [torch.randn(2, 3, 8, 8) for _ in range(3)]


def test_all_of_it_is_new(net: nn.Module, made: torch2edge.PartitionedModule) -> None:
    for _ in range(2):
        new = trained(net)
        assert error(made, new, fresh()) > 1e-2
        made.refit(new)
        assert error(made, new, fresh()) < 1e-5
        torch.testing.assert_close(made.module.factor, new.factor)
    report = made.report
    assert report.check
    assert all(row.passed for row in report.check)
    assert report.checked_by == "the reference executor"
    assert sum(note.startswith("note: refitted") for note in report.notes) == 1
    assert all("refit" in engine.timings for engine in report.engines.values())
    assert all(engine == made._parts[path].edge_engine.report for path, engine in report.engines.items())


def test_what_runs_in_pytorch_for_another_size_is_new_too(net: nn.Module, made: torch2edge.PartitionedModule) -> None:
    new = trained(net)
    made.refit(new)
    with pytest.warns(torch2edge.PartitionWarning):
        assert error(made, new, [torch.randn(2, 3, 9, 9)]) < 1e-5


def test_one_part_that_cannot_leaves_all_as_it_was(net: nn.Module, made: torch2edge.PartitionedModule) -> None:
    another = copy.deepcopy(net)
    another.second[1] = nn.SiLU()
    with pytest.raises(ConfigError, match="not the model that the engine was built from"):
        made.refit(trained(another))
    assert error(made, net, fresh()) < 1e-5
    larger = copy.deepcopy(net)
    larger.first[0] = nn.Conv2d(3, 8, 5, padding=2)
    with pytest.raises(ConfigError, match=r"other parameters or buffers than the converted one: first\.0\.weight"):
        made.refit(larger.eval())
    assert error(made, net, fresh()) < 1e-5


class Apart(nn.Module):
    """Stays in PyTorch, for it branches on its input; what it computes with is in no state dict."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor), persistent=False)
        self.shift, self.held = factor / 2, {"tensors": [torch.full((4,), factor)]}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if int((x > 1e9).sum()) > 0:
            return x
        return x * self.factor + self.shift + self.held["tensors"][0]


class Both(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.body, self.apart = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), Apart(factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.apart(self.body(x))


def both(model: nn.Module, **options: Any) -> torch2edge.PartitionedModule:
    made = torch2edge.convert(model, [torch.randn(3, 4)], fallback="torch", refittable=True, **options)
    assert isinstance(made, torch2edge.PartitionedModule)
    return made


@pytest.mark.parametrize("verify", [True, False])
def test_what_is_in_no_state_dict_is_new_too(verify: bool) -> None:
    model, new = Both(1.0).eval(), Both(3.0).eval()
    made = both(model)
    held, told = made._parts["body"].edge_engine, made.report.check
    made.refit(new, verify=verify)
    given = [torch.randn(3, 4) for _ in range(3)]
    assert error(made, new, given) < 1e-5
    assert bool(made.report.check) == verify
    assert made.report.check != told
    assert made._parts["body"].edge_engine is held is made.module.body.edge_engine
    wanted = new(given[0])
    with torch.no_grad():  # a copy: the model goes on being trained
        new.apart.factor.mul_(2)
        new.apart.held["tensors"][0].mul_(2)
    torch.testing.assert_close(made(given[0]), wanted, rtol=1e-4, atol=1e-5)
    made.refit(Both(5.0).eval(), verify=verify)


def test_calls_go_on_being_counted() -> None:
    made = both(Both(1.0).eval())
    made(torch.randn(3, 4))
    made.refit(Both(2.0).eval())
    made(torch.randn(3, 4))
    assert made.report.calls == {"body": (2, 0)}


def test_the_whole_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is right, and what is between them is not."""
    model, new = Both(1.0).eval(), Both(3.0).eval()
    made = both(model)
    forward = Apart.forward
    monkeypatch.setattr(Apart, "forward", lambda self, x: forward(self, x) * (1 if self is new.apart else 2))
    with pytest.raises(VerificationError, match="the module keeps its old weights"):
        made.refit(new)
    monkeypatch.setattr(Apart, "forward", forward)
    assert error(made, model, [torch.randn(3, 4)]) < 1e-5


def test_no_models(net: nn.Module, made: torch2edge.PartitionedModule) -> None:
    for wrong, told in ((net.state_dict(), "a state dict"), (None, "a NoneType"), ("x", "a str"), (3, "a int")):
        with pytest.raises(InputError, match=f"takes a model, but was given {told}"):
            made.refit(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="verify is 'no'"):
        made.refit(net, verify="no")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"factor was \[6, 1, 1\] torch\.float32, now is \[6, 1, 1\] torch\.float16"):
        made.refit(copy.deepcopy(net).half())
    with pytest.raises(torch2edge.TrainingModeError):
        made.refit(copy.deepcopy(net).train())
    renamed = copy.deepcopy(net)
    renamed.training = True
    with pytest.raises(torch2edge.TrainingModeError):
        made.refit(renamed)
    assert error(made, net, fresh()) < 1e-5


def test_a_loaded_one_is_not_refitted(net: nn.Module, made: torch2edge.PartitionedModule) -> None:
    other = copy.deepcopy(made)
    other.refit(trained(net))
    other.load_state_dict(made.state_dict())
    with pytest.raises(ConfigError, match="the engines of first, second cannot be refitted"):
        other.refit(net)


def test_a_check_that_fails(net: nn.Module) -> None:
    made = torch2edge.convert(
        net, [torch.randn(2, 3, 8, 8)], fallback="torch", refittable=True, fp16=True, tolerance=1e-9, verify=False
    )
    with pytest.raises(VerificationError, match="keeps its old weights"):
        made.refit(trained(net))
    assert error(made, net, fresh()) < 1e-2


def test_not_made_for_it(net: nn.Module) -> None:
    made = torch2edge.convert(net, [torch.randn(2, 3, 8, 8)], fallback="torch")
    with pytest.raises(ConfigError, match="the engines of first, second cannot be refitted"):
        made.refit(net)
