"""Triton's published schema: the compiled model_config.proto in NVIDIA's package ``tritonclient``."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest

__all__ = ["needs_schema", "parsed"]

_CLIENT = importlib.util.find_spec("tritonclient")
needs_schema = pytest.mark.skipif(_CLIENT is None, reason="Triton's schema comes with tritonclient (extra dev)")


@functools.cache
def _schema() -> Any:
    """By its file: the package around it wants grpc, which the schema does not need."""
    assert _CLIENT is not None
    assert _CLIENT.origin is not None
    file = Path(_CLIENT.origin).parent / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("triton_model_config_pb2", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(text: str) -> Any:
    """A ``ModelConfig``; text that the schema does not know is an error."""
    from google.protobuf import text_format

    return text_format.Parse(text, _schema().ModelConfig())


def type_name(number: int) -> str:
    """``TYPE_FP32``"""
    return str(_schema().DataType.Name(number))
