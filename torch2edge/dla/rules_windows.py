"""The DLA's rules for layers with windows (convolution, deconvolution, pooling), and matrix products, which become ones."""

from __future__ import annotations

from . import predicates as p
from .cbuf import BANKS
from .rule import Holds, OneOf, Range, Rule

__all__ = ["WINDOWS"]

CONV, DECONV, POOL, MATMUL = ("CONVOLUTION",), ("DECONVOLUTION",), ("POOLING",), ("MATRIX_MULTIPLY",)
RANGE = "{name}: {what} of {value} is outside of {limit}, the range that DLA supports."
NO_MATMUL = "{name}: MatMul is unsupported on DLA, relax constraints or use Convolution layer instead."


def _range(what: str) -> str:
    return RANGE.replace("{what}", what)


WINDOWS = (
    # ---- convolution
    Rule("convolution-2d", CONV, "spatial dimensions", p.spatial_dims, Range(2, 2),
         "{name}: DLA only supports convolutions with two spatial dimensions, this one has {value}.", "S3 G84"),
    Rule("convolution-kernel", CONV, "kernel, each side", p.option("kernel"), Range(1, 32), _range("a kernel size"),
         "S3 G84 H86"),
    Rule("convolution-padding", CONV, "padding, each side", p.option("padding"), Range(0, 31), _range("a padding"),
         "S3 G84 H86"),
    Rule("convolution-padding-kernel", CONV, "padding less than the kernel", p.padding_in_kernel, Holds(),
         "{name}: DLA requires a padding less than the kernel size.", "S3 G84 H86"),
    Rule("convolution-stride", CONV, "stride, each side", p.option("stride"), Range(1, 8), _range("a stride"), "S3 G84 H86"),
    Rule("convolution-dilation", CONV, "dilation, each side", p.option("dilation"), Range(1, 32), _range("a dilation"),
         "S3 G84 H86"),
    Rule("convolution-groups", CONV, "groups (with kDLA_HWC4 input only 4)", p.option("groups"), Range(1, 8192),
         _range("a number of groups"), "S3 G84 H86"),
    Rule("convolution-maps", CONV, "output maps", p.option("maps"), Range(1, 8192), _range("a number of output maps"),
         "S3 G84"),
    Rule("convolution-weights", CONV, "weights known at build time", p.weight_is_constant, Holds(),
         "{name}: DLA only supports convolutions with constant weights.", "S3", "remembered"),
    Rule("convolution-cbuf", CONV, "banks of the convolution buffer: kernel and input rows", p.cbuf, Range(1, BANKS),
         "{name}: CBUF validation failed: {value} banks are needed, DLA has 16.", "G84; DLASW FAQ"),
    # ---- matrix product: TensorRT makes a 1x1 convolution of it
    Rule("matmul-constant", MATMUL, "second operand known at build time", p.weight_is_constant, Holds(), NO_MATMUL,
         "DLASW; GH ultralytics/ultralytics#23488", "log"),
    Rule("matmul-channels", MATMUL, "channels in and out", p.matrix_sizes, Range(1, 8192), _range("a number of channels"),
         "S3 G84 (Fully Connected); INF"),
    # ---- deconvolution
    Rule("deconvolution-2d", DECONV, "spatial dimensions", p.spatial_dims, Range(2, 2),
         "{name}: DLA only supports deconvolutions with two spatial dimensions, this one has {value}.", "S3 G84"),
    Rule("deconvolution-kernel", DECONV, "kernel, each side, or 1 x 64, 96 or 128", p.window_sizes("kernel"), Range(1, 32),
         _range("a kernel size"), "S3 G84 H86"),
    Rule("deconvolution-stride", DECONV, "stride, each side, or 1 x 64, 96 or 128", p.window_sizes("stride"), Range(1, 32),
         _range("a stride"), "S3 G84 H86"),
    Rule("deconvolution-padding", DECONV, "padding", p.option("padding"), Range(0, 0),
         "{name}: DLA requires the padding of a deconvolution to be {limit}, it is {value}.", "S3 G84 H86"),
    Rule("deconvolution-groups", DECONV, "groups", p.option("groups"), Range(1, 1),
         "{name}: DLA does not support grouped deconvolution ({value} groups).", "S3 G84 H86"),
    Rule("deconvolution-dilation", DECONV, "dilation", p.option("dilation"), Range(1, 1),
         "{name}: DLA does not support dilated deconvolution (dilation {value}).", "S3 G84 H86"),
    Rule("deconvolution-channels", DECONV, "channels in and out", p.channels, Range(1, 8192), _range("a number of channels"),
         "S3 G84"),
    Rule("deconvolution-square", DECONV, "kernel and stride not one square of 23 to 32", p.square_kernel, Holds(),
         "{name}: TensorRT disables DLA for deconvolutions with square kernels and strides in [23, 32].", "S3"),
    # ---- pooling
    Rule("pooling-2d", POOL, "spatial dimensions", p.spatial_dims, Range(2, 2),
         "{name}: DLA only supports pooling with two spatial dimensions, this one has {value}.", "S3 G84"),
    Rule("pooling-op", POOL, "operation", p.option("op"), OneOf("MAX", "AVERAGE"),
         "{name}: DLA cores do not support {value} Pooling operation.", "S3 G84 H86"),
    Rule("pooling-window", POOL, "window, each side", p.option("kernel"), Range(1, 8), _range("a window size"), "S3 G84 H86"),
    Rule("pooling-padding", POOL, "padding, each side", p.option("padding"), Range(0, 7), _range("a padding"), "S3 G84 H86"),
    Rule("pooling-stride", POOL, "stride, each side", p.option("stride"), Range(1, 16), _range("a stride"), "S3 G84 H86"),
    Rule("pooling-inclusive", POOL, "averages count the padding", p.average_inclusive, Holds(),
         "{name}: DLA of Xavier only supports inclusive average pooling (average_count_excludes_padding = False).", "H86",
         targets=("xavier",)),
    Rule("pooling-int8-range", POOL, "one INT8 range for input and output", p.equal_ranges, Holds(),
         "{name}: DLA requires equal INT8 ranges of a pooling's input and output.", "S3 G84 H86", precisions=("int8",)),
)  # fmt: skip
