"""The exceptions of torch2edge, one tree.

    Torch2EdgeError
    ├── ConfigError                an option is wrong, or the installed TensorRT cannot honour it (also a ValueError)
    ├── TensorRTNotFoundError      no TensorRT in this environment (also an ImportError)
    ├── InputError                 the inputs do not fit the model or the engine (also a ValueError)
    │   └── CalibrationError       the data for INT8 failed, does not fit, or reaches nothing
    ├── TraceError                 the model's forward cannot become a static graph
    │   ├── TrainingModeError      a module is in training mode
    │   ├── DataDependentError     a Python branch, .item() or a size that depends on the data
    │   ├── RandomOpError          forward draws random numbers
    │   └── InplaceError           a write on an input, a parameter or a buffer, or one that has no functional form
    ├── UnsupportedOpError         ops without a converter, all of them
    ├── ConversionError            a converter failed, or gave another shape or dtype than PyTorch
    ├── BuildError                 TensorRT built no engine; carries TensorRT's own last error lines
    ├── VerificationError          the engine's outputs are not the model's
    ├── EngineFileError            a file or state dict is no engine, or damaged, or for another TensorRT
    ├── ExecutionError             the engine cannot run here, or TensorRT failed while it ran (also a RuntimeError)
    ├── ReferenceExecutionError    the reference executor met an inconsistent network or wrong inputs
    └── UnsupportedLayerError      the reference executor lacks a layer type

Every message says what, where (module path, source line), why, and what to do now.
"""

from __future__ import annotations

__all__ = [
    "BuildError",
    "CalibrationError",
    "ConfigError",
    "ConversionError",
    "DataDependentError",
    "EngineFileError",
    "ExecutionError",
    "InplaceError",
    "InputError",
    "RandomOpError",
    "ReferenceExecutionError",
    "TensorRTNotFoundError",
    "Torch2EdgeError",
    "TraceError",
    "TrainingModeError",
    "UnsupportedLayerError",
    "UnsupportedOpError",
    "VerificationError",
]


class Torch2EdgeError(Exception):
    """Base of every error that torch2edge raises on purpose."""


class ConfigError(Torch2EdgeError, ValueError):
    """An option is wrong, or the TensorRT at hand cannot honour it."""


class TensorRTNotFoundError(Torch2EdgeError, ImportError):
    """No TensorRT can be imported in this environment."""


class InputError(Torch2EdgeError, ValueError):
    """Inputs that do not fit: count, structure, shape, dtype, device or range."""


class CalibrationError(InputError):
    """The data for INT8 failed, does not fit, or reaches nothing; with torch.distributed, on whichever rank."""


class TraceError(Torch2EdgeError):
    """The model's forward cannot become a graph."""


class TrainingModeError(TraceError):
    """A module of the model is in training mode."""


class DataDependentError(TraceError):
    """Python control flow, or a size, that depends on the values of a tensor."""


class RandomOpError(TraceError):
    """The forward draws random numbers; an engine would freeze one draw."""


class InplaceError(TraceError):
    """An in-place write that no engine can reproduce."""


class UnsupportedOpError(Torch2EdgeError):
    """Ops that no converter takes; ``rows`` holds one entry per call."""

    def __init__(self, message: str, rows: list[dict[str, str]]) -> None:
        super().__init__(message)
        self.rows = rows


class ConversionError(Torch2EdgeError):
    """A converter failed, or its layers disagree with PyTorch's shape or dtype."""


class BuildError(Torch2EdgeError):
    """TensorRT returned no engine."""


class VerificationError(Torch2EdgeError):
    """The engine's outputs differ from the model's; ``report`` holds the figures."""

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report


class EngineFileError(Torch2EdgeError):
    """Bytes that are no engine, are damaged, or belong to another TensorRT."""


class ExecutionError(Torch2EdgeError, RuntimeError):
    """The engine cannot run here, or failed while it ran."""


class ReferenceExecutionError(Torch2EdgeError):
    """The reference executor met wrong inputs or an inconsistent network."""


class UnsupportedLayerError(Torch2EdgeError):
    """The reference executor does not compute this layer type."""
