"""What the rows of the DLA's table read of a layer: each gives the values that the row's limit is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .cbuf import banks_needed
from .layer import Layer, Setting, Tensor, batch_of, chw_of

__all__ = [
    "always",
    "average_inclusive",
    "batches",
    "broadcasts",
    "cast_follows",
    "cbuf",
    "channel_axis",
    "channels",
    "clip_high",
    "clip_low",
    "dtypes",
    "equal_ranges",
    "input_count",
    "keeps_batch",
    "largest_axis",
    "largest_vector",
    "leading_scales",
    "matrix_sizes",
    "moves_batch",
    "next_to_slice_or_concat",
    "operation_needs",
    "option",
    "padding_in_kernel",
    "powers",
    "precisions",
    "rank_of_result",
    "ranks",
    "reads_comparison",
    "reduces_batch",
    "rounding",
    "same_shapes",
    "scale_count",
    "scale_values",
    "sizes",
    "slopes_rank",
    "softmax_axes",
    "spatial_dims",
    "square_kernel",
    "static",
    "static_slice",
    "vector_alone",
    "vector_of_one",
    "weight_is_constant",
    "whole_scales",
    "window_sizes",
]  # fmt: skip

Read = Callable[[Layer, Setting], Iterable[Any]]
TOLD_SIZES = ("SLICE", "SHUFFLE", "RESIZE")
LONG = (64, 96, 128)  # sizes of a deconvolution's window or stride where the other is 1


def _tensors(layer: Layer) -> list[Tensor]:
    """What goes through a layer: its data and its results, without the sizes that it is told by further inputs."""
    data = layer.data[:1] if layer.type in TOLD_SIZES else layer.data
    return [t for t in (*data, *layer.outputs) if t.shape is not None]


def _shape(layer: Layer) -> tuple[int, ...]:
    return layer.first.shape or ()


# ---- any layer ----------------------------------------------------------------------------------------------------------


def always(layer: Layer, at: Setting) -> Iterable[Any]:
    """The operation where there is one, for rows that take none."""
    return [layer.options.get("op", layer.type)]


def option(name: str) -> Read:
    """An option of the layer, as a list of its values."""

    def read(layer: Layer, at: Setting) -> Iterable[Any]:
        value = layer.options[name]
        return value if isinstance(value, tuple) else [value]

    return read


def precisions(layer: Layer, at: Setting) -> Iterable[Any]:
    """The precisions that the DLA may use."""
    return at.precisions


def dtypes(layer: Layer, at: Setting) -> Iterable[Any]:
    """The dtypes of data and results; the booleans of a comparison, and of the cast after it, are the hardware's own."""
    booleans = layer.compares or any(maker.compares for maker in layer.makers)
    return [t.dtype for t in _tensors(layer) if not (booleans and t.dtype == "BOOL")]


