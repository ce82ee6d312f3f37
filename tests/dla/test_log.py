"""``dla-log``: what build logs say, in TensorRT's words."""

from __future__ import annotations

import json

import pytest

from torch2edge import InputError
from torch2edge.cli import main
from torch2edge.dla.log import read_log

TUTORIAL = """\
[03/31/2022-14:34:54] [I] [TRT] ---------- Layers Running on DLA ----------
[03/31/2022-14:34:54] [I] [TRT] [DlaLayer] {ForeignNode[Conv_0]}
[03/31/2022-14:34:54] [I] [TRT] [DlaLayer] {ForeignNode[Relu_10...Conv_11]}
[03/31/2022-14:34:54] [I] [TRT] [DlaLayer] {ForeignNode[Relu_43]}
[03/31/2022-14:34:54] [I] [TRT] ---------- Layers Running on GPU ----------
[03/31/2022-14:34:54] [I] [TRT] [GpuLayer] SHUFFLE: Reshape_2 + (Unnamed Layer* 7) [Shuffle]
[03/31/2022-14:34:54] [I] [TRT] [GpuLayer] PLUGIN_V2: InstanceNormalization_5
[03/31/2022-14:34:54] [I] [TRT] [GpuLayer] SCALE: 71 + (Unnamed Layer* 16) [Shuffle] + Mul_8
"""
ORIN = """\
[12/04/2024-11:57:45] [TRT] [W] Layer 'Pool' (REDUCE): Unsupported on DLA. Switching this layer's device type to GPU.
[12/04/2024-11:57:45] [TRT] [W] /model.23/Concat_4: DLA only supports concatenation on the C dimension.
[TRT] [W] Layer '/model.23/Concat_4' (CONCATENATION): Unsupported on DLA. Switching this layer's device type to GPU.
[12/04/2024-11:57:45] [TRT] [W] This version of DLA does not support reshape layers directly connected to Slice or Concat
[12/04/2024-11:57:45] [TRT] [W] Validation failed for DLA layer: /attn/Reshape. Switching to GPU fallback.
[12/04/2024-11:57:45] [TRT] [W] Splitting DLA subgraph at: /attn/Reshape because DLA validation failed for this layer.
[V] [TRT] Number of DLA node candidates offloaded : 2 out of 2
[V] [TRT] {ForeignNode[/conv1/Conv.../relu_2/Relu]} successfully offloaded to DLA.
[I] [TRT] DLA Memory Pool Sizes: Managed SRAM = 1 MiB, Local DRAM = 1024 MiB, Global DRAM = 512 MiB
[I] [TRT] ---------- Layers Running on DLA ----------
[V] [TRT] [DlaLayer] {ForeignNode[/conv1/Conv.../relu_2/Relu]}
[I] [TRT] ---------- Layers Running on GPU ----------
[V] [TRT] [GpuLayer] REDUCE: Pool
[V] [TRT] [GpuLayer] SHUFFLE: /attn/Reshape + /attn/Transpose
[V] [TRT] [GpuLayer] COPY: /model.23/Concat_4_copy
"""


def test_the_log_of_the_dla_tutorial():
    log = read_log(TUTORIAL)
    assert log.loadables == ["{ForeignNode[Conv_0]}", "{ForeignNode[Relu_10...Conv_11]}", "{ForeignNode[Relu_43]}"]
    assert [(row.name, row.type, row.device, row.loadable) for row in log.layers] == [
        ("{ForeignNode[Conv_0]}", "", "DLA", 0),
        ("{ForeignNode[Relu_10...Conv_11]}", "", "DLA", 1),
        ("{ForeignNode[Relu_43]}", "", "DLA", 2),
        ("Reshape_2 + (Unnamed Layer* 7) [Shuffle]", "SHUFFLE", "GPU", None),
        ("InstanceNormalization_5", "PLUGIN_V2", "GPU", None),
        ("71 + (Unnamed Layer* 16) [Shuffle] + Mul_8", "SCALE", "GPU", None),
    ]


