"""fp16 and INT8 on a real GPU: error, engine size and time beside PyTorch's half and the ONNX road of the same TensorRT.

    python benchmarks/low_precision.py [--models resnet50 ...] [--level 3] [--out benchmarks/results]

Random weights, batch norms with random statistics, images from a normal distribution, batch 1; INT8 is calibrated by entropy
on 64 of them. Errors: relative L2 and cosine against the model in fp32 (TF32 off) on inputs that neither the conversion nor
the calibration has seen. Times: CUDA events around one call each, after warm-up, in rounds of ten
calls each; medians. "onnx fp16" is torch.onnx.export(dynamo=False), parsed by TensorRT's parser, with the FP16 flag.
Rows of other models in a result of the same conditions stay.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from gpu_models import model_of, timed
from torch import nn

import torch2edge
from torch2edge._trt import capabilities


class Head(nn.Module):
    """Like that of a YOLO: three scales, two branches each, boxes as the mean of a distribution over 16 distances."""

    def __init__(self, channels: tuple[int, ...] = (64, 128, 256), classes: int = 80) -> None:
        super().__init__()

        def branch(given: int, wide: int, out: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for count in (given, wide):
                layers += [nn.Conv2d(count, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.SiLU()]
            return nn.Sequential(*layers, nn.Conv2d(wide, out, 1))

        self.stems = nn.ModuleList(nn.Conv2d(3, c, 8 * 2**i, 8 * 2**i) for i, c in enumerate(channels))
        self.boxes = nn.ModuleList(branch(c, 64, 64) for c in channels)
        self.scores = nn.ModuleList(branch(c, 80, classes) for c in channels)
        self.register_buffer("distances", torch.arange(16.0).reshape(1, 1, 16, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, 3, H, W) -> (N, 4, cells) distances and (N, classes, cells) scores."""
        boxes, scores = [], []
        for stem, box, score in zip(self.stems, self.boxes, self.scores):
            features = stem(x)
            boxes.append(box(features).flatten(2))
            scores.append(score(features).flatten(2))
        logits = torch.cat(boxes, 2)
        shares = logits.reshape(logits.shape[0], 4, 16, -1).softmax(2)
        return (shares * self.distances).sum(2), torch.cat(scores, 2).sigmoid()


def made(name: str) -> nn.Module:
    """The model on the GPU, in eval mode."""
    if name != "yolo_like_head":
        return model_of(name)
    torch.manual_seed(0)
    model = Head()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 1.5)
    return model.eval().cuda()


MODELS = ("resnet50", "mobilenet_v3_large", "efficientnet_b0", "vit_b_16", "swin_t", "yolo_like_head")
SHAPE = (1, 3, 224, 224)


def images(count: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator) for _ in range(count)]


def errors(run: Callable[[torch.Tensor], Any], model: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """The worst output over fresh images."""
    worst = {"rel_l2": 0.0, "cosine": 1.0}
    for x in images(4, 99):
        x = x.cuda()
        with torch.no_grad():
            given, expected = run(x.to(dtype)), model(x)
        pairs = zip(given, expected) if isinstance(expected, tuple) else [(given, expected)]
        for a, b in pairs:
            a, b = a.double().flatten(), b.double().flatten()
            worst["rel_l2"] = max(worst["rel_l2"], float((a - b).norm() / b.norm()))
            worst["cosine"] = min(worst["cosine"], float(torch.cosine_similarity(a, b, 0)))
    return worst


def engines(model: nn.Module, level: int) -> dict[str, Any]:
    """Engines by name; what failed is its message."""
    x = images(1, 1)[0].cuda()
    common: dict[str, Any] = {"optimization_level": level, "tolerance": 10.0}  # the errors are measured here
    if capabilities().tactic_sources:
        common["tactic_sources"] = 0
    data = torch2edge.Calibration(images(64, 2), progress=False)
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.onnx"
        torch.onnx.export(model, (x,), file, dynamo=False, opset_version=17)
        wanted: dict[str, Callable[[], Any]] = {
            "fp16": lambda: torch2edge.convert(model, [x], fp16=True, **common),
            "int8": lambda: torch2edge.convert(model, [x], fp16=True, int8=True, calibration=data, **common),
            "onnx fp16": lambda: torch2edge.convert(file, [x], fp16=True, verify=False, **common),
        }
        found: dict[str, Any] = {}
        for name, make in wanted.items():
            start = time.perf_counter()
            try:
                found[name] = make()
                found[name].seconds = round(time.perf_counter() - start, 1)
            except torch2edge.Torch2EdgeError as error:
                found[name] = f"{type(error).__name__}: {str(error)[:500]}"
    return found


def measure(name: str, level: int) -> dict[str, Any]:
    """A row of the result."""
    model = made(name)
    x = images(1, 3)[0].cuda()
    half = made(name).half()
    built = engines(model, level)
    calls: dict[str, Callable[[], Any]] = {"pytorch fp32": lambda: model(x), "pytorch fp16": lambda: half(x.half())}
    calls |= {key: (lambda e=e: e(x)) for key, e in built.items() if not isinstance(e, str)}
    with torch.no_grad():
        times = timed(calls)
    row: dict[str, Any] = {"model": name, "input": list(SHAPE)}
    for key, took in times.items():
        row[key] = {"gpu_ms_median": took["gpu_ms_median"], "host_ms_median": took["host_ms_median"]}
        engine = built.get(key)
        if engine is not None:
            row[key] |= errors(engine, model) | {
                "engine_mib": round(engine.report.engine_bytes / 2**20, 1), "convert_s": engine.seconds,
            }  # fmt: skip
    row["pytorch fp16"] |= errors(half, model, torch.float16)
    return row | {key: {"failed": e} for key, e in built.items() if isinstance(e, str)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    gpu = torch.cuda.get_device_name().lower().replace(" ", "-")
    version = torch.__version__.partition("+")[0]
    name = f"low-precision-{gpu}-{capabilities().name}{capabilities().version}-level{args.level}-torch{version}.json"
    args.out.mkdir(parents=True, exist_ok=True)
    conditions: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"), "gpu": torch.cuda.get_device_name(), "tensorrt": capabilities().title,
        "tactic_sources": 0 if capabilities().tactic_sources else "default", "torch": torch.__version__,
        "torchvision": torchvision.__version__, "batch": SHAPE[0],
    }  # fmt: skip
    for model in args.models:
        row = measure(model, args.level)
        print(json.dumps(row), flush=True)
        rows = [r for r in earlier(args.out / name, conditions) if r["model"] != model]
        rows = sorted([*rows, row], key=lambda r: MODELS.index(r["model"]))
        (args.out / name).write_text(json.dumps({**conditions, "rows": rows}, indent=1) + "\n")


def earlier(file: Path, conditions: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a result of the same conditions."""
    held = json.loads(file.read_text()) if file.exists() else {}
    return list(held["rows"]) if {**held, "rows": None} == {**conditions, "rows": None} else []


if __name__ == "__main__":
    main()
