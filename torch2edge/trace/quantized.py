"""Fake quantization while a model is traced: what must stay an op, and what observes.

``fake_quantize`` of a weight depends on no input, so it would become a constant, and the engine would see a float weight.
That it is quantized is meaning, not arithmetic: TensorRT takes INT8 kernels only where quantize and dequantize stand in the
network. So these ops are recorded whatever they depend on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import TraceError

__all__ = ["FUSED", "SAME_SHAPE", "refuse_observers"]

aten = torch.ops.aten


def refuse_observers(model: torch.nn.Module) -> None:
    """Refuse modules of ``torch.ao.quantization`` that take down ranges in their forward, in eval mode too.

    An observer that is part of a fake quantization runs only where that one's ``observer_enabled`` says so.

    Raises:
        TraceError: there is an observer that runs; with its path and how to stop it.
    """
    idle: set[int] = set()
    for path, module in model.named_modules():
        who, kind = f"the submodule {path}" if path else "the model itself", type(module)
        if _derives(kind, "FakeQuantizeBase"):
            switch = getattr(module, "observer_enabled", None)
            if switch is not None and not switch.is_meta and int(switch[0]):
                raise TraceError(
                    f"{who} is a {kind.__module__}.{kind.__name__} whose observer is enabled: it takes down ranges while it "
                    "runs, in eval mode too, and an engine keeps no state. Fix the scales first with "
                    "model.apply(torch.ao.quantization.disable_observer), or convert the float model that it was made from."
                )
            idle.update(id(child) for child in module.modules())
        elif _derives(kind, "ObserverBase") and id(module) not in idle:
            raise TraceError(
                f"{who} is a {kind.__module__}.{kind.__name__}: the model is prepared for PyTorch's quantization, and takes "
                "down ranges while it runs. Convert the float model that it was made from (before "
                "torch.ao.quantization.prepare)."
            )


def _derives(kind: type, base: str) -> bool:
    """Of which class it is, by name: importing torch.ao.quantization takes half a second."""
    return any(b.__module__.startswith("torch.ao.quantization") and b.__name__ == base for b in kind.__mro__)


def _fused(
    self: torch.Tensor, observer_on: torch.Tensor, fake_quant_on: torch.Tensor, running_min: torch.Tensor,
    running_max: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor, averaging_const: float, quant_min: int,
    quant_max: int, ch_axis: int, per_row_fake_quant: bool = False, symmetric_quant: bool = False,
) -> torch.Tensor:  # fmt: skip
    """``fused_moving_avg_obs_fake_quant`` with its observer off, as the op that it then is."""
    if int(observer_on[0]):
        raise TraceError(
            "torch.fused_moving_avg_obs_fake_quant is called with its observer on: it would write to the ranges, and an "
            "engine keeps no state. Fix the scales first with model.apply(torch.ao.quantization.disable_observer)."
        )
    if not int(fake_quant_on[0]):
        return self
    if per_row_fake_quant:
        return torch.fake_quantize_per_channel_affine(self, scale, zero_point, ch_axis, quant_min, quant_max)
    return torch.fake_quantize_per_tensor_affine(self, scale, zero_point, quant_min, quant_max)


def _same_shape(self: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(self)


def _same_shape_and_mask(self: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(self), torch.empty_like(self, dtype=torch.bool)


# The shape rules of PyTorch's fake quantization, which has no kernels for the meta device.
SAME_SHAPE: dict[Any, Callable[..., Any]] = {
    aten.fake_quantize_per_tensor_affine.default: _same_shape,
    aten.fake_quantize_per_tensor_affine.tensor_qparams: _same_shape,
    aten.fake_quantize_per_channel_affine.default: _same_shape,
    aten.fake_quantize_per_tensor_affine_cachemask.default: _same_shape_and_mask,
    aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default: _same_shape_and_mask,
    aten.fake_quantize_per_channel_affine_cachemask.default: _same_shape_and_mask,
}

# Ops that observe and quantize at once, which torch.ao's FusedMovingAvgObsFakeQuantize calls, without what they write.
FUSED: dict[Any, Callable[..., torch.Tensor]] = {aten.fused_moving_avg_obs_fake_quant.default: _fused}
