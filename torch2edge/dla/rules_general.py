"""The DLA's rules for any layer."""

from __future__ import annotations

from . import predicates as p
from .rule import AnyOf, Holds, OneOf, Range, Rule

__all__ = ["FIRST", "FP32", "LAST"]

FP32 = "DLA only supports FP16 and Int8 precision type. Switching {name} device type to GPU."
TOO_LARGE = "{name}: batch size {value} exceeds max batch size allowed of {limit}"
LARGE_BATCHES = "8.4"

#: Where the guides speak of two spatial dimensions, and where it is concluded of N, C, H, W.
PLANES = ("ACTIVATION", "ELEMENTWISE", "SCALE")
FOUR = ("PARAMETRIC_RELU", "CONCATENATION", "SOFTMAX")

#: Asked before the rules of the layer's type.
FIRST = (
    Rule("precision-allowed", (), "precisions that the builder may use", p.precisions, AnyOf("fp16", "int8"), FP32,
         "S4; GH onnx/tensorflow-onnx#1632", "log"),
    Rule("dtype", (), "dtype of data and results", p.dtypes, OneOf("FLOAT", "HALF", "INT8"), FP32,
         "GH onnx/tensorflow-onnx#1632", "log", until="11"),
    Rule("dtype-strong", (), "dtype of data and results, which is the precision", p.dtypes, OneOf("HALF", "INT8"), FP32,
         "D 11.4.1 dla-strongly-typed-networks", since="11"),
    Rule("static-shapes", (), "sizes that are open", p.static, Holds(),
         "DLA Layer {name} does not support dynamic shapes in any dimension.",
         "S0 S3 H86; GH onnx/tensorflow-onnx#1632", "log"),
)  # fmt: skip

#: Asked after them: what a log says of such a layer is then the rule of its type.
LAST = (
    Rule("batch", (), "batch: product of all sizes before C, H, W", p.batches, Range(1, 4096), TOO_LARGE, "S0 S3 G84 D",
         since=LARGE_BATCHES),
    Rule("batch-before-8.4", (), "batch: product of all sizes before C, H, W", p.batches, Range(1, 32), TOO_LARGE,
         "GH NVIDIA/TensorRT#2318", "log", until=LARGE_BATCHES),
    Rule("dimensions", (), "C, H and W", p.sizes, Range(1, 8192),
         "{name}: a dimension of {value} is outside of {limit}, the range of DLA's non-batch dimensions.", "S0 S3 D H86"),
    Rule("two-spatial-dims", PLANES, "rank: N, C, H, W (or more in front, which are batch)", p.ranks, Range(4, 8),
         "{name}: DLA only supports operations with two spatial dimensions; the input has {value} dimensions.", "S3 G84 D"),
    Rule("four-dims", FOUR, "rank: N, C, H, W (or more in front, which are batch)", p.ranks, Range(4, 8),
         "{name}: DLA only supports this layer on tensors of 4 dimensions; the input has {value}.", "INF", "remembered"),
)  # fmt: skip
