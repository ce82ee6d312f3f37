"""BuildSession's rules that need no GPU."""

from __future__ import annotations

import pytest
import torch

from torch2edge.build.session import beyond_half


@pytest.mark.parametrize("value", [1e5, -70000.0, float("inf"), 1e-7, -1e-6])
def test_beyond_half(value: float) -> None:
    assert beyond_half(torch.tensor(value))


@pytest.mark.parametrize("value", [0.0, 1.0, -65504.0, 2.5, 1e-4])
def test_within_half(value: float) -> None:
    assert not beyond_half(torch.tensor(value))


def test_small_weights_are_no_reason() -> None:
    """Among many weights a tiny one may round to zero; a single number that does is another matter."""
    assert not beyond_half(torch.tensor([1e-7, 1.0]))
    assert beyond_half(torch.tensor([1e-7, float("-inf")]))
    assert not beyond_half(torch.empty(0))
