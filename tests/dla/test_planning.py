"""plan_dla(): modules, files, networks; devices; what it refuses; what crosses the borders."""

from __future__ import annotations

import json

import pytest
import torch
from support.dla_networks import Net, Two
from support.dla_published import Tutorial, export
from torch import nn

import torch2edge
from torch2edge import ConfigError, DlaPlan, plan_dla
from torch2edge._trt import capabilities, trt, why_no_dla
from torch2edge.options import Options


class Quantized(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127).relu()


@pytest.fixture
def model():
    return Two().eval()


X = torch.randn(2, 3, 10, 12)


def devices(plan):
    return {row.name: row.device for row in plan.layers}


def test_a_module(model):
    plan = plan_dla(model, [X])
    assert isinstance(plan, DlaPlan)
    assert plan.loadables == [
        ["first.0/convolution", "first.1/relu", "second.0/convolution"], ["third.0/convolution", "third.1/sigmoid"]
    ]  # fmt: skip
    assert (plan.target, plan.tensorrt, plan.precision, plan.all_on_dla) == ("orin", "8.6", "fp16", False)
    (row,) = plan.fallbacks
    assert (row.name, row.type, row.module, row.device, row.rule) == (
        "second.1/elu", "ACTIVATION", "second.1", "GPU", "activation-op",
    )  # fmt: skip
    assert row.reason == "second.1/elu: ActivationLayer (with ActivationType = ELU) not supported for DLA."
    assert [r.module for r in plan.layers] == ["first.0", "first.1", "second.0", "second.1", "third.0", "third.1"]
    assert [r.loadable for r in plan.layers] == [0, 0, 0, None, 1, 1]


