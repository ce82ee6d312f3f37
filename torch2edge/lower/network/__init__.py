"""Network: the one thing that converters speak to. A file a family of layers; what they share is in core.py."""

from .core import Core, Tensor
from .matrix import Matrix
from .pointwise import Pointwise
from .shapes import Shapes
from .spatial import Spatial

__all__ = ["Network", "Tensor"]


class Network(Spatial, Matrix, Pointwise, Shapes, Core):
    """Layers by TensorRT's names over torch shapes and dtypes; see the files of this folder."""
