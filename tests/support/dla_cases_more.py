"""The rows of the DLA's table for layers without windows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from support.dla_cases import case, members, precise, ranges
from support.dla_networks import Net
from torch2edge._trt import capabilities, trt
from torch2edge.dla.layer import Layer

FLOATS = "AND OR XOR"  # element-wise operations on booleans are left out
COMPARISONS = ("EQUAL", "GREATER", "LESS")
ARITHMETIC = "SUM SUB PROD MAX MIN"

# ---- element by element -------------------------------------------------------------------------------------------------


def activation(net: Net, kind: str, alpha: float = 0.0, beta: float = 6.0) -> None:
    layer = net.raw.add_activation(net.input(1, 2, 3, 4), getattr(trt.ActivationType, kind))
    layer.alpha, layer.beta = alpha, beta
    net.test(layer)


@case("activation-op", outside=members("ActivationType", "RELU SIGMOID TANH CLIP LEAKY_RELU"))
@case("activation-op-7", outside=members("ActivationType", "RELU SIGMOID TANH CLIP"))
def activation_op(net: Net, value: str) -> None:
    activation(net, value)


@case("clip-low", low=True)
def clip_low(net: Net, value: int) -> None:
    activation(net, "CLIP", alpha=value)


@case("clip-high", low=True)
def clip_high(net: Net, value: int) -> None:
    activation(net, "CLIP", beta=value)


@case("prelu-slopes", inside=[True], outside=[False])
def prelu_slopes(net: Net, value: bool) -> None:
    slopes = net.constant(1, 2, 1, 1) if value else net.input(1, 2, 1, 1)
    net.test(net.raw.add_parametric_relu(net.input(1, 2, 3, 4), slopes))


def slopes(layers: list[Layer], value: tuple[int, ...]) -> None:
    """Slopes of another rank; this TensorRT takes none."""
    layer = next(layer for layer in layers if layer.name == "tested")
    x, given = layer.inputs
    assert given is not None
    layer.inputs = (x, replace(given, shape=value))


@case("prelu-rank", inside=[(1, 2, 1, 1)], outside=[(2, 1, 1), (1,)], edit=slopes)
def prelu_rank(net: Net, value: tuple[int, ...]) -> None:
    net.test(net.raw.add_parametric_relu(net.input(1, 2, 3, 4), net.constant(1, 2, 1, 1)))


def elementwise(net: Net, kind: str, *shapes: tuple[int, ...], cast: bool = True) -> None:
    x, y = net.input(*shapes[0]), net.input(*shapes[-1])
    layer = net.raw.add_elementwise(x, y, getattr(trt.ElementWiseOperation, kind))
    if kind not in COMPARISONS:
        net.test(layer)
        return
    layer.name = "tested"
    if not cast:
        net.output(layer.get_output(0))
    net.output(net.relu(net.raw.add_cast(layer.get_output(0), trt.DataType.FLOAT).get_output(0)))


NCHW = (2, 3, 4, 5)


@case("elementwise-op-8.4", outside=members("ElementWiseOperation", f"{ARITHMETIC} {FLOATS}"))
@case("elementwise-op-8.5", outside=members("ElementWiseOperation", f"{ARITHMETIC} EQUAL {FLOATS}"))
@case("elementwise-op", outside=members("ElementWiseOperation", f"{ARITHMETIC} DIV POW EQUAL GREATER LESS {FLOATS}"))
def elementwise_op(net: Net, value: str) -> None:
    elementwise(net, value, NCHW)


@case("elementwise-broadcast-8.4", inside=[NCHW], outside=[(2, 3, 1, 1), (2, 1, 1, 1), (1, 3, 4, 5)])
@case("elementwise-broadcast", inside=[NCHW, (2, 3, 1, 1), (2, 1, 1, 1)], outside=[(2, 3, 1, 5), (1, 3, 1, 1), (1, 1, 1, 1)])
def elementwise_broadcast(net: Net, value: tuple[int, ...]) -> None:
    elementwise(net, "PROD", NCHW, value)


@case("elementwise-int8-range", inside=[(2.0, 2.0, 9.0)], outside=[(2.0, 3.0, 3.0)], edit=ranges)
def elementwise_range(net: Net, value: tuple[Any, ...]) -> None:
    elementwise(net, "SUM", NCHW, NCHW)


@case("comparison-int8", inside=["int8", "int8 fp16"], outside=["fp16"], at=precise)
def comparison(net: Net, value: str) -> None:
    elementwise(net, "EQUAL", NCHW)


@case("comparison-cast", inside=[True], outside=[False])
def comparison_cast(net: Net, value: bool) -> None:
    elementwise(net, "EQUAL", NCHW, cast=value)
    if not value:
        net.raw.unmark_output(net.raw.get_output(0))
        layer = net.raw.get_layer(0)
        net.output(net.raw.add_identity(layer.get_output(0)).get_output(0))


@case("cast", inside=[True], outside=[False])
def cast(net: Net, value: bool) -> None:
    x = net.input(*NCHW)
    if value:
        x = net.raw.add_elementwise(x, net.input(*NCHW), trt.ElementWiseOperation.EQUAL).get_output(0)
    net.test(net.raw.add_cast(x, trt.DataType.HALF), then_relu=True)


@case("scale-power", low=True)
def scale_power(net: Net, value: int) -> None:
    power = np.full(1, value, np.float32)
    net._keep.append(power)
    args = (trt.ScaleMode.UNIFORM, trt.Weights(), net.weights(1), trt.Weights(power), 1)
    net.test(net.raw.add_scale_nd(net.input(1, 2, 3, 4), *args))


@case("lrn-window", outside=[1, 11, 13])
def lrn_window(net: Net, value: int) -> None:
    net.test(net.raw.add_lrn(net.input(1, 16, 3, 4), value, 1.0, 0.75, 1.0))


# ---- shapes -------------------------------------------------------------------------------------------------------------


@case("concat-axis", low=True)
def concat_axis(net: Net, value: int) -> None:
    layer = net.raw.add_concatenation([net.input(1, 2, 3, 4), net.input(1, 2, 3, 4)])
    layer.axis = value + 4
    net.test(layer)


@case("concat-inputs", low=True, high=False)
def concat_inputs(net: Net, value: int) -> None:
    layer = net.raw.add_concatenation([net.input(1, 2, 3, 4) for _ in range(value)])
    layer.axis = 1
    net.test(layer)


@case("concat-int8-range", inside=[(2.0, 2.0, 2.0)], outside=[(2.0, 2.0, 3.0), (2.0, 3.0, 2.0)], edit=ranges)
def concat_range(net: Net, value: tuple[Any, ...]) -> None:
    concat_inputs(net, 2)


def resize(net: Net, *scales: float, mode: str = "NEAREST", rounding: str = "ASYMMETRIC/FORMULA/FLOOR") -> Any:
    layer = net.raw.add_resize(net.input(1, 2, 3, 4))
    layer.scales, layer.resize_mode = scales, getattr(trt.InterpolationMode, mode)
    names = rounding.split("/")
    layer.coordinate_transformation = getattr(trt.ResizeCoordinateTransformation, names[0])
    layer.selector_for_single_pixel = getattr(trt.ResizeSelector, names[1])
    if len(names) > 2:
        layer.nearest_rounding = getattr(trt.ResizeRoundMode, names[2])
    return layer


@case("resize-scales", inside=["4 scales"], outside=["shape", "3 scales"])
def resize_scales(net: Net, value: str) -> None:
    if value == "3 scales":
        layer = net.raw.add_resize(net.input(2, 3, 4))
        layer.scales = (1, 2, 2)
    elif value == "shape":
        layer = net.raw.add_resize(net.input(1, 2, 3, 4))
        layer.shape = (1, 2, 6, 8)
    else:
        layer = resize(net, 1, 1, 2, 2)
    net.test(layer)


@case("resize-leading", inside=[(1, 1)], outside=[(1, 2), (2, 1)])
def resize_leading(net: Net, value: tuple[int, int]) -> None:
    net.test(resize(net, *value, 2, 2))


@case("resize-whole", inside=[(2.0, 3.0)], outside=[(1.5, 2.0), (2.0, 0.5)])
def resize_whole(net: Net, value: tuple[float, float]) -> None:
    net.test(resize(net, 1, 1, *value))


@case("resize-mode", inside=["NEAREST"], outside=["CUBIC"])
def resize_mode(net: Net, value: str) -> None:
    net.test(resize(net, 1, 1, 2, 2, mode=value))


@case("resize-nearest")
def resize_nearest(net: Net, value: int) -> None:
    net.test(resize(net, 1, 1, 1, value))


@case("resize-linear")
def resize_linear(net: Net, value: int) -> None:
    net.test(resize(net, 1, 1, value, 1, mode="LINEAR", rounding="HALF_PIXEL/FORMULA"))


@case("resize-nearest-rounding", outside=["ASYMMETRIC/FORMULA/CEIL", "HALF_PIXEL/FORMULA/FLOOR", "ALIGN_CORNERS/FORMULA/FLOOR",
                                          "ASYMMETRIC/UPPER/FLOOR"])  # fmt: skip
def resize_nearest_rounding(net: Net, value: str) -> None:
    net.test(resize(net, 1, 1, 2, 2, rounding=value))


@case("resize-linear-rounding", outside=["ALIGN_CORNERS/FORMULA", "ASYMMETRIC/FORMULA"])
def resize_linear_rounding(net: Net, value: str) -> None:
    net.test(resize(net, 1, 1, 2, 2, mode="LINEAR", rounding=value))


def unary(net: Net, kind: str) -> None:
    net.test(net.raw.add_unary(net.input(1, 2, 3, 4), getattr(trt.UnaryOperation, kind)))


@case("unary-op-abs", outside=members("UnaryOperation", "ABS NOT ISNAN ISINF"))
@case("unary-op", outside=members("UnaryOperation", "ABS SIN COS ATAN NOT ISNAN ISINF"))
def unary_op(net: Net, value: str) -> None:
    unary(net, value)


@case("unary-int8", inside=[("SIN", "int8"), ("ABS", "fp16")], outside=[("SIN", "fp16"), ("COS", "fp16"), ("ATAN", "fp16")],
      at=lambda value: precise(value[1]))  # fmt: skip
def unary_int8(net: Net, value: tuple[str, str]) -> None:
    unary(net, value[0])


def sliced(net: Net, shape: tuple[int, ...], size: tuple[int, ...], stride: int = 1) -> Any:
    return net.raw.add_slice(net.input(*shape), (0,) * len(shape), size, (1,) * (len(shape) - 1) + (stride,))


@case("slice-version", inside=[0], outside=[0])
@case("slice-fp16", inside=["fp16", "fp16 int8"], outside=["int8"], at=precise)
def plain_slice(net: Net, value: Any) -> None:
    net.test(sliced(net, (1, 4, 4, 4), (1, 2, 2, 2)))


@case("slice-4d", low=True)
def slice_rank(net: Net, value: int) -> None:
    net.test(sliced(net, (4,) * value, (4,) * (value - 1) + (2,)))


@case("slice-mode", inside=["STRICT_BOUNDS"], outside=members("SampleMode", "STRICT_BOUNDS DEFAULT"))
def slice_mode(net: Net, value: str) -> None:
    layer = sliced(net, (1, 4, 4, 4), (1, 2, 2, 2))
    layer.mode = getattr(trt.SampleMode, value)
    net.test(layer)


@case("slice-static", inside=[True], outside=[False])
def slice_static(net: Net, value: bool) -> None:
    layer = sliced(net, (1, 4, 4, 4), (1, 2, 2, 2))
    if not value:
        layer.set_input(1, net.input(4, dtype="INT32"))
    net.test(layer)


@case("slice-stride")
def slice_stride(net: Net, value: int) -> None:
    net.test(sliced(net, (1, 4, 4, 4), (1, 2, 2, 2), value))


@case("slice-batch", inside=[2], outside=[1])
def slice_batch(net: Net, value: int) -> None:
    net.test(sliced(net, (2, 4, 4, 4), (value, 2, 2, 2)))


def softmax(net: Net, shape: tuple[int, ...], axis: int) -> None:
    layer = net.raw.add_softmax(net.input(*shape))
    layer.axes = 1 << axis
    net.test(layer)


@case("softmax-xavier", inside=[0], outside=[0])
@case("softmax-fp16", inside=["fp16", "fp16 int8"], outside=["int8"], at=precise)
def plain_softmax(net: Net, value: Any) -> None:
    softmax(net, (1, 8, 1, 1), 1)


@case("softmax-axis", low=True, high=False)
def softmax_axis(net: Net, value: int) -> None:
    softmax(net, (2, 2, 2, 2), 4 + value)


@case("softmax-vector")
def softmax_vector(net: Net, value: int) -> None:
    softmax(net, (2, 1, 1, value), 3)


@case("softmax-spread")
def softmax_spread(net: Net, value: int) -> None:
    softmax(net, (1, value, 2, 1), 1)


@case("softmax-one", inside=[(1, 8, 1, 1)], outside=[(2, 8, 1, 1), (1, 8, 2, 1)])
def softmax_one(net: Net, value: tuple[int, ...]) -> None:
    softmax(net, value, 1)


def shuffle(net: Net, x: Any, shape: tuple[int, ...] = (), order: tuple[int, ...] = (), then: bool = True) -> Any:
    layer = net.raw.add_shuffle(x)
    if shape:
        layer.reshape_dims = shape
    if order:
        layer.first_transpose = order
    if then:
        net.test(layer, then_relu=True)
    return layer


@case("shuffle-version", inside=[0], outside=[0])
def plain_shuffle(net: Net, value: Any) -> None:
    shuffle(net, net.relu(net.input(1, 4, 2, 2)), (1, 2, 4, 2))


@case("shuffle-4d", low=True)
def shuffle_rank(net: Net, value: int) -> None:
    shuffle(net, net.relu(net.input(1, 4, 2, 2)), {3: (1, 4, 4), 4: (1, 2, 2, 4), 5: (1, 2, 2, 2, 2)}[value])


@case("shuffle-batch", inside=["transpose", "reshape"], outside=["batch transposed", "batch reshaped"])
def shuffle_batch(net: Net, value: str) -> None:
    given: dict[str, Any] = {
        "transpose": {"order": (0, 3, 1, 2)},
        "reshape": {"shape": (2, 2, 2, 4)},
        "batch transposed": {"order": (1, 0, 2, 3)},
        "batch reshaped": {"shape": (1, 4, 4, 2)},
    }[value]
    shuffle(net, net.relu(net.input(2, 2, 4, 2)), **given)


@case("shuffle-neighbour", inside=["relu", "slice transposed"], outside=["slice", "concat"])
def shuffle_neighbour(net: Net, value: str) -> None:
    x = net.relu(net.input(1, 4, 4, 2))
    if value.startswith("slice"):
        x = net.raw.add_slice(x, (0,) * 4, (1, 2, 4, 2), (1,) * 4).get_output(0)
    given: dict[str, Any] = {"order": (0, 2, 1, 3)} if value == "slice transposed" else {"shape": (1, 2, -1, 4)}
    layer = shuffle(net, x, **given, then=value != "concat")
    if value == "concat":
        layer.name = "tested"
        joined = net.raw.add_concatenation([layer.get_output(0)] * 2)
        joined.axis = 1
        net.output(joined.get_output(0))


def reduce(net: Net, kind: str, axes: int = 0b1100, keep: bool = True) -> None:
    net.test(net.raw.add_reduce(net.input(2, 2, 3, 4), getattr(trt.ReduceOperation, kind), axes, keep))


@case("reduce-version", inside=["MAX"], outside=["MAX"])
@case("reduce-op", inside=["MAX"], outside=members("ReduceOperation", "MAX NONE"))
def reduce_op(net: Net, value: str) -> None:
    reduce(net, value)


@case("reduce-4d", inside=[True], outside=[False])
def reduce_rank(net: Net, value: bool) -> None:
    reduce(net, "MAX", keep=value)


@case("reduce-axes", inside=[0b1110, 0b0010], outside=[0b0001, 0b1001])
def reduce_axes(net: Net, value: int) -> None:
    reduce(net, "MAX", axes=value)


@case("explicit-quantization", inside=["HALF"], outside=["FLOAT", "HALF"])
@case("quantization", inside=["int8", "int8 fp16"], outside=["fp16"], at=precise)
def quantize(net: Net, value: str) -> None:
    x = net.input(1, 2, 3, 4, dtype=value if value.isupper() else "HALF")
    scale = net.raw.add_constant((), trt.Weights(np.full((), 0.1, np.float16 if x.dtype == trt.DataType.HALF else np.float32)))
    told = [trt.DataType.INT8] if capabilities().quantize_output_type else []
    net.test(net.raw.add_quantize(x, scale.get_output(0), *told))
