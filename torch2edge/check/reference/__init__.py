"""Compute a finished TensorRT network on the CPU, from TensorRT's documented semantics."""

from torch2edge.check.reference.executor import ReferenceExecutor

__all__ = ["ReferenceExecutor"]
