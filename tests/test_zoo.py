"""Real models through convert(): one of each torchvision family, and the networks of NVIDIA's DLA guide."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import torch2edge
from benchmarks.zoo import FAMILIES, convert_one, torchvision_models


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str) -> None:
    row = convert_one(name)
    assert not row["error"]
    assert row["ops"] > 0
    assert row["ref_max"] > 0
    assert row["rel_l2"] < 1e-5


def test_the_families_cover_every_builder() -> None:
    """All 80 classification models and the 6 segmentation models are in the zoo, and each family has a member in the test."""
    names = set(torchvision_models())
    assert len(names) == 86
    assert set(FAMILIES) <= names
    prefixes = {name.split("_")[0].rstrip("0123456789") for name in names}
    assert prefixes == {name.split("_")[0].rstrip("0123456789") for name in FAMILIES}


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