def test_what_a_model_is_left_as(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan_dla(model, [X])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_to_dict_is_json_and_the_table_has_all_layers(model):
    plan = plan_dla(model, [X], int8=True, fp16=True)
    told = json.loads(json.dumps(plan.to_dict()))
    assert told["precision"] == "int8+fp16"
    assert set(told["layers"][0]) >= {"name", "type", "module", "device", "rule", "reason"}
    assert told["loadables"] == plan.loadables
    assert told["all_on_dla"] is False
    text = str(plan)
    assert all(row.name in text for row in plan.layers)
    assert "{ForeignNode[first.0/convolution...second.0/convolution]}" in text
    assert "not supported for DLA" in text


# ---- devices ------------------------------------------------------------------------------------------------------------


def test_device_types_of_modules_paths_and_patterns(model):
    dla, gpu = trt.DeviceType.DLA, trt.DeviceType.GPU
    for given in (
        {model.first: dla, model.first[1]: gpu},
        {"first": "dla", "first.1": "gpu"},
        {"first*": "DLA", "*.1": "GPU"},
    ):
        plan = plan_dla(model, [X], device_types=given)
        assert plan.loadables == [["first.0/convolution"]]
        asked = [row for row in plan.layers if row.rule == "device-types"]
        assert len(asked) == 5
        reasons = {row.module: row.reason for row in asked}
        assert reasons["first.1"] == "it was asked to be on the GPU"
        assert reasons["second.0"] == reasons["third.0"] == "no entry of device_types names it, and some name the DLA"
    plan = plan_dla(model, [X], device_types={"third": "gpu"}, default_device_type=dla)
    assert plan.loadables == [["first.0/convolution", "first.1/relu", "second.0/convolution"]]
    assert plan_dla(model, [X], default_device_type="gpu").loadables == []


class Idle(Two):
    """With a module that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Sequential(nn.ReLU(), nn.ReLU())


def test_what_is_named_comes_before_patterns_and_a_pattern_need_not_reach_every_match():
    model = Idle().eval()
    for given in ({model.first: "dla", "second*": "dla", model.second[0]: "gpu"}, {"first.0": "gpu", "*.0": "dla"}):
        plan = plan_dla(model, [X], device_types=given)
        on_gpu = {row.module for row in plan.fallbacks if row.reason == "it was asked to be on the GPU"}
        assert on_gpu == ({"second.0"} if "*.0" not in given else {"first.0"})
        assert {name.split("/")[0] for names in plan.loadables for name in names} == (
            {"first.0", "first.1"} if "*.0" not in given else {"second.0", "third.0"}
        )


def test_the_innermost_device_wins(model):
    plan = plan_dla(model, [X], device_types={"": "gpu", "first": "dla", "first.0": "gpu"})
    assert plan.loadables == [["first.1/relu"]]


def test_a_module_that_is_given_to_the_gpu_alone(model, tmp_path):
    file = export(model, X, tmp_path / "two.onnx", numbered=False)
    for given, key in ((model, "third"), (file, "third"), (file, "/third/third.0/Conv")):
        plan = plan_dla(given, [X], device_types={key: "gpu"})
        assert len(plan.loadables) == 1 + (key[0] == "/")
        told = [row for row in plan.layers if row.rule == "device-types"]
        assert {row.module for row in told} == ({"third.0"} if key[0] == "/" else {"third.0", "third.1"})
        assert {row.reason for row in told} == {"it was asked to be on the GPU"}
    asked = plan_dla(model, [X], device_types={"third": "dla"}, default_device_type="gpu")
    assert {row.reason for row in asked.layers if row.module.startswith("first")} == {"it was asked to be on the GPU"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "nano"}, "target is 'nano'; it must be one of 'orin', 'xavier'"),
        ({"tensorrt": "10.8"}, "has DLA up to 10.7, and again from 11.4.1 on"),
        ({"tensorrt": "11.4.0"}, "but not 11.4.0 on orin"),
        ({"tensorrt": "11.4.1", "target": "xavier"}, "but not 11.4.1 on xavier"),
        ({"tensorrt": "newest"}, "tensorrt is 'newest'; write the version that is on the board"),
        ({"tensorrt": 8.6}, "tensorrt is 8.6; write the version"),
        ({"default_device_type": "tpu"}, "default_device_type is 'tpu'"),
        ({"device_types": {"first": "tpu"}}, "device_types['first'] is 'tpu'"),
        ({"device_types": {"first": None}}, "device_types['first'] is None; it must be trt.DeviceType.GPU"),
        ({"device_types": {"fi*": None}}, "device_types['first'] is None"),
        ({"device_types": {"fist": "dla"}}, "'fist' is no submodule of the model; near it: first"),
        ({"device_types": {"x*": "dla"}}, "the pattern 'x*' matches no submodule"),
    ],
)
def test_wrong_settings(model, settings, message):
    with pytest.raises(ConfigError) as caught:
        plan_dla(model, [X], **settings)
    assert message in str(caught.value)


def test_a_module_that_never_ran(model):
    model.unused = nn.ReLU().eval()
    with pytest.raises(ConfigError, match="nothing ran in 'unused'"):
        plan_dla(model, [X], device_types={model.unused: "dla"})


def test_dynamic_shapes_are_refused(model):
    varying = torch2edge.Input(("batch", 3, 10, 12), dims={"batch": (1, 2, 4)})
    with pytest.raises(ConfigError, match="the DLA takes no dynamic shapes, but batch"):
        plan_dla(model, [varying])


def test_a_real_build_for_the_dla_alone_is_still_refused_where_there_is_none(model):
    if not why_no_dla():
        pytest.skip("here is a DLA")
    with pytest.raises(ConfigError, match="plan_dla tells, without a board"):
        torch2edge.convert(model, [X], default_device_type="dla", fp16=True, gpu_fallback=False)


# ---- precisions ---------------------------------------------------------------------------------------------------------


def test_without_fp16_and_int8_nothing_is_on_the_dla(model):
    plan = plan_dla(model, [X], fp16=False)
    assert plan.precision == "fp32"
    assert {row.rule for row in plan.layers} == {"precision-allowed"}
    assert plan.layers[0].reason == (
        "DLA only supports FP16 and Int8 precision type. Switching first.0/convolution device type to GPU."
    )


def test_a_strongly_typed_board_is_told_precisions_by_casts(model):
    if not Options().strong:
        with pytest.raises(ConfigError, match=r"tensorrt='11\.4\.1' is strongly typed, and TensorRT .* is not"):
            plan_dla(model, [X], tensorrt="11.4.1")
        return
    plan = plan_dla(model, [X], tensorrt="11.4.1", fp16=True)
    assert [row.name for row in plan.fallbacks] == ["second.1/elu"]
    assert any("io_dtype=torch.float16" in note for note in plan.notes)
    plan = plan_dla(model.first, [X], tensorrt="11.4.1")
    assert plan.all_on_dla
    assert plan.layers
    plan = plan_dla(model, [X], tensorrt="11.4.1", fp16=False)
    assert not plan.loadables


def test_int8_of_a_strongly_typed_board_is_that_of_quantize_layers(model):
    network = torch2edge.convert(model, [X], keep_network=True, verify=False).network
    for given, inputs in ((model, [X]), (network, [])):
        with pytest.raises(ConfigError, match=r"int8=True with tensorrt='11\.4\.1'.* not planned yet"):
            plan_dla(given, inputs, tensorrt="11.4.1", int8=True, fp16=True)


def test_a_model_that_quantizes_by_itself_is_planned_for_a_strongly_typed_board():
    if not Options().strong:
        pytest.skip("this TensorRT's networks are weakly typed")
    plan = plan_dla(Quantized().eval(), [X], tensorrt="11.4.1", int8=True)
    assert {row.type for row in plan.layers} >= {"QUANTIZE", "DEQUANTIZE"}


def test_versions_of_which_little_is_known(model):
    net = Net()
    net.output(net.relu(net.input(1, 4, 6, 6)))
    notes = {v: " ".join(plan_dla(net.raw, tensorrt=v).notes) for v in ("8.3", "8.4", "8.6", "11.4.2", "11.5", "99")}
    assert {v for v, text in notes.items() if "nothing is known of TensorRT" in text} == {"11.5", "99"}
    assert {v for v, text in notes.items() if "the first for Orin" in text} == {"8.3"}
    assert "the first for Orin" not in " ".join(plan_dla(model, [X], tensorrt="8.2", target="xavier").notes)


def test_quantize_layers_get_a_note():
    net = Net()
    scale = net.constant()
    told = capabilities().quantize_output_type
    quantized = net.raw.add_quantize(net.input(1, 2, 3, 4), scale, *[trt.DataType.INT8] * told).get_output(0)
    net.output(net.raw.add_dequantize(quantized, scale, *[trt.DataType.FLOAT] * told).get_output(0))
    plan = net.plan(int8=True)
    assert [row.rule for row in plan.layers] == ["explicit-quantization"] * 2
    assert any("quantize layers" in note for note in plan.notes)


# ---- borders and memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("int8", "size", "vector"), [(False, 2, 16), (True, 1, 32)])
def test_what_crosses_the_borders(model, int8, size, vector):
    plan = plan_dla(model, [X], int8=int8)
    found = {(c.loadable, c.direction, c.other): c for c in plan.crossings}
    plane = 2 * 10 * 12
    pad = lambda channels: -(-channels // vector) * vector  # noqa: E731
    assert {key: c.bytes for key, c in found.items()} == {
        (0, "in", "network input"): plane * pad(3) * size,
        (0, "out", "GPU"): plane * pad(16) * size,
        (1, "in", "GPU"): plane * pad(16) * size,
        (1, "out", "network output"): plane * pad(8) * size,
    }
    assert all(c.reformat for c in found.values())
    assert plan.transitions == 2


def test_between_two_loadables_there_is_no_reformat():
    net = Net()
    x = net.input(1, 4, 6, 6)
    a = net.raw.add_unary(x, trt.UnaryOperation.ABS).get_output(0)
    gpu = net.raw.add_unary(a, trt.UnaryOperation.NEG).get_output(0)
    net.output(net.raw.add_elementwise(a, gpu, trt.ElementWiseOperation.SUM).get_output(0))
    plan = net.plan()
    assert {(c.loadable, c.direction, c.other, c.reformat) for c in plan.crossings} == {
        (0, "in", "network input", True), (0, "out", "GPU", True), (0, "out", "loadable 1", False),
        (1, "in", "loadable 0", False), (1, "in", "GPU", True), (1, "out", "network output", True),
    }  # fmt: skip


def test_memory_pools_are_powers_of_two_and_large_enough(model):
    for int8 in (False, True):
        plan = plan_dla(model, [X], int8=int8)
        size, pad = (1, 32) if int8 else (2, 16)
        first = plan.pools[0]
        inside = 2 * 10 * 12 * -(-16 // pad) * pad * size * 2  # two tensors of 16 channels
        weights = (3 + 16) * 16 * 9 * size + 2 * -(-16 // pad) * pad * 4  # two kernels, two biases
        for count, wanted in ((first.local_dram, inside), (first.global_dram, weights)):
            assert count >= max(wanted, 4096)
            assert count < max(2 * wanted, 8192)
            assert count & (count - 1) == 0
        limits = plan.pool_limits()
        assert limits["DLA_LOCAL_DRAM"] == max(row.local_dram for row in plan.pools)
        assert limits["DLA_MANAGED_SRAM"] == 2**20


def test_too_much_inside_a_loadable_is_noted():
    for batch, noted in ((32, True), (31, False)):
        net = Net()
        x = net.input(batch, 64, 32, 8192)
        net.output(net.relu(net.relu(x)))
        assert any("TensorRT allows less than" in note for note in net.plan().notes) is noted


def test_a_network_all_on_the_dla_needs_its_formats():
    net = Net()
    net.output(net.relu(net.input(1, 4, 6, 6)))
    plan = net.plan()
    assert plan.all_on_dla
    assert any("kCHW16" in note for note in plan.notes)


# ---- what is folded, joined, goes away ----------------------------------------------------------------------------------


def test_what_depends_on_no_input_is_no_layer():
    net = Net()
    constant = net.constant(1, 4, 1, 1)
    net.raw.get_layer(0).name = "constant"
    negative = net.raw.add_unary(constant, trt.UnaryOperation.NEG)
    negative.name = "negative"
    net.test(net.raw.add_elementwise(net.input(1, 4, 6, 6), negative.get_output(0), trt.ElementWiseOperation.SUM))
    plan = net.plan()
    assert plan.folded == ["constant", "negative"]
    assert plan.all_on_dla


def test_a_bias_goes_where_its_matrix_product_goes(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(8, 5)).eval()
    plan = plan_dla(model, [torch.randn(4, 3, 10, 10)])
    product = next(row for row in plan.layers if row.type == "MATRIX_MULTIPLY")
    bias = next(row for row in plan.layers if row.type == "ELEMENTWISE")
    assert product.device == bias.device == "DLA"
    assert len(plan.loadables) == 1
    assert {row.type for row in plan.fallbacks} == {"SHUFFLE"}
    apart = plan_dla(model, [torch.randn(4, 3, 10, 10)], device_types={"3": "gpu"}, default_device_type="dla")
    assert {row.rule for row in apart.layers if row.module == "3"} == {"device-types"}


def test_a_linear_layer_behind_pixels_keeps_its_shuffle():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(512, 5)).eval()
    plan = plan_dla(model, [torch.randn(1, 3, 10, 10)])
    assert len(plan.loadables) == 2


def test_a_shuffle_at_the_border_is_on_the_gpu():
    net = Net()
    x = net.raw.add_unary(net.relu(net.input(1, 4, 6, 6)), trt.UnaryOperation.NEG).get_output(0)
    layer = net.raw.add_shuffle(x)
    layer.first_transpose = (0, 2, 1, 3)
    net.test(layer, then_relu=True)
    row = net.row()
    assert (row.device, row.rule) == ("GPU", "shuffle-border")
    assert row.reason == "Validation failed for DLA layer: tested. Switching to GPU fallback."


def test_the_group_norm_of_the_converters_is_one_layer():
    plan = plan_dla(Tutorial("group").eval(), [torch.randn(2, 3, 32, 32)], int8=True)
    assert {row.type for row in plan.fallbacks} >= {"NORMALIZATION"}
    assert [names[0] for names in plan.loadables][:2] == ["cnn.0/convolution", "cnn.2/relu"]
