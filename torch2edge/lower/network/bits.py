"""Bits of integers, which TensorRT has no layers for: they are taken apart by divisions and put together by a sum."""

from __future__ import annotations

import torch

from ..._trt import inside
from .core import Tensor, Value
from .matrix import Matrix

__all__ = ["Bits"]

_COMBINE = {"AND": "PROD", "OR": "MAX", "XOR": "EQUAL"}


class Bits(Matrix):
    """Bitwise operations."""

    def bitwise(self, kind: str, a: Value, b: Value, dtype: torch.dtype) -> Tensor:
        """AND, OR or XOR of the bits of two integers as ``dtype``; of bools it is logic.

        Through an axis of bits: ``x // 2 ** i % 2`` (rounded down, so right for negative numbers in two's complement)
        for all bits but the sign, which is a comparison.
        """
        if dtype == torch.bool:
            return self.elementwise(kind, a, b)
        if dtype in (torch.int8, torch.uint8):  # both fit int32, a uint8 as the positive number that it is
            return self.cast(self.bitwise(kind, self.tensor(a, torch.int32), self.tensor(b, torch.int32), torch.int32), dtype)
        x, y = self.aligned(a, b, dtype=dtype)
        powers = torch.tensor([2**i for i in range(torch.iinfo(inside(dtype)).bits - 1)], dtype=dtype)
        low = self.elementwise(_COMBINE[kind], self._low_bits(x, powers), self._low_bits(y, powers))
        if kind == "XOR":
            low = self.cast(self.unary(low, "NOT"), dtype)
        total = self.reduce(self.elementwise("PROD", low, powers), "SUM", [-1], keepdim=False)
        negative = self.elementwise(kind, self.elementwise("LESS", x, 0), self.elementwise("LESS", y, 0))
        lowest = torch.tensor(torch.iinfo(inside(dtype)).min, dtype=dtype)
        return self.elementwise("SUM", total, self.select(negative, lowest, torch.zeros((), dtype=dtype)))

    def _low_bits(self, x: Tensor, powers: torch.Tensor) -> Tensor:
        """Every bit below the sign, as 0 or 1, in a new last axis."""
        shifted = self.elementwise("FLOOR_DIV", self.unsqueeze(x, -1), powers)
        return self.modulo(shifted, 2, x.dtype)

    def shift(self, x: Value, count: int, dtype: torch.dtype) -> Tensor:
        """``x << count``, or ``x >> -count``: a product, or a division rounded down. ``abs(count)`` < bits - 1."""
        if count >= 0:
            return self.elementwise("PROD", x, 2**count, dtype)
        return self.elementwise("FLOOR_DIV", x, 2**-count, dtype)
