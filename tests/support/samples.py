"""Ten models over the roads beside the direct one: the fallbacks, the torch2trt look-alike, torch.compile.

``run`` converts a sample and compares what it computes on fresh inputs with PyTorch on the CPU: by the reference executor
where there is no GPU, by executing its engines where there is one. What a road needs and is missing (onnx, onnxslim,
onnxscript for the dynamo exporter) fails the sample with what to install.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torchvision
from catalogue import detection as detectors
from torch import nn

import torch2edge
from support.gpu import FAST
from torch2edge._trt import trt
from torch2edge.check.nested import compare_nested
from torch2edge.check.tf32 import tf32
from torch2edge.integrations import torch_compile
from torch2edge.integrations.torch2trt import TRTModule, get_arg, tensorrt_converter, torch2trt

__all__ = ["SAMPLES", "Sample", "run"]

aten = torch.ops.aten
TOLERANCE = 1e-4  # relative L2, that of check.verify for fp32


@dataclass(frozen=True)
class Sample:
    """A model on a road.

    Attributes:
        name: of the model.
        road: "onnx", "torch", "torch2trt" or "compile".
        make: the model in eval mode, from a fixed seed.
        draw: seed -> inputs.
        options: of ``convert``, or of ``torch2trt``.
        engines: submodules that must become engines, or parts of some, on the road "torch".
        slow: takes too long for every day on the CPU.
    """

    name: str
    road: str
    make: Callable[[], nn.Module]
    draw: Callable[[int], list[Any]]
    options: dict[str, Any] = field(default_factory=dict)
    engines: tuple[str, ...] = ()
    slow: bool = False

    def __str__(self) -> str:
        return f"{self.road}-{self.name}"


def run(sample: Sample, device: str) -> None:
    """Convert on ``device``, call, compare."""
    torch.manual_seed(0)
    model = sample.make()
    with torch.no_grad():
        expected = {seed: model(*sample.draw(seed)) for seed in (1, 2)}
    model = model.to(device)
    with torch.no_grad(), tf32(False):
        module = _ROADS[sample.road](sample, model, _on(device, sample.draw(0)))
        given = {seed: _on("cpu", module(*_on(device, sample.draw(seed)))) for seed in expected}
    for seed in expected:
        rows = compare_nested(given[seed], expected[seed], f"seed {seed}", TOLERANCE)
        assert all(row.passed for row in rows), rows
    if sample.road == "torch":
        calls = module.report.calls
        assert all(calls[_engine_around(path, calls)] == (len(expected), 0) for path in sample.engines), calls
    if sample.road == "compile":
        row = torch_compile.report().graphs[-1]
        assert (row.engines, row.by_engine, row.by_eager) == (1, 1 + len(expected), 0), torch_compile.report()


def _on(device: str, value: Any) -> Any:
    """Nested tensors on a device."""
    if isinstance(value, (list, tuple)):
        return type(value)(_on(device, v) for v in value)
    if isinstance(value, dict):
        return type(value)((k, _on(device, v)) for k, v in value.items())
    return value.to(device) if isinstance(value, torch.Tensor) else value


# ---- roads ------------------------------------------------------------------------------------------------------------------


def _by_onnx(sample: Sample, model: nn.Module, inputs: list[Any]) -> nn.Module:
    module = torch2edge.convert(model, inputs, fallback="onnx", **sample.options, **FAST)
    assert module.report.notes[0].startswith("note: taken by way of ONNX"), module.report
    assert all(row.passed for row in module.report.check)
    return module


def _engine_around(path: str, engines: Iterable[str]) -> str | None:
    """The engine that a submodule is in: rounding decides whether SSDlite's backbone as a whole passes the check."""
    return next((engine for engine in engines if path == engine or path.startswith(f"{engine}.")), None)


def _by_parts(sample: Sample, model: nn.Module, inputs: list[Any]) -> nn.Module:
    module = torch2edge.convert(model, inputs, fallback="torch", **sample.options, **FAST)
    assert all(_engine_around(path, module.report.plan.engines) is not None for path in sample.engines), module.report
    assert all(row.passed for row in module.report.check)
    return module


def _by_torch2trt(sample: Sample, model: nn.Module, inputs: list[Any]) -> nn.Module:
    """Converted, and loaded again from its state dict: what torch2trt's users save."""
    module = torch2trt(model, inputs, **sample.options, **FAST)
    assert all(row.passed for row in module.report.check)
    assert all(part.converted for part in model.modules() if isinstance(part, Gate))
    loaded = TRTModule()
    loaded.load_state_dict(module.state_dict())
    assert set(loaded.state_dict()) == set(module.state_dict())
    # where nothing executes, a loaded engine cannot be called: the reference executor needs the network
    return loaded if not torch2edge._trt.why_not_executable() else module


