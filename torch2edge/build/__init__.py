"""network -> engine: the options of TensorRT's builder, and the build."""

from .session import BuildSession

__all__ = ["BuildSession"]
