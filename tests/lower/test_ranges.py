"""Ranges that the DLA needs equal."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from torch2edge.lower import registry
from torch2edge.lower.ranges import equalized
from torch2edge.trace import trace


class Net(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([x.relu(), y.sigmoid()], 1)
        pooled = nn.functional.max_pool2d(joined, 2)
        return (pooled.tanh() + pooled.exp()).neg()


def test_groups() -> None:
    example: list[Any] = [torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)]
    graph = trace(Net().eval(), example, is_leaf=registry().is_leaf)
    names = {v.index: op.short_name for op in graph.ops for v in op.outputs if v is not None}
    ranges = {index: float(i + 1) for i, index in enumerate([v.index for v in graph.inputs] + list(names))}
    given = equalized(graph, ranges)
    by_name = {name: given[index] for index, name in names.items()}
    old = {name: ranges[index] for index, name in names.items()}
    assert by_name["relu"] == by_name["sigmoid"] == by_name["cat"] == by_name["max_pool2d"] == old["max_pool2d"]
    assert by_name["tanh"] == by_name["exp"] == old["exp"]
    for alone in ("add", "neg"):
        assert by_name[alone] == old[alone]
    assert [given[v.index] for v in graph.inputs] == [1.0, 2.0]
