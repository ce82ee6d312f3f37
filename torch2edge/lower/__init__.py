"""ops -> network: the registry, the check before the first layer, Network, and the walk."""

from .network import Network, Tensor
from .registry import Converter, Registry, converter, registry
from .walk import Lowered, lower

__all__ = ["Converter", "Lowered", "Network", "Registry", "Tensor", "converter", "lower", "registry"]
