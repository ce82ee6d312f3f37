"""Plans held against published build logs; each says where it is from."""

from __future__ import annotations

import pytest
import torch
from support.dla_networks import Net
from support.dla_published import Tutorial, export

from torch2edge import plan_dla
from torch2edge._trt import trt
from torch2edge.dla.plan import foreign_node

pytest.importorskip("onnx")
TUTORIAL = {"target": "orin", "tensorrt": "8.4", "int8": True}
X = torch.randn(32, 3, 32, 32)


def ends(loadables: list[list[str]]) -> list[tuple[str, str]]:
    return [(names[0], names[-1]) for names in loadables]


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_group_norm_model_of_the_dla_tutorial(tmp_path, dynamic):
    """NVIDIA-AI-IOT/jetson_dla_tutorial, README, step 3: Orin, INT8, batch 32, March 2022."""
    file = export(Tutorial("group"), X[:1] if dynamic else X, tmp_path / "gn.onnx", dynamic=dynamic)
    plan = plan_dla(file, [X], **TUTORIAL)
    assert plan.loadables == [["Conv_0"], ["Relu_10", "Conv_11"], ["Relu_21", "Conv_22"], ["Relu_32", "Conv_33"], ["Relu_43"]]
    assert [foreign_node(names) for names in plan.loadables] == [
        "{ForeignNode[Conv_0]}", "{ForeignNode[Relu_10...Conv_11]}", "{ForeignNode[Relu_21...Conv_22]}",
        "{ForeignNode[Relu_32...Conv_33]}", "{ForeignNode[Relu_43]}",
    ]  # fmt: skip
    on_gpu = {row.name: row for row in plan.layers if row.device == "GPU"}
    for first in (1, 12, 23, 34):
        names = [f"Reshape_{first + 1}", f"InstanceNormalization_{first + 4}", f"Reshape_{first + 6}", f"Mul_{first + 7}",
                 f"Add_{first + 8}"]  # fmt: skip
        assert set(names) <= set(on_gpu)
    after = [row for row in plan.layers if row.name.partition("_")[0] in ("GlobalAveragePool", "Gemm")]
    assert len(after) >= 2
    assert all(row.device == "GPU" for row in after)
    assert not plan.all_on_dla


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_batch_norm_model_of_the_dla_tutorial(tmp_path, dynamic):
    """The same, step 5."""
    file = export(Tutorial("batch"), X[:1] if dynamic else X, tmp_path / "bn.onnx", dynamic=dynamic)
    plan = plan_dla(file, [X], **TUTORIAL)
    first, second = plan.loadables
    assert foreign_node(first) == "{ForeignNode[Conv_0...Relu_7]}"
    assert second[0].startswith("Gemm_")
    on_gpu = {row.type for row in plan.layers if row.device == "GPU"}
    assert on_gpu == {"REDUCE", "SHUFFLE"}


def test_the_batch_norm_model_with_pooling_by_a_window(tmp_path):
    """The same, step 9, April 2022: all but the shuffle after the matrix product."""
    file = export(Tutorial("batch", window=2), X, tmp_path / "pool.onnx")
    plan = plan_dla(file, **TUTORIAL)
    assert len(plan.loadables) == 1
    assert plan.loadables[0][0] == "Conv_0"
    assert any(name.startswith("Gemm") for name in plan.loadables[0])
    product = next(name for name in plan.loadables[0] if name.startswith("Gemm"))
    assert plan.layers[-1].name == f"reshape_after_{product}"


@pytest.mark.parametrize(("fp16", "int8"), [(True, False), (True, True)])
def test_resnet_50_on_orin_with_tensorrt_10_3(tmp_path, fp16, int8):
    """A verbose trtexec log of TensorRT 10.3.0.30 on AGX Orin, batch 1, found by a search of public repositories."""
    torchvision = pytest.importorskip("torchvision")
    x = torch.randn(1, 3, 224, 224)
    file = export(torchvision.models.resnet50(), x, tmp_path / "resnet50.onnx", numbered=False)
    plan = plan_dla(file, target="orin", tensorrt="10.3", fp16=fp16, int8=int8)
    backbone, head = plan.loadables
    assert foreign_node(backbone) == "{ForeignNode[/conv1/Conv.../layer4/layer4.2/relu_2/Relu]}"
    assert head[0] == "/fc/Gemm"
    gpu = {row.name: row for row in plan.layers if row.device == "GPU"}
    assert set(gpu) == {"/avgpool/GlobalAveragePool", "/Flatten", "reshape_after_/fc/Gemm"}
    assert gpu["/avgpool/GlobalAveragePool"].reason == (
        "/avgpool/GlobalAveragePool: DLA cores do not support AVG Reduce operation."
    )
    assert (
        gpu["/Flatten"].reason == "Layer '/Flatten' (SHUFFLE): Unsupported on DLA. Switching this layer's device type to GPU."
    )


def test_one_elementwise_sum():
    """sampleCudla of NVIDIA/TensorRT: FP16, all on the DLA."""
    net = Net()
    layer = net.raw.add_elementwise(net.input(1, 32, 8, 8), net.input(1, 32, 8, 8), trt.ElementWiseOperation.SUM)
    net.output(layer.get_output(0))
    plan = net.plan(tensorrt="8.6", fp16=True)
    assert [foreign_node(names) for names in plan.loadables] == ["{ForeignNode[(Unnamed Layer* 0) [ElementWise]]}"]
    assert plan.all_on_dla


