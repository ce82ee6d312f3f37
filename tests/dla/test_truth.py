"""A plan held against a build log; what convert() refuses and sets where there is a DLA."""

from __future__ import annotations

import pytest
import torch
from support.dla_published import Tutorial, export
from torch import nn

import torch2edge
from torch2edge import ConfigError, plan_dla
from torch2edge._trt import recorded, trt
from torch2edge.build import BuildSession
from torch2edge.dla import DlaPlan
from torch2edge.dla.log import parts_of, read_log
from torch2edge.dla.plan import Row
from torch2edge.dla.truth import compared, surprises
from torch2edge.options import Options
from torch2edge.placement import pools_for, refuse_fallbacks
from torch2edge.report import Report

# Step 3 of NVIDIA-AI-IOT/jetson_dla_tutorial as it prints it; of the GPU's layers the source has the first ones.
LOG = """\
[03/31/2022-15:20:07] [I] [TRT] ---------- Layers Running on DLA ----------
[03/31/2022-15:20:07] [I] [TRT] [DlaLayer] {ForeignNode[Conv_0]}
[03/31/2022-15:20:07] [I] [TRT] [DlaLayer] {ForeignNode[Relu_10...Conv_11]}
[03/31/2022-15:20:07] [I] [TRT] [DlaLayer] {ForeignNode[Relu_21...Conv_22]}
[03/31/2022-15:20:07] [I] [TRT] [DlaLayer] {ForeignNode[Relu_32...Conv_33]}
[03/31/2022-15:20:07] [I] [TRT] [DlaLayer] {ForeignNode[Relu_43]}
[03/31/2022-15:20:07] [I] [TRT] ---------- Layers Running on GPU ----------
[03/31/2022-15:20:07] [I] [TRT] [GpuLayer] SHUFFLE: Reshape_2 + (Unnamed Layer* 2) [Shuffle]
[03/31/2022-15:20:07] [I] [TRT] [GpuLayer] PLUGIN_V2: InstanceNormalization_5
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> DlaPlan:
    pytest.importorskip("onnx")
    x = torch.randn(32, 3, 32, 32)
    file = export(Tutorial("group"), x, tmp_path_factory.mktemp("dla") / "gn.onnx")
    return plan_dla(file, [x], target="orin", tensorrt="8.4", int8=True)


def test_a_log_that_follows_the_plan(plan: DlaPlan) -> None:
    rows = {row.layer: row for row in compared(plan, read_log(LOG))}
    assert list(rows) == [row.name for row in plan.layers]
    assert [name for name, row in rows.items() if row.actual == "DLA"] == [name for names in plan.loadables for name in names]
    assert rows["Reshape_2"].actual == rows["InstanceNormalization_5"].actual == "GPU"
    assert rows["Mul_8"].actual == ""  # the log that is published ends before it
    assert surprises(list(rows.values())) == []


def test_a_log_that_does_not(plan: DlaPlan) -> None:
    log = LOG.replace("[DlaLayer] {ForeignNode[Relu_43]}", "[DlaLayer] {ForeignNode[Mul_8]}") + (
        "[03/31/2022-15:20:06] [W] [TRT] Validation failed for DLA layer: Relu_43. Switching to GPU fallback.\n"
        "[03/31/2022-15:20:07] [I] [TRT] [GpuLayer] POINTWISE: PWN(Relu_43)\n"
    )
    told = surprises(compared(plan, read_log(log)))
    assert len(told) == 2
    assert "Mul_8 was planned for the GPU, and runs on the DLA" in told[0]
    assert "Relu_43 was planned for the DLA, and runs on the GPU (Validation failed" in told[1]
    assert "Please report it" in told[1]


JOINED = """\
[W] [TRT] sig: ActivationLayer (with ActivationType = ELU) not supported for DLA.
[I] [TRT] ---------- Layers Running on DLA ----------
[I] [TRT] [DlaLayer] {ForeignNode[conv]}
[I] [TRT] ---------- Layers Running on GPU ----------
[I] [TRT] [GpuLayer] POINTWISE: PWN(PWN(sig), PWN((Unnamed Layer* 3) [Shuffle] + mul)), scale
"""


def test_layers_that_tensorrt_joined_in_one_another() -> None:
    """Both ways: a plan's layers find their row of the log, and the row finds the messages on its layers."""
    log = read_log(JOINED)
    assert [(row.name, row.device) for row in log.layers[1:]] == [
        ("PWN(PWN(sig), PWN((Unnamed Layer* 3) [Shuffle] + mul)), scale", "GPU")
    ]
    assert "ActivationType = ELU" in log.layers[1].reason
    planned = DlaPlan("orin", "8.6", "fp16", 16)
    names = ("conv", "sig", "(Unnamed Layer* 3) [Shuffle]", "mul", "scale", "other")
    planned.layers = [Row(name, "", "", "DLA") for name in names]
    rows = compared(planned, log)
    assert {row.layer: row.actual for row in rows} == dict.fromkeys(names, "GPU") | {"conv": "DLA", "other": ""}
    assert all("ELU" in row.reason for row in rows if row.actual == "GPU")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("PWN(PWN(Sigmoid), Mul)", {"PWN(Sigmoid), Mul", "Sigmoid", "Mul"}),
        ("PWN(a), PWN(b, c) + d", {"a", "b, c", "b", "c", "d"}),
        ("71 + (Unnamed Layer* 16) [Shuffle] + Mul_8", {"71", "(Unnamed Layer* 16) [Shuffle]", "Mul_8"}),
        ("PWN(Relu_43)", {"Relu_43"}),
        ("a || b", {"a", "b"}),
        ("alone", set()),
    ],
)
def test_parts(name: str, parts: set[str]) -> None:
    assert set(parts_of(name)) == parts | {name}


