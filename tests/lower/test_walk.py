"""Walking the ops: refusals before the first layer, results held against PyTorch's, names and devices."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torch2edge._trt import trt
from torch2edge.build import BuildSession
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.errors import ConversionError, UnsupportedOpError
from torch2edge.lower import Lowered, lower
from torch2edge.lower import registry as default_registry
from torch2edge.lower.network import Network
from torch2edge.lower.registry import Registry
from torch2edge.options import Options
from torch2edge.trace import trace

aten = torch.ops.aten


def lowered(
    model: nn.Module, *inputs: torch.Tensor, registry: Registry | None = None, **options: Any
) -> tuple[Lowered, BuildSession]:
    registry = registry or default_registry()
    graph = trace(model.eval(), inputs, is_leaf=registry.is_leaf, module_classes=registry.module_classes())
    session = BuildSession(Options())
    return lower(graph, session.network, registry, **options), session


def outputs(result: Lowered, session: BuildSession, *inputs: torch.Tensor) -> list[torch.Tensor]:
    given = ReferenceExecutor(session.network, trt).run({n: t for n, t in zip(result.input_names, inputs) if n})
    return [given[name] for name in result.output_names]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(Block(), Block())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer1(x)


class Odd(nn.Module):
    """Two ops that nothing converts and one call that a converter refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.forward = lambda x: torch.linalg.det(x)  # type: ignore[method-assign]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.linalg.qr(x)[0]
        bytes_ = F.interpolate(x[None, None].to(torch.uint8), scale_factor=2, mode="bilinear")
        return y + self.inner(x) + bytes_.sum()


