"""What benchmarks/frontend.py measures: image classifiers, transformers, detectors, and which of their axes may vary."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from catalogue import Example, catalogue, detection
from torch import nn

__all__ = ["DIMS", "MODELS", "versions"]

Axes = dict[int, dict[int, str]]  # tensor -> axis -> name of its size

DIMS = {"batch": (1, 2, 8), "length": (16, 128, 256), "height": (192, 256, 512), "width": (192, 320, 512)}
BATCH = {0: {0: "batch"}}
IMAGES = {0: {0: "batch", 2: "height", 3: "width"}}
TOKENS = {i: {0: "batch", 1: "length"} for i in (0, 1)}  # ids and mask


class Positional(nn.Module):
    """A transformer by its positional inputs: ``torch.onnx.export(dynamo=False)`` stumbles over decorated forwards."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, *tensors: torch.Tensor) -> Any:
        """What the model returns, without its class."""
        return tuple(t for t in self.model(**dict(zip(self.names, tensors))).to_tuple() if isinstance(t, torch.Tensor))


class Dense(nn.Module):
    """The network of a torchvision detector: everything but the resize before it and the boxes' choice after it."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(batch, 3, height, width) -> class logits and box offsets of all anchors."""
        return self.head(list(self.backbone(images).values()))  # type: ignore[no-any-return, operator]


def _of(collection: str, name: str) -> Callable[[], Example]:
    return lambda: _positional(catalogue(collection)[f"{collection}:{name}"].make())


def _positional(example: Example) -> Example:
    if not example.kwargs:
        return example
    return Example(Positional(example.model, list(example.kwargs)).eval(), list(example.kwargs.values()))


def _segformer() -> Example:
    example = catalogue("transformers")["transformers:SegformerForSemanticSegmentation"].make()
    return _positional(Example(example.model, [], {"pixel_values": torch.randn(1, 3, 256, 320)}))


def _dense(name: str) -> Example:
    return Example(Dense(detection.make(name)).eval(), [torch.randn(1, 3, 256, 320)])


MODELS: dict[str, tuple[Callable[[], Example], Axes]] = {
    "torchvision:resnet50": (_of("torchvision", "resnet50"), IMAGES),
    "torchvision:vit_b_16": (_of("torchvision", "vit_b_16"), BATCH),
    "torchvision:swin_t": (_of("torchvision", "swin_t"), BATCH),
    "transformers:BertModel": (_of("transformers", "BertModel"), TOKENS),
    "transformers:GPT2LMHeadModel": (_of("transformers", "GPT2LMHeadModel"), TOKENS),
    "transformers:T5EncoderModel": (_of("transformers", "T5EncoderModel"), TOKENS),
    "transformers:WhisperEncoder": (_of("transformers", "WhisperEncoder"), BATCH),
    "transformers:SegformerForSemanticSegmentation": (_segformer, IMAGES),
    # detectors: one that is a network from end to end, one without what is not
    "transformers:DetrForObjectDetection": (_of("transformers", "DetrForObjectDetection"), BATCH),
    "torchvision:retinanet_resnet50_fpn, backbone and head": (
        partial(_dense, "retinanet_resnet50_fpn"), IMAGES,
    ),
}  # fmt: skip


def versions() -> dict[str, str]:
    """Of the libraries beside torch and torchvision."""
    return {name: importlib.metadata.version(name) for name in ("transformers", "onnx")}
