"""torchvision's detectors by fallback="torch": engines for backbone and heads, PyTorch for what is in the middle."""

from __future__ import annotations

import pytest
import torch
from catalogue import detection as detectors

import torch2edge
from torch2edge.check.nested import compare_nested

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
    pytest.mark.filterwarnings("ignore::torch2edge.PartitionWarning"),  # proposals are as many as they are
]

# SSDlite's last maps amplify rounding (PyTorch in float32 is off from float64 by up to 0.1 there for inputs of N(0, 3)), so
# its backbone as a whole does not pass the check and its parts become engines.
CASES = [
    ("fasterrcnn_resnet50_fpn", {"backbone", "rpn.head"}, 1e-4),
    ("retinanet_resnet50_fpn", {"backbone", "head"}, 1e-4),
    ("ssdlite320_mobilenet_v3_large", {"backbone.features.0", "backbone.features.1", "head"}, 1e-4),
    ("fcos_resnet50_fpn", {"backbone", "head"}, 1e-4),
    ("maskrcnn_resnet50_fpn", {"backbone", "rpn.head", "roi_heads.mask_head"}, 1e-4),
]


def run(name: str, engines: set[str], tolerance: float) -> None:
    model = detectors.make(name)
    module = torch2edge.convert(model, [[detectors.image(0)]], fallback="torch", tolerance=tolerance)
    assert engines <= set(module.report.plan.engines), module.report
    for seed in (1, 2):
        with torch.no_grad():
            given, expected = module([detectors.image(seed)]), model([detectors.image(seed)])
        assert len(expected[0]["boxes"]) > 20
        rows = compare_nested(given, expected, f"image {seed}", tolerance)
        assert all(row.passed for row in rows), rows
    calls = module.report.calls
    assert all(calls[path] == (2, 0) for path in engines if not path.startswith("roi_heads")), calls


@pytest.mark.filterwarnings("ignore:.*meshgrid")
def test_one_detector():
    run("fasterrcnn_resnet18_fpn", {"backbone", "rpn.head"}, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "engines", "tolerance"), CASES, ids=[name for name, _, _ in CASES])
def test_detector(name, engines, tolerance):
    run(name, engines, tolerance)