def test_reasons_pools_counts_and_splits():
    log = read_log(ORIN)
    rows = {row.name: row for row in log.layers}
    assert log.offloaded == [2, 2]
    assert log.pools == "Managed SRAM = 1 MiB, Local DRAM = 1024 MiB, Global DRAM = 512 MiB"
    assert rows["Pool"].reason == "Layer 'Pool' (REDUCE): Unsupported on DLA. Switching this layer's device type to GPU."
    assert rows["/attn/Reshape + /attn/Transpose"].reason.startswith(
        "This version of DLA does not support reshape layers directly connected to Slice or Concat "
        "Validation failed for DLA layer: /attn/Reshape. Switching to GPU fallback."
    )
    only_said = rows["/model.23/Concat_4"]
    assert (only_said.type, only_said.device) == ("CONCATENATION", "GPU")
    assert only_said.reason.startswith("/model.23/Concat_4: DLA only supports concatenation on the C dimension. Layer '")
    assert log.notes == ["Splitting DLA subgraph at: /attn/Reshape because DLA validation failed for this layer."]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("[W] [TRT] Default DLA is enabled but layer conv (x) is not supported on DLA, falling back to GPU.", "conv (x)"),
        ("WARNING: Default DLA is enabled but layer layer1-act is not running on DLA, falling back to GPU.", "layer1-act"),
        ("[W] [TRT] DLA Layer a/b does not support dynamic shapes in any dimension.", "a/b"),
        ("[TensorRT] WARNING: DLA only supports FP16 and Int8 precision type. Switching g device type to GPU.", "g"),
        ("WARNING: [TRT]: DLA supports only 8 subgraphs per DLA core. Switching to GPU for layer conv_6", "conv_6"),
        ("ERROR: [TRT]: leaky_1: ActivationLayer (with ActivationType = LEAKY_RELU) not supported for DLA.", "leaky_1"),
        ("WARNING: [TRT]: route_3: Concatenation on DLA requires at least two inputs.", "route_3"),
        ("[W] [TRT] /avgpool/G: DLA cores do not support AVG Reduce operation.", "/avgpool/G"),
        ("[W] [TRT] /a/M: MatMul is unsupported on DLA, relax constraints or use Convolution layer instead.", "/a/M"),
        ("[W] [TRT] /m/Tile_1: DLA does not support out-of-bounds slice operation. Set slice mode to SliceMode::kDEFAULT to "
         "allow the layer to be offloaded to DLA.", "/m/Tile_1"),
        ("[W] [TRT] Validation failed for DLA layer: r. Switching to GPU fallback.", "r"),
    ],
)  # fmt: skip
def test_messages_alone(line, name):
    (row,) = read_log(line).layers
    assert (row.name, row.device) == (name, "GPU")
    assert line.endswith(row.reason)


def test_the_lists_of_tensorrt_7():
    log = read_log(
        "[09/30/2020-13:12:43] [I] [TRT] --------------- Layers running on DLA: \n"
        "[09/30/2020-13:12:43] [I] [TRT] {Tanh_3,Mul_4,Conv_5}, {Tanh_8,Mul_9}, \n"
        "[09/30/2020-13:12:43] [I] [TRT] --------------- Layers running on GPU: \n"
        "[09/30/2020-13:12:43] [I] [TRT] Conv_0, 2253[Constant], Softplus_2, \n"
    )
    assert log.loadables == ["{Tanh_3,Mul_4,Conv_5}", "{Tanh_8,Mul_9}"]
    assert [row.name for row in log.layers if row.device == "GPU"] == ["Conv_0", "2253[Constant]", "Softplus_2"]


def test_the_last_list_counts():
    again = TUTORIAL.replace("Relu_43", "Relu_44")
    assert read_log(TUTORIAL + again).loadables[-1] == "{ForeignNode[Relu_44]}"
    assert len(read_log(TUTORIAL + again).loadables) == 3


def test_a_comma_at_the_end_is_no_part_of_a_name():
    log = read_log("[I] [TRT] --------------- Layers running on DLA:\n"
                   "[I] [TRT] [DlaLayer] {ForeignNode[(Unnamed Layer* 0) [ElementWise]]},\n")  # fmt: skip
    assert log.loadables == ["{ForeignNode[(Unnamed Layer* 0) [ElementWise]]}"]


def test_a_log_of_something_else(tmp_path, capsys):
    with pytest.raises(InputError, match="nothing in it is about a DLA"):
        read_log("[I] [TRT] engine built\n")
    assert main(["dla-log", str(tmp_path / "no.log")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_the_command(tmp_path, capsys):
    (tmp_path / "build.log").write_text(ORIN)
    assert main(["dla-log", str(tmp_path / "build.log")]) == 0
    printed = capsys.readouterr().out
    assert "1 subgraph on the DLA, 4 layers on the GPU" in printed
    assert "2 of 2 candidates were offloaded" in printed
    assert "Local DRAM = 1024 MiB" in printed
    assert main(["dla-log", str(tmp_path / "build.log"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["loadables"] == ["{ForeignNode[/conv1/Conv.../relu_2/Relu]}"]
    assert {"name", "type", "device", "reason"} <= set(told["layers"][0])