class FakeNetwork:
    """Fails the test when anything is added to it."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was called on the network")


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_all_ops_that_cannot_convert_are_told_at_once_before_the_first_layer() -> None:
    registry = default_registry()
    graph = trace(Odd().eval(), [torch.eye(3)], is_leaf=registry.is_leaf)
    with pytest.raises(UnsupportedOpError) as error:
        lower(graph, FakeNetwork(), registry)
    text, rows = str(error.value), error.value.rows
    assert {"aten.linalg_qr.default", "aten._linalg_det.default", "aten.upsample_bilinear2d.vec"} <= {r["op"] for r in rows}
    assert {r["module"] for r in rows} == {"", "inner"}
    assert text.startswith(f"{len(rows)} ops cannot be converted")
    assert re.search(rf"aten\.linalg_qr\.default  in the model itself, {re.escape(__file__)}:\d+: no converter", text)
    assert re.search(rf"aten\._linalg_det\.default  in inner, {re.escape(__file__)}:\d+: no converter", text)
    assert "uint8" in text


def test_the_refusal_says_where_a_converter_would_go() -> None:
    graph = trace(Odd().eval(), [torch.eye(3)], is_leaf=default_registry().is_leaf)
    with pytest.raises(UnsupportedOpError, match=r"converters=\{torch\.ops\.aten\.NAME\.OVERLOAD: function\}") as error:
        lower(graph, FakeNetwork(), default_registry())
    folder = re.search(r"in the file of (\S+) ", str(error.value))
    assert folder
    assert (Path(folder.group(1)) / "linear.py").exists()


def test_supports_of_a_module_class_gets_the_module_and_its_inputs() -> None:
    registry = Registry(default_registry())
    registry.add(nn.Softsign, lambda net, module, x: x, supports=lambda module, x: f"a {type(module).__name__} of {x.shape}")
    with pytest.raises(UnsupportedOpError, match=r"a Softsign of \(2, 3\)"):
        lowered(nn.Sequential(nn.Softsign()), torch.ones(2, 3), registry=registry)


# ---- results ---------------------------------------------------------------------------------------------------------


def wrong(result: Any) -> Registry:
    registry = Registry(default_registry())
    registry.add(aten.relu.default, lambda net, self: result(net, self))
    return registry


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda net, x: net.reshape(x, (3, 2)), r"the layers give torch\.float32 \[3, 2\], PyTorch torch\.float32 \[2, 3\]"),
        (lambda net, x: net.cast(x, torch.float16), r"give torch\.float16 \[2, 3\], PyTorch torch\.float32 \[2, 3\]"),
        (lambda net, x: (x, x), r"it returned 2 results, the op has 1"),
        (lambda net, x: 1 / 0, r"ZeroDivisionError: division by zero"),
        (lambda net, x: net.matmul(x, x), r"(?i)matrix|dimension"),
    ],
)
def test_a_wrong_converter_is_told_with_its_place(result: Any, message: str) -> None:
    with pytest.raises(ConversionError, match=message) as error:
        lowered(nn.Sequential(nn.ReLU()), torch.ones(2, 3), registry=wrong(result))
    assert str(error.value).startswith("aten.relu.default in 0, ")
    assert f"converter {__file__}:" in str(error.value)


def test_an_override_of_one_call_takes_part() -> None:
    registry = default_registry().extended({aten.relu.default: lambda net, self: net.activation(self, "TANH")})
    x = torch.randn(2, 3)
    assert torch.allclose(outputs(*lowered(nn.ReLU(), x, registry=registry), x)[0], torch.tanh(x))
    assert torch.equal(outputs(*lowered(nn.ReLU(), x), x)[0], torch.relu(x))


def test_a_module_class_is_converted_as_a_whole() -> None:
    class Swap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(3.0))

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if not isinstance(x, nn.Module):
                return torch.linalg.det(y) * y, x * self.scale
            raise AssertionError

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.swap = Swap()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.swap(x, y=torch.relu(x))[1])

    def convert(net: Network, module: Swap, x: Any, y: Any) -> Any:
        return net.reshape(y, y.shape), net.mul(x, module.scale)

    registry = default_registry().extended({Swap: convert})
    x = torch.randn(2, 2)
    result, session = lowered(Outer(), x, registry=registry)
    assert torch.allclose(outputs(result, session, x)[0], torch.relu(3 * x))
    assert "swap/Outer" not in {layer.raw.name for layer in result.network.layers}


# ---- names, devices, outputs -----------------------------------------------------------------------------------------


def test_layers_are_named_by_module_path_and_op() -> None:
    result, session = lowered(Net(), torch.randn(1, 3, 4, 4))
    names = [session.network.get_layer(i).name for i in range(session.network.num_layers)]
    assert len(set(names)) == len(names)
    assert any(name.startswith("layer1.0.conv1/conv") for name in names)
    assert "layer1.1/relu" in names
    assert "layer1.1/relu_1" in names
    assert [layer.raw.name for layer in result.network.layers] == names


def test_an_op_of_several_layers_says_of_each_what_it_is() -> None:
    result, _ = lowered(nn.Sequential(nn.Linear(3, 2)), torch.randn(4, 3))
    names = [layer.raw.name for layer in result.network.layers]
    assert all(re.match(r"0/linear/(constant|matrix_multiply|elementwise|shuffle)(_\d)?$", name) for name in names), names


def test_the_device_of_a_module_reaches_each_of_its_layers() -> None:
    asked = {"layer1.0.conv1": trt.DeviceType.DLA, "layer1.1": trt.DeviceType.GPU}
    result, _ = lowered(Net(), torch.randn(1, 3, 4, 4), device_of=asked.get)
    assert {layer.module for layer in result.network.layers} >= set(asked)
    for layer in result.network.layers:
        assert layer.device == asked.get(layer.module)


def test_inputs_and_constants_as_outputs_get_tensors_of_their_own() -> None:
    class Through(nn.Module):
        def forward(self, x: torch.Tensor, unused: torch.Tensor) -> Any:
            y = torch.relu(x)
            return x, y, torch.ones(2), {"again": y}

    x = torch.randn(2, 3)
    result, session = lowered(Through(), x, torch.ones(1))
    assert result.input_names == ["input_0", ""]
    assert result.output_names == [f"output_{i}" for i in range(4)]
    given = outputs(result, session, x)
    assert all(torch.equal(a, b) for a, b in zip(given, [x, torch.relu(x), torch.ones(2), torch.relu(x)]))


def test_weights_are_known_by_the_names_of_their_parameters() -> None:
    model = nn.Sequential(Net(), nn.Linear(4, 5))
    names = {id(p): name for name, p in model.named_parameters()}
    result, session = lowered(model, torch.randn(1, 3, 4, 4), names=names)
    assert set(result.network.weights_by_name) == set(names.values())
    layers = {session.network.get_layer(i).name for i in range(session.network.num_layers)}
    assert {layer for held in result.network.weights_by_name.values() for layer in held} <= layers


def test_every_value_is_found_in_the_network() -> None:
    x = torch.randn(1, 3, 4, 4)
    model = Net().eval()
    registry = default_registry()
    graph = trace(model, [x], is_leaf=registry.is_leaf)
    session = BuildSession(Options())
    result = lower(graph, session.network, registry)
    wanted = sorted(set(result.tensor_names.values()) - {"input_0"})
    given = ReferenceExecutor(session.network, trt).run({"input_0": x}, keep=wanted)
    seen = 0

    def compare(op: Any, results: list[Any]) -> None:
        nonlocal seen
        for value, reference in zip(op.outputs, results):
            assert torch.allclose(given[result.tensor_names[value.index]], reference, atol=1e-5)
            seen += 1

    graph.replay([x], compare)
    assert seen == len(graph.ops)
