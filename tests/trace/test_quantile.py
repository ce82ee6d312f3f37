"""The written-out quantiles against PyTorch's, on real tensors; rows of converters/ have them traced."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import torch2edge
from torch2edge.trace.quantile import QUANTILES

aten = torch.ops.aten


@pytest.mark.parametrize("interpolation", ["linear", "lower", "higher", "midpoint", "nearest"])
@pytest.mark.parametrize("name", ["quantile", "nanquantile"])
@pytest.mark.parametrize("q", [0.3, torch.tensor(0.5), torch.tensor([0.0, 0.1, 0.9, 1.0])], ids=["number", "scalar", "list"])
def test_they_are_pytorchs(name: str, q: Any, interpolation: str) -> None:
    x = torch.randn(3, 9, 4, generator=torch.Generator().manual_seed(0))
    x[x > 1.5] = float("nan")
    packet = getattr(aten, name)
    own = QUANTILES[packet.default if isinstance(q, torch.Tensor) else packet.scalar]
    assert torch.nanquantile(x, 0.5, 1).isfinite().all()
    for dim in (None, 0, 1, -1, -2):
        for keepdim in (False, True):
            expected = getattr(torch, name)(x, q, dim, keepdim, interpolation=interpolation)
            given = own(x, q, dim, keepdim, interpolation=interpolation)
            torch.testing.assert_close(given, expected, equal_nan=True)


class Levels(nn.Module):
    """Quantiles at levels that are an input."""

    def forward(self, x: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return torch.quantile(x, q.sigmoid(), 1)


def test_levels_may_be_an_input() -> None:
    report = torch2edge.convert(Levels().eval(), [torch.randn(3, 9), torch.randn(2)]).report
    assert all(row.passed for row in report.check)


def test_levels_out_of_range_are_pytorchs_error() -> None:
    class Beyond(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.quantile(1.5, 1)

    with pytest.raises(torch2edge.InputError, match=r"without torch2edge either: RuntimeError: .*in the range \[0, 1\]"):
        torch2edge.convert(Beyond().eval(), [torch.randn(3, 9)])
