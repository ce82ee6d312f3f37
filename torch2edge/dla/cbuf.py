"""The DLA's convolution buffer: whether a kernel and the rows under it fit at once.

Formula: TensorRT developer guide, section 12 of 8.4-EA, run as a check by TensorRT ("CBUF validation"). 16 banks of 256
entries of 128 bytes.
"""

from __future__ import annotations

import math

__all__ = ["BANKS", "banks_needed"]

BANKS = 16
_BANK_BYTES = 32768
_ENTRIES = 256


def banks_needed(channels: int, width: int, kernel: tuple[int, ...], dilation: tuple[int, ...], element_size: int) -> int:
    """Banks that one kernel and the input rows under it take.

    Args:
        channels: of the input.
        width: of the input.
        kernel: height and width.
        dilation: of height and width.
        element_size: bytes of an element: 1 in INT8, 2 in FP16.
    """
    kernel_bytes = math.ceil(channels * kernel[0] * kernel[1] * element_size / 128) * 128
    kernel_banks = math.ceil(kernel_bytes / _BANK_BYTES)
    entries_per_row = math.ceil(math.ceil(channels * element_size / 32) * width / 4)
    rows = (kernel[0] - 1) * dilation[0] + 1
    return kernel_banks + math.ceil(entries_per_row * rows / _ENTRIES)
