"""NVIDIA ModelOpt's INT8 quantizers as PyTorch's fake quantization, which has converters.

On the CPU they multiply, round, clamp and divide, which an engine would repeat in float; on a GPU they call an op of their
own. Both are the same function: ``round(x * 127 / amax)``, clamped, ``* amax / 127``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .tensor import Traced

__all__ = ["modelopt_as_torch"]

_HOME = "modelopt.torch.quantization.nn.modules.tensor_quantizer"
_LARGEST = 127
_LEAST = 2.0**-24  # of amax: ModelOpt gives zeros below it


@contextlib.contextmanager
def modelopt_as_torch() -> Iterator[None]:
    """While it is active ModelOpt's quantizers call PyTorch's ops; nothing where ModelOpt is not imported."""
    home = sys.modules.get(_HOME)
    own = getattr(home, "fake_tensor_quant", None)
    if home is None or own is None:
        yield
        return
    home.fake_tensor_quant = _standing_in_for(own)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        home.fake_tensor_quant = own  # type: ignore[attr-defined]


def _standing_in_for(own: Callable[..., Any]) -> Callable[..., Any]:
    def fake_tensor_quant(
        inputs: torch.Tensor, amax: Any, bias: Any = None, num_bits: Any = 8, unsigned: bool = False,
        narrow_range: bool = True, *rest: Any, **named: Any,
    ) -> Any:  # fmt: skip
        """Other than symmetric INT8 with fixed ranges goes its own way: arithmetic, where the forward allows it."""
        axis = _axis(inputs, amax) if num_bits == 8 and not unsigned and bias is None else None
        if axis is None:
            return own(inputs, amax, bias, num_bits, unsigned, narrow_range, *rest, **named)
        scale = amax.detach().float().reshape(-1) / _LARGEST
        zero_point, low = torch.zeros(len(scale), dtype=torch.int32, device=scale.device), -_LARGEST - (not narrow_range)
        if len(scale) == 1:
            return torch.fake_quantize_per_tensor_affine(inputs, scale, zero_point, low, _LARGEST)
        return torch.fake_quantize_per_channel_affine(inputs, scale, zero_point, axis, low, _LARGEST)

    return fake_tensor_quant


def _axis(inputs: torch.Tensor, amax: Any) -> int | None:
    """The axis along which ranges differ, 0 where there is one range; None where they are no fixed ranges of an axis."""
    if not isinstance(amax, torch.Tensor) or isinstance(amax, Traced) or not bool((amax > _LEAST).all()):
        return None
    if amax.numel() == 1:
        return 0
    if amax.ndim != inputs.ndim:
        return None
    axis = max(range(amax.ndim), key=lambda d: amax.shape[d])
    return axis if amax.shape[axis] == amax.numel() == inputs.shape[axis] else None
