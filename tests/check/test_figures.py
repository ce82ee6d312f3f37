"""Figures of an error over several batches, and graphs in low precision replayed in float32."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from torch2edge.check.figures import Figures
from torch2edge.check.rounding import rounding
from torch2edge.lower import registry
from torch2edge.lower.precision import in_precision
from torch2edge.trace import trace


def test_figures_over_two_batches_are_those_of_both_together() -> None:
    reference, error = torch.randn(2, 50, dtype=torch.float64), 0.01 * torch.randn(2, 50, dtype=torch.float64)
    figures = Figures()
    for a, b in zip(reference + error, reference):
        figures.add(a, b)
    relative = float(error.norm() / reference.norm())
    assert figures.rel_l2 == pytest.approx(relative, rel=1e-9)
    assert figures.snr_db == pytest.approx(10 * math.log10(reference.square().sum() / error.square().sum()), rel=1e-9)
    assert figures.max_abs == pytest.approx(float(error.abs().max()), rel=1e-9)
    cosine = torch.cosine_similarity((reference + error).flatten(), reference.flatten(), 0)
    assert figures.cosine == pytest.approx(float(cosine), rel=1e-9)


@pytest.mark.parametrize(
    ("given", "reference", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], (0.0, math.inf, 1.0)),
        ([0.0, 0.0], [0.0, 0.0], (0.0, math.inf, 1.0)),
        ([1.0, 0.0], [0.0, 0.0], (math.inf, -math.inf, 0.0)),
        ([math.nan, 2.0], [math.nan, 2.0], (0.0, math.inf, 1.0)),
        ([math.inf, 2.0], [math.inf, 2.0], (0.0, math.inf, 1.0)),
        ([math.inf, 2.0], [-math.inf, 2.0], (math.inf, -math.inf, 0.0)),
        ([math.nan, 2.0], [1.0, 2.0], (math.inf, -math.inf, 0.0)),
        ([1.0, 2.0], [math.nan, 2.0], (math.inf, -math.inf, 0.0)),
    ],
)
def test_special_numbers(given: list[float], reference: list[float], expected: tuple[float, float, float]) -> None:
    figures = Figures()
    figures.add(torch.tensor(given), torch.tensor(reference))
    assert (figures.rel_l2, figures.snr_db) == expected[:2]
    assert figures.cosine == pytest.approx(expected[2], abs=1e-15)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> Any:
        y = torch.relu(self.conv(x)).mean((2, 3))
        return self.linear(y).softmax(-1), y.argmax(-1)


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_a_low_graph_rounds_after_each_op(low: torch.dtype) -> None:
    model = Mixed().eval()
    graph = trace(model, [torch.randn(2, 3, 6, 6)], is_leaf=registry().is_leaf)
    lowered = in_precision(graph, lambda path: low).graph
    x = torch.randn(2, 3, 6, 6)
    given, _ = rounding(lowered).replay([x])

    def rounded(t: torch.Tensor) -> torch.Tensor:
        return t.to(low).float()

    with torch.no_grad():
        conv, linear = model.conv, model.linear
        y = torch.relu(rounded(nn.functional.conv2d(rounded(x), rounded(conv.weight), rounded(conv.bias)))).mean((2, 3))
        z = rounded(nn.functional.linear(rounded(y), rounded(linear.weight), rounded(linear.bias)))
    torch.testing.assert_close(given, z.softmax(-1), rtol=1e-6, atol=0)
    assert not torch.allclose(given, model(x)[0], rtol=1e-6, atol=0)
    assert given.dtype == torch.float32


def test_a_half_model_is_computed_in_float32() -> None:
    """Also where PyTorch has no half kernel on the CPU."""
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU()).half().eval()
    graph = trace(model, [torch.randn(2, 4).half()], is_leaf=registry().is_leaf)
    x = torch.randn(2, 4).half()
    (given,) = rounding(graph).replay([x])
    (expected,) = graph.replay([x])
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, expected.float(), rtol=2e-3, atol=1e-5)
