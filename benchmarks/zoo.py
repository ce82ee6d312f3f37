"""All torchvision classification and segmentation models: converted, built, checked.

    python benchmarks/zoo.py [--models resnet18 ...] [--families]

Each model in a process of its own, with random weights in which every part counts, through torch2edge.convert(): a real
engine is built, and the network is compared with PyTorch on fresh inputs. A line per model; a run over all of them is
written to benchmarks/results. The exit status is 1 when one fails.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision import models
from torchvision.models import segmentation

import torch2edge
from torch2edge._trt import capabilities

__all__ = ["FAMILIES", "torchvision_models"]

Factory = Callable[[], nn.Module]

FAMILIES = [  # one small model of each
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn",
    "vit_b_32", "wide_resnet50_2", "deeplabv3_mobilenet_v3_large", "fcn_resnet50", "lraspp_mobilenet_v3_large",
]  # fmt: skip

SIZES = {"inception": 299}  # all others take 224, the size most of them were made for


def torchvision_models() -> dict[str, tuple[Factory, tuple[int, ...]]]:
    """Name -> how to make the model, in eval mode with random weights, and the shape of its input."""
    zoo: dict[str, tuple[Factory, tuple[int, ...]]] = {}
    for name in models.list_models(module=models):
        size = next((size for prefix, size in SIZES.items() if name.startswith(prefix)), 224)
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


def convert_one(name: str) -> dict[str, Any]:
    """Convert and check one model; a row of the table. ``error`` is empty when all is well."""
    make, shape = torchvision_models()[name]
    start = time.perf_counter()
    row: dict[str, Any] = {"model": name, "shape": "x".join(map(str, shape)), "error": ""}
    try:
        report = torch2edge.convert(make(), [torch.randn(shape)]).report
    except torch2edge.Torch2EdgeError as error:
        return row | {"error": f"{type(error).__name__}: {error}"}
    assert report is not None
    worst = max(report.check, key=lambda c: c.rel_l2)
    return row | {
        "ops": sum(m.ops for m in report.modules), "layers": sum(m.layers for m in report.modules),
        "engine_mib": round(report.engine_bytes / 2**20, 1), **{f"{k}_s": v for k, v in report.timings.items()},
        "rel_l2": worst.rel_l2, "cosine": worst.cosine, "max_abs": worst.max_abs, "ref_max": worst.ref_max,
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def in_own_process(name: str) -> dict[str, Any]:
    """``convert_one`` in a fresh process, so that one model's memory is gone before the next."""
    command = [sys.executable, __file__, "--one", name]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run(command, text=True, capture_output=True, env=env)
    if done.returncode:
        return {"model": name, "error": f"the process ended with {done.returncode}: {done.stderr[-400:]}"}
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=None)
    parser.add_argument("--families", action="store_true", help="one model of each family")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(convert_one(arguments.one)))
        return
    names = arguments.models or (FAMILIES if arguments.families else list(torchvision_models()))
    rows = []
    for name in names:
        rows.append(in_own_process(name))
        row = rows[-1]
        told = row["error"][:150] or "{ops:5} ops {layers:5} layers  rel L2 {rel_l2:.1e}  {seconds:6.1f} s".format(**row)
        print(f"{name:30} {told}", flush=True)
    failed = [row["model"] for row in rows if row["error"]]
    print(f"{len(rows) - len(failed)} of {len(rows)} models converted and checked, none through ONNX")
    if not arguments.models and not arguments.families:
        write(rows, arguments.out)
    sys.exit(1 if failed else 0)


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    """The table, in a file named after its conditions."""
    torch_version, vision_version = (m.__version__.partition("+")[0] for m in (torch, torchvision))
    caps = capabilities()
    path = folder / f"zoo-torchvision{vision_version}-{caps.name}{caps.version}-torch{torch_version}.json"
    head = {
        "date": time.strftime("%Y-%m-%d"), "tensorrt": caps.title, "torch": torch.__version__,
        "torchvision": torchvision.__version__, "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU used",
        "checked_by": "the reference executor, against PyTorch fp32, fresh random inputs", "rows": rows,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(head, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
