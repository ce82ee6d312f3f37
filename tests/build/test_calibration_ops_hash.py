"""The hash of the traced ops: a change of the forward's numbers changes it, the example's batch does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torch2edge.build.calibration import graph_hash
from torch2edge.build.calibration.ops_hash import _summary
from torch2edge.lower import registry
from torch2edge.lower.quantize import every_float
from torch2edge.trace import trace

IMAGE = (2, 4, 8, 8)


class Applied(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def hashed(model: nn.Module | Callable[..., torch.Tensor], *inputs: torch.Tensor) -> str:
    model = model if isinstance(model, nn.Module) else Applied(model)
    converting = registry()
    with torch.no_grad():
        graph = trace(
            model.eval(), list(inputs), {}, is_leaf=converting.is_leaf, module_classes=converting.module_classes(),
            functions=converting.functions(),
        )  # fmt: skip
    return graph_hash(graph, every_float(graph))


# Fixed: of one table in about a thousand a last bit rounds the largest magnitude, of four digits, to another.
TABLE = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3))


def test_an_order_of_a_table_changes_it() -> None:
    for _ in range(200):
        table = torch.randn(3, 5)
        sums = {_summary(t) for t in (table, table.flip(0), table.flip(1), table * 1.01, -table, table.roll(1, 1))}
        assert len(sums) == 6


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x * 0.5, lambda x: x * 0.25),
        (lambda x: x * 0.1, lambda x: x * (0.1 + 1e-12)),
        (lambda x: x.clamp(0, 6), lambda x: x.clamp(0, 4)),
        (lambda x: x.clamp(0, 6), lambda x: x.clamp(0.0)),
        (lambda x: F.avg_pool2d(x, 2, 2), lambda x: F.avg_pool2d(x, 2, 1)),
        (lambda x: F.max_pool2d(x, 3, 1, 1), lambda x: F.max_pool2d(x, 3, 1, 1, 1, True)),
        (lambda x: F.gelu(x), lambda x: F.gelu(x, approximate="tanh")),
        (lambda x: x.softmax(1), lambda x: x.softmax(2)),
        (lambda x: x.to(torch.float64).exp().float(), lambda x: x.to(torch.float16).exp().float()),
        (lambda x: x[:, :2], lambda x: x[:, 1:3]),
        (lambda x: x[..., ::2], lambda x: x[..., ::4]),
        (lambda x: x.split([1, 3], 1)[1], lambda x: x.split([2, 2], 1)[1]),
        (lambda x: x.relu() - x.exp(), lambda x: x.exp() - x.relu()),
        (lambda x: (y := x.relu()) * y, lambda x: x.relu() * x),
        (lambda x: x * torch.tensor(2.0), lambda x: x * torch.tensor(3.0)),
        (lambda x: x + TABLE, lambda x: x + TABLE * 1.01),
        (lambda x: x + TABLE, lambda x: x - 0 + TABLE.flip(1)),
        (lambda x: x + TABLE, lambda x: x + TABLE.flip(1)),
        (lambda x: x + TABLE, lambda x: x + TABLE.flip(0)),
        (lambda x: x[:, [0, 2, 1]], lambda x: x[:, [0, 1, 3]]),
        (lambda x: x.masked_fill(torch.ones(8, 8).tril() == 0, -9), lambda x: x.masked_fill(torch.ones(8, 8).triu() == 0, -9)),
    ],
)
def test_a_change_of_the_forward_changes_it(one, other):
    x = torch.randn(IMAGE)
    assert hashed(one, x) == hashed(one, torch.randn(IMAGE))
    assert hashed(one, x) != hashed(other, x)


@pytest.mark.parametrize(("setting", "value"), [("stride", 2), ("padding", 0), ("dilation", 2)])
def test_a_layers_settings_change_it(setting, value):
    given = {"stride": 1, "padding": 1, "dilation": 1}
    x = torch.randn(IMAGE)
    assert hashed(nn.Conv2d(4, 4, 3, **given), x) != hashed(nn.Conv2d(4, 4, 3, **(given | {setting: value})), x)


def test_the_weights_do_not_change_it():
    x = torch.randn(IMAGE)
    assert hashed(nn.Conv2d(4, 4, 3), x) == hashed(nn.Conv2d(4, 4, 3), x)


def test_the_last_bit_of_a_table_does_not_change_it():
    other, x = torch.nextafter(TABLE, torch.tensor(9.0)), torch.randn(IMAGE)
    assert not torch.equal(other, TABLE)
    assert hashed(lambda x: x + TABLE * 0.37, x) == hashed(lambda x: x + other * 0.37, x)


# ---- the batch ----------------------------------------------------------------------------------------------------------


class Convolutions(nn.Module):
    """Shuffled channels, a head that flattens, a row of the batch taken apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = x.view(x.shape[0], 2, 4, 4, 4).transpose(1, 2).reshape(x.shape[0], 8, 4, 4)
        x = F.max_pool2d(F.interpolate(x, scale_factor=2.0), 2)
        x = x + x.new_ones(x.shape[0], 8, 1, 1) + torch.zeros(x.shape[0], 8, 1, 1)
        return self.head(x.flatten(1))[: x.shape[0]]


class Transformer(nn.Module):
    """Positions as wide as the batch, a class token, a mask, and the last token of each row by its index."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 32), nn.Embedding(20, 32)
        self.token = nn.Parameter(torch.randn(1, 1, 32))
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.second = nn.MultiheadAttention(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length = x.shape
        h = self.words(x) + self.places(torch.arange(length).expand(rows, -1))
        h = torch.cat((self.token.expand(rows, -1, -1), h), 1)
        h = self.layer(h, src_mask=torch.full((length + 1, length + 1), float("-inf")).triu(1)).transpose(0, 1)
        h = self.second(h, h, h)[0].transpose(0, 1)
        return h[torch.arange(rows), x.argmax(-1)]


@pytest.mark.parametrize(
    ("make", "draw"),
    [
        (Convolutions, lambda rows: torch.randn(rows, 4, 8, 8)),
        (Transformer, lambda rows: torch.randint(0, 50, (rows, 12))),
    ],
)
def test_the_batch_does_not_change_it(make, draw):
    model = make()
    assert len({hashed(model, draw(rows)) for rows in (1, 2, 8)}) == 1
