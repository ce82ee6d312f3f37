"""A drop-in for torch2trt: its names and their meaning, over ``torch2edge.convert``.

    from torch2edge.integrations.torch2trt import torch2trt, TRTModule       # instead of: from torch2trt import ...

or, where other code says ``import torch2trt``::

    import torch2edge.integrations.torch2trt as t2t
    t2t.install()

What it means otherwise: an unsupported op is an error and never a constant; every engine is compared with the model; what
cannot be honoured (see ``torch2trt``) is a ``ConfigError``; nothing in torch or in your tensors stays changed.
"""

from ..._trt import trt
from .context import ConversionContext
from .conversion import torch2trt
from .converters import CONVERTERS, tensorrt_converter
from .dataset import Dataset, FolderDataset, ListDataset, TensorBatchDataset
from .flattener import Flattener
from .helpers import (
    IntWrapper,
    SizeWrapper,
    add_missing_trt_tensors,
    add_trt_constant,
    broadcast_trt_tensors,
    check_torch_dtype,
    get_arg,
    torch_dim_resolve_negative,
    torch_dim_to_trt_axes,
    torch_dtype_from_trt,
    torch_dtype_to_trt,
    trt_,
)
from .installing import install, uninstall
from .module import TRTModule
from .version_utils import torch_version, trt_version

__all__ = [
    "CONVERTERS",
    "ConversionContext",
    "Dataset",
    "Flattener",
    "FolderDataset",
    "IntWrapper",
    "ListDataset",
    "SizeWrapper",
    "TRTModule",
    "TensorBatchDataset",
    "add_missing_trt_tensors",
    "add_trt_constant",
    "broadcast_trt_tensors",
    "check_torch_dtype",
    "get_arg",
    "install",
    "tensorrt_converter",
    "torch2trt",
    "torch_dim_resolve_negative",
    "torch_dim_to_trt_axes",
    "torch_dtype_from_trt",
    "torch_dtype_to_trt",
    "torch_version",
    "trt",
    "trt_",
    "trt_version",
    "uninstall",
]
