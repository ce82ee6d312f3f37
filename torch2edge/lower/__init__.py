"""ops -> network: the registry, the check before the first layer, Network, and the walk."""

from .network import Network, Tensor
from .onnx_file import OnnxFile
from .onnx_road import lower_by_onnx
from .registry import Converter, Registry, converter, registry
from .walk import Lowered, lower

__all__ = [
    "Converter", "Lowered", "Network", "OnnxFile", "Registry", "Tensor", "converter", "lower", "lower_by_onnx", "registry",
]  # fmt: skip
