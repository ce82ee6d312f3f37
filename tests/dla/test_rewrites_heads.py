"""Linear layers of images as convolutions, and those that stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.dla import proven
from support.rows import F16, Function
from torch import nn

from torch2edge.graph import Constant

C, H, W = 6, 1, 1


class Head(nn.Module):
    """A linear layer behind some way to flatten, with the result used as ``use`` says."""

    def __init__(self, flat: Any, features: int = C, use: Any = lambda image, flat, result: result, bias: bool = True) -> None:
        super().__init__()
        self.fc = nn.Linear(features, 5, bias)
        self.flat, self.use = flat, use

    def forward(self, x: torch.Tensor) -> Any:
        image = x + 1
        flat = self.flat(image)
        return self.use(image, flat, self.fc(flat))


FLAT = {
    "flatten": lambda x: x.flatten(1),
    "view": lambda x: x.view(x.size(0), -1),
    "reshape": lambda x: x.reshape(x.size(0), C),
    "squeeze": lambda x: x.squeeze(-1).squeeze(-1),
    "squeeze-both": lambda x: x.squeeze((2, 3)),
    "select": lambda x: x[:, :, 0, 0],
    "mean": lambda x: x.mean((2, 3)),
    "two-means": lambda x: x.mean(3).mean(2),
    "there-and-back": lambda x: x.flatten(1).unsqueeze(1).flatten(1),
}


@pytest.mark.parametrize("dtype", [torch.float32, F16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("flat", FLAT)
def test_ways_to_flatten(flat: str, bias: bool, dtype: torch.dtype) -> None:
    result = proven(Head(FLAT[flat], bias=bias), (3, C, H, W), dtype=dtype)
    assert result.refused() == []
    assert [name for name in result.ops() if name not in ("add", "avg_pool2d")] == ["convolution", "reshape"]
    assert "note: fc: linear became a 1x1 convolution, before the reshape" in result.notes


@pytest.mark.parametrize("dtype", [torch.float32, F16])
@pytest.mark.parametrize("size", [(2, 2), (7, 7), (1, 9), (32, 2)])
def test_a_whole_image(size: tuple[int, int], dtype: torch.dtype) -> None:
    result = proven(Head(lambda x: x.flatten(1), C * size[0] * size[1]), (2, C, *size), dtype=dtype)
    assert result.refused() == []
    assert result.notes == [f"note: fc: linear became a {size[0]}x{size[1]} convolution, before the reshape"]


def test_another_order_is_another_image() -> None:
    result = proven(Head(lambda x: x.permute(0, 2, 3, 1).flatten(1), 40), (2, 8, 5, 1))
    assert result.ops() == ["add", "permute", "convolution", "reshape"]


ACTIVATIONS = [
    nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.SiLU(), nn.Sigmoid(), nn.Tanh(), nn.LeakyReLU(0.2),
    nn.Dropout(), nn.Identity(), nn.Hardtanh(0.0, 5.0),
]  # fmt: skip


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, F16])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_chains(activation: nn.Module, dtype: torch.dtype, int8: bool) -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(C, 8), activation, nn.Linear(8, 4), activation)
    result = proven(model, (2, C, 12, 12), dtype=dtype, int8=int8)
    assert result.refused() == []
    assert result.ops().count("convolution") == 2
    assert result.ops().count("reshape") == 1
    assert result.ops()[-1] == "reshape"


def test_batch_norms_and_numbers_between() -> None:
    norm: Any = nn.BatchNorm1d(8)
    with torch.no_grad():
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.3, 3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(C, 8), norm, Function(lambda x: x * 0.5 + 2), nn.Linear(8, 4))
    result = proven(model, (2, C, 1, 1))
    assert result.ops() == ["convolution", "batch_norm", "mul", "add", "convolution", "reshape"]
    assert result.refused() == []


def test_gelu_moves_though_no_dla_takes_it() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(C, 8), nn.GELU(), nn.Linear(8, 4))
    assert proven(model, (2, C, 1, 1)).ops() == ["convolution", "gelu", "convolution", "reshape"]


USES = {
    "flat": lambda image, flat, result: (flat, result),
    "image": lambda image, flat, result: (image, result),
    "sum": lambda image, flat, result: result + flat[:, :5],
    "twice": lambda image, flat, result: (result.relu(), result.sigmoid(), result),
}


@pytest.mark.parametrize("use", USES)
def test_what_else_reads_it_stays_right(use: str) -> None:
    result = proven(Head(FLAT["flatten"], use=USES[use]), (2, C, H, W))
    assert "convolution" in result.ops()
    assert "linear" not in result.ops()


def test_the_weights_keep_their_names() -> None:
    result = proven(Head(FLAT["flatten"]), (2, C, H, W))
    [op] = [op for op in result.after.ops if op.short_name == "convolution"]
    held = [v for v in op.args if isinstance(v, Constant)]
    assert [(v.name, v.shape) for v in held] == [("fc.weight", (5, C, 1, 1)), ("fc.bias", (5,))]
    assert op.module == "fc"
    assert op.source == next(o.source for o in result.before.ops if o.short_name == "linear")


class Foreign(nn.Module):
    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x.flatten(1), weight)


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (Foreign(), ((2, C, 1, 1), (4, C))),  # weights that depend on an input
        (nn.Linear(4, 3), ((2, 4),)),  # no image
        (nn.Linear(4, 3), ((2, 3, 5, 4),)),  # of the last axis
        (nn.Sequential(nn.Flatten(0, 1), nn.Flatten(), nn.Linear(4, 3)), ((2, 3, 2, 2),)),  # another batch
        (Head(lambda x: x.flatten(2).transpose(1, 2).flatten(1), 24), ((2, C, 2, 2),)),  # another order
        (Head(lambda x: x.mean(1).flatten(1), 4), ((2, C, 2, 2),)),
        (Head(lambda x: x[:, :, 0].flatten(1), 12), ((2, C, 2, 2),)),  # not all of it
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(24)), ((2, C, 2, 2),)),  # other channels
        (nn.Sequential(nn.Flatten(), nn.Softmax(1)), ((2, C, 1, 1),)),
    ],
)
def test_what_stays(model: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> None:
    result = proven(model, *shapes)
    assert {"linear", "batch_norm", "softmax"} & set(result.ops())
    assert "convolution" not in result.ops()


@pytest.mark.parametrize("shape", [(1, 2, 33, 1), (1, 8193, 1, 1)])
def test_a_kernel_that_is_too_large_is_told(shape: tuple[int, ...]) -> None:
    result = proven(Head(FLAT["flatten"], shape[1] * shape[2]), shape)
    assert "linear" in result.ops()
    assert "stays as it is: no convolution of a DLA has a kernel as large" in result.notes[0]


def test_only_where_it_is_to_run_on_a_dla() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(C, 8), nn.ReLU(), nn.Linear(8, 4))
    assert proven(model, (2, C, 1, 1), on_dla=lambda path: path == "3").ops() == ["flatten", "linear", "relu", "linear"]
    assert proven(model, (2, C, 1, 1), on_dla=lambda path: path == "1").ops() == ["convolution", "reshape", "relu", "linear"]
