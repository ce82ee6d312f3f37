"""convert() with axes that vary, end to end: small models of every kind, checked at sizes that were never traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.gpu import FAST
from torch import nn

import torch2edge
from torch2edge import ConfigError, DLAWarning, EdgeModule, Input, InputError, convert, trt
from torch2edge._trt import capabilities

pytestmark = pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
BT = Input(("b", "t", 8), dims={"b": (1, 2, 5), "t": (4, 6, 60)})
IDS = Input(("b", "t"), dims={"b": (1, 2, 5), "t": (4, 6, 60)}, dtype=torch.int64, high=20)
IMAGE = Input(("b", 3, "h", "w"), dims={"b": (1, 2, 3), "h": (16, 32, 65), "w": (16, 48, 65)})


class Net(nn.Module):
    """Calls a function with itself, its parts and the inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.table = nn.Parameter(torch.randn(1, 64, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.embed = nn.Embedding(20, 8)
        self.linear = nn.Linear(8, 8)
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.register_buffer("seen", torch.ones(64, 64).tril().bool())

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def net(function: Callable[..., Any]) -> Net:
    return Net(function).eval()


def perceptron(net, x):
    return net.linear(net.linear(x).relu()).softmax(-1)


def causal(net, x):
    t = x.shape[1]
    scores = net.linear(x) @ x.transpose(1, 2) / 8**0.5
    return scores.masked_fill(torch.ones(t, t).tril() == 0, float("-inf")).softmax(-1) @ x


def causal_full(net, x):
    mask = torch.full((x.size(1), x.size(1)), float("-inf")).triu(1)
    return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def causal_flag(net, x):
    return F.scaled_dot_product_attention(x, x, x, is_causal=True)


def causal_buffer(net, x):
    t = x.shape[1]
    return (x @ x.transpose(1, 2)).masked_fill(~net.seen[:t, :t], -1e4).softmax(-1)


def language_model(net, ids):
    x = net.embed(ids) + net.table[:, : ids.shape[1]]
    mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
    return net.layer(x, src_mask=mask, is_causal=True)[:, -1]


def positions(net, ids):
    return net.embed(ids) + net.table[0][torch.arange(ids.shape[1], device=ids.device)]


def class_token(net, x):
    tokens = torch.cat([net.token.expand(x.shape[0], -1, -1), x], 1) + net.table[:, : x.shape[1] + 1]
    return net.layer(tokens)[:, 0]


def heads(net, x):
    b, t, c = x.shape
    return x.view(b, t, 2, c // 2).transpose(1, 2).reshape(b * 2, t, -1).flatten(1)


def rotary(net, x):
    angles = torch.outer(torch.arange(x.shape[1]).float(), 10000 ** -(torch.arange(4) / 4))
    a, b = x.chunk(2, -1)
    return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], -1)


def multihead(net, x):
    return net.attention(x, x, x)[0]


def pieces(net, x):
    a, b = x.chunk(2, 1)
    return a.sum(1) - b.sum(1), x[:, : x.shape[1] // 2].sum(1), x[:, ::2], torch.cat([x[:, 1:], x[:, :1]], 1)


def repeats(net, x):
    return x.repeat(1, 2, 1) + net.token.repeat(x.shape[0], x.shape[1] * 2, 1), net.token.expand_as(x) * x


def padded(net, x):
    y = torch.zeros(x.shape[0], x.shape[1] + 2, 8)
    y[:, 1:-1] = x
    return y


def statistics(net, x):
    return x.mean(1), x.std(1), x.amax((0, 1)), x.argmax(1), F.layer_norm(x, (8,)), x.sum() / x.numel(), x.cumsum(1)


def resized(net, x):
    y = net.conv(x)
    return F.interpolate(y, size=x.shape[-2:], mode="bilinear"), F.interpolate(y, scale_factor=2.0), y.flatten(2).mT


def unet(net, x):
    y = F.max_pool2d(net.conv(x).relu(), 2)
    return torch.cat([F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False), x], 1)


def padded_to_a_multiple(net, x):
    h, w = x.shape[-2:]
    return F.avg_pool2d(F.pad(x, (0, -w % 8, 0, -h % 8)), 8), F.pad(x, (1, 1, 1, 1), mode="reflect")[:, :, :h, :w]


def pooled(net, x):
    return F.adaptive_avg_pool2d(net.conv(x), 1).flatten(1), F.avg_pool2d(x, 3, 2, 1), F.max_pool2d(x, 2, ceil_mode=True)


def grid(net, x):
    rows, columns = torch.meshgrid(torch.arange(x.shape[2]), torch.arange(x.shape[3]), indexing="ij")
    return x[:, :1] * rows + columns


def normed(net, x):
    return F.group_norm(net.conv(x), 2), F.instance_norm(x), F.pixel_shuffle(net.conv(x), 2)


MODELS = [
    *((f, BT) for f in (perceptron, causal, causal_full, causal_flag, causal_buffer, class_token, heads, rotary, multihead,
                        pieces, repeats, padded, statistics)),
    *((f, IDS) for f in (language_model, positions)),
    *((f, IMAGE) for f in (resized, unet, padded_to_a_multiple, pooled, grid, normed)),
]  # fmt: skip


@pytest.mark.parametrize(("function", "given"), MODELS, ids=lambda v: getattr(v, "__name__", ""))
def test_models(function, given):
    """The conversion itself compares at the smallest, usual, largest and an odd size; here is one more."""
    model = net(function)
    module = convert(model, [given], **FAST)
    shape = {3: (3, 13, 8), 2: (3, 13), 4: (3, 3, 27, 50)}[len(given.shape)]
    x = torch.randint(0, 20, shape) if given.dtype == torch.int64 else torch.randn(shape)
    with torch.no_grad():
        wanted = model(x)
    for a, b in zip(_listed(module(x)), _listed(wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_torchvision_with_batch_height_and_width(name):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    model = models.get_model(name, weights=None).eval()
    shapes = {"min": (1, 3, 64, 64), "opt": (2, 3, 96, 64), "max": (3, 3, 128, 128)}
    module = convert(model, [Input(**shapes)], **FAST)
    assert module.report.constraints == []
    assert module(torch.randn(2, 3, 75, 101)).shape == (2, 1000)


def test_segmentation_returns_masks_of_the_inputs_size():
    models = pytest.importorskip("torchvision.models")
    model = models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    given = Input(min=(1, 3, 64, 64), opt=(1, 3, 96, 64), max=(2, 3, 128, 128))
    module = convert(model, [given], **FAST)
    assert module(torch.randn(2, 3, 75, 101))["out"].shape == (2, 21, 75, 101)


def test_vision_transformer_with_a_dynamic_batch():
    models = pytest.importorskip("torchvision.models")
    model = models.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=5).eval()
    module = convert(model, [torch.randn(2, 3, 32, 32)], dynamic={0: {0: (1, 2, 6)}}, **FAST)
    assert module(torch.randn(5, 3, 32, 32)).shape == (5, 5)
    with pytest.raises(ConfigError, match=r"demands .*shape\[2\].* == .*vision_transformer\.py:\d+"):
        convert(model, [torch.randn(2, 3, 32, 32)], dynamic={0: {2: (16, 32, 64)}}, **FAST)


# ---- ways to say it -------------------------------------------------------------------------------------------------------


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(8, 4).eval()


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ([Input(min=(1, 8), opt=(2, 8), max=(5, 8))], {}),
        (Input(("n", 8), dims={"n": (1, 2, 5)}), {}),
        ([Input(("n", 8))], {"dims": {"n": (1, 2, 5)}}),
        ([torch.randn(2, 8)], {"dynamic": {0: {0: (1, 2, 5)}}}),
        ([torch.randn(1, 8)], {"min_shapes": [(1, 8)], "opt_shapes": [(2, 8)], "max_shapes": [(5, 8)]}),
    ],
)
def test_every_way_makes_the_same_engine(inputs, options):
    module = convert(linear(), inputs, **options, **FAST)
    assert [list(ranges) for ranges in module.metadata["dims"].values()] == [[[1, 2, 5]]]
    assert module(torch.ones(4, 8)).shape == (4, 4)
    for n in (6, 7):
        with pytest.raises(InputError, match=rf"axis 0 of .* is {n}; the engine was built for 1 to 5"):
            module(torch.ones(n, 8))