def test_placements_in_a_report(plan: DlaPlan) -> None:
    report = Report("TensorRT 8.4", "Orin", "int8", placements=compared(plan, read_log(LOG)))
    again = Report.from_dict(report.to_dict())
    assert again == report
    assert "Conv_0" in str(again)
    assert "runs on" in str(again)


def test_fallbacks_are_refused_with_their_rules(plan: DlaPlan) -> None:
    with pytest.raises(ConfigError, match=r"False, but \d+ layers cannot run on the DLA of orin with TensorRT 8.4"):
        refuse_fallbacks(plan)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Softmax(1)).eval()
    whole = plan_dla(model, [torch.randn(1, 3, 8, 8)], device_types={"0": "dla", "1": "dla"})
    refuse_fallbacks(whole)  # what was asked to be on the GPU may be there


def test_pools_are_never_smaller_than_tensorrts_own(plan: DlaPlan) -> None:
    own = {"DLA_MANAGED_SRAM": 2**20, "DLA_LOCAL_DRAM": 2**30, "DLA_GLOBAL_DRAM": 4096}
    needed = plan.pool_limits()
    assert pools_for(plan, {}, own) == {**own, "DLA_GLOBAL_DRAM": needed["DLA_GLOBAL_DRAM"]}
    assert pools_for(plan, {"DLA_LOCAL_DRAM": 2**24}, own)["DLA_LOCAL_DRAM"] == 2**24
    assert all(size & (size - 1) == 0 for size in needed.values())


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"dla_pools": {"DLA_LOCAL_DRAM": 2**20}}, r"dla_pools is given, but neither"),
        ({"dla_pools": {"LOCAL": 2**20}, "default_device_type": "dla"}, r"there is no 'LOCAL', only 'DLA_MANAGED_SRAM'"),
        ({"dla_pools": {"DLA_LOCAL_DRAM": 3 * 2**20}, "default_device_type": "dla"}, r"must be a power of two of bytes"),
        ({"dla_pools": {"DLA_LOCAL_DRAM": 2048}, "default_device_type": "dla"}, r"from 4096 on"),
    ],
)
def test_wrong_pools(options: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        torch2edge.convert(nn.Linear(4, 4).eval(), [torch.randn(2, 4)], fp16=True, **options)


def test_what_tensorrt_says_is_recorded() -> None:
    session = BuildSession(Options(fp16=True, default_device_type=trt.DeviceType.DLA))
    x = session.network.add_input("x", trt.DataType.HALF, (1, 4, 8, 8))
    session.network.mark_output(session.network.add_activation(x, trt.ActivationType.RELU).get_output(0))
    assert session.build()
    assert session.log
    with recorded() as lines:
        pass
    assert lines == []
