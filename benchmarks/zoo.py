"""All torchvision classification and segmentation models, as factories with small input shapes.

    python benchmarks/zoo.py [--models resnet18 ...] [--families]

prints per model how many ops tracing gives and which of them cannot convert; nothing is built.
"""

from __future__ import annotations

import argparse
import collections
import functools
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torchvision import models
from torchvision.models import segmentation

from torch2edge.lower import registry
from torch2edge.lower.check import unsupported
from torch2edge.trace import trace

__all__ = ["FAMILIES", "torchvision_models"]

Factory = Callable[[], nn.Module]

FAMILIES = [  # one small model of each
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn",
    "vit_b_32", "wide_resnet50_2", "deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large",
]  # fmt: skip

SIZES = {  # where 64 is too small or changes what the model does
    "alexnet": 224, "vgg": 224,  # below, the adaptive pool in front of the classifier would enlarge
    "inception": 96,  # at least 75
    "maxvit": 224, "vit": 224,  # fixed
    "swin": 224,  # below, the shifted windows of the last stages are gone
}  # fmt: skip


def torchvision_models() -> dict[str, tuple[Factory, tuple[int, ...]]]:
    """Name -> how to make the model, in eval mode with random weights, and the shape of its input."""
    zoo: dict[str, tuple[Factory, tuple[int, ...]]] = {}
    for name in models.list_models(module=models):
        size = next((size for prefix, size in SIZES.items() if name.startswith(prefix)), 64)
        zoo[name] = (functools.partial(_classifier, name), (1, 3, size, size))
    for name in models.list_models(module=segmentation):
        zoo[name] = (functools.partial(_segmenter, name), (1, 3, 65, 97))  # the last resize is not by a whole number
    return zoo


def _classifier(name: str) -> nn.Module:
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return _alive(lambda: models.get_model(name, weights=None, **options))


def _segmenter(name: str) -> nn.Module:
    return _alive(lambda: models.get_model(name, weights=None, weights_backbone=None))


def _alive(make: Factory) -> nn.Module:
    """A model in which every part counts: torchvision starts heads at 0, layer scales at 1e-6, batch norms at identity."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # inception's slow start
        model = make().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
        for name, parameter in module.named_parameters(recurse=False):
            if name == "layer_scale":
                nn.init.uniform_(parameter, 0.1, 0.5)
            elif not parameter.detach().any():
                nn.init.normal_(parameter, std=0.02)
    return model


def report(names: Sequence[str]) -> None:
    """A line per model: ops, seconds of tracing, and the kinds of ops that cannot convert with their counts."""
    zoo = torchvision_models()
    for name in names:
        make, shape = zoo[name]
        model = make()
        start = time.perf_counter()
        graph = trace(model, [torch.randn(shape)], is_leaf=registry().is_leaf, module_classes=registry().module_classes())
        rows = unsupported(graph.ops, registry())
        took = time.perf_counter() - start
        kinds = collections.Counter(f"{row['op'].removeprefix('aten.')} ({row['reason']})" for row in rows)
        told = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common()) or "all convert"
        print(f"{name:30} {len(graph.ops):5} ops {took:6.2f} s  {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Which torchvision models have ops that cannot convert.")
    parser.add_argument("--models", nargs="*", default=None)
    parser.add_argument("--families", action="store_true", help="one model of each family")
    arguments = parser.parse_args()
    report(arguments.models or (FAMILIES if arguments.families else list(torchvision_models())))


if __name__ == "__main__":
    main()
