"""torchvision's detectors with random weights that make something of their images, small enough for a CPU."""

from __future__ import annotations

import torch
from torch import nn

from .entry import calibrate

SIZE = 128


def image(seed: int) -> torch.Tensor:
    """Rectangles of random colours on noise."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.rand(3, SIZE, SIZE, generator=generator) * 0.2
    for _ in range(12):
        top, left = torch.randint(0, SIZE - 24, (2,), generator=generator).tolist()
        height, width = torch.randint(12, 64, (2,), generator=generator).tolist()
        picture[:, top : top + height, left : left + width] = torch.rand(3, 1, 1, generator=generator)
    return picture


def make(name: str) -> nn.Module:
    """In eval mode. Its batch norms know the images' statistics; without, hardly anything of the image reaches the boxes."""
    from torchvision import models

    torch.manual_seed(0)
    if name == "fasterrcnn_resnet18_fpn":  # no builder of torchvision's, but its parts: fast enough for every day
        backbone = models.detection.backbone_utils.resnet_fpn_backbone(backbone_name="resnet18", weights=None)
        backbone.eval()
        sizes = {"min_size": SIZE, "max_size": SIZE, "rpn_post_nms_top_n_test": 100}
        model = models.detection.FasterRCNN(backbone, num_classes=5, box_score_thresh=0.02, **sizes).eval()
        _calibrate(model)
        return model
    sizes = {} if name.startswith("ssd") else {"min_size": SIZE, "max_size": SIZE}
    threshold = {("box_score_thresh" if "rcnn" in name else "score_thresh"): 0.02}
    model = models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **sizes, **threshold).eval()
    _calibrate(model)
    return model


def _calibrate(model: nn.Module) -> None:
    """Batch norms take the statistics of some images; other layers are scaled to outputs of one size, boxes to a third."""
    calibrate(model.backbone, torch.stack([image(seed) for seed in range(100, 108)]))
    for norm in (m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_var.clamp_(min=0.1 * float(norm.running_var.mean()))  # dead channels would only amplify rounding
    scaled: set[nn.Module] = set()

    def scale(path: str):
        def hook(layer: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
            if layer in scaled or not output.numel():
                return output
            scaled.add(layer)
            nn.init.zeros_(layer.bias)
            factor = (0.3 if "bbox" in path or "regression" in path else 1.0) / float(output.std())
            layer.weight.mul_(factor)
            return layer._conv_forward(*args, layer.weight, None) if isinstance(layer, nn.Conv2d) else layer(*args)

        return hook

    handles = [
        m.register_forward_hook(scale(path)) for path, m in model.named_modules()
        if isinstance(m, (nn.Conv2d, nn.Linear)) and m.bias is not None and not path.startswith("backbone.body")
    ]  # fmt: skip
    with torch.no_grad():
        model([image(99)])
    for handle in handles:
        handle.remove()
