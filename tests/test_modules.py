"""Options per module: which entry holds where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import torch2edge
from torch2edge import ConfigError
from torch2edge.modules import by_path, check_reached, inside, nearest


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.drop, self.conv2 = nn.Conv2d(4, 4, 1), nn.Dropout(), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.drop(self.conv1(x))) + x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(Block(), Block())
        self.layer2 = nn.Sequential(Block(), Block())
        self.aux = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer2(self.layer1(x))


def chosen(given: Any, path: str, model: nn.Module | None = None) -> Any:
    return nearest(by_path(model or Net(), given, "o", "{}", patterns=True), path)


def test_what_is_named_comes_before_patterns_in_any_order() -> None:
    for given in ({"layer2.*": 1, "layer2.0": 2}, {"layer2.0": 2, "layer2.*": 1}):
        assert [chosen(given, p) for p in ("layer2.0", "layer2.0.conv1", "layer2.1.conv1", "layer1.0")] == [2, 2, 1, None]
    for given in ({"layer2.0.conv1": 2, "layer2.*": 1}, {"layer2.*": 1, "layer2.0.conv1": 2}):
        assert [chosen(given, p) for p in ("layer2.0.conv1", "layer2.0.conv2")] == [2, 1]


def test_a_later_pattern_comes_before_an_earlier_one() -> None:
    assert chosen({"layer*": 1, "layer2*": 2}, "layer2.0") == 2
    assert chosen({"layer2*": 2, "layer*": 1}, "layer2.0") == 1


def test_the_innermost_wins_between_patterns_too() -> None:
    given = {"*.conv2": 2, "layer2": 1}
    assert [chosen(given, p) for p in ("layer2.0.conv1", "layer2.0.conv2", "layer1.0.conv2")] == [1, 2, 2]


def test_a_pattern_must_reach_something_and_a_path_itself() -> None:
    ran = ["layer1.0.conv1", "layer1.0.conv2", "layer1.0"]
    given = by_path(Net(), {"layer1.0.*": 1}, "o", "{}", patterns=True)
    check_reached(given, ran, "o")
    for wrong in ({"aux": 1}, {"au?": 1}, {"layer1.0.drop": 1}, {"layer1.0.dro*": 1}):
        with pytest.raises(ConfigError, match=f"nothing ran in '{next(iter(wrong))}'".replace("?", ".").replace("*", ".")):
            check_reached(by_path(Net(), wrong, "o", "{}", patterns=True), ran, "o")


def test_patterns_inside_of_a_part() -> None:
    given = inside(by_path(Net(), {"layer1.*": 1, "layer2": 2}, "o", "{}", patterns=True), "layer1")
    assert given == {"0": 1, "1": 1}
    check_reached(given, ["0.conv1"], "o")
    assert inside(by_path(Net(), {"layer1.0.*": 1}, "o", "{}", patterns=True), "layer1.0") == {
        "conv1": 1,
        "drop": 1,
        "conv2": 1,
    }


def test_patterns_of_a_model_with_dropout_convert() -> None:
    net, x = Net().eval(), torch.randn(1, 4, 8, 8)
    report = torch2edge.convert(net, [x], precisions={"layer2.0.*": "fp16", "layer2.0.conv1": "fp32"}, verify=False).report
    assert {row.path: row.precision for row in report.modules if row.path.startswith("layer2.0.")} == {
        "layer2.0.conv1": "fp32", "layer2.0.conv2": "fp16",
    }  # fmt: skip


def test_a_pattern_may_reach_one_part_and_not_another() -> None:
    """With fallback="torch" the parts are converted one by one; whether a pattern reaches anything is asked of the whole."""

    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Dropout(), nn.Conv2d(4, 4, 1), nn.ReLU())
            self.b = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            if y.mean().item() > 1e9:
                y = y * 2
            return self.b(y)

    for pattern in ("*.2", "*.[02]"):
        module = torch2edge.convert(
            Parts().eval(), [torch.randn(1, 4, 8, 8)], fallback="torch", fp16=True, precisions={pattern: "fp32"}
        )
        rows = {row.path: row.precision for row in module.report.engines["b"].modules}
        assert rows["2"] == "fp32"
        assert (rows["0"] == "fp32") == (pattern == "*.[02]")