def test_nested_inputs_that_share_a_dim():
    def forward(net, batch, scale):
        return {"sum": batch["a"] + batch["b"] * scale}

    model = net(forward)
    pair = {"a": Input(("n", 8), dims={"n": (1, 2, 5)}, name="left"), "b": Input(("n", 8))}
    module = convert(model, [pair, 2.0], **FAST)
    assert module({"a": torch.ones(3, 8), "b": torch.ones(3, 8)}, 2.0)["sum"].tolist() == [[3.0] * 8] * 3
    with pytest.raises(InputError, match=r"axis 0 of args\[0\]\['b'\] is 4, but axis 0 of left is 3: both are the dim n"):
        module({"a": torch.ones(3, 8), "b": torch.ones(4, 8)}, 2.0)


def test_several_profiles():
    given = Input(min=[(1, 8), (8, 8)], opt=[(1, 8), (16, 8)], max=[(2, 8), (32, 8)])
    module = convert(linear(), [given], **FAST)
    for n in (1, 2, 8, 31):
        assert module(torch.ones(n, 8)).shape == (n, 4)
    with pytest.raises(InputError, match=r"is 5; the engine was built for 1 to 2 or 8 to 32"):
        module(torch.ones(5, 8))
    assert "2\n" in module.report.dims_text()


def test_several_profiles_over_two_dims():
    given = Input(("n", "m"), dims={"n": [(1, 1, 2), (4, 4, 4)], "m": [(4, 4, 8), (1, 2, 2)]})
    module = convert(net(lambda net, x: x * 2), [given], **FAST)
    with pytest.raises(InputError, match=r"no optimization profile .* takes n = 4, m = 8: there is n from 1 to 2, m"):
        module(torch.ones(4, 8))


