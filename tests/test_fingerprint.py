"""A fingerprint sees whatever two networks differ in, and keeps the weights apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.raw_networks import PAIRS, Raw, convolution, read, scale

from torch2edge._trt import capabilities, trt
from torch2edge.fingerprint import digest, fingerprint, first_difference


@pytest.mark.parametrize("pair", PAIRS)
def test_it_sees_the_difference(pair: str) -> None:
    one, other = PAIRS[pair]
    assert first_difference(read(one).layers, read(other).layers)
    assert first_difference(read(one).layers, read(one).layers) == ""


def test_weights_are_apart() -> None:
    def other(raw: Raw) -> Any:
        raw.kept.append(np.zeros(0))  # other random numbers
        return convolution(raw)

    one, two = read(convolution), read(other)
    assert one.layers == two.layers
    assert {role for _, role in one.weights} == {"KERNEL", "BIAS"}
    assert all(not torch.equal(one.weights[key], two.weights[key]) for key in one.weights)
    assert all(one.digests()[key] != two.digests()[key] for key in one.weights)


def test_roles_and_missing_weights() -> None:
    def bare(raw: Raw) -> Any:
        return raw.net.add_convolution_nd(raw.x, 6, (3, 3), raw.weights(162), trt.Weights())

    found = read(bare)
    assert [role for _, role in found.weights] == ["KERNEL"]
    assert [role for _, role in found.empty] == ["BIAS"]
    assert {role for _, role in read(scale).weights} == {"SCALE", "SHIFT", "POWER"}
    known = set(trt.WeightsRole.__members__)
    assert known >= {"KERNEL", "BIAS", "SCALE", "SHIFT", "CONSTANT"}
    assert "POWER" not in known  # so an engine never takes one anew


def test_a_layer_more_or_less() -> None:
    old = {"a": {"kind": "X"}, "b": {"kind": "Y"}}
    assert first_difference(old, {"a": {"kind": "X"}}) == "it has no layer 'b' now"
    assert first_difference(old, {"b": {"kind": "Y"}}) == "it has no layer 'a' now"
    assert first_difference(old, {**old, "c": {}}) == "it has another layer, 'c', now"
    assert first_difference(old, {"c": {}, **old}) == "it has another layer, 'c', now"
    assert first_difference(old, {"a": {"kind": "X"}, "c": {}}) == "where it had the layer 'b', it has 'c' now"
    assert first_difference(old, {"a": {"kind": "Z"}, "b": {}}) == "the layer 'a' differs: kind was X, now is Z"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int32, torch.bool])
def test_digests(dtype: torch.dtype) -> None:
    values = torch.randn(3, 5).mul(50).to(dtype)
    assert digest(values) == digest(values.clone().flatten())
    changed = values.clone().flatten()
    changed[7] = ~changed[7] if dtype == torch.bool else changed[7] + 1
    assert digest(changed) != digest(values)
    assert digest(values.t()) != digest(values) or dtype == torch.bool


@pytest.mark.skipif(not capabilities().bf16, reason="this TensorRT has no bfloat16")
def test_bfloat16_weights() -> None:
    raw = Raw()
    held = torch.randn(4).to(torch.bfloat16)
    layer = raw.net.add_constant((4,), trt.Weights(trt.DataType.BF16, held.data_ptr(), held.numel()))
    raw.net.mark_output(layer.get_output(0))
    (tensor,) = fingerprint(raw.net).weights.values()
    assert torch.equal(tensor, held)
