"""Quantize and dequantize layers, called as the precision part calls them."""

from __future__ import annotations

import pytest
import torch

from torch2edge._trt import trt
from torch2edge.build import BuildSession
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.errors import ConversionError
from torch2edge.lower.network import Network, Tensor
from torch2edge.options import Options


class Bench:
    """A network with one input."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
        self.session = BuildSession(Options())
        self.weight = torch.randn(6, shape[-1])
        self.net = Network(self.session.network, {id(self.weight): "head.weight"})
        self.x = Tensor(self.net.raw.add_input("x", self.net.data_type(dtype), shape), shape, dtype)

    def run(self, result: Tensor, x: torch.Tensor) -> torch.Tensor:
        result.raw.name = "y"
        self.net.raw.mark_output(result.raw)
        assert len(self.session.build())
        return ReferenceExecutor(self.net.raw, trt).run({"x": x})["y"]


@pytest.mark.parametrize("axis", [None, 0, 2, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_codes_and_back(axis: int | None, dtype: torch.dtype) -> None:
    shape = (3, 4, 5)
    scale = torch.rand(() if axis is None else shape[axis]) + 0.01
    spread = scale if axis is None else scale.reshape(-1, *[1] * (2 - axis % 3))
    x = (torch.randn(shape) * 30).to(dtype)
    codes = (x.float() / spread).round().clamp(-128, 127)
    for back in (False, True):
        bench = Bench(shape, dtype)
        result = bench.net.quantize(bench.x, scale, axis)
        assert (result.dtype, result.shape) == (torch.int8, shape)
        expected = codes.to(torch.int8)
        if back:
            result, expected = bench.net.dequantize(result, scale, axis, dtype), (codes * spread).to(dtype)
            assert result.dtype == dtype
        assert torch.equal(bench.run(result, x), expected)


def test_one_scale_of_one_element_is_one_constant() -> None:
    bench, scale = Bench((3, 4)), torch.tensor([0.5])
    bench.net.dequantize(bench.net.quantize(bench.x, scale), scale)
    kinds = [bench.net.raw.get_layer(i).type.name for i in range(bench.net.raw.num_layers)]
    assert kinds == ["CONSTANT", "QUANTIZE", "DEQUANTIZE"]


@pytest.mark.parametrize(
    ("scale", "axis", "message"),
    [
        (torch.ones(3), 1, r"shape \[3, 4\] along axis 1 needs 4 positive finite scales, but has 3"),
        (torch.ones(3), None, "along no axis needs 1 positive finite scale, but has 3"),
        (torch.tensor(0.0), None, "but has 1, the smallest is 0"),
        (torch.tensor([1.0, -1.0, 1.0]), 0, "the smallest is -1"),
        (torch.tensor(float("inf")), None, "the smallest is inf"),
    ],
)
def test_wrong_scales(scale: torch.Tensor, axis: int | None, message: str) -> None:
    bench = Bench((3, 4))
    with pytest.raises(ConversionError, match=message):
        bench.net.quantize(bench.x, scale, axis)


def test_a_quantized_constant_is_changed_before_its_quantization() -> None:
    bench = Bench((2, 3, 4))
    scale = bench.weight.abs().amax(1) / 127
    weight = bench.net.dequantize(bench.net.quantize(bench.weight, scale, 0), scale, 0)
    product = bench.net.matmul(bench.x, weight, transpose_b=True)
    layers = {layer.raw.name: layer.raw for layer in bench.net.layers}
    last = next(x for x in layers.values() if x.type.name == "MATRIX_MULTIPLY")
    made = {x.get_output(0).name: x for x in layers.values()}
    dequantize = made[last.get_input(1).name]
    assert (dequantize.type.name, dequantize.axis, tuple(dequantize.get_input(0).shape)) == ("DEQUANTIZE", 1, (1, 6, 4))
    held = bench.net.weights_by_name["head.weight"]
    assert {layers[name].type.name for name in held} == {"CONSTANT"}
    x = torch.randn(2, 3, 4)
    codes = (bench.weight / scale[:, None]).round().clamp(-128, 127)
    torch.testing.assert_close(bench.run(product, x), x @ (codes * scale[:, None]).T)


def test_only_quantized_constants_are_changed() -> None:
    bench, scale = Bench((3, 4)), torch.tensor(0.1)
    activation = bench.net.dequantize(bench.net.quantize(bench.x, scale), scale)
    codes = bench.net.quantize(bench.weight, scale)
    for t in (bench.x, activation, codes):
        assert bench.net.requantized(t, lambda w: w[None]) is None
