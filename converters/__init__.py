"""Converters of ATen ops, one file a family, named after the op's heading on PyTorch's torch.nn or torch page.

Importing this package (as ``torch2edge.converters``) registers all of them.
"""

if __name__ != "torch2edge.converters":
    raise ImportError("this folder is installed as torch2edge.converters: import that, not the folder converters")

from torch2edge.lower.registry import remember_own

from . import (
    activation,
    attention,
    casting,
    comparison,
    convolution,
    creation,
    cumulative,
    detection,
    indexing,
    joining,
    linear,
    normalization,
    padding,
    passthrough,
    pointwise,
    pooling,
    quantization,
    recurrent,
    reduction,
    scattering,
    shape,
    sorting,
    sparse,
    special,
    unsupported,
    vision,
)

__all__ = [
    "activation",
    "attention",
    "casting",
    "comparison",
    "convolution",
    "creation",
    "cumulative",
    "detection",
    "indexing",
    "joining",
    "linear",
    "normalization",
    "padding",
    "passthrough",
    "pointwise",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "scattering",
    "shape",
    "sorting",
    "sparse",
    "special",
    "unsupported",
    "vision",
]

remember_own()
