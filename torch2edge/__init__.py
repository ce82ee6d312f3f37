"""torch2edge: a PyTorch module becomes a TensorRT engine, and stays a module."""

from pathlib import Path as _Path

_root = _Path(__file__).resolve().parent.parent
if (_root / "converters" / "__init__.py").exists() and not (_root / "torch2edge" / "converters").exists():
    __path__.append(str(_root))  # a checkout has converters/ beside this package, a wheel inside of it
