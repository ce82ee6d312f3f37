"""Formats of a standalone loadable's inputs and outputs, written as for trtexec: ``fp16:chw16``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConfigError

__all__ = ["Format", "parse_format"]

# name -> trt.TensorFormat, the precisions that it holds, whether outputs have it too [G84; D dla-runtime-configuration]
FORMATS = {
    "dla_linear": ("DLA_LINEAR", ("fp16", "int8"), True),
    "dla_hwc4": ("DLA_HWC4", ("fp16", "int8"), False),
    "chw16": ("CHW16", ("fp16",), True),
    "chw32": ("CHW32", ("int8",), True),
}
HWC4_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Format:
    """A format that TensorRT is told.

    Attributes:
        precision: "fp16" or "int8".
        layout: the name of a trt.TensorFormat.
    """

    precision: str
    layout: str


def parse_format(text: str, option: str, *, output: bool = False, shapes: Sequence[Sequence[int]] = ()) -> Format:
    """``"fp16:chw16"`` as a format.

    Args:
        option: what messages call it.
        output: it is for outputs.
        shapes: of the tensors that are to have it.

    Raises:
        ConfigError: there is no such format, or not for these.
    """
    precision, _, name = text.partition(":") if isinstance(text, str) else ("", "", "")
    if name not in FORMATS or precision not in ("fp16", "int8"):
        raise ConfigError(
            f"{option} is {text!r}; it must be a precision and a format, fp16 or int8 and {', '.join(FORMATS)}: 'fp16:chw16'"
        )
    layout, precisions, for_outputs = FORMATS[name]
    if precision not in precisions:
        raise ConfigError(f"{option} is {text!r}: {name} holds {' or '.join(precisions)}")
    if output and not for_outputs:
        raise ConfigError(f"{option} is {text!r}: {name} is for inputs only")
    for shape in shapes:
        if layout == "DLA_HWC4" and (len(shape) != 4 or shape[1] not in HWC4_CHANNELS):
            raise ConfigError(f"{option} is {text!r}: it holds images of 1, 3 or 4 channels, not {tuple(shape)}")
    return Format(precision, layout)