def static(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether every size is known."""
    return [t.shape is not None and -1 not in t.shape for t in (*layer.data, *layer.outputs)]


def batches(layer: Layer, at: Setting) -> Iterable[Any]:
    """The DLA's batch of each tensor."""
    return [batch_of(t.shape or ()) for t in _tensors(layer)]


def sizes(layer: Layer, at: Setting) -> Iterable[Any]:
    """C, H and W of each tensor."""
    return [size for t in _tensors(layer) for size in chw_of(t.shape or ())]


def ranks(layer: Layer, at: Setting) -> Iterable[Any]:
    """The rank of the data."""
    return [len(_shape(layer))]


def rank_of_result(layer: Layer, at: Setting) -> Iterable[Any]:
    """The rank of the data and of the result."""
    return [len(t.shape or ()) for t in (layer.first, layer.outputs[0])]


def equal_ranges(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether the INT8 ranges of inputs and outputs, where the network has them, are one."""
    tensors = [*layer.data] if layer.type == "ELEMENTWISE" else _tensors(layer)
    return [len({t.range for t in tensors if t.range is not None}) < 2]


# ---- windows ------------------------------------------------------------------------------------------------------------


def spatial_dims(layer: Layer, at: Setting) -> Iterable[Any]:
    """How many spatial dimensions the window has."""
    return [len(layer.options["kernel"])]


def padding_in_kernel(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether the padding is less than the kernel, axis by axis."""
    return [pad < kernel for pad, kernel in zip(layer.options["padding"], layer.options["kernel"] * 2)]


def channels(layer: Layer, at: Setting) -> Iterable[Any]:
    """Input and output channels."""
    return [_shape(layer)[1], layer.options["maps"]]


def weight_is_constant(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether what the data meets (a kernel, slopes, a matrix) is known when the engine is built."""
    return [tensor is None or tensor.constant for tensor in layer.inputs[1:]]


def cbuf(layer: Layer, at: Setting) -> Iterable[Any]:
    """Banks of the convolution buffer."""
    shape, options = _shape(layer), layer.options
    if len(options["kernel"]) != 2 or len(shape) != 4:
        return []
    return [banks_needed(shape[1], shape[3], options["kernel"], options["dilation"], at.element_size)]


def window_sizes(name: str) -> Read:
    """The kernel or stride of a deconvolution; one of 1 x 64, 96 or 128 counts as 1."""

    def read(layer: Layer, at: Setting) -> Iterable[Any]:
        values = layer.options[name]
        long = sorted(values)[:-1] == [1] and max(values) in LONG
        return [1] if long else values

    return read


def square_kernel(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether kernel and stride are not one square of 23 to 32."""
    both = {*layer.options["kernel"], *layer.options["stride"]}
    return [not (len(both) == 1 and 23 <= min(both) <= 32)]


def average_inclusive(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether an average counts the padding."""
    return [layer.options["op"] != "AVERAGE" or not layer.options["excludes_padding"]]


# ---- element by element -------------------------------------------------------------------------------------------------


def clip_low(layer: Layer, at: Setting) -> Iterable[Any]:
    """The lower bound of a clip."""
    return [layer.options["alpha"]] if layer.options["op"] == "CLIP" else []


def clip_high(layer: Layer, at: Setting) -> Iterable[Any]:
    """The upper bound of a clip."""
    return [layer.options["beta"]] if layer.options["op"] == "CLIP" else []


def broadcasts(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether both operands have the result's shape, or one has (N, C, 1, 1) or (N, 1, 1, 1)."""
    shape = layer.outputs[0].shape or ()
    ones = (1,) * (len(shape) - 2)
    allowed = [shape, (*shape[:2], *ones), (*shape[:1], 1, *ones)]
    found = [t.shape for t in layer.inputs if t is not None]
    return [other in allowed for other in found] + [shape in found]


def same_shapes(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether both operands have the result's shape."""
    return [t.shape == layer.outputs[0].shape for t in layer.inputs if t is not None]


def powers(layer: Layer, at: Setting) -> Iterable[Any]:
    """The exponents of a scale layer."""
    return sorted(set(layer.options["power"].tolist()))


def slopes_rank(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether the slopes have the rank of the data."""
    slopes = layer.inputs[1]
    return [slopes is not None and len(slopes.shape or ()) == len(_shape(layer))]


def operation_needs(names: tuple[str, ...]) -> Read:
    """The precisions of the DLA where the operation is one of ``names``; else INT8, which is always right."""

    def read(layer: Layer, at: Setting) -> Iterable[Any]:
        return at.precisions if layer.options["op"] in names else ["int8"]

    return read


def cast_follows(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether a comparison's result is cast at once, and nothing else reads it."""
    if not layer.compares:
        return []
    return [bool(layer.readers) and all(reader.type == "CAST" for reader in layer.readers)]


def reads_comparison(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether it reads the result of a comparison."""
    return [any(maker.compares for maker in layer.makers)]


# ---- shapes -------------------------------------------------------------------------------------------------------------


def channel_axis(layer: Layer, at: Setting) -> Iterable[Any]:
    """Where the axis lies, counted from the end: the channels are third from last."""
    return [layer.options["axis"] - len(_shape(layer))]


def input_count(layer: Layer, at: Setting) -> Iterable[Any]:
    """How many inputs there are."""
    return [len(layer.inputs)]


def scale_count(layer: Layer, at: Setting) -> Iterable[Any]:
    """How many scales a resize has; none where it is told the output's shape."""
    return [len(layer.options["scales"])]


def leading_scales(layer: Layer, at: Setting) -> Iterable[Any]:
    """The scales of batch and channels."""
    return list(layer.options["scales"][:2])


def whole_scales(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether the scales of height and width are whole numbers."""
    return [scale == int(scale) for scale in layer.options["scales"][2:]]


def scale_values(mode: str) -> Read:
    """The scales of height and width, of a resize in this mode."""

    def read(layer: Layer, at: Setting) -> Iterable[Any]:
        return [int(scale) for scale in layer.options["scales"][2:]] if layer.options["op"] == mode else []

    return read


def rounding(mode: str) -> Read:
    """Coordinate transformation, selector and rounding of a resize in this mode; of a linear one the first two."""

    def read(layer: Layer, at: Setting) -> Iterable[Any]:
        names = layer.options["rounding"][: 3 if mode == "NEAREST" else 2]
        return ["/".join(names)] if layer.options["op"] == mode else []

    return read


def static_slice(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether start, size and stride are known when the engine is built."""
    return [tensor is None or tensor.constant for tensor in layer.inputs[1:4]]


def keeps_batch(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether the result's first size is that of the data."""
    return [(layer.outputs[0].shape or (0,))[0] == (_shape(layer) or (0,))[0]]


def moves_batch(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether the first axis stays first, and keeps its size."""
    stays = [order[0] == 0 for order in layer.options["transposes"] if order]
    return [*stays, *keeps_batch(layer, at)]


def next_to_slice_or_concat(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether a reshape has no slice and no concatenation beside it; a transpose may have."""
    (before, after), out = (layer.first.shape or (), layer.outputs[0].shape or ()), ("SLICE", "CONCATENATION")
    if sorted(before) == sorted(after) and _moves(layer):
        return []
    return [neighbour.type not in out for neighbour in (*layer.makers, *layer.readers)]


def _moves(layer: Layer) -> bool:
    """Whether a shuffle transposes anything."""
    return any(list(order) != sorted(order) for order in layer.options["transposes"])


def _axes(layer: Layer) -> list[int]:
    return [axis for axis in range(len(_shape(layer))) if layer.options["axes"] >> axis & 1]


def softmax_axes(layer: Layer, at: Setting) -> Iterable[Any]:
    """Where the axes lie, counted from the end: W, H and C are -1, -2 and -3."""
    return [axis - len(_shape(layer)) for axis in _axes(layer)]


def vector_alone(layer: Layer) -> bool:
    """Whether a softmax has nothing beside its axis, apart from the batch."""
    shape = _shape(layer)
    first = len(shape) - len(chw_of(shape))
    return all(size == 1 for axis, size in enumerate(shape) if axis >= first and axis not in _axes(layer))


def largest_vector(layer: Layer, at: Setting) -> Iterable[Any]:
    """The axis of a softmax that has nothing beside it."""
    return [_shape(layer)[axis] for axis in _axes(layer)] if vector_alone(layer) else []


def largest_axis(layer: Layer, at: Setting) -> Iterable[Any]:
    """The axis of a softmax that has something beside it."""
    return [] if vector_alone(layer) else [_shape(layer)[axis] for axis in _axes(layer)]


def vector_of_one(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether a softmax has nothing beside its axis, the batch included."""
    return [vector_alone(layer) and batch_of(_shape(layer)) == 1]


def reduces_batch(layer: Layer, at: Setting) -> Iterable[Any]:
    """Whether only C, H and W are reduced."""
    return [axis >= len(_shape(layer)) - 3 for axis in _axes(layer)]


def matrix_sizes(layer: Layer, at: Setting) -> Iterable[Any]:
    """Input and output channels of the 1x1 convolution that a matrix product becomes."""
    weight = layer.inputs[1]
    return [] if weight is None or weight.shape is None else list(weight.shape[-2:])