def test_half_and_bool_inputs():
    if not capabilities().strongly_typed:
        pytest.skip("half models follow their dtypes elsewhere")
    given = [Input(("n", 8), dims={"n": (1, 2, 5)}, dtype=torch.float16), Input(("n", 1), dtype=torch.bool)]
    module = convert(net(lambda net, x, keep: torch.where(keep, x, 0).relu()), given, **FAST)
    assert module(torch.ones(4, 8).half(), torch.ones(4, 1).bool()).dtype == torch.float16


# ---- what is told, and what is kept --------------------------------------------------------------------------------------


def test_the_report_and_the_engine_file_know_the_sizes(tmp_path):
    model = net(lambda net, x: x.view(x.shape[0], x.shape[1] // 2, 16))
    module = convert(model, [Input(("n", "len", 8), dims={"n": (1, 2, 5), "len": (4, 6, 60)})], **FAST)
    assert "len      axis 1 of args[0]    4    6   60" in str(module.report)
    assert "the model demands" in str(module.report)
    assert torch2edge.Report.from_dict(module.report.to_dict()) == module.report
    with pytest.raises(InputError, match=r"n = 2, len = 7, but the model demands .*test_dynamic\.py"):
        module(torch.ones(2, 7, 8))
    module.save(tmp_path / "m.engine")
    loaded = torch2edge.load(tmp_path / "m.engine")
    assert loaded.metadata == module.metadata
    assert loaded.metadata["outputs"][0]["shape"][0] == ["dim", "n"]
    other = EdgeModule()
    other.load_state_dict(module.state_dict())
    with pytest.raises(InputError, match="len = 7"):
        other(torch.ones(2, 7, 8))


def test_the_check_covers_small_large_and_odd_sizes():
    module = convert(net(lambda net, x: x * x.shape[1]), [BT], **FAST)
    seen = []
    run = module._run
    module._run = lambda tensors, out=None: seen.append(tensors[0].shape) or run(tensors, out)
    module(torch.ones(5, 7, 8))
    assert seen == [(5, 7, 8)]
    assert all(row.passed for row in module.report.check)


# ---- what is refused ------------------------------------------------------------------------------------------------------


class Buckets(nn.Module):
    """T5's relative positions: log(0) is cast to an integer, and where() leaves it out afterwards."""

    def __init__(self, leaves_out: bool) -> None:
        super().__init__()
        self.leaves_out = leaves_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(x.shape[1])
        far = 4 + places.float().log().to(torch.int64)
        buckets = torch.where(places < 4, places, far) if self.leaves_out else far
        return x + buckets


@pytest.mark.filterwarnings("ignore:layer .* casts a value outside of the range:RuntimeWarning")
def test_a_cast_of_infinity_that_is_left_out():
    torch2edge.convert(Buckets(True).eval(), [torch.randn(2, 8)], dynamic={0: {1: (4, 8, 20)}})
    with pytest.raises(torch2edge.VerificationError):
        torch2edge.convert(Buckets(False).eval(), [torch.randn(2, 8)], dynamic={0: {1: (4, 8, 20)}})


def test_a_branch_on_size_one_is_refused():
    with pytest.raises(ConfigError, match=r"with b = 1, t = 6 the model does not do what it does .*begin at 2"):
        convert(net(lambda net, x: x * 2 if x.shape[0] == 1 else x), [BT], verify=False)


def test_a_squeeze_of_an_axis_that_may_be_one_is_refused():
    with pytest.raises(ConfigError, match=r"aten\.squeeze.*test_dynamic\.py:\d+, gives the shape \(6, 8\) in the place"):
        convert(net(lambda net, x: x.squeeze() + 1), [BT], verify=False)


def test_a_branch_on_a_size_is_refused_before_the_build():
    def forward(net, x):
        return x * 2 if x.shape[1] > 10 else x

    with pytest.raises(ConfigError, match=r"demands t <= 10 \(in .*test_dynamic\.py:\d+\), but max has t = 60 \(axis 1 of"):
        convert(net(forward), [BT])


def test_an_example_outside_of_its_range():
    with pytest.raises(InputError, match=r"axis 0 of args\[0\] is 9 in the example, outside of its range"):
        convert(linear(), [torch.randn(9, 8)], dynamic={0: {0: (1, 2, 5)}})


def test_the_dla_takes_no_dynamic_shapes():
    with pytest.warns(DLAWarning), pytest.raises(ConfigError, match=r"the DLA takes no dynamic shapes, but .* of 1 to 5"):
        convert(linear(), [Input(min=(1, 8), opt=(2, 8), max=(5, 8))], default_device_type=trt.DeviceType.DLA)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 9), r"axis 1 of x is 9; the engine was built for 8 there"),
        (torch.ones(8), "x has 1 dimensions; the engine was built for 2"),
        (torch.ones(2, 8).double(), r"x is torch\.float64 \(2, 8\); .* for torch\.float32 \(x\.shape\[0\], 8\)"),
    ],
)
def test_calls_that_do_not_fit(x, message):
    module = convert(linear(), [Input(min=(1, 8), opt=(2, 8), max=(5, 8), name="x")], **FAST)
    with pytest.raises(InputError, match=message):
        module(x)
