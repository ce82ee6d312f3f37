"""Sizes that are known only when the engine runs: what TensorRT is told of them, and what is refused."""

from __future__ import annotations

import pytest
import torch
from support.dynamic_rows import DynamicRow, check_dynamic_row, lower_dynamic
from torch import nn
from torch.nn import functional as F

from torch2edge.errors import BuildError, ConversionError, UnsupportedOpError
from torch2edge.lower import converter, registry
from torch2edge.lower.network.sizes import _fit_staircase

aten = torch.ops.aten
IMAGE = ("n", 3, "h", "w")


def kinds(row: DynamicRow) -> list[str]:
    """The layers of a row's network."""
    return [layer.raw.type.name for layer in lower_dynamic(row)[2].network.layers]


# ---- which layers -----------------------------------------------------------------------------------------------------


def test_static_axes_stay_static_and_dynamic_ones_are_open():
    _, _, lowered, session = lower_dynamic(
        DynamicRow(aten.view.default, lambda x: x.view(x.shape[0], 2, -1), (("n", 4, "t"),))
    )
    assert tuple(session.network.get_input(0).shape) == (-1, 4, -1)
    assert tuple(session.network.get_output(0).shape) == (-1, 2, -1)
    assert lowered.input_names == ["input_0"]


@pytest.mark.parametrize("fn", [lambda x: x.flatten(1), lambda x: x.flatten(2), lambda x: x.view(x.shape[0], 1, -1)])
def test_a_reshape_that_keeps_its_dynamic_axes_needs_no_computed_size(fn):
    row = DynamicRow(aten.relu.default, lambda x: fn(x.relu()), (IMAGE,))
    assert kinds(row) == ["RELU", "SHUFFLE"]


def test_a_size_is_computed_once():
    row = DynamicRow(
        aten.expand.default, lambda x, y: (x.expand(y.shape[0], -1) + 1, x.expand(y.shape[0], 5) * 2), ((1, 5), ("n", 2))
    )
    assert kinds(row).count("SHAPE") == 1
    assert kinds(row).count("CONCATENATION") == 1


def test_a_scale_of_a_whole_number_is_a_scale():
    _, _, lowered, _ = lower_dynamic(
        DynamicRow(aten.upsample_bilinear2d.vec, lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (IMAGE,))
    )
    (layer,) = lowered.network.layers
    assert list(layer.raw.scales) == [1.0, 1.0, 2.0, 2.0]


def test_an_input_whose_data_nothing_uses_stays_for_its_sizes():
    row = DynamicRow(aten.expand.default, lambda x, y: x.expand(y.shape[0], -1), ((1, 5), ("n", 2)))
    assert lower_dynamic(row)[2].input_names == ["input_0", "input_1"]


def test_layers_of_sizes_do_not_take_the_names_of_the_op():
    _, _, lowered, _ = lower_dynamic(DynamicRow(aten.slice.Tensor, lambda x: x[:, 1:], (("n", "t"),)))
    names = [layer.raw.name for layer in lowered.network.layers]
    assert "/slice" in names
    assert all(name.startswith("/sizes") for name in names if name != "/slice")


# ---- expressions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size",
    [
        lambda n, t: n * t, lambda n, t: t + 2, lambda n, t: t // 2 + n, lambda n, t: (t + 3) % 4 + 1,
        lambda n, t: -(-t // 3) + 1,
        lambda n, t: torch.sym_int(t * 1.5), lambda n, t: t**2, lambda n, t: torch.sym_max(n, t),
        lambda n, t: torch.sym_min(n + 2, t),
        lambda n, t: 2 * n * t - n,
    ],
)  # fmt: skip
def test_sizes_are_computed_as_python_does(size):
    check_dynamic_row(
        DynamicRow(aten.expand.default, lambda x, y: x.expand(size(y.shape[0], y.shape[1]), -1) * 1.0, ((1, 2), ("n", "t")))
    )


@pytest.mark.parametrize("scale", [0.5, 1.25, 2.0, 2.5, 1.3])
def test_a_product_with_a_float_is_exact_for_every_size(scale):
    values = {n: int(n * scale) for n in range(1, 2000)}
    fitted = _fit_staircase(values)
    assert fitted is not None
    p, q, r = fitted
    assert all((p * n + r) // q == v for n, v in values.items())


def test_where_rounding_is_uneven_a_table_says_the_size():
    """int(0.7 * 90) is 62 in Python and in PyTorch."""
    dims = {"h": (89, 90, 91), "w": (170, 172, 180)}
    row = DynamicRow(aten.upsample_nearest2d.vec, lambda x: F.interpolate(x, scale_factor=0.7), ((1, 1, "h", "w"),), dims=dims)
    check_dynamic_row(row)


def test_what_is_no_staircase_is_not_taken_for_one():
    assert _fit_staircase({n: n * n for n in range(1, 50)}) is None


# ---- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "fn", "shape", "what"),
    [
        (
            aten.upsample_bicubic2d.vec,
            lambda x: F.interpolate(x, scale_factor=0.7, mode="bicubic"),
            IMAGE,
            "of an image that is resized",
        ),
        (aten.avg_pool2d.default, nn.AvgPool2d(3, 2, 1, ceil_mode=True), IMAGE, "counts padding with ceil_mode"),
        (aten.max_pool2d.default, nn.MaxPool2d(2, dilation=2), IMAGE, "pooled with dilation"),
        (aten.index.Tensor, lambda x: x[:, torch.tensor([0, 5])], ("n", "t"), "runs from 0 to 5, the axis has between 3 and"),
    ],
)
def test_what_needs_a_size_says_so(op, fn, shape, what):
    with pytest.raises(ConversionError, match=what) as refused:
        lower_dynamic(DynamicRow(op, fn, (shape,)))
    assert str(op) in str(refused.value)
    assert ".py:" in str(refused.value)


def test_sums_by_index_are_refused_before_the_first_layer():
    row = DynamicRow(
        aten.scatter_add.default, lambda x: x.scatter_add(1, torch.zeros(1, 2, dtype=torch.int64), x[:, :2]), ((1, "t"),)
    )
    with pytest.raises(UnsupportedOpError, match="a size is dynamic"):
        lower_dynamic(row)


def test_a_converter_that_takes_the_examples_size_is_refused(monkeypatch):
    def baked(net, self):
        return net.reshape(self, (int(self.shape[0]), *self.shape[1:])) if self.shape[0] == 3 else net.tensor(self)

    own = registry().extended({aten.relu.default: baked})
    monkeypatch.setattr("support.dynamic_rows.registry", lambda: own)
    with pytest.raises(ConversionError, match="converts only where n == 3, which a dynamic axis leaves open"):
        lower_dynamic(DynamicRow(aten.relu.default, torch.relu, (("n", 4),)))
    assert converter is not None


def test_a_profile_that_tensorrt_refuses_is_an_error():
    _, _, lowered, session = lower_dynamic(DynamicRow(aten.relu.default, torch.relu, (("n", 4),)))
    with pytest.raises(BuildError, match="profile"):
        session.add_profiles(lowered.input_names, [[((5, 4), (3, 4), (1, 4))]])
