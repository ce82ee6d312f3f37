"""The numbers and the example of docs/dla.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from torch2edge import plan_dla

DOCUMENT = (Path(__file__).parent.parent.parent / "docs" / "dla.md").read_text()
TABLE = re.findall(r"^\| (\w+) \| (\d+) \((\d+)\) \| (\d+) \((\d+)\) \|$", DOCUMENT, re.MULTILINE)
X = torch.randn(1, 3, 224, 224)


def test_the_table_is_there() -> None:
    assert len(TABLE) == 4


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_what_rewrites_do_to_models_of_torchvision(row: tuple[str, ...]) -> None:
    models = pytest.importorskip("torchvision.models")
    model = getattr(models, row[0])(weights=None).eval()
    plans = [plan_dla(model, [X], dla_rewrites=on) for on in (False, True)]
    assert [(len(p.fallbacks), len(p.loadables)) for p in plans] == [(int(row[1]), int(row[2])), (int(row[3]), int(row[4]))]
    [left] = plans[1].fallbacks
    assert (left.type, left.rule) == ("SHUFFLE", "shuffle-4d")
    assert len(plans[1].layers) <= len(plans[0].layers) * 1.1


def test_the_example_of_device_types() -> None:
    models = pytest.importorskip("torchvision.models")
    assert 'device_types={model.layer1: "dla", "layer2.*": "dla", model.layer2[0]: "gpu"}' in DOCUMENT
    model = models.resnet18(weights=None).eval()
    plan = plan_dla(model, [X], device_types={model.layer1: "dla", "layer2.*": "dla", model.layer2[0]: "gpu"})
    on_dla = {".".join(row.module.split(".")[:2]) for row in plan.layers if row.device == "DLA"}
    assert on_dla == {"layer1.0", "layer1.1", "layer2.1"}
