"""engine -> module: EdgeModule, engine files, execution."""

from .engine_file import describe, read, write
from .module import EdgeModule

__all__ = ["EdgeModule", "describe", "read", "write"]
