"""A network for every row of the DLA's table, with the value that the row is about in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from support.dla_networks import Net
from torch2edge._trt import trt
from torch2edge.dla.layer import Layer

Build = Callable[[Net, Any], Any]


@dataclass
class Case:
    """How to make a layer with a value, and which values to try where the rule's limit does not say.

    A range is tried at its ends and one beyond them; ``low=False`` where TensorRT itself has nothing below it,
    ``high=False`` where it has nothing above it.
    """

    build: Build
    inside: list[Any] = field(default_factory=list)
    outside: list[Any] = field(default_factory=list)
    low: bool = False
    high: bool = True
    at: Callable[[Any], dict[str, Any]] = lambda value: {}
    edit: Callable[[list[Layer], Any], None] | None = None  # what this TensorRT cannot say of a network: INT8 ranges


CASES: dict[str, Case] = {}


def case(*names: str, **settings: Any) -> Callable[[Build], Build]:
    def register(build: Build) -> Build:
        for name in names:
            CASES[name] = Case(build, **settings)
        return build

    return register


def members(enum: str, leave_out: str = "") -> list[str]:
    return [name for name in getattr(trt, enum).__members__ if name not in leave_out.split()]


# ---- any layer ----------------------------------------------------------------------------------------------------------


def precise(value: str) -> dict[str, Any]:
    return {"fp16": "fp16" in value, "int8": "int8" in value}


@case("precision-allowed", inside=["fp16", "int8", "fp16 int8"], outside=[""], at=precise)
def relu_in(net: Net, value: str) -> None:
    net.test(net.raw.add_activation(net.input(1, 2, 3, 4), trt.ActivationType.RELU))


@case("dtype", inside=["FLOAT", "HALF"], outside=["INT32"])
@case("dtype-strong", inside=["HALF"], outside=["FLOAT", "INT32"])
def sum_of(net: Net, value: str) -> None:
    x = net.input(1, 2, 3, 4, dtype=value)
    net.test(net.raw.add_elementwise(x, x, trt.ElementWiseOperation.SUM))


@case("static-shapes", inside=[2], outside=[-1])
@case("batch", "batch-before-8.4", low=False)
def relu_of_batch(net: Net, value: int) -> None:
    net.test(net.raw.add_activation(net.input(value, 2, 3, 4), trt.ActivationType.RELU))


@case("dimensions", inside=[(8192, 1, 1), (1, 8192, 1), (1, 1, 8192)], outside=[(8193, 1, 1), (1, 8193, 1), (1, 1, 8193)])
def relu_of_plane(net: Net, value: tuple[int, ...]) -> None:
    net.test(net.raw.add_activation(net.input(1, *value), trt.ActivationType.RELU))


@case("two-spatial-dims", inside=[("relu", 4), ("sum", 4), ("scale", 4), ("relu", 5), ("sum", 6)],
      outside=[("relu", 3), ("relu", 2), ("sum", 3), ("scale", 3)])  # fmt: skip
@case("four-dims", inside=[("prelu", 4), ("softmax", 4), ("concat", 4), ("prelu", 5), ("concat", 6)],
      outside=[("prelu", 3), ("softmax", 3), ("concat", 3)])  # fmt: skip
def of_rank(net: Net, value: tuple[str, int]) -> None:
    kind, rank = value
    x = net.input(*(2,) * rank)
    layer = {
        "relu": lambda: net.raw.add_activation(x, trt.ActivationType.RELU),
        "sum": lambda: net.raw.add_elementwise(x, x, trt.ElementWiseOperation.SUM),
        "scale": lambda: net.raw.add_scale_nd(x, trt.ScaleMode.CHANNEL, net.weights(2), net.weights(2), trt.Weights(), 1),
        "softmax": lambda: net.raw.add_softmax(x),
        "concat": lambda: net.concat(x),
        "prelu": lambda: net.raw.add_parametric_relu(x, net.constant(*(1,) * rank)),
    }[kind]()
    net.test(layer)


# ---- convolution, matrix product ----------------------------------------------------------------------------------------


@case("convolution-2d")
def convolution_of_rank(net: Net, value: int) -> None:
    net.test(net.convolution(net.input(1, 1, *(4,) * value), kernel=(1,) * value))


@case("convolution-kernel", inside=[(32, 1), (1, 32), (1, 1)], outside=[(33, 1), (1, 33)])
def convolution_kernel(net: Net, value: tuple[int, int]) -> None:
    net.test(net.convolution(net.input(1, 1, 40, 40), kernel=value))


@case("convolution-padding")
def convolution_padding(net: Net, value: int) -> None:
    layer = net.convolution(net.input(1, 1, 40, 40), kernel=(32, 32))
    layer.padding_nd = (value, 0)
    net.test(layer)


@case("convolution-padding-kernel", inside=[(2, 0), (0, 4)], outside=[(3, 0), (0, 5)])
def convolution_padding_kernel(net: Net, value: tuple[int, int]) -> None:
    layer = net.convolution(net.input(1, 1, 10, 10), kernel=(3, 5))
    layer.post_padding = value
    net.test(layer)


@case("convolution-stride", "convolution-dilation")
def convolution_step(net: Net, value: int) -> None:
    layer = net.convolution(net.input(1, 1, 80, 80), kernel=(2, 2))
    setattr(layer, "stride_nd" if value < 10 else "dilation_nd", (1, value))
    net.test(layer)


@case("convolution-maps")
def convolution_maps(net: Net, value: int) -> None:
    net.test(net.convolution(net.input(1, 1, 1, 1), maps=value))


@case("convolution-groups")
def convolution_groups(net: Net, value: int) -> None:
    net.test(net.convolution(net.input(1, value, 1, 1), maps=value, groups=value))


@case("convolution-weights", inside=[True], outside=[False])
def convolution_weights(net: Net, value: bool) -> None:
    x = net.input(1, 2, 4, 4)
    layer = net.raw.add_convolution_nd(x, 3, (2, 2), trt.Weights())
    layer.set_input(1, net.constant(3, 2, 2, 2) if value else net.input(3, 2, 2, 2))
    net.test(layer)


@case("convolution-cbuf", inside=[("fp16", 240), ("int8", 480)], outside=[("fp16", 241), ("int8", 481)],
      at=lambda value: precise(value[0]))  # fmt: skip
def convolution_cbuf(net: Net, value: tuple[str, int]) -> None:
    net.test(net.convolution(net.input(1, 64, 16, value[1]), kernel=(16, 1)))


@case("matmul-constant", inside=[True], outside=[False])
def product(net: Net, value: bool) -> None:
    x, none = net.input(3, 8), trt.MatrixOperation.NONE
    net.test(net.raw.add_matrix_multiply(x, none, net.constant(8, 5) if value else net.input(8, 5), none))


@case("matmul-channels", inside=[(8192, 1), (1, 8192)], outside=[(8193, 1), (1, 8193)])
def product_channels(net: Net, value: tuple[int, int]) -> None:
    none = trt.MatrixOperation.NONE
    net.test(net.raw.add_matrix_multiply(net.input(1, value[0]), none, net.constant(*value), none))


# ---- deconvolution, pooling ---------------------------------------------------------------------------------------------


@case("deconvolution-2d")
def deconvolution_of_rank(net: Net, value: int) -> None:
    net.test(net.deconvolution(net.input(1, 1, *(4,) * value), kernel=(1,) * value))


@case("deconvolution-kernel", inside=[(32, 1), (64, 1), (1, 96), (128, 1)], outside=[(33, 1), (65, 1), (64, 2), (64, 64)])
def deconvolution_kernel(net: Net, value: tuple[int, int]) -> None:
    net.test(net.deconvolution(net.input(1, 1, 4, 4), kernel=value))


@case("deconvolution-stride", inside=[(32, 1), (64, 1), (1, 96), (1, 128)], outside=[(33, 1), (1, 127), (2, 64)])
def deconvolution_stride(net: Net, value: tuple[int, int]) -> None:
    layer = net.deconvolution(net.input(1, 1, 4, 4), kernel=(1, 1))
    layer.stride_nd = value
    net.test(layer)


@case("deconvolution-padding")
def deconvolution_padding(net: Net, value: int) -> None:
    layer = net.deconvolution(net.input(1, 1, 4, 4), kernel=(4, 4))
    layer.padding_nd = (0, value)
    net.test(layer)


@case("deconvolution-groups")
def deconvolution_groups(net: Net, value: int) -> None:
    net.test(net.deconvolution(net.input(1, 4, 4, 4), maps=4, groups=value))


@case("deconvolution-dilation")
def deconvolution_dilation(net: Net, value: int) -> None:
    layer = net.deconvolution(net.input(1, 1, 4, 4), kernel=(2, 2))
    layer.dilation_nd = (value, value)
    net.test(layer)


@case("deconvolution-channels", inside=[(8192, 1), (1, 8192)], outside=[(8193, 1), (1, 8193)])
def deconvolution_channels(net: Net, value: tuple[int, int]) -> None:
    net.test(net.deconvolution(net.input(1, value[0], 1, 1), maps=value[1]))


@case("deconvolution-square", inside=[(22, 22), (32, 31), (23, 2)], outside=[(23, 23), (32, 32)])
def deconvolution_square(net: Net, value: tuple[int, int]) -> None:
    layer = net.deconvolution(net.input(1, 1, 4, 4), kernel=(value[0],) * 2)
    layer.stride_nd = (value[1],) * 2
    net.test(layer)


@case("pooling-2d")
def pooling_of_rank(net: Net, value: int) -> None:
    net.test(net.raw.add_pooling_nd(net.input(1, 1, *(4,) * value), trt.PoolingType.MAX, (2,) * value))


def pooling(net: Net, kind: str, window: tuple[int, int], size: int = 40) -> Any:
    return net.raw.add_pooling_nd(net.input(1, 2, size, size), getattr(trt.PoolingType, kind), window)


@case("pooling-op", outside=members("PoolingType", "MAX AVERAGE"))
def pooling_op(net: Net, value: str) -> None:
    net.test(pooling(net, value, (2, 2)))


@case("pooling-window")
def pooling_window(net: Net, value: int) -> None:
    net.test(pooling(net, "MAX", (1, value)))


@case("pooling-padding")
def pooling_padding(net: Net, value: int) -> None:
    layer = pooling(net, "MAX", (8, 8))
    layer.padding_nd = (value, value)
    net.test(layer)


@case("pooling-stride")
def pooling_stride(net: Net, value: int) -> None:
    layer = pooling(net, "MAX", (8, 8))
    layer.stride_nd = (1, value)
    net.test(layer)


@case("pooling-inclusive", inside=[("AVERAGE", False), ("MAX", True)], outside=[("AVERAGE", True)])
def pooling_inclusive(net: Net, value: tuple[str, bool]) -> None:
    layer = pooling(net, value[0], (2, 2))
    layer.average_count_excludes_padding = value[1]
    net.test(layer)


def ranges(layers: list[Layer], value: tuple[Any, ...]) -> None:
    """Give the tensors of the tested layer INT8 ranges; this TensorRT has none, weakly typed ones do."""
    layer = next(layer for layer in layers if layer.name == "tested")
    *inputs, output = value
    layer.inputs = tuple(replace(t, range=r) for t, r in zip(layer.inputs, inputs) if t is not None)
    layer.outputs = (replace(layer.outputs[0], range=output),)


@case("pooling-int8-range", inside=[(2.0, 2.0), (None, 2.0)], outside=[(2.0, 4.0)], edit=ranges)
def pooling_range(net: Net, value: tuple[Any, ...]) -> None:
    net.test(pooling(net, "MAX", (2, 2)))
