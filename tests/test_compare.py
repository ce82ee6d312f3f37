"""compare(): what drifts, and whether the conversion or the precision is at fault."""

from __future__ import annotations

import ast
import copy
import json
import math
import re
from typing import Any

import pytest
import torch
from support.gpu import executes, fast_options
from support.precision_models import Deep
from torch import nn

import torch2edge
from torch2edge import ConfigError, InputError, compare, convert
from torch2edge._trt import capabilities
from torch2edge.marked import marked_engine

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
    pytest.mark.filterwarnings("ignore::torch2edge.build.calibration.CalibrationWarning"),
]
aten = torch.ops.aten
OPTIONS = {**fast_options(), "keep_network": True}
strong = pytest.mark.skipif(not capabilities().strongly_typed, reason="a weakly typed TensorRT chooses its precision itself")
ROWS = [torch.randn(8, 16, generator=torch.Generator().manual_seed(i)) for i in range(9)]
DATA = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(9)]
RANGES = torch2edge.Calibration(ROWS, algorithm="minmax")  # an outlier is not clipped, so all else is lost beside it


class Block(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.act(self.norm(self.conv(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(nn.ReLU()), Block(nn.GELU()), Block(nn.ReLU()))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.blocks(self.stem(x)).mean((2, 3))
        return {"logits": self.head(y), "pooled": y}


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net().eval()
    for block in net.blocks:
        nn.init.uniform_(block.norm.running_var, 0.5, 2)
    return net


def a_little_wrong(net: Any, self: Any, approximate: str = "none") -> Any:
    """1.01 gelu(x)"""
    exact = torch2edge.lower.registry().get(aten.gelu.default).function(net, self, approximate)
    return net.mul(exact, 1.01)


# ---- figures --------------------------------------------------------------------------------------------------------------


def test_rows_are_modules_in_order(net: Net) -> None:
    module = convert(net, [DATA[0]], **OPTIONS)
    result = compare(net, module, DATA)
    assert (result.fault, result.batches, result.float32) == ("", 4, [])
    blocks = [f"blocks.{i}{inner}" for i in range(3) for inner in (".conv", ".act", "")]  # the norms are in the convolutions
    assert [row.name for row in result.rows] == ["stem", *blocks, "", "head"]
    assert all(row.rel_l2 < 1e-5 and row.cosine > 1 - 1e-9 and row.snr_db > 100 for row in [*result.rows, *result.outputs])
    assert {row.precision for row in result.rows} == {"fp32"}
    assert all("test_compare.py:" in row.source for row in result.rows if row.name in ("blocks.0", ""))


@strong
@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_outputs_are_those_of_the_module(net: Net, name: str) -> None:
    module = convert(net, [DATA[0]], **{name: True}, **OPTIONS)
    result = compare(net, module, DATA[3:], batches=2)
    assert result.batches == 2
    with torch.no_grad():
        both = [(module(x), net(x)) for x in DATA[3:5]]
    for row, key in zip(result.outputs, ("logits", "pooled")):
        given, expected = (torch.cat([pair[i][key] for pair in both]).double() for i in (0, 1))
        assert row.rel_l2 == pytest.approx(float((given - expected).norm() / expected.norm()), rel=1e-4)
        assert row.max_abs == pytest.approx(float((given - expected).abs().max()), rel=1e-4)
        assert row.snr_db == pytest.approx(-20 * math.log10(row.rel_l2), rel=1e-6)
        assert 1e-6 < row.rel_l2 < {"fp16": 3e-3, "bf16": 3e-2}[name]
    assert result.fault == ""
    assert all(row.rel_l2 < 1e-5 for row in result.float32)
    assert {row.precision for row in result.rows if row.name != ""} == {name}


def test_ops(net: Net) -> None:
    result = compare(net, convert(net, [DATA[0]], **OPTIONS), ops=True)
    names = [row.name for row in result.rows]
    assert names[:4] == ["stem/convolution", "blocks.0.conv/batch_norm", "blocks.0.act/relu", "blocks.0/add"]
    assert names[-2:] == ["/mean", "head/linear"]


def test_the_result_prints_and_is_json(net: Net) -> None:
    result = compare(net, convert(net, [DATA[0]], **OPTIONS), [DATA[0]])
    held = json.loads(json.dumps(result.to_dict()))
    assert [row["name"] for row in held["rows"]] == [row.name for row in result.rows]
    text = str(result)
    assert text.startswith("nothing is at fault: the outputs are off by ")
    assert "fp32 against PyTorch by " in text
    assert "1 batch\n" in text
    assert "SNR dB" in text


def test_sizes_that_vary_and_inputs_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor, *, mask: torch.Tensor) -> torch.Tensor:
            return self.b(torch.where(mask, self.a(x), 0.0))

    model = Named().eval()
    mask = torch.rand(2, 6) > 0.5
    dynamic = {"args[0]": {0: (1, 2, 8)}, "kwargs['mask']": {0: (1, 2, 8)}}
    module = convert(model, [torch.randn(2, 6)], {"mask": mask}, dynamic=dynamic, **OPTIONS)
    data = [{"x": torch.randn(n, 6), "mask": torch.rand(n, 6) > 0.5} for n in (1, 5, 8)]
    result = compare(model, module, data)
    assert (result.fault, result.batches) == ("", 3)
    assert [row.name for row in result.rows] == ["a", "", "b"]


# ---- whose fault ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"fp16": True}, {"int8": True, "calibration": DATA}], ids=["fp32", "fp16", "int8"])
def test_a_wrong_converter_is_found_also_below_the_precisions_own_error(net: Net, options: Any) -> None:
    """One per cent: the check of fp16 and int8 lets it pass."""
    module = convert(net, [DATA[0]], converters={aten.gelu.default: a_little_wrong}, verify=False, **options, **OPTIONS)
    result = compare(net, module)
    assert result.fault == "conversion"
    first = str(result).splitlines()[0]
    assert first.startswith("the conversion is at fault, not the precision: ")
    assert "the first to drift is aten.gelu.default in blocks.1.act, " in first
    assert "relative L2 error 0.01. Look at its converter" in first
    assert ("in float32 too" in first) == bool(options)


@strong
@pytest.mark.parametrize("low", [{"fp16": True}, {}], ids=["fp16", "fp32"])
def test_the_precision_is_at_fault_and_the_advice_helps(low: dict[str, bool]) -> None:
    model = Deep().eval()
    options = {"int8": True, "calibration": RANGES, **low, **OPTIONS}
    result = compare(model, convert(model, [ROWS[0]], verify=False, **options), tolerance=0.1)
    assert result.fault == "precision"
    assert next(iter(result.alone)) == "inner.1"
    assert list(result.alone.values()) == sorted(result.alone.values(), reverse=True)
    assert "error of the outputs if it alone were low" in str(result)
    assert all(row.rel_l2 < 1e-5 for row in result.float32)
    advice = re.search(r"precisions=({.*?})", result.verdict)
    assert advice is not None
    chosen = ast.literal_eval(advice[1])
    assert chosen["inner.1"] == "fp32"
    better = compare(model, convert(model, [ROWS[0]], precisions=chosen, **options), tolerance=0.1)
    assert better.fault == ""


@strong
def test_what_a_module_adds(net: Net) -> None:
    """Only one module is low: it adds the error, and those after it nothing like it."""
    module = convert(net, [DATA[0]], precisions={"blocks.1.conv": "bf16"}, **OPTIONS)
    result = compare(net, module, DATA)
    adds = {row.module: row.adds for row in result.rows}
    before = [row.rel_l2 for row in result.rows[:4]]
    assert all(error < 1e-6 for error in before)
    assert adds["blocks.1.conv"] > 1e-3
    assert max(adds, key=adds.get) == "blocks.1.conv"


@strong
def test_an_error_that_the_outputs_do_not_see_is_not_blamed() -> None:
    """The largest relative error is in a branch that hardly counts."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.faint = nn.Linear(16, 16), Deep()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.main(x) + 1e-3 * self.faint(x)

    model = Branches().eval()
    module = convert(model, [ROWS[0]], int8=True, calibration=RANGES, verify=False, **OPTIONS)
    result = compare(model, module, tolerance=1e-3)
    rows = {row.module: row.rel_l2 for row in result.rows}
    assert rows["faint.inner.1"] > 5 * rows["main"]
    assert next(iter(result.alone)) == "main"
    assert "precisions={'main': 'fp32'}" in result.verdict


def test_another_model_is_told(net: Net) -> None:
    module = convert(net, [DATA[0]], **OPTIONS)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.head.bias += 1
    assert compare(net, module).fault == ""
    result = compare(other, module)
    assert result.fault == "tracing"
    assert "or is not the one that was converted" in result.verdict


# ---- errors ---------------------------------------------------------------------------------------------------------------


def test_a_module_without_its_network(net: Net) -> None:
    module = convert(net, [DATA[0]], **fast_options())
    assert module._kept is None
    for given in (module, copy.deepcopy(convert(net, [DATA[0]], **OPTIONS))):
        with pytest.raises(ConfigError, match="convert with keep_network=True"):
            compare(net, given)


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"batches": 0}, ConfigError, "batches is 0; it must be a whole number from 1 on"),
        ({"by": "gpu"}, ConfigError, "by is 'gpu'; it must be one of 'auto', 'engine', 'reference'"),
        ({"data": DATA[0]}, ConfigError, r"^data: data is a tensor, which could be one batch or many"),
        ({"data": []}, InputError, r"^data: the list gave no batch"),
        ({"data": [torch.randn(4, 3, 9, 8)]}, InputError, r"^data: batch 0: .* but the model takes"),
    ],
)
def test_wrong_arguments(net: Net, options: Any, error: type[Exception], why: str) -> None:
    module = convert(net, [DATA[0]], verify=False, **OPTIONS)
    with pytest.raises(error, match=why):
        compare(net, module, **options)


def test_what_is_no_engine(net: Net) -> None:
    with pytest.raises(ConfigError, match="model_trt is a Net; it must be the EdgeModule"):
        compare(net, net)


@pytest.mark.skipif(executes(), reason="TensorRT executes here")
def test_no_engine_without_a_gpu(net: Net) -> None:
    with pytest.raises(ConfigError, match=r"by='engine', but .*; use by='reference'"):
        compare(net, convert(net, [DATA[0]], **OPTIONS), by="engine")


# ---- on the GPU -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"fp16": True}, {"int8": True, "calibration": DATA}, {"dynamic": {0: {0: (1, 4, 8)}}}],
    ids=["fp32", "fp16", "int8", "dynamic"],
)  # fmt: skip
def test_an_engine_with_marked_outputs_builds(net: Net, options: Any) -> None:
    kept = convert(net, [DATA[0]], verify=False, **options, **OPTIONS)._kept
    before = kept.road.session.network.num_outputs
    values = {v.index: v for op in kept.road.graph.ops for v in op.outputs}
    wanted = set(values) & set(kept.road.lowered.tensor_names)
    marked = marked_engine(wanted, kept)
    assert len(marked.plan) > 1000
    assert set(marked.indices.values()) == wanted
    told = {name: shape for name, _, shape in marked.outputs}
    assert set(marked.indices) <= set(told)
    batch = -1 if "dynamic" in options else 4
    assert all(told[name] == (batch, *values[i].shape[1:]) for name, i in marked.indices.items())
    assert kept.road.session.network.num_outputs == before == 2


@pytest.mark.gpu
@pytest.mark.skipif(not executes(), reason="no TensorRT that executes")
@pytest.mark.parametrize(
    ("options", "limit"), [({}, 1e-5), ({"fp16": True}, 5e-3), ({"int8": True, "calibration": DATA}, 0.1)],
    ids=["fp32", "fp16", "int8"],
)  # fmt: skip
def test_an_engine_with_marked_outputs(net: Net, options: Any, limit: float) -> None:
    model = net.cuda()
    module = convert(model, [DATA[0].cuda()], **options, **OPTIONS)
    result = compare(model, module, DATA)
    assert result.compared_by == f"{capabilities().title} on {torch2edge._trt.gpu_name()}"
    assert result.fault == ""
    assert [row.name for row in result.rows][-2:] == ["", "head"]
    assert all(row.rel_l2 < limit for row in [*result.rows, *result.outputs])
    told = compare(model, module, DATA, by="reference")
    assert [row.name for row in told.rows] == [row.name for row in result.rows]
    wrong = convert(
        model, [DATA[0].cuda()], converters={aten.gelu.default: a_little_wrong}, verify=False, **options, **OPTIONS
    )
    found = compare(model, wrong)
    assert found.fault == "conversion"
    assert "aten.gelu.default in blocks.1.act" in found.verdict


@pytest.mark.gpu
@pytest.mark.skipif(not executes(), reason="no TensorRT that executes")
def test_an_engine_with_sizes_that_vary(net: Net) -> None:
    model = net.cuda()
    module = convert(model, [DATA[0].cuda()], dynamic={0: {0: (1, 4, 8)}}, **OPTIONS)
    result = compare(model, module, [torch.randn(n, 3, 8, 8) for n in (1, 7)], ops=True)
    assert (result.fault, result.batches) == ("", 2)
    assert all(row.rel_l2 < 1e-5 for row in result.rows)
