"""The ground under the layers: promotion, constants, names, integer ranges."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from torch2edge import _trt
from torch2edge.build import BuildSession
from torch2edge.errors import ConversionError
from torch2edge.lower.network import Network
from torch2edge.lower.network.core import Tensor
from torch2edge.options import Options

DTYPES = [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32]
NUMBERS = [True, 2, 1.5]


@pytest.fixture
def net() -> Network:
    session = BuildSession(Options())
    network = Network(session.network)
    network.session = session  # type: ignore[attr-defined]  # it owns the builder
    return network


def stand_in(kind: Any) -> Any:
    return Tensor(None, (2,) * kind[1], kind[0]) if isinstance(kind, tuple) else kind


def real(kind: Any) -> Any:
    return torch.ones((2,) * kind[1], dtype=kind[0]) if isinstance(kind, tuple) else kind


def by_torch(*values: Any) -> torch.dtype:
    """What PyTorch promotes all of them to: the op with three operands that promotes, with tensors and numbers."""
    numbers = [v for v in values if not isinstance(v, torch.Tensor)]
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    if not tensors:
        return torch.tensor(sum(numbers) if not all(isinstance(n, bool) for n in numbers) else True).dtype
    wrapped = sorted(numbers, key=lambda n: (bool, int, float).index(type(n)))[-1:]
    full = [t for t in tensors if t.dim()]
    scalars = [t for t in tensors if not t.dim()]
    for group in (full, scalars):  # inside a group the plain lattice; between groups torch.result_type itself
        for i in range(1, len(group)):
            group[0] = torch.ones(group[0].shape, dtype=torch.promote_types(group[0].dtype, group[i].dtype))
    parts = [*scalars[:1], *wrapped]
    low: Any = parts[0] if parts else None
    if len(parts) == 2:
        low = torch.ones((), dtype=torch.result_type(*parts))
    if not full:
        return low.dtype
    return full[0].dtype if low is None else torch.result_type(full[0], low)


KINDS = [*((d, rank) for d in DTYPES for rank in (0, 2)), *NUMBERS]


@pytest.mark.parametrize("first", KINDS, ids=str)
def test_promotion_of_pairs(first: Any) -> None:
    for second in KINDS:
        if isinstance(first, tuple) or isinstance(second, tuple):
            expected = torch.result_type(real(first), real(second))
            assert Network.result_type(stand_in(first), stand_in(second)) == expected, (first, second)
            assert Network.result_type(real(first), stand_in(second)) == expected, (first, second)


def test_promotion_of_triples() -> None:
    kinds = [
        *((d, rank) for d in (torch.bool, torch.int32, torch.int64, torch.float16, torch.float32) for rank in (0, 2)),
        *NUMBERS,
    ]
    for triple in itertools.product(kinds, repeat=3):
        assert Network.result_type(*map(stand_in, triple)) == by_torch(*map(real, triple)), triple


def test_promotion_of_triples_as_an_op_does_it() -> None:
    """clamp(x, min, max) promotes its three tensors together, and wrongly paired would give another type."""
    kinds = [(d, rank) for d in (torch.int32, torch.int64, torch.float16, torch.float32) for rank in (0, 1)]
    for triple in itertools.product(kinds, repeat=3):
        expected = torch.clamp(*map(real, triple)).dtype
        assert Network.result_type(*map(stand_in, triple)) == expected, triple


# ---- constants ----------------------------------------------------------------------------------------------------------


def test_one_tensor_is_one_constant(net: Network) -> None:
    weight = torch.randn(3)
    assert net.constant(weight).raw is net.constant(weight).raw
    assert net.constant(weight).raw is not net.constant(weight.clone()).raw
    assert net.constant(weight, torch.float16).dtype == torch.float16
    assert net.constant(weight, rank=3).shape == (1, 1, 3)
    assert len(net.layers) == 4


def test_equal_numbers_are_one_constant_and_types_are_not_mixed(net: Network) -> None:
    assert net.constant(2.0).raw is net.constant(2.0).raw
    values = [net.constant(1), net.constant(1.0), net.constant(True)]
    assert [v.dtype for v in values] == [torch.int64, torch.float32, torch.bool]
    assert net.constant(0.0).raw is not net.constant(-0.0).raw
    assert net.constant(float("nan")).raw is net.constant(float("nan")).raw
    assert net.constant(2.0, rank=2).shape == (1, 1)


def test_float64_constants_become_float32(net: Network) -> None:
    assert net.constant(torch.ones(2, dtype=torch.float64)).dtype == torch.float32
    with pytest.raises(ConversionError, match=r"torch.float64: keep the model in float32"):
        net.constant(1.0, torch.float64)


def test_constants_know_their_parameter() -> None:
    session, weight = BuildSession(Options()), torch.nn.Parameter(torch.randn(3))
    net = Network(session.network, {id(weight): "head.weight"})
    with net.scope("head", "mul", []):
        net.constant(weight)
        net.constant(weight)
    assert net.weights_by_name == {"head.weight": ["head/mul"]}


# ---- names --------------------------------------------------------------------------------------------------------------


def test_names_are_module_path_and_op(net: Network) -> None:
    x = net.constant(torch.randn(2, 3))
    with net.scope("layer1.0", "abs", []):
        net.unary(x, "ABS")
    with net.scope("layer1.0", "abs", []):
        net.unary(x, "ABS")
    with net.scope("layer1.0", "expr", []):
        net.unary(net.unary(net.unary(x, "ABS"), "ABS"), "EXP")
    assert [layer.raw.name for layer in net.layers[1:]] == [
        "layer1.0/abs", "layer1.0/abs_1", "layer1.0/expr/unary_2", "layer1.0/expr/unary", "layer1.0/expr/unary_1",
    ]  # fmt: skip
    assert {layer.module for layer in net.layers[1:]} == {"layer1.0"}


# ---- int64 where TensorRT has none, uint8 inside --------------------------------------------------------------------------


def test_int64_constants_must_fit_where_they_travel_as_int32(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch2edge.lower.network import core

    narrow = lambda dtype: torch.int32 if dtype in (torch.int64, torch.uint8) else dtype  # noqa: E731
    monkeypatch.setattr(core, "carried", narrow)
    monkeypatch.setattr(core, "inside", narrow)
    with pytest.raises(ConversionError, match=r"needs int64 \(its largest magnitude is 2147483648\)"):
        net.constant(torch.tensor([1, 2**31]))
    with pytest.raises(ConversionError, match=r"largest magnitude is 9223372036854775808"):
        net.constant(torch.tensor([-(2**63)]))
    net.constant(torch.tensor([2**31 - 1, -(2**31)]))
    net.constant(torch.tensor([], dtype=torch.int64))


def test_casts_that_change_nothing_add_no_layer(net: Network) -> None:
    x = net.constant(torch.randn(3))
    assert net.cast(x, torch.float32) is x
    byte = net.constant(torch.tensor([1, 2], dtype=torch.uint8))
    assert byte.raw.dtype == _trt.trt.int32
    assert net.cast(byte, torch.int32).raw is byte.raw
    assert len(net.layers) == 2


def test_operands_get_one_rank_without_layers_for_constants(net: Network) -> None:
    x = net.enter(net.raw.add_input("x", _trt.trt.float32, (2, 3, 4)), (2, 3, 4), torch.float32)
    assert net.add(x, torch.randn(4)).shape == (2, 3, 4)
    assert net.mul(3.0, x).shape == (2, 3, 4)
    assert [layer.raw.type.name for layer in net.layers] == ["CONSTANT", "ELEMENTWISE", "CONSTANT", "ELEMENTWISE"]
