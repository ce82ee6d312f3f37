"""2:4 sparsity against its definition, element by element."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import torch2edge
from torch2edge.errors import ConfigError
from torch2edge.sparsity import has_2to4, sparse_modules, sparsify_2to4, sparsity_note


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2))
        self.line = nn.Conv1d(8, 4, 3)
        self.back = nn.ConvTranspose2d(8, 4, 2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.head = nn.Linear(12, 5)


def in_fours(weight: torch.Tensor) -> list[list[float]]:
    """Each group of 4 consecutive input channels, at each output channel and place of the kernel."""
    flat = weight.reshape(weight.shape[0], weight.shape[1], -1)
    return [
        flat[o, start : start + 4, place].tolist()
        for o in range(flat.shape[0]) for start in range(0, flat.shape[1], 4) for place in range(flat.shape[2])
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["body.0", "body.3", "line", "head"])
def test_the_two_largest_of_four_stay(path: str) -> None:
    model = Small()
    before = copy.deepcopy(model)
    sparsify_2to4(model)
    old, new = before.get_submodule(path).weight.detach(), model.get_submodule(path).weight.detach()
    for four, pruned in zip(in_fours(old), in_fours(new)):
        kept = sorted(range(4), key=lambda i: -abs(four[i]))[:2]
        assert pruned == [value if i in kept else 0.0 for i, value in enumerate(four)]
    assert torch.equal(before.get_submodule(path).bias, model.get_submodule(path).bias)


def test_what_is_left_alone() -> None:
    model = Small()
    before = copy.deepcopy(model)
    done = sparsify_2to4(model)
    assert done == ["body.0", "body.3", "line", "head"]
    for path in ("stem", "back", "depthwise", "body.1"):
        assert torch.equal(before.get_submodule(path).weight, model.get_submodule(path).weight), path
    assert sparse_modules(before) == dict.fromkeys(["stem", "body.0", "body.3", "line", "depthwise", "head"], False)
    assert {path for path, sparse in sparse_modules(model).items() if sparse} == set(done)


def test_parameters_stay_the_same_objects_and_train_on() -> None:
    model = Small()
    weight = model.head.weight
    version = weight._version
    sparsify_2to4(model)
    assert model.head.weight is weight
    assert weight.requires_grad
    assert weight.is_leaf
    assert weight._version > version
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    model.head(torch.randn(3, 12)).square().sum().backward()
    optimizer.step()
    assert not has_2to4(weight)
    assert "head" in sparsify_2to4(model)
    assert has_2to4(weight)


def test_a_second_time_changes_nothing() -> None:
    model = Small()
    sparsify_2to4(model)
    before = copy.deepcopy(model.state_dict())
    assert sparsify_2to4(model) == ["body.0", "body.3", "line", "head"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model = nn.Linear(8, 3).to(dtype)
    assert sparsify_2to4(model) == [""]
    assert has_2to4(model.weight)
    assert model.weight.dtype == dtype


def test_chosen_modules() -> None:
    model = Small()
    assert sparsify_2to4(model, ["body"]) == ["body.0", "body.3"]
    assert sparsify_2to4(model, [model.head, "body.0"]) == ["body.0", "head"]
    assert not has_2to4(model.line.weight)


def test_a_computed_weight_is_not_said_to_be_sparse() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)), nn.Linear(8, 4))
    before = model[0].weight.detach().clone()
    assert sparsify_2to4(model) == ["1"]
    assert torch.equal(model[0].weight, before)
    assert sparse_modules(model) == {"0": False, "1": True}


def test_equal_weights_lose_two_all_the_same() -> None:
    model = nn.Linear(8, 2)
    nn.init.constant_(model.weight, 0.5)
    sparsify_2to4(model)
    assert model.weight.tolist() == [[0.5, 0.5, 0.0, 0.0] * 2] * 2


def test_the_pattern() -> None:
    assert has_2to4(torch.tensor([[1.0, 0, 0, 2, 0, 0, 0, 3]]))
    assert has_2to4(torch.zeros(2, 4))
    assert not has_2to4(torch.tensor([[1.0, 0, 0, 2, 0, 1, 1, 3]]))
    assert not has_2to4(torch.tensor([[1.0, 1, 1, 0, 0, 0, 0, 1]]))  # two of four, but not in each four
    assert not has_2to4(torch.zeros(2, 6))
    assert not has_2to4(torch.zeros(8))
    across = torch.zeros(1, 4, 1, 2)
    across[0, :3, 0, 0] = 1.0  # three of four at one place of the kernel
    assert not has_2to4(across)


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (["bodi"], "modules holds 'bodi', which is no submodule of this model; near it is body"),
        ([nn.Linear(4, 4)], "modules holds 'Linear', which is no submodule of this model"),
        (["body.1"], "modules holds 'body.1', in which there is no linear or convolution layer"),
        ("body", "modules is a single str; give a list"),
    ],
)
def test_wrong_modules(modules: object, message: str) -> None:
    model = Small()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        sparsify_2to4(model, modules)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_is_exported() -> None:
    assert torch2edge.sparsify_2to4 is sparsify_2to4


def test_what_a_dla_can_use() -> None:
    model = nn.Sequential(
        nn.Conv2d(64, 8, 3), nn.Conv2d(8, 128, 3), nn.Conv2d(128, 8, 3), nn.Conv2d(8, 68, 1), nn.Conv2d(68, 4, 1)
    )
    sparsify_2to4(model)
    assert "more than 64 input channels: 2, 4" in sparsity_note(model, dla=True)
    assert "DLA" not in sparsity_note(model)
    assert "input channels: none of these" in sparsity_note(sparse(nn.Conv2d(64, 8, 3)), dla=True)


def sparse(layer: nn.Module) -> nn.Module:
    sparsify_2to4(layer)
    return layer
