"""Pixel shuffles, activations and padding as layers of a DLA, and those that stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.dla import layers, proven, type_of
from support.rows import F16, Function
from torch import nn
from torch.nn import functional as F

aten = torch.ops.aten

# ---- pixel shuffle ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F16])
@pytest.mark.parametrize(("channels", "block"), [(4, 2), (12, 2), (9, 3), (32, 4), (64, 8), (484, 22)])
def test_channels_to_pixels(channels: int, block: int, dtype: torch.dtype) -> None:
    result = proven(nn.PixelShuffle(block), (2, channels, 3, 5), dtype=dtype)
    assert [type_of(layer) for layer in layers(result.network)] == ["DECONVOLUTION"]
    assert result.refused() == []
    assert len(result.notes) == 1


@pytest.mark.parametrize("dtype", [torch.float32, F16])
@pytest.mark.parametrize(("channels", "block"), [(1, 2), (3, 2), (2, 3), (1, 8)])
def test_pixels_to_channels(channels: int, block: int, dtype: torch.dtype) -> None:
    result = proven(nn.PixelUnshuffle(block), (2, channels, 2 * block, 3 * block), dtype=dtype)
    assert [type_of(layer) for layer in layers(result.network)] == ["CONVOLUTION"]
    assert result.refused() == []


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.PixelShuffle(23), (1, 529, 1, 1)), (nn.PixelUnshuffle(9), (1, 1, 9, 9)), (nn.PixelShuffle(2), (1, 8196, 1, 1)),
    ],
)  # fmt: skip
def test_blocks_and_channels_that_are_too_many_are_told(model: nn.Module, shape: tuple[int, ...]) -> None:
    result = proven(model, shape)
    assert result.ops()[0].startswith("pixel_")
    assert "stays as it is: no convolution of a DLA is as large" in result.notes[0]


def test_a_shuffle_of_a_single_image_or_a_batch_of_batches_stays() -> None:
    for shape in ((4, 3, 3), (2, 2, 4, 3, 3)):
        assert proven(nn.PixelShuffle(2), shape).ops() == ["pixel_shuffle"]


# ---- activations --------------------------------------------------------------------------------------------------------

SMOOTH: dict[type[nn.Module], list[str]] = {
    nn.Hardswish: ["add", "hardtanh", "mul", "mul"],
    nn.Hardsigmoid: ["add", "hardtanh", "mul"],
    nn.SiLU: ["sigmoid", "mul"],
}


@pytest.mark.parametrize("dtype", [torch.float32, F16])
@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("kind", SMOOTH)
def test_activations(kind: type[nn.Module], scale: float, dtype: torch.dtype) -> None:
    result = proven(nn.Sequential(Function(lambda x: x * scale), kind()), (2, 3, 5, 4), dtype=dtype, int8=True)
    assert result.ops() == ["mul", *SMOOTH[kind]]
    assert result.refused() == []
    assert {op.module for op in result.after.ops[1:]} == {"1"}


@pytest.mark.parametrize("dtype", [torch.float32, F16])
@pytest.mark.parametrize("kind", SMOOTH)
def test_without_int8_they_are_fewer_layers_of_the_dla_as_they_are(kind: type[nn.Module], dtype: torch.dtype) -> None:
    as_is, as_products = (proven(kind(), (2, 3, 5, 4), dtype=dtype, int8=on) for on in (False, True))
    assert [op.target for op in as_is.after.ops] == [op.target for op in as_is.before.ops]
    assert as_is.refused() == []
    assert as_is.notes == []
    assert as_is.network.num_layers <= as_products.network.num_layers


@pytest.mark.parametrize("kind", SMOOTH)
def test_the_corners_and_large_halves(kind: type[nn.Module]) -> None:
    x = torch.tensor([-65504.0, -3.001, -3, -2.999, -1e-4, 0, 1e-4, 2.999, 3, 3.001, 65504], dtype=F16).reshape(1, 1, 1, 11)
    result = proven(kind(), (1, 1, 1, 11), dtype=F16, int8=True)
    given, wanted = result.after.replay([x])[0], kind()(x)
    torch.testing.assert_close(given, wanted, rtol=2e-3, atol=2e-3)
    assert given.isfinite().all()


@pytest.mark.parametrize("kind", SMOOTH)
def test_vectors_and_volumes_stay(kind: type[nn.Module]) -> None:
    for shape in ((2, 3), (2, 3, 4), (1, 2, 3, 4, 5)):
        result = proven(kind(), shape, int8=True)
        assert [op.target for op in result.after.ops] == [op.target for op in result.before.ops]


def test_other_activations_stay() -> None:
    for model in (nn.ReLU(), nn.GELU(), nn.Mish(), nn.ELU(), nn.Sigmoid(), nn.ReLU6(), nn.LeakyReLU()):
        result = proven(model, (1, 2, 3, 3), int8=True)
        assert [op.target for op in result.after.ops] == [op.target for op in result.before.ops]
        assert result.notes == []


# ---- padding ------------------------------------------------------------------------------------------------------------


def padded(pad: Any, kernel: Any, value: float = 0.0, mode: str = "constant", **options: Any) -> nn.Module:
    convolution = nn.Conv2d(4, 4, kernel, **options)
    extra = {"value": value} if mode == "constant" else {}
    return nn.Sequential(Function(lambda x: F.pad(x, pad, mode, **extra)), convolution)


@pytest.mark.parametrize("dtype", [torch.float32, F16])
@pytest.mark.parametrize(
    ("model", "kernel"),
    [
        (padded((1, 1, 1, 1), 3), [3, 3]),
        (padded((2, 2), 5), [5, 5]),
        (padded((1, 1, 2, 2), (5, 3), stride=2, groups=2), [5, 3]),
        (padded((2, 2, 2, 2), 7, padding=1, bias=False), [7, 7]),
        (padded((0, 1, 0, 1), 3, stride=2), [4, 4]),  # TensorFlow's SAME of a stride of 2
        (padded((1, 2, 1, 2), 5, stride=2), [6, 6]),
        (padded((1, 0, 2, 0), 3, stride=2), [5, 4]),
        (padded((0, 3, 1, 0), 4, stride=3, padding=2), [5, 7]),
        (padded((2, 0, 0, 4), 3, dilation=2), [5, 4]),
        (padded((1, 1, 1, 1), 3, padding="valid", dilation=2), [3, 3]),
        (padded((0, 1, 0, 0), 2, groups=4), [2, 3]),
        (nn.Sequential(nn.ZeroPad2d((3, 3, 2, 1)), nn.Conv2d(4, 6, 7, stride=2)), [8, 7]),
    ],
)
def test_padding(model: nn.Module, kernel: list[int], dtype: torch.dtype) -> None:
    result = proven(model, (2, 4, 13, 16), dtype=dtype)
    assert result.ops() == ["convolution"]
    assert result.refused() == []
    [layer] = layers(result.network)
    assert list(layer.kernel_size_nd) == kernel
    assert list(layer.pre_padding) == list(layer.post_padding)
    assert result.after.ops[0].module == "1"


@pytest.mark.parametrize("size", range(9, 20))
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_padding_of_different_ends_for_every_size(size: int, stride: int) -> None:
    for pad in ((0, 1, 2, 0), (3, 1, 0, 2)):
        assert proven(padded(pad, 3, stride=stride), (1, 4, size, size + 1)).ops() == ["convolution"]


@pytest.mark.parametrize(
    "model",
    [
        padded((1, 1, 1, 1), 3, value=1.0),
        padded((1, 1, 1, 1), 3, mode="reflect"),
        padded((1, 1, 1, 1), 3, mode="replicate"),
        padded((-1, 1, 0, 0), 3),
        nn.Sequential(nn.ConstantPad3d((1, 1, 1, 1, 0, 1), 0.0), nn.Conv2d(5, 4, 3)),
        padded((0, 1, 0, 1), 3, dilation=2),  # one zero more is half a tap
        padded((1, 1, 1, 1), 3, padding="same"),
        nn.Sequential(nn.ZeroPad2d(1), nn.ConvTranspose2d(4, 4, 3)),
        nn.Sequential(nn.ZeroPad2d(1), nn.ReLU(), nn.Conv2d(4, 4, 3)),
        nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3)),
    ],
)
def test_padding_that_stays(model: nn.Module) -> None:
    result = proven(model, (2, 4, 9, 9))
    assert [op.target for op in result.after.ops] == [op.target for op in result.before.ops]
    assert result.notes == []


@pytest.mark.parametrize(
    ("pad", "kernel"), [((3, 3, 3, 3), 3), ((1, 1, 1, 1), 1), ((0, 0, 32, 32), (33, 1)), ((0, 30, 0, 0), 3)]
)
def test_padding_that_no_dla_takes_is_told(pad: tuple[int, ...], kernel: Any) -> None:
    result = proven(padded(pad, kernel), (1, 4, 9, 9))
    assert result.ops() == ["pad", "convolution"]
    assert "stays in front of the convolution" in result.notes[0]


class Shared(nn.Module):
    """What is padded is read by two convolutions, and by something else, and given back."""

    def __init__(self) -> None:
        super().__init__()
        self.pad, self.a, self.b = nn.ZeroPad2d(1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 3, stride=2)

    def forward(self, x: torch.Tensor) -> Any:
        padded = self.pad(x)
        return self.a(padded), self.b(padded), padded.relu(), padded


def test_what_else_reads_the_padded_image_stays_right() -> None:
    result = proven(Shared(), (1, 4, 7, 7))
    assert result.ops() == ["pad", "convolution", "convolution", "relu"]
    assert len(result.notes) == 2


def test_a_padding_elsewhere_stays() -> None:
    model = padded((1, 1, 1, 1), 3)
    for here in ("0", "1"):
        assert proven(model, (1, 4, 7, 7), on_dla=lambda path: path == here).ops() == ["pad", "convolution"]  # noqa: B023
