"""The DLA's rules for layers without windows."""

from __future__ import annotations

from . import predicates as p
from .rule import AnyOf, Holds, Nothing, OneOf, Range, Rule
from .rules_general import FP32
from .rules_windows import _range

__all__ = ["LAYERS"]

ACTIVATION, PRELU, ELEMENTWISE, SCALE = ("ACTIVATION",), ("PARAMETRIC_RELU",), ("ELEMENTWISE",), ("SCALE",)
CONCAT, RESIZE, UNARY, SLICE, SOFTMAX = ("CONCATENATION",), ("RESIZE",), ("UNARY",), ("SLICE",), ("SOFTMAX",)
SHUFFLE, REDUCE, CAST, QDQ = ("SHUFFLE",), ("REDUCE",), ("CAST",), ("QUANTIZE", "DEQUANTIZE")
NOT_TAKEN = "Layer '{name}' ({type}): Unsupported on DLA. Switching this layer's device type to GPU."
NO_OP = "{name}: DLA cores do not support {value} "
ARITHMETIC = ("SUM", "SUB", "PROD", "MAX", "MIN")
NEWER = "8.6.12"  # of DRIVE OS; the next for Jetson is 10

LAYERS = (
    # ---- activation
    Rule("activation-op", ACTIVATION, "function", p.option("op"), OneOf("RELU", "SIGMOID", "TANH", "CLIP", "LEAKY_RELU"),
         "{name}: ActivationLayer (with ActivationType = {value}) not supported for DLA.",
         "S3 G84 D; but H86..H111 leave LEAKY_RELU out", since="8"),
    Rule("activation-op-7", ACTIVATION, "function", p.option("op"), OneOf("RELU", "SIGMOID", "TANH", "CLIP"),
         "{name}: ActivationLayer (with ActivationType = {value}) not supported for DLA.",
         "GH marcoslucianops/DeepStream-Yolo#27", "log", until="8"),
    Rule("clip-low", ACTIVATION, "lower bound of a clip", p.clip_low, Range(0, 0), _range("a clip's lower bound"), "S3 G84"),
    Rule("clip-high", ACTIVATION, "upper bound of a clip", p.clip_high, Range(1, 127), _range("a clip's upper bound"),
         "S3 G84"),
    Rule("prelu-slopes", PRELU, "slopes known at build time", p.weight_is_constant, Holds(),
         "{name}: DLA only supports parametric ReLU with constant slopes.", "S3 G84 H86 D"),
    Rule("prelu-rank", PRELU, "slopes of the input's rank", p.slopes_rank, Holds(),
         "{name}: DLA requires the slopes of a parametric ReLU to have the input's rank.", "S3"),
    # ---- element-wise
    Rule("elementwise-op-8.4", ELEMENTWISE, "operation", p.option("op"), OneOf(*ARITHMETIC), NO_OP + "ElementWise operation.",
         "S3 G84 H86; GH ultralytics/ultralytics#16449", "log", until="8.5"),
    Rule("elementwise-op-8.5", ELEMENTWISE, "operation", p.option("op"), OneOf(*ARITHMETIC, "EQUAL"),
         NO_OP + "ElementWise operation.", "S3 H86 DLASW; GH ultralytics/ultralytics#16449", "log", since="8.5", until=NEWER),
    Rule("elementwise-op", ELEMENTWISE, "operation", p.option("op"),
         OneOf(*ARITHMETIC, "DIV", "POW", "EQUAL", "GREATER", "LESS"), NO_OP + "ElementWise operation.",
         "D; DLASW names 8.6.12, of Pow no version", since=NEWER),
    Rule("elementwise-broadcast-8.4", ELEMENTWISE, "equal shapes", p.same_shapes, Holds(),
         "{name}: DLA does not broadcast.", "G84 has none; TUT has GroupNorm's Mul and Add on the GPU", "log", until="8.5"),
    Rule("elementwise-broadcast", ELEMENTWISE, "shapes: NCHW with NCHW, NC11 or N111", p.broadcasts, Holds(),
         "{name}: DLA only broadcasts an operand of shape NC11 or N111.", "RECALL", "remembered", since="8.5"),
    Rule("elementwise-int8-range", ELEMENTWISE, "one INT8 range for both operands", p.equal_ranges, Holds(),
         "{name}: DLA requires equal INT8 ranges of both operands.", "S3 G84 H86", precisions=("int8",)),
    Rule("comparison-int8", ELEMENTWISE, "INT8 for comparisons", p.operation_needs(("EQUAL", "GREATER", "LESS")),
         AnyOf("int8"),
         "{name}: DLA only supports comparisons in INT8.", "D", since="8.5"),
    Rule("comparison-cast", ELEMENTWISE, "a comparison's result is cast at once", p.cast_follows, Holds(),
         "{name}: DLA requires a cast of a comparison's result, and nothing else to read it.", "D", since="8.5"),
    Rule("cast", CAST, "only of a comparison's result", p.reads_comparison, Holds(), NOT_TAKEN, "DLASW D"),
    # ---- scale, LRN
    Rule("scale-power", SCALE, "power", p.powers, Range(1, 1),
         "{name}: DLA only supports scale and shift; the power is {value}.",
         "S3 G84; INF", "remembered"),
    Rule("lrn-window", ("LRN",), "window", p.option("window"), OneOf(3, 5, 7, 9),
         "{name}: DLA supports LRN windows of {limit}, not {value}.", "S3 G84 H86 D"),
    # ---- concatenation
    Rule("concat-axis", CONCAT, "axis, from the end", p.channel_axis, Range(-3, -3),
         "{name}: DLA only supports concatenation on the C dimension.", "S3 G84 H86; GH ultralytics/ultralytics#18012", "log"),
    Rule("concat-inputs", CONCAT, "inputs", p.input_count, Range(2, 10000),
         "{name}: Concatenation on DLA requires at least two inputs.", "GH marcoslucianops/DeepStream-Yolo#27", "log"),
    Rule("concat-int8-range", CONCAT, "one INT8 range for inputs and output", p.equal_ranges, Holds(),
         "{name}: DLA requires equal INT8 ranges of a concatenation's inputs and output.", "S3 G84 H86", precisions=("int8",)),
    # ---- resize
    Rule("resize-scales", RESIZE, "scales, and no output shape", p.scale_count, Range(4, 4),
         "{name}: DLA only supports resize layers with 4 scales, this one has {value}.", "S3 G84 H86"),
    Rule("resize-leading", RESIZE, "scales of batch and channels", p.leading_scales, Range(1, 1),
         "{name}: DLA does not support resizing batch or channels (a scale of {value}).", "S3 G84 H86"),
    Rule("resize-whole", RESIZE, "scales are whole numbers", p.whole_scales, Holds(),
         "{name}: DLA only supports resizing by whole numbers.", "S3 G84 H86"),
    Rule("resize-mode", RESIZE, "mode", p.option("op"), OneOf("NEAREST", "LINEAR"),
         "{name}: DLA cores do not support {value} Resize mode.", "S3 G84 H86"),
    Rule("resize-nearest", RESIZE, "scale of nearest", p.scale_values("NEAREST"), Range(1, 32), _range("a scale"),
         "S3 G84 H86"),
    Rule("resize-linear", RESIZE, "scale of bilinear", p.scale_values("LINEAR"), Range(1, 4), _range("a scale"), "S3 G84 H86"),
    Rule("resize-nearest-rounding", RESIZE, "coordinates, selector and rounding of nearest", p.rounding("NEAREST"),
         OneOf("ASYMMETRIC/FORMULA/FLOOR", "HALF_PIXEL/FORMULA/HALF_DOWN", "HALF_PIXEL/FORMULA/HALF_UP"),
         "{name}: DLA does not support nearest resizing by {value}.", "H86"),
    Rule("resize-linear-rounding", RESIZE, "coordinates and selector of bilinear", p.rounding("LINEAR"),
         OneOf("HALF_PIXEL/FORMULA", "HALF_PIXEL/UPPER"), "{name}: DLA does not support bilinear resizing by {value}.", "H86"),
    # ---- unary
    Rule("unary-op-abs", UNARY, "operation", p.option("op"), OneOf("ABS"), NO_OP + "Unary operation.", "S3 G84 H86",
         until=NEWER),
    Rule("unary-op", UNARY, "operation", p.option("op"), OneOf("ABS", "SIN", "COS", "ATAN"), NO_OP + "Unary operation.",
         "DLASW (writes Atanh); RECALL for Atan", "remembered", since=NEWER),
    Rule("unary-int8", UNARY, "INT8 for SIN, COS, ATAN", p.operation_needs(("SIN", "COS", "ATAN")), AnyOf("int8"),
         "{name}: DLA only supports this Unary operation in INT8.", "RECALL", "remembered", since=NEWER),
    # ---- slice
    Rule("slice-version", SLICE, "slices before 8.5", p.always, Nothing(), NOT_TAKEN, "G84 has none", until="8.5"),
    Rule("slice-fp16", SLICE, "FP16", p.precisions, AnyOf("fp16"), FP32, "S3 H86"),
    Rule("slice-4d", SLICE, "rank", p.ranks, Range(4, 4), "{name}: DLA only supports slicing 4 dimensional tensors.",
         "S3 H86; GH ultralytics/ultralytics#18012", "log"),
    Rule("slice-mode", SLICE, "mode", p.option("op"), OneOf("STRICT_BOUNDS", "DEFAULT"),
         "{name}: DLA does not support out-of-bounds slice operation. Set slice mode to SliceMode::kDEFAULT to allow the "
         "layer to be offloaded to DLA.", "S3 H86; GH ultralytics/ultralytics#23488", "log"),
    Rule("slice-static", SLICE, "start, size and stride known at build time", p.static_slice, Holds(),
         "{name}: DLA only supports slicing with static start, size and stride.", "S3 H86"),
    Rule("slice-stride", SLICE, "strides", p.option("stride"), Range(1, 1),
         "{name}: DLA only supports slicing with strides of 1, not {value}.",
         "S3 H86"),
    Rule("slice-batch", SLICE, "batch not sliced", p.keeps_batch, Holds(),
         "{name}: DLA does not support slicing the batch dimension.",
         "S3 H86"),
    # ---- softmax
    Rule("softmax-xavier", SOFTMAX, "softmax on Xavier", p.always, Nothing(), NOT_TAKEN, "S3 H86", targets=("xavier",)),
    Rule("softmax-fp16", SOFTMAX, "FP16", p.precisions, AnyOf("fp16"), FP32, "S3 H86"),
    Rule("softmax-axis", SOFTMAX, "axis, from the end: C, H or W", p.softmax_axes, Range(-3, -1),
         "{name}: DLA only supports SoftMax over C, H or W.", "S3 H86"),
    Rule("softmax-vector", SOFTMAX, "axis with nothing beside it", p.largest_vector, Range(1, 8192), _range("a SoftMax axis"),
         "S3 H86"),
    Rule("softmax-spread", SOFTMAX, "axis with something beside it (approximate)", p.largest_axis, Range(1, 1024),
         _range("a SoftMax axis"), "S3 H86", since="8.5"),
    Rule("softmax-one", SOFTMAX, "batch and other sizes 1", p.vector_of_one, Holds(),
         "{name}: DLA only supports SoftMax where batch and all sizes beside the axis are 1.", "G84", until="8.5"),
    # ---- shuffle
    Rule("shuffle-version", SHUFFLE, "reshape and transpose before 8.5", p.always, Nothing(), NOT_TAKEN, "G84 has none",
         until="8.5"),
    Rule("shuffle-4d", SHUFFLE, "rank of input and output", p.rank_of_result, Range(4, 4), NOT_TAKEN,
         "RECALL; GH ultralytics/ultralytics#18012", "log"),
    Rule("shuffle-batch", SHUFFLE, "batch untouched", p.moves_batch, Holds(), NOT_TAKEN, "RECALL", "remembered"),
    Rule("shuffle-neighbour", SHUFFLE, "no reshape beside a slice or a concatenation", p.next_to_slice_or_concat, Holds(),
         "This version of DLA does not support reshape layers directly connected to Slice or Concat. Validation failed for "
         "DLA layer: {name}. Switching to GPU fallback.", "GH ultralytics/ultralytics#18012 (8.5.2)", "log"),
    # ---- reduce
    Rule("reduce-version", REDUCE, "operation", p.option("op"), Nothing(), NO_OP + "Reduce operation.", "DLASW; TUT", "log",
         until=NEWER),
    Rule("reduce-op", REDUCE, "operation", p.option("op"), OneOf("MAX"), NO_OP + "Reduce operation.", "DLASW; RECALL",
         since=NEWER),
    Rule("reduce-4d", REDUCE, "rank of input and output", p.rank_of_result, Range(4, 4),
         "{name}: DLA only supports Reduce on 4 dimensional tensors.", "RECALL", "remembered", since=NEWER),
    Rule("reduce-axes", REDUCE, "axes among C, H and W", p.reduces_batch, Holds(),
         "{name}: DLA does not support reducing the batch dimension.", "RECALL", "remembered", since=NEWER),
    # ---- quantization
    Rule("explicit-quantization", QDQ, "quantize and dequantize layers before 11.4.1", p.always, Nothing(),
         "{name}: DLA does not support Explicit Quantization", "G84 DLASW", until="11.4.1"),
    Rule("quantization", QDQ, "INT8", p.precisions, AnyOf("int8"), FP32, "INF: DLA of 11.4.1 is strongly typed", "remembered",
         since="11.4.1"),
)  # fmt: skip
