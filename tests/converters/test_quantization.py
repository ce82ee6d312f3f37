"""Rows of converters/quantization.py."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from support.rows import BF16, F16, Row, Spec, check_row, convert_row, rows
from support.torch_features import where_cpu_computes
from torch import nn
from torch.nn import functional as F

from torch2edge import _trt
from torch2edge._trt import trt
from torch2edge.errors import UnsupportedOpError
from torch2edge.lower.network import core

aten, decomposed = torch.ops.aten, torch.ops.quantized_decomposed
PER_TENSOR = aten.fake_quantize_per_tensor_affine.default
PER_TENSOR_QPARAMS = aten.fake_quantize_per_tensor_affine.tensor_qparams
PER_CHANNEL = aten.fake_quantize_per_channel_affine.default
PER_TENSOR_MASK = aten.fake_quantize_per_tensor_affine_cachemask.default
PER_CHANNEL_MASK = aten.fake_quantize_per_channel_affine_cachemask.default
QPARAMS_MASK = aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default
IMAGE = Spec((2, 4, 9, 12), scale=5.0)
TIES = Spec((600,), torch.int64, -300, 300)
CONSTANT = torch.randn(4, 9, 12, generator=torch.Generator().manual_seed(3))
FAKE, FAKE_CHANNELS = torch.fake_quantize_per_tensor_affine, torch.fake_quantize_per_channel_affine


def zeros(count: int = 1, value: int = 0) -> torch.Tensor:
    return torch.full((count,), value, dtype=torch.int32)


def steps(count: int) -> torch.Tensor:
    """Scales that differ."""
    return torch.linspace(0.011, 0.09, count)


def channels(x: torch.Tensor, axis: int, low: int = -128, high: int = 127, zero: int = 0) -> torch.Tensor:
    count = x.shape[axis]
    return FAKE_CHANNELS(x, steps(count), zeros(count, zero), axis, low, high)


class Weights(nn.Module):
    """A layer whose weight goes through fake quantization, as in quantization-aware training."""

    def __init__(self, layer: nn.Module, axis: int | None = 0, low: int = -128) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.axis, self.low = layer, axis, low
        largest = layer.weight.detach().abs()
        largest = largest.amax() if axis is None else largest.amax([d for d in range(largest.ndim) if d != axis])
        self.register_buffer("scale", largest.reshape(-1) / 127)
        self.register_buffer("zero_point", zeros(self.scale.numel()))

    def weight(self) -> torch.Tensor:
        if self.axis is None:
            return FAKE(self.layer.weight, self.scale, self.zero_point, self.low, 127)
        return FAKE_CHANNELS(self.layer.weight, self.scale, self.zero_point, self.axis, self.low, 127)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer: Any = self.layer
        x = FAKE(x, 0.03, 0, -128, 127)
        if isinstance(layer, nn.Linear):
            return F.linear(x, self.weight(), layer.bias)
        if isinstance(layer, nn.Embedding):
            return F.embedding(x.long().abs(), self.weight())
        if layer.transposed:
            back = F.conv_transpose1d if isinstance(layer, nn.ConvTranspose1d) else F.conv_transpose2d
            return back(x, self.weight(), layer.bias, layer.stride, layer.padding, layer.output_padding, layer.groups)
        return layer._conv_forward(x, self.weight(), layer.bias)


HALVES = [(lambda x: FAKE(x, 0.031, 0, -128, 127), IMAGE), (lambda x: FAKE(x, 0.031, 0, -90, 90), IMAGE)]
TENSORS = [
    *rows(PER_TENSOR, [
        (lambda x: FAKE(x, 0.031, 0, -128, 127), IMAGE), (lambda x: FAKE(x, 0.05, 0, -127, 127), IMAGE),
        (lambda x: FAKE(x, 0.04, 128, 0, 255), IMAGE), (lambda x: FAKE(x.relu(), 0.02, 0, 0, 127), IMAGE),
        (lambda x: FAKE(x, 0.07, 3, -60, 66), IMAGE), (lambda x: FAKE(x, 0.5, -1, -8, 7), IMAGE),
        (lambda x: FAKE(x * 0.125, 0.25, 0, -128, 127), TIES), (lambda x: FAKE(x * 0.125, 0.25, 1, -100, 101), TIES),
        (lambda x: FAKE(x, 0.031, 0, -128, 127), ()),
        (lambda x: x + FAKE(torch.linspace(-9, 9, 12), 0.05, 0, -128, 127), IMAGE),
    ]),
    *rows(PER_TENSOR, HALVES, (F16,)),
    *where_cpu_computes(lambda: FAKE(torch.ones(1, dtype=BF16), 0.1, 0, -128, 127), rows(PER_TENSOR, HALVES, (BF16,))),
    *rows(PER_TENSOR_QPARAMS, [
        (lambda x: FAKE(x, torch.tensor([0.031]), zeros(), -128, 127), IMAGE),
        (lambda x: FAKE(x, torch.tensor(0.041), torch.tensor(0, dtype=torch.int32), -127, 127), (3, 5)),
        (lambda x: FAKE(x, torch.tensor([0.02]), zeros(1, 128), 0, 255), IMAGE),
    ]),
    *rows(PER_CHANNEL, [
        (lambda x: channels(x, 1), IMAGE), (lambda x: channels(x, 0, -127), IMAGE), (lambda x: channels(x, 3, -127), IMAGE),
        (lambda x: channels(x, 2, 0, 255, 128), IMAGE), (lambda x: channels(x, 1, -7, 7), (3, 5)),
        (lambda x: x + channels(CONSTANT, 0), IMAGE),
    ]),
    *rows(PER_CHANNEL, [(lambda x: channels(x, 1), IMAGE)], (F16,)),
    *rows(PER_TENSOR_MASK, [
        (lambda x: PER_TENSOR_MASK(x, 0.031, 0, -128, 127)[0], IMAGE),
        (lambda x: PER_TENSOR_MASK(x, 0.1, 0, -127, 127)[0], (7,)),
    ]),
    *rows(PER_CHANNEL_MASK, [(lambda x: PER_CHANNEL_MASK(x, steps(4), zeros(4), 1, -128, 127)[0], IMAGE)]),
    *rows(QPARAMS_MASK, [
        (lambda x: QPARAMS_MASK(x, torch.tensor([0.031]), zeros(), zeros(1, 1), -128, 127)[0], IMAGE),
        (lambda x: 2 * QPARAMS_MASK(x, torch.tensor([0.031]), zeros(), zeros(1, 0), 0, 255)[0], IMAGE),
    ]),
]  # fmt: skip
WEIGHTS = [
    *rows(PER_CHANNEL, [
        (Weights(nn.Conv2d(4, 6, 3, padding=1)), IMAGE), (Weights(nn.Conv2d(4, 6, 3, groups=2, bias=False), low=-127), IMAGE),
        (Weights(nn.Conv1d(4, 6, 3, 2, 1)), (2, 4, 11)), (Weights(nn.Conv3d(4, 6, (1, 2, 3))), (1, 4, 5, 6, 7)),
        (Weights(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), 1), IMAGE), (Weights(nn.ConvTranspose1d(4, 6, 2, 2), 1), (2, 4, 11)),
        (Weights(nn.Linear(7, 5)), (3, 7)), (Weights(nn.Linear(7, 5)), (2, 4, 3, 7)), (Weights(nn.Linear(7, 5), 1), (2, 3, 7)),
        (Weights(nn.Linear(7, 5)), (7,)), (Weights(nn.Embedding(40, 5)), Spec((3, 4), scale=2.0)),
    ]),
    *rows(PER_TENSOR_QPARAMS, [
        (Weights(nn.Conv2d(4, 6, 3), None), IMAGE), (Weights(nn.Conv1d(4, 6, 3), None), (2, 4, 11)),
        (Weights(nn.Linear(7, 5), None, -127), (2, 4, 7)),
    ]),
]  # fmt: skip


def there(x: torch.Tensor, scale: float = 0.031, low: int = -128) -> torch.Tensor:
    return decomposed.quantize_per_tensor(x, scale, 0, low, 127, torch.int8)


def back(x: torch.Tensor, scale: float = 0.031, low: int = -128) -> torch.Tensor:
    return decomposed.dequantize_per_tensor(x, scale, 0, low, 127, torch.int8)


def there_channels(x: torch.Tensor, axis: int, low: int = -128) -> torch.Tensor:
    count = x.shape[axis]
    return decomposed.quantize_per_channel(x, steps(count), zeros(count), axis, low, 127, torch.int8)


def back_channels(x: torch.Tensor, axis: int) -> torch.Tensor:
    count = x.shape[axis]
    return decomposed.dequantize_per_channel(x, steps(count), zeros(count), axis, -128, 127, torch.int8)


CODES = torch.randint(-128, 128, (6, 4, 3, 3), generator=torch.Generator().manual_seed(1)).to(torch.int8)
KERNEL = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(2))
DECOMPOSED = [
    *rows(decomposed.quantize_per_tensor.default, [
        (there, IMAGE), (lambda x: there(x, 0.02, -127), IMAGE), (lambda x: back(there(x).flatten(1)), IMAGE),
        (lambda x: there(x.int() * 0.125, 0.25), TIES),
        (lambda x: F.conv2d(back(there(x)), back(there(KERNEL, 0.02), 0.02)), IMAGE),
    ]),
    *rows(decomposed.dequantize_per_tensor.default, [
        (back, Spec((3, 40), torch.int8, -128, 128)), (lambda x: back(there(x), 0.5), IMAGE),
        (lambda x: F.conv2d(x, back(CODES, 0.02)), IMAGE),
    ]),
    *rows(decomposed.quantize_per_channel.default, [
        (lambda x: there_channels(x, 1), IMAGE), (lambda x: there_channels(x, 3, -127), IMAGE),
        (lambda x: F.conv2d(back(there(x)), back_channels(there_channels(KERNEL, 0), 0)), IMAGE),
        (lambda x: F.linear(x, back_channels(there_channels(KERNEL[:, :, 0, 0], 0), 0)), (2, 3, 4)),
    ]),
    *rows(decomposed.dequantize_per_channel.default, [
        (lambda x: back_channels(x, 0), Spec((3, 40), torch.int8, -128, 128)),
        (lambda x: F.conv2d(x, back_channels(CODES, 0)), IMAGE),
        (lambda x: decomposed.dequantize_per_channel(x, steps(3), None, 0, -128, 127, torch.int8),
         Spec((3, 40), torch.int8, -128, 128)),
    ]),
]  # fmt: skip
ROWS = [*TENSORS, *WEIGHTS, *DECOMPOSED]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


def kinds(network: Any, tensor: Any) -> list[str]:
    """The types of the layers that a tensor comes from, along the first inputs, nearest first."""
    made = {}
    for layer in (network.get_layer(i) for i in range(network.num_layers)):
        made.update({layer.get_output(i).name: layer for i in range(layer.num_outputs)})
    found = []
    while tensor is not None and tensor.name in made:
        layer = made[tensor.name]
        found.append(layer.type.name)
        tensor = layer.get_input(0) if layer.num_inputs else None
    return found


@pytest.mark.parametrize("row", [row for row in WEIGHTS if "Embedding" not in str(row.fn)], ids=str)
def test_weights_come_straight_out_of_a_dequantize_layer(row: Row) -> None:
    """TensorRT's explicit quantization: constant, quantize, dequantize, then the layer."""
    _, _, _, session = convert_row(row)
    layers = [session.network.get_layer(i) for i in range(session.network.num_layers)]
    heavy = [x for x in layers if x.type.name in ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")]
    assert len(heavy) == 1
    assert kinds(session.network, heavy[0].get_input(1)) == ["DEQUANTIZE", "QUANTIZE", "CONSTANT"]
    assert kinds(session.network, heavy[0].get_input(0))[-2:] == ["DEQUANTIZE", "QUANTIZE"]


def test_quantized_weights_keep_their_names() -> None:
    from torch2edge.build import BuildSession
    from torch2edge.lower import lower, registry
    from torch2edge.options import Options
    from torch2edge.trace import trace

    model = nn.Sequential(Weights(nn.Conv1d(4, 6, 3)), Weights(nn.Linear(9, 4))).eval()
    graph = trace(model, [torch.zeros(2, 4, 11)], is_leaf=registry().is_leaf)
    session = BuildSession(Options())
    names = {id(p): n for n, p in model.named_parameters()}
    lowered = lower(graph, session.network, registry(), names=names)
    assert set(lowered.network.weights_by_name) == {"0.layer.weight", "0.layer.bias", "1.layer.weight", "1.layer.bias"}


REFUSED = {
    r"0 to 255 times the scale .*use a symmetric int8": (PER_TENSOR, lambda x: FAKE(x, 0.03, 0, 0, 255)),
    r"-131 to 124 times the scale \(zero point 3\)": (PER_TENSOR, lambda x: FAKE(x, 0.03, 3, -128, 127)),
    r"a scale of 0; scales must be positive": (PER_TENSOR, lambda x: FAKE(x, 0.0, 0, -128, 127)),
    r"zero points that differ from channel to channel: use a symmetric": (
        PER_CHANNEL, lambda x: FAKE_CHANNELS(x, steps(4), torch.arange(4, dtype=torch.int32), 1, -8, 7)
    ),
    r"depends on an input \(dynamic quantization\)": (
        PER_TENSOR_QPARAMS, lambda x: FAKE(x, x.abs().max().reshape(1) / 127, zeros(), -128, 127)
    ),
    r"codes of torch.uint8; TensorRT's are int8": (
        decomposed.quantize_per_tensor.default, lambda x: decomposed.quantize_per_tensor(x, 0.1, 0, 0, 255, torch.uint8)
    ),
    r"a zero point of -3; TensorRT's is 0": (
        decomposed.quantize_per_tensor.default, lambda x: decomposed.quantize_per_tensor(x, 0.1, -3, -128, 127, torch.int8)
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_symmetric_int8_is_refused(message: str) -> None:
    op, fn = REFUSED[message]
    with pytest.raises(UnsupportedOpError, match=message):
        convert_row(Row(op, fn, (IMAGE,)))


def test_every_code_and_every_half_step() -> None:
    """All 256 codes, and both sides of each rounding boundary."""
    scale = 0.0371
    around = torch.arange(-140, 141) + 0.5
    x = torch.cat([torch.arange(-140.0, 141), around - 1e-3, around + 1e-3]) * scale

    class Shift(nn.Module):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return FAKE(given * 0 + x, scale, 0, -128, 127)

    check_row(Row(PER_TENSOR, Shift(), (tuple(x.shape),), rtol=0.0, why="exact"))


@pytest.mark.parametrize("fn", [lambda x: FAKE(x.clamp(-3, 3), 0.05, 0, -128, 127), lambda x: FAKE(x, 0.05, 0, -90, 90)])
def test_a_clamp_beside_quantize_layers_where_tensorrt_fuses_them_wrongly(fn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT 8.6.0 was off by the whole value where a CLIP came right before a quantize layer."""
    lacking = dataclasses.replace(_trt.capabilities(), quantizes_elementwise=False)
    monkeypatch.setattr(core, "capabilities", lambda: lacking)
    row = Row(PER_TENSOR, fn, (IMAGE,))
    check_row(row)
    _, _, lowered, _ = convert_row(row)
    kinds = [layer.raw.type for layer in lowered.network.layers]
    assert kinds.count(trt.LayerType.ELEMENTWISE) == 2
    assert all(layer.raw.__class__ is not trt.IActivationLayer for layer in lowered.network.layers)
