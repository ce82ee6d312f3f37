"""torchvision: all models of all its tasks but the quantized ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from . import detection
from .entry import Entry, Example, alive

__all__ = ["FAMILIES", "torchvision_models"]

FAMILIES = [  # one small model of each, for classification and segmentation
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn",
    "vit_b_32", "wide_resnet50_2", "deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large",
]  # fmt: skip

SIZES = {"inception": 299}  # all others take 224, the size most of them were made for
# With these the last resize of a segmentation model is not by a whole number. RAFT takes multiples of 8, from 128 on.
SEGMENTATION = (1, 3, 65, 97)
FLOW = (1, 3, 128, 160)


def torchvision_models() -> Iterator[Entry]:
    """Classification, segmentation, video, optical flow, detection."""
    from torchvision import models
    from torchvision.models import optical_flow, segmentation, video

    for name in models.list_models(module=models):
        size = next((size for prefix, size in SIZES.items() if name.startswith(prefix)), 224)
        yield _entry(name, "classification", (1, 3, size, size))
    for name in models.list_models(module=segmentation):
        yield _entry(name, "segmentation", SEGMENTATION)
    for name in models.list_models(module=video):
        size = 112 if "18" in name else 224
        yield _entry(name, "video", (1, 3, 16, size, size))
    for name in models.list_models(module=optical_flow):
        yield _entry(name, "optical flow", FLOW, FLOW)
    for name in models.list_models(module=models.detection):
        yield Entry(f"torchvision:{name}", "detection", partial(_detector, name))


def _entry(name: str, task: str, *shapes: tuple[int, ...]) -> Entry:
    return Entry(f"torchvision:{name}", task, partial(_example, name, task, shapes))


def _example(name: str, task: str, shapes: tuple[tuple[int, ...], ...]) -> Example:
    from torchvision import models

    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    options |= {"weights_backbone": None} if task == "segmentation" else {}
    model = alive(lambda: models.get_model(name, weights=None, **options))
    return Example(model, [torch.randn(shape) for shape in shapes])


def _detector(name: str) -> Example:
    return Example(detection.make(name), [[detection.image(0)]])
