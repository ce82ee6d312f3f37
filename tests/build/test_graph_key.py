"""The hash of a graph: the same for the same model, another one for anything that another engine could come of."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torch2edge
from torch2edge._trt import trt
from torch2edge.build.graph_key import Unkeyable, digest, graph_digests, plain
from torch2edge.graph import Constant, Graph
from torch2edge.inputs import read_inputs
from torch2edge.lower import registry
from torch2edge.roads import graph_of

ROOT = Path(torch2edge.__file__).parent.parent


class Net(nn.Module):
    def __init__(self, stride: int = 1, slope: float = 0.25, first: str = "conv") -> None:
        super().__init__()
        torch.manual_seed(3)
        self.add_module(first, nn.Conv2d(3, 4, 3, stride=stride))
        self.slope, self.first = slope, first
        self.register_buffer("mean", torch.tensor([0.5, -0.0, 2.0, 1e-30]))

    def forward(self, x: torch.Tensor) -> Any:
        y = getattr(self, self.first)(x) - self.mean[:, None, None]
        return {"y": nn.functional.leaky_relu(y, self.slope), "sum": y.sum((2, 3))}


def graph(model: nn.Module, shape: tuple[int, ...] = (2, 3, 9, 9), dynamic: Any = None, **kwargs: Any) -> Graph:
    args, named, names, declared = read_inputs([torch.randn(shape)], kwargs, torch.device("cpu"), dynamic=dynamic)
    made = graph_of(model.eval(), args, named, registry(), declared)
    made.input_names = names
    return made


def told(model: nn.Module, **options: Any) -> dict[str, str]:
    return graph_digests(graph(model, **options))


def differs(a: dict[str, str], b: dict[str, str]) -> set[str]:
    return {part for part in a if a[part] != b[part]}


def changed(change: Callable[[Net], None]) -> dict[str, str]:
    net = Net()
    with torch.no_grad():
        change(net)
    return told(net)


def test_it_is_the_same_for_the_same_model() -> None:
    assert told(Net()) == told(Net())
    assert set(told(Net())) == {"call", "ops", "weights"}


def test_it_is_the_same_in_another_process() -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "build"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-c", "from test_graph_key import Net, told; print(told(Net()))"], capture_output=True, text=True,
        timeout=120, check=True, env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "77"},
    )  # fmt: skip
    assert done.stdout.strip() == str(told(Net()))


@pytest.mark.parametrize(
    ("other", "parts"),
    [
        (lambda: told(Net(stride=2)), {"ops"}),
        (lambda: told(Net(slope=0.25 + 1e-15)), {"ops"}),
        (lambda: told(Net(slope=-0.0)), {"ops"}),
        (lambda: told(Net(first="stem")), {"ops"}),
        (lambda: told(Net(), shape=(1, 3, 9, 9)), {"call", "ops"}),
        (lambda: told(Net(), dynamic={0: {0: (1, 2, 4)}}), {"call", "ops"}),
    ],
)
def test_what_the_ops_and_inputs_are(other: Callable[[], dict[str, str]], parts: set[str]) -> None:
    assert differs(told(Net()), other()) == parts


def test_zero_and_minus_zero_are_two_arguments() -> None:
    assert differs(told(Net(slope=0.0)), told(Net(slope=-0.0))) == {"ops"}


def _last_bit(net: Net) -> None:
    net.conv.weight.view(torch.int32)[3, 2, 2, 2] ^= 1


def _swapped(net: Net) -> None:
    net.conv.weight[[0, 1]] = net.conv.weight[[1, 0]].clone()


def _sign_of_zero(net: Net) -> None:
    net.mean[1] = 0.0


@pytest.mark.parametrize("change", [_last_bit, _swapped, _sign_of_zero])
def test_every_bit_of_the_weights_counts(change: Callable[[Net], None]) -> None:
    assert differs(told(Net()), changed(change)) == {"weights"}


def test_strides_of_the_weights_do_not() -> None:
    def strided(net: Net) -> None:
        net.conv.weight = nn.Parameter(net.conv.weight.to(memory_format=torch.channels_last))

    assert differs(told(Net()), changed(strided)) == set()


def test_a_shared_weight_is_not_two_equal_ones() -> None:
    class Two(nn.Module):
        def __init__(self, shared: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a = nn.Parameter(torch.randn(4))
            self.b = self.a if shared else nn.Parameter(self.a.detach().clone())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.a + self.b

    assert told(Two(True), shape=(4,)) != told(Two(False), shape=(4,))


def test_dims_and_profiles() -> None:
    one, other = ({0: {0: (1, 2, 4)}}, {0: {0: (1, 2, 8)}})
    assert told(Net(), dynamic=one) == told(Net(), dynamic=one)
    assert differs(told(Net(), dynamic=one), told(Net(), dynamic=other)) == {"call"}
    two = {0: {0: [(1, 2, 4), (1, 1, 2)]}}
    assert differs(told(Net(), dynamic=one), told(Net(), dynamic=two)) == {"call"}


def test_sizes_that_a_lowering_settles_are_hashed_as_settled() -> None:
    """lower() replaces symbols that turned out to be constants in place: a hash after it is the one before it."""
    traced = graph(Net(), dynamic={0: {0: (1, 2, 4)}})
    before = graph_digests(traced)
    from torch2edge.lower.walk import _settle

    _settle(traced)
    assert graph_digests(traced) == before


def test_structure_and_names_of_inputs() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor | None = None, scale: float = 1.0) -> torch.Tensor:
            return x * scale + (0 if y is None else y)

    y = torch.randn(2)
    assert differs(told(Pair(), shape=(2,), y=y), told(Pair(), shape=(2,), y=y, scale=1.0)) == {"call"}
    assert "ops" in differs(told(Pair(), shape=(2,), y=y), told(Pair(), shape=(2,), y=y, scale=3.0))


def test_ranges_of_int8() -> None:
    made = graph(Net())
    index = made.ops[0].outputs[0].index  # type: ignore[union-attr]
    one, other = (graph_digests(made, ranges={index: value}) for value in (1.0, 1.0000001))
    assert differs(one, other) == differs(one, graph_digests(made)) == {"ops"}


def test_names_of_weights() -> None:
    made = graph(Net())
    weight = next(c for op in made.ops for c in op.args if isinstance(c, Constant)).tensor
    assert differs(graph_digests(made), graph_digests(made, {id(weight): "other.name"})) == {"ops"}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # torch 2.15 gives them up
@pytest.mark.parametrize(
    "constant",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8),
        lambda: torch.empty(3, device="meta"),
    ],
)
def test_constants_that_cannot_be_hashed_are_refused(constant: Callable[[], torch.Tensor]) -> None:
    made = graph(Net())
    made.ops[0].args = (made.ops[0].args[0], Constant(constant()), *made.ops[0].args[2:])
    with pytest.raises(Unkeyable, match="a constant that is no plain tensor"):
        graph_digests(made)


def test_arguments_of_an_unknown_kind_are_refused() -> None:
    made = graph(Net())
    made.ops[0].kwargs = {"what": object()}
    with pytest.raises(Unkeyable, match=r"a builtins\.object among what it is made of"):
        graph_digests(made)


KINDS: list[Any] = [
    None, True, False, 1, 0, 1.0, 0.0, -0.0, "1", "", "None", float("inf"), (), [], (1,), [1], {}, {"a": 1}, {"a": (1,)},
    {1: "a"}, torch.float32, "torch.float32", torch.float16, torch.device("cpu"), torch.device("cuda:1"), torch.strided,
    torch.channels_last, 1j, slice(1, None), slice(None, 1), trt.DeviceType.GPU, trt.DeviceType.DLA, {"DeviceType": "GPU"},
]  # fmt: skip


def test_what_is_different_is_told_differently() -> None:
    assert len({digest(plain(kind)) for kind in KINDS}) == len(KINDS)


def test_module_classes_converted_as_a_whole_count_by_their_settings() -> None:
    def made(size: int) -> dict[str, str]:
        return told(nn.Sequential(nn.LocalResponseNorm(size)), shape=(1, 4, 5, 5))

    assert made(2) == made(2)
    assert differs(made(2), made(3)) == {"ops"}
