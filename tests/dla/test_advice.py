"""What a plan advises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torch2edge import plan_dla
from torch2edge.dla.advice import BY_RULE, BY_TYPE
from torch2edge.dla.rules import RULES, TYPES


class Of(nn.Module):
    def __init__(self, fn: Any, *parts: nn.Module) -> None:
        super().__init__()
        self.fn, self.parts = fn, nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x)
        return self.fn(x)


def test_advice_is_for_rules_that_there_are() -> None:
    names = {rule.name for rule in RULES} | {"loadables-per-core"}
    general = {name.rpartition("-")[0] for name in names}
    assert set(BY_RULE) <= names | general
    assert not set(BY_TYPE) & set(TYPES)  # what a DLA takes has rules


@pytest.mark.parametrize(
    ("model", "advice"),
    [
        (Of(lambda x: x, nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)), "nn.BatchNorm2d in place of GroupNorm"),
        (Of(lambda x: x.mean((2, 3), keepdim=True), nn.Conv2d(3, 8, 3)), "nn.AvgPool2d with windows of at most 8 x 8"),
        (Of(F.gelu, nn.Conv2d(3, 8, 3)), "nn.ReLU, nn.LeakyReLU"),
        (Of(lambda x: x, nn.ConvTranspose2d(3, 8, 4, 2, 1)), "nn.ConvTranspose2d with padding 0"),
        (Of(lambda x: x / (x.abs() + 1), nn.Conv2d(3, 8, 3)), "multiply by a reciprocal"),
        (Of(lambda x: F.avg_pool2d(x, 16), nn.Conv2d(3, 8, 3, padding=1)), "a chain of windows of at most 8 x 8"),
    ],
)
def test_what_would_keep_a_layer(model: nn.Module, advice: str) -> None:
    plan = plan_dla(model.eval(), [torch.randn(1, 3, 16, 16)], tensorrt="8.6")
    assert any(advice in line for line in plan.advice), plan
    assert plan.to_dict()["advice"] == plan.advice
    assert plan.advice[0] in str(plan)


def test_a_plan_without_fallbacks_advises_nothing() -> None:
    plan = plan_dla(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), [torch.randn(1, 3, 16, 16)])
    assert plan.all_on_dla
    assert plan.advice == []
