"""Versions that compare with strings."""

from __future__ import annotations

import torch
from torch.torch_version import TorchVersion

from ..._trt import capabilities

__all__ = ["Version", "torch_version", "trt_version"]


class Version(TorchVersion):
    """``Version("10.1") >= "9.0"``: by number, not by letter."""


def trt_version() -> Version:
    """Version of the TensorRT that torch2edge uses; that of TensorRT-RTX counts from 1."""
    return Version(capabilities().version)


def torch_version() -> Version:
    """Version of torch."""
    return Version(torch.__version__)