def test_the_flattened_input_of_vgg_19_is_too_wide():
    """fc6 of VGG19 on the GPU, fc7 and fc8 on the DLA: a benchmark script in a public repository, Xavier, February 2022.

    There by Caffe, whose matrices are images of one pixel; here as 1x1 convolutions.
    """
    net = Net()
    x = net.relu(net.input(1, 512, 7, 7))
    flat = net.raw.add_shuffle(x)
    flat.reshape_dims = (1, 25088, 1, 1)
    x = flat.get_output(0)
    names = ["flat"]
    flat.name = "flat"
    for number, maps in ((6, 64), (7, 64), (8, 10)):
        layer = net.convolution(x, maps)
        layer.name = f"fc{number}"
        names.append(layer.name)
        x = net.relu(layer.get_output(0))
    net.output(x)
    rows = {row.name: row.device for row in net.plan(target="xavier", tensorrt="8.4", int8=True).layers}
    assert [rows[name] for name in names] == ["GPU", "GPU", "DLA", "DLA"]


def test_the_planner_says_what_logs_say_of_a_yolo_head():
    """GH ultralytics/ultralytics#18012 and #23488: TensorRT 8.5.2 on Orin."""
    net = Net()
    x = net.relu(net.input(1, 64, 84, 100))
    three = net.raw.add_shuffle(x)
    three.reshape_dims = (1, 64, 8400)
    three.name = "/model.23/Reshape"
    joined = net.raw.add_concatenation([three.get_output(0)] * 2)
    joined.axis, joined.name = 2, "/model.23/Concat_3"
    part = net.raw.add_slice(joined.get_output(0), (0, 0, 0), (1, 32, 16800), (1, 1, 1))
    part.name = "/model.23/Split"
    none = trt.MatrixOperation.NONE
    product = net.raw.add_matrix_multiply(part.get_output(0), none, net.input(1, 16800, 4), none)
    product.name = "/model.10/m/m.0/attn/MatMul"
    net.output(product.get_output(0))
    reasons = {row.name: row.reason for row in net.plan(tensorrt="8.5.2").layers}
    assert reasons["/model.23/Reshape"] == (
        "Layer '/model.23/Reshape' (SHUFFLE): Unsupported on DLA. Switching this layer's device type to GPU."
    )
    assert reasons["/model.23/Concat_3"] == "/model.23/Concat_3: DLA only supports concatenation on the C dimension."
    assert reasons["/model.23/Split"] == "/model.23/Split: DLA only supports slicing 4 dimensional tensors."
    assert reasons["/model.10/m/m.0/attn/MatMul"] == (
        "/model.10/m/m.0/attn/MatMul: MatMul is unsupported on DLA, relax constraints or use Convolution layer instead."
    )


def test_the_attention_of_a_yolo_11():
    """GH ultralytics/ultralytics#18012: FP16, TensorRT 8.5.2 on AGX Orin.

    The log has these layers on the GPU, ``{ForeignNode[.../pe/conv/Conv]}`` alone, and the next subgraph from the sum on.
    """
    net, none, turned = Net(), trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
    add = net.raw

    def named(layer, name):
        layer.name = name
        return layer.get_output(0)

    def reshape(x, *shape, name):
        layer = add.add_shuffle(x)
        layer.reshape_dims = shape
        return named(layer, name)

    def part(x, start, size):
        return named(add.add_slice(x, (0, 0, start, 0), (1, 2, size, 400), (1,) * 4), f"Split {start}")

    qkv = named(net.convolution(net.relu(net.input(1, 128, 20, 20)), 256), "qkv/conv/Conv")
    heads = reshape(qkv, 1, 2, 128, 400, name="Reshape")
    q, k, v = part(heads, 0, 32), part(heads, 32, 32), part(heads, 64, 64)
    scores = named(add.add_matrix_multiply(q, turned, k, none), "MatMul")
    scores = named(add.add_elementwise(scores, net.constant(1, 1, 1, 1), trt.ElementWiseOperation.PROD), "Mul")
    softmax = add.add_softmax(scores)
    softmax.axes = 1 << 3
    mixed = named(add.add_matrix_multiply(v, none, named(softmax, "Softmax"), turned), "MatMul_1")
    mixed = reshape(mixed, 1, 128, 20, 20, name="Reshape_1")
    place = named(net.convolution(reshape(v, 1, 128, 20, 20, name="Reshape_2"), 128), "pe/conv/Conv")
    total = named(add.add_elementwise(mixed, place, trt.ElementWiseOperation.SUM), "Add")
    net.output(named(net.convolution(total, 128), "proj/conv/Conv"))
    plan = net.plan(tensorrt="8.5.2", fp16=True)
    assert {row.name for row in plan.fallbacks} == {"Reshape", "MatMul", "MatMul_1", "Reshape_2", "Reshape_1"}
    assert ["pe/conv/Conv"] in plan.loadables
    assert ["Add", "proj/conv/Conv"] in plan.loadables
    assert ["Mul", "Softmax"] in plan.loadables
