"""model -> ops: one run of the module under forward hooks gives a flat list of ATen ops. Knows no TensorRT."""

from ..graph import Constant, Graph, Op, Value
from .contents import Contents
from .state import unchanged
from .trace import names_of, trace

__all__ = ["Constant", "Contents", "Graph", "Op", "Value", "names_of", "trace", "unchanged"]
