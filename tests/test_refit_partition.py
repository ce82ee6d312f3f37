"""PartitionedModule.refit(): its engines and its PyTorch part take other weights together."""

from __future__ import annotations

import copy

import pytest
import torch
from support.partition_models import Cut, error
from support.refits import trained
from torch import nn

import torch2edge
from torch2edge import ConfigError, VerificationError
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
    assert report.check == []
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
