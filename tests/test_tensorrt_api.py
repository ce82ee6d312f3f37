"""Every TensorRT name that the code uses is in all supported versions, or stands behind a capability."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from support.trt_api import Checker, Lack
from support.trt_versions import CAPABILITIES, VERSIONS, has

from torch2edge.check.reference.executor import CLASSES

ROOT = Path(__file__).parent.parent
FILES = sorted(p for folder in ("torch2edge", "converters") for p in (ROOT / folder).rglob("*.py"))


@dataclass(frozen=True)
class Allowed:
    """A use that is guarded where the syntax tree does not show it: ``capability`` says by what, ``why`` where."""

    file: str
    name: str
    capability: str  # a field of Capabilities, or "not " and a field
    why: str


CONFIG, OPTIONS = "torch2edge/build/config.py", "torch2edge/builder_options.py"
NETWORK = "torch2edge/lower/network/"
ALLOWED = [
    Allowed(CONFIG, "ComputeCapability", "compute_capabilities", "compute_capabilities() is empty elsewhere"),
    Allowed(CONFIG, "IBuilderConfig.num_compute_capabilities", "compute_capabilities", "the same"),
    Allowed(CONFIG, "IBuilderConfig.set_compute_capability", "compute_capabilities", "the same"),
    Allowed(OPTIONS, "ComputeCapability", "compute_capabilities", "the line before refuses the option elsewhere"),
    Allowed(NETWORK + "normalization.py", "INetworkDefinition.add_normalization_v2", "group_normalization",
            "groups > 1 only there"),
    *(
        Allowed(NETWORK + "matrix.py", name, "attention_v2", "called only where _has_attention_layer says so")
        for name in ("AttentionNormalizationOp", "AttentionNormalizationOp.SOFTMAX", "INetworkDefinition.add_attention_v2",
                     "CausalMaskKind", "CausalMaskKind.NONE", "CausalMaskKind.UPPER_LEFT",
                     "IAttention.decomposable", "IAttention.mask")
    ),
]  # fmt: skip


def check(source: str, file: str = "converters/example.py") -> list[Lack]:
    """The lacks of one file, read with the Network methods that it may call."""
    checker = Checker(CLASSES)
    for path in sorted((ROOT / "torch2edge/lower/network").glob("*.py")):
        checker.read(path.read_text(), str(path.relative_to(ROOT)))
    checker.read(source, file)
    return [lack for lack in checker.finish() if lack.file == file]


def all_lacks() -> tuple[list[Lack], int]:
    checker = Checker(CLASSES)
    for path in FILES:
        checker.read(path.read_text(), str(path.relative_to(ROOT)))
    return checker.finish(), checker.uses


def allows(entry: Allowed, lack: Lack) -> bool:
    return (entry.file, entry.name) == (lack.file, lack.name)


def test_every_use_is_in_every_version_or_behind_a_capability():
    lacks, uses = all_lacks()
    assert uses > 100, "the checker lost sight of the code"
    left = [str(lack) for lack in lacks if not any(allows(entry, lack) for entry in ALLOWED)]
    assert not left, "put these behind a field of Capabilities (_trt.py):\n" + "\n".join(left)


def test_the_allowed_list_has_no_stale_entry():
    lacks, _ = all_lacks()
    assert [e for e in ALLOWED if not any(allows(e, lack) for lack in lacks)] == []


@pytest.mark.parametrize("entry", ALLOWED, ids=lambda e: e.name)
def test_an_allowed_entrys_capability_means_that_the_name_is_there(entry):
    owner, _, member = entry.name.partition(".")
    field = entry.capability.removeprefix("not ")
    wanted = not entry.capability.startswith("not ")
    versions = [v for v in VERSIONS if bool(getattr(CAPABILITIES[v], field)) is wanted]
    assert versions
    assert all(has(v, owner, member) for v in versions)


def test_capabilities_of_the_versions_differ_as_facts_say():
    typed = {v for v in VERSIONS if CAPABILITIES[v].strongly_typed}
    assert typed == {"11.0", "11.4", "rtx1.7"}
    assert {v for v in VERSIONS if not CAPABILITIES[v].int64} == {"8.6.0"}
    assert {v for v in VERSIONS if CAPABILITIES[v].calibrators} == {"8.6.0", "10.3", "10.16"}


F = "def f(net, x, a, i):\n    "
BAD = {
    "enum": ("x = trt.ActivationType.GELU_ERF", "ActivationType.GELU_ERF"),
    "class": ("x = trt.ICumulativeLayer", "ICumulativeLayer"),
    "literal": (F + "return net.activation(x, 'GELU_ERF')", "ActivationType.GELU_ERF"),
    "keyword": (F + "return net.activation(x, kind='GELU_ERF')", "ActivationType.GELU_ERF"),
    "either": (F + "return net.activation(x, 'RELU' if a else 'GELU_TANH')", "ActivationType.GELU_TANH"),
    "through": ("def g(net, x, k):\n    return net.unary(x, k)\n" + F + "return g(net, x, 'ISNAN')", "UnaryOperation.ISNAN"),
    "table": ("K = {1: 'ISNAN'}\n" + F + "return net.unary(x, K[i])", "UnaryOperation.ISNAN"),
    "method": (F + "net.raw.add_squeeze(x.raw, 1)", "INetworkDefinition.add_squeeze"),
    "unknown": (F + "net.raw.add_nonsense(x.raw)", "INetworkDefinition.add_nonsense"),
    "attribute": (F + "layer = net.layer(net.raw.add_pooling_nd(x.raw))\n    layer.stride = 1", "IPoolingLayer.stride"),
    "getattr": ("x = getattr(trt.BuilderFlag, 'FP16')", "BuilderFlag.FP16"),
    "tensor": (F + "x.raw.dynamic_range = (0, 1)", "ITensor.dynamic_range"),
    "wrong branch": (F + "if net.capabilities.gelu:\n        return 1\n    return trt.ActivationType.GELU_ERF",
                     "ActivationType.GELU_ERF"),
    "other capability": (F + "if net.capabilities.int64:\n        net.raw.add_squeeze()", "INetworkDefinition.add_squeeze"),
    "reference": ("@handles('SLICE')\ndef f(layer, inputs):\n    return layer.option('nonsense')", "ISliceLayer.nonsense"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "name"), BAD.values(), ids=BAD)
def test_the_checker_sees_a_name_that_a_version_lacks(source, name):
    assert name in {lack.name for lack in check(source)}


GELU = "return net.activation(x, 'GELU_ERF')"
GOOD = {
    "common": F + "return net.activation(x, 'RELU')",
    "if": F + "if net.capabilities.gelu:\n        " + GELU,
    "early return": F + "if not net.capabilities.gelu:\n        return x\n    " + GELU,
    "and": F + "if a and net.capabilities.gelu:\n        " + GELU,
    "inline": F + "return net.activation(x, 'GELU_ERF' if net.capabilities.gelu else 'RELU')",
    "variable": F + "fused = net.capabilities.gelu\n    if fused:\n        " + GELU,
    "among": "K = ('EXP', 'ABS')\ndef f(net, x, k):\n    if k in K:\n        net.unary(x, k)\ndef g():\n    f(net, 1, 'NO')",
    "hasattr": "def f():\n    if hasattr(trt.BuilderFlag, 'FP16'):\n        return trt.BuilderFlag.FP16",
    "default": "x = getattr(trt.BuilderFlag, 'FP16', None)",
    "layer": F + "layer = net.layer(net.raw.add_pooling_nd(x.raw))\n    layer.stride_nd = (1, 1)",
}


@pytest.mark.parametrize("source", GOOD.values(), ids=GOOD)
def test_the_checker_lets_guarded_and_common_names_pass(source):
    assert check(source) == []
