"""Real models through convert(): one of each torchvision family, and the networks of NVIDIA's DLA guide."""

from __future__ import annotations

import collections
import itertools
import json
from pathlib import Path

import pytest
import torch
import zoo
import zoo_table
from catalogue import COLLECTIONS, Entry, Example, catalogue
from catalogue.torchvision_models import FAMILIES
from torch import nn

import torch2edge

VISION = catalogue("torchvision")


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str) -> None:
    row = zoo.convert_one(VISION[f"torchvision:{name}"], fallback=False)
    assert not row["error"]
    assert row["ops"] > 0
    assert row["ref_max"] > 0
    assert row["rel_l2"] < 1e-5


def test_the_families_cover_every_builder() -> None:
    """All 80 classification models and the 6 segmentation models are in the zoo, and each family has a member in the test."""
    names = {e.name.partition(":")[2] for e in VISION.values() if e.task in ("classification", "segmentation")}
    assert len(names) == 86
    assert set(FAMILIES) <= names
    prefixes = {name.split("_")[0].rstrip("0123456789") for name in names}
    assert prefixes == {name.split("_")[0].rstrip("0123456789") for name in FAMILIES}


def test_the_catalogue_has_what_it_should() -> None:
    tasks = collections.Counter(e.task for e in VISION.values())
    assert tasks["video"] == 9
    assert tasks["optical flow"] == 2
    assert tasks["detection"] >= 10
    assert len(catalogue("timm")) >= 60  # names alone: timm itself is in the extra zoo
    assert len(catalogue("transformers")) >= 17
    assert len(catalogue()) == sum(len(list(make())) for make in COLLECTIONS.values()), "two models of one name"


class Reads(nn.Module):
    """Takes a number into Python between two parts that convert."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*(nn.Linear(8, 8) for _ in range(6)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        return x * float(x.abs().mean())


@pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
def test_a_model_in_parts_says_why(tmp_path: Path) -> None:
    entry = Entry("own:reads", "test", lambda: Example(Reads().eval(), [torch.randn(2, 8)]))
    row = zoo.convert_one(entry)
    assert (row["road"], row["engines"], row["error"]) == ("torch", 1, "")
    assert "DataDependentError: aten.item.default" in row["reason"]
    alone = zoo.convert_one(entry, fallback=False)
    assert (alone["road"], alone["reason"]) == ("none", "")
    rows = [
        row,
        alone,
        zoo.convert_one(Entry("own:linear", "test", lambda: Example(nn.Linear(8, 8).eval(), [torch.randn(2, 8)]))),
    ]
    assert zoo_table.summary(rows) == "1 of 3 models (33.3 %) with no fallback, 1 in parts (fallback='torch'), 1 not at all"
    path = zoo_table.write(rows, ["torchvision"], tmp_path)
    table = path.read_text()
    assert "| own:linear | test | 1 |" in table
    assert "| own:reads | test | | | | | | **failed**: DataDependentError" in table
    assert json.loads(path.with_suffix(".json").read_text())["rows"] == rows


def dla_guide(norm: str) -> nn.Module:
    """Four conv-norm-relu blocks, global average pooling and a linear layer, for 3x32x32 images."""
    widths = [3, 64, 128, 256, 512]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1)]
        layers += [nn.GroupNorm(8, after) if norm == "group" else nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_dla_guide(norm: str) -> None:
    torch.manual_seed(0)
    report = torch2edge.convert(dla_guide(norm).eval(), [torch.randn(32, 3, 32, 32)]).report
    assert report is not None
    assert all(row.passed and row.rel_l2 < 1e-5 for row in report.check)
