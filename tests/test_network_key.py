"""The hash of a network: whatever its API tells of a layer counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from torch2edge._trt import trt
from torch2edge.build.graph_key import Unkeyable
from torch2edge.build.session import BuildSession
from torch2edge.lower import Network, lower, registry
from torch2edge.network_key import network_digest
from torch2edge.options import Options
from torch2edge.roads import graph_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.lstm = nn.Conv2d(3, 4, 3), nn.LSTM(4, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        y = torch.relu(self.conv(x))
        top = y.topk(2, dim=1)[0]
        z = self.lstm(y.flatten(2).transpose(1, 2))[0]
        return top, z, nn.functional.interpolate(x, scale_factor=2.0), x[:, :, ::2].softmax(1), (x > 0).sum()


def session() -> BuildSession:
    """A filled network; what it is of stays alive with the session."""
    made = BuildSession(Options())
    graph = graph_of(Net().eval(), [torch.randn(1, 3, 12, 12)], {}, registry())
    made.kept = lower(graph, made.network, registry())  # type: ignore[attr-defined]
    return made


@pytest.fixture
def built() -> BuildSession:
    return session()


def first(built: BuildSession, kind: str, as_class: Any) -> Any:
    layers = [built.network.get_layer(i) for i in range(built.network.num_layers)]
    layer = next(layer for layer in layers if trt.ILayer.type.__get__(layer).name == kind)
    layer.__class__ = as_class
    return layer


def test_it_is_the_same_for_the_same_network(built: BuildSession) -> None:
    assert network_digest(built.network) == network_digest(built.network) == network_digest(session().network)


def set_to(kind: str, as_class: str, attribute: str, value: Any) -> Callable[[BuildSession], None]:
    def change(built: BuildSession) -> None:
        setattr(first(built, kind, getattr(trt, as_class)), attribute, value() if callable(value) else value)

    return change


def weights(shape: tuple[int, ...], seed: int) -> Any:
    return lambda: torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy()


def renamed_input(built: BuildSession) -> None:
    built.network.get_input(0).name = "other"


def dimension(built: BuildSession) -> None:
    built.network.get_input(0).set_dimension_name(0, "batch")


def formats(built: BuildSession) -> None:
    built.network.get_output(0).allowed_formats = 1 << int(trt.TensorFormat.LINEAR)


def unmarked(built: BuildSession) -> None:
    built.network.unmark_output(built.network.get_output(4))


def another_layer(built: BuildSession) -> None:
    built.network.add_identity(built.network.get_input(0))


def other_order(built: BuildSession) -> None:
    layer = first(built, "ELEMENTWISE", trt.IElementWiseLayer)
    a, b = layer.get_input(0), layer.get_input(1)
    layer.set_input(0, b)
    layer.set_input(1, a)


CHANGES: dict[str, Callable[[BuildSession], None]] = {
    "stride": set_to("CONVOLUTION", "IConvolutionLayer", "stride_nd", (1, 2)),
    "groups": set_to("CONVOLUTION", "IConvolutionLayer", "padding_nd", (1, 1)),
    "kernel": set_to("CONVOLUTION", "IConvolutionLayer", "kernel", weights((4, 3, 3, 3), 9)),
    "activation": set_to("ACTIVATION", "IActivationLayer", "type", lambda: trt.ActivationType.SIGMOID),
    "alpha": set_to("ACTIVATION", "IActivationLayer", "alpha", 0.5),
    "k": set_to("TOPK", "ITopKLayer", "k", 1),
    "axes": set_to("SOFTMAX", "ISoftMaxLayer", "axes", 4),
    "keep": set_to("REDUCE", "IReduceLayer", "keep_dims", True),
    "scales": set_to("RESIZE", "IResizeLayer", "scales", [1.0, 1.0, 3.0, 2.0]),
    "start": set_to("SLICE", "ISliceLayer", "start", (0, 1)),
    "permutation": set_to("SHUFFLE", "IShuffleLayer", "second_transpose", lambda: trt.Permutation([0, 2, 1])),
    "name": set_to("CONVOLUTION", "IConvolutionLayer", "name", "other"),
    "input": renamed_input,
    "dimension": dimension,
    "formats": formats,
    "outputs": unmarked,
    "layers": another_layer,
    "order of inputs": other_order,
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_counts(built: BuildSession, change: str) -> None:
    before = network_digest(built.network)
    CHANGES[change](built)
    assert network_digest(built.network) != before


def test_constants_count_by_their_bytes() -> None:
    def made(last: float, dtype: torch.dtype) -> str:
        built = BuildSession(Options())
        net = Network(built.network)
        values = torch.tensor([1.0, 2.0, last]).to(dtype)
        built.network.mark_output(net.tensor(values).raw)
        return network_digest(built.network)

    for dtype in (torch.float32, torch.float16, torch.int32, torch.bool):
        assert made(0.0, dtype) == made(0.0, dtype) != made(5.0, dtype)


def test_layers_whose_attributes_are_not_known_are_refused() -> None:
    """As those of plugins, whose fields no API tells."""
    built = BuildSession(Options())
    x = built.network.add_input("x", trt.DataType.FLOAT, (1, 4, 4))
    bounds = built.network.add_input("bounds", trt.DataType.INT32, (1, 4, 1))
    layer = built.network.add_ragged_softmax(x, bounds)
    built.network.mark_output(layer.get_output(0))
    with pytest.raises(Unkeyable, match="of type RAGGED_SOFTMAX, whose attributes cannot be read"):
        network_digest(built.network)
