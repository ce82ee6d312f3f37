"""What a plan advises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torch2edge import plan_dla
from torch2edge.dla.advice import BY_REWRITING, BY_RULE, BY_TYPE
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
    assert set(BY_REWRITING) <= {*BY_RULE, *BY_TYPE}
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


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        (Of(lambda x: x.mean((2, 3), keepdim=True), nn.Conv2d(3, 8, 3)), "for sizes whose factors are at most 8"),
        (Of(lambda x: F.avg_pool2d(x, 14), nn.Conv2d(3, 8, 3)), "for a pooling over the whole image"),
        (nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 8, 3)), "for zeros in front of a convolution"),
        (nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten(), nn.Linear(64 * 196, 5)), "for a flattened image of at most 8192"),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(1568, 8), nn.Hardswish(), nn.Linear(8, 3)),
            "for a hardsigmoid or hardswish in a head",
        ),
    ],
)
def test_rewrites_are_advised_where_they_do_it_and_only_once(model: nn.Module, hint: str) -> None:
    x = torch.randn(1, 3, 16, 16)
    plan, after = (plan_dla(model.eval(), [x], dla_rewrites=on) for on in (False, True))
    [line] = [line for line in plan.advice if hint in line]
    kept = line.removeprefix("to keep ").partition(" on the DLA: ")[0].split(" and ")[0].split(", ")
    assert set(kept) - {row.name for row in after.fallbacks} == set(kept), "the rewrites did not do it"
    assert after.rewritten
    assert not any("dla_rewrites" in advice for advice in after.advice)


@pytest.mark.parametrize("high", [0.5, 200.0])
def test_rewrites_are_not_advised_where_they_do_nothing(high: float) -> None:
    for act in (nn.Hardtanh(0.0, high), nn.ELU()):
        plan = plan_dla(nn.Sequential(nn.Conv2d(3, 8, 3), act).eval(), [torch.randn(1, 3, 16, 16)])
        assert plan.advice
        assert not any("dla_rewrites" in line for line in plan.advice)


def test_a_plan_without_fallbacks_advises_nothing() -> None:
    plan = plan_dla(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), [torch.randn(1, 3, 16, 16)])
    assert plan.all_on_dla
    assert plan.advice == []