def _by_compile(sample: Sample, model: nn.Module, inputs: list[Any]) -> Any:
    torch._dynamo.reset()
    torch_compile.reset()
    compiled = torch.compile(model, backend="torch2edge", options=FAST)
    compiled(*inputs)
    assert torch_compile.report().converted == 1, torch_compile.report()
    return compiled


_ROADS: dict[str, Callable[..., Any]] = {
    "onnx": _by_onnx, "torch": _by_parts, "torch2trt": _by_torch2trt, "compile": _by_compile,
}  # fmt: skip


# ---- models -----------------------------------------------------------------------------------------------------------------


def _refuses(*args: Any, **kwargs: Any) -> Any:
    """In the place of a converter: the op has none, and the model needs another road."""
    raise NotImplementedError("this op is to be taken by another road")


def without(op: Any) -> dict[str, Any]:
    """The option that takes an op's converter away."""
    names = [argument.name for argument in op._schema.arguments]
    namespace: dict[str, Any] = {"refuses": _refuses}
    exec(f"def converter(net, {', '.join(names)}): refuses()", namespace)  # a converter's parameters are the op's
    return {"converters": {op: namespace["converter"]}}


def normed(model: nn.Module) -> nn.Module:
    """In eval mode, with batch norms that do something, and weights that let the input through."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return model.eval()


def torchvision_model(name: str) -> nn.Module:
    return normed(torchvision.models.get_model(name, weights=None))


def small_vit() -> nn.Module:
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10)
    nn.init.normal_(model.heads.head.weight, std=0.1)  # torchvision begins with zeros: any check would pass
    return model.eval()


class Text(nn.Module):
    """A transformer encoder over tokens, with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.embed(tokens), src_key_padding_mask=padding).mean(1)


class Branch(nn.Module):
    """A Python branch on the data between two ResNet layers."""

    def __init__(self) -> None:
        super().__init__()
        whole = torchvision_model("resnet18")
        self.stem = nn.Sequential(whole.conv1, whole.bn1, whole.relu, whole.maxpool)
        self.first, self.second = whole.layer1, whole.layer2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(self.stem(x))
        if x.mean() > 1e6:
            return x
        return self.second(x)


class Gated(nn.Module):
    """With an activation that its author converts for torch2trt."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.gate, self.head = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), Gate(), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gate(self.norm(self.conv(x))).mean((2, 3)))


class Gate(nn.Module):
    """``x * sigmoid(x)``, in the user's own words."""

    converted = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)


def convert_gate(ctx: Any) -> None:
    """As torch2trt's users write it."""
    ctx.method_args[0].converted = True
    x = get_arg(ctx, "x", 1, None)._trt
    gate = ctx.network.add_activation(x, trt.ActivationType.SIGMOID).get_output(0)
    product = ctx.network.add_elementwise(x, gate, trt.ElementWiseOperation.PROD)
    ctx.method_return._trt = product.get_output(0)


def gated() -> nn.Module:
    """The converter is registered now; a test takes it away again."""
    tensorrt_converter(Gate.forward)(convert_gate)
    return normed(Gated())


def image(seed: int, size: int = 64, batch: int = 1) -> list[Any]:
    return [torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))]


def tokens(seed: int) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    padding = torch.arange(12) >= torch.randint(6, 13, (2, 1), generator=generator)
    return [torch.randint(0, 50, (2, 12), generator=generator), padding]


def picture(seed: int) -> list[Any]:
    return [[detectors.image(seed)]]


SAMPLES = [
    Sample("resnet18", "onnx", partial(torchvision_model, "resnet18"), image, without(aten.relu.default)),
    Sample("vit", "onnx", small_vit, partial(image, size=32),
           {**without(aten.gelu.default), "onnx_exporter": "dynamo"}),
    Sample("transformer_encoder", "onnx", lambda: Text().eval(), tokens, without(aten.layer_norm.default)),
    Sample("ssdlite320_mobilenet_v3_large", "torch", partial(detectors.make, "ssdlite320_mobilenet_v3_large"), picture,
           {"tolerance": TOLERANCE}, ("backbone.features.0", "head"), slow=True),
    Sample("fcos_resnet50_fpn", "torch", partial(detectors.make, "fcos_resnet50_fpn"), picture, {"tolerance": TOLERANCE},
           ("backbone", "head"), slow=True),
    Sample("branch", "torch", lambda: Branch().eval(), image, {}, ("stem", "first", "second")),
    Sample("resnet18", "torch2trt", partial(torchvision_model, "resnet18"), image),
    Sample("mobilenet_v2", "torch2trt", partial(torchvision_model, "mobilenet_v2"), image),
    Sample("own_converter", "torch2trt", gated, partial(image, size=16)),
    Sample("squeezenet1_1", "compile", partial(torchvision_model, "squeezenet1_1"), image),
]  # fmt: skip
