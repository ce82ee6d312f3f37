"""engine -> module: EdgeModule, engine files, execution."""

from .engine_file import describe, read, write
from .module import EdgeModule
from .partition import PartitionedModule

__all__ = ["EdgeModule", "PartitionedModule", "describe", "read", "write"]
