"""Network: the one thing that converters speak to. A file a family of layers; what they share is in core.py."""

from ..._trt import capabilities
from ...sizes import settle
from .activations import Activations
from .bits import Bits
from .core import Core, Tensor
from .loops import Loops
from .matrix import Matrix
from .normalization import Normalization
from .pointwise import Pointwise
from .quantize import Quantize
from .reductions import Reductions
from .resize import Resize
from .shapes import Shapes
from .sorting import Sorting
from .spatial import Spatial
from .symbols import at_least, is_symbolic, same, symbols
from .volume import Volume

__all__ = ["Network", "Tensor", "at_least", "capabilities", "is_symbolic", "same", "settle", "symbols"]


class Network(
    Normalization, Activations, Bits, Volume, Resize, Spatial, Sorting, Reductions, Matrix, Quantize, Pointwise, Loops,
    Shapes, Core,
):  # fmt: skip
    """Layers by TensorRT's names over torch shapes and dtypes; see the files of this folder."""
