"""What is refused before the model runs: training mode, NaN weights, inputs that cannot be right."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import InputError, TraceError, TrainingModeError
from .compiled import is_compiled
from .quantized import refuse_observers
from .torch_versions import runs_uncompiled

__all__ = ["check_inputs", "check_model", "check_state"]


def check_model(model: nn.Module) -> None:
    """Refuse a model in training mode, with NaN weights, or spread over several devices.

    Raises:
        TrainingModeError, TraceError, InputError
    """
    for path, module in model.named_modules():
        who, kind = f"the submodule {path}" if path else "the model itself", type(module)
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(
                f"{who} is a {kind.__name__} (torch.jit): hooks do not reach inside. Convert the Python module that it was "
                "made from."
            )
        if _is_quantized(kind):
            raise TraceError(
                f"{who} is a {kind.__module__}.{kind.__name__}: PyTorch's quantized modules keep packed weights for CPU "
                "kernels, which no engine can take. Convert the float model that it was made from (before "
                "torch.ao.quantization.convert)."
            )
        if is_compiled(module) and not runs_uncompiled():
            raise TraceError(
                f"{who} is compiled, and torch {torch.__version__} cannot run it uncompiled: put its _orig_mod in its place, "
                "and compile what convert() gives back."
            )
    refuse_observers(model)
    check_state(model)
    devices = {str(t.device) for t in (*model.parameters(), *model.buffers())}
    if len(devices) > 1:
        raise InputError(f"the model is spread over {', '.join(sorted(devices))}; move it to one device first")


def check_state(model: nn.Module) -> None:
    """Refuse a model in training mode, with NaN weights, or without weights: no part of it is worth a conversion.

    Raises:
        TrainingModeError, TraceError, InputError
    """
    training = [path or "(the model itself)" for path, m in model.named_modules() if m.training]
    if training:
        shown = ", ".join(training[:3]) + (f" and {len(training) - 3} more" if len(training) > 3 else "")
        raise TrainingModeError(
            f"{shown} {'are' if len(training) > 1 else 'is'} in training mode, where dropout draws and batch norm uses the "
            "batch. Call model.eval() first."
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise TraceError(f"{name} has no shape yet (a lazy module): run the model once on real inputs first")
        if tensor.is_meta:
            raise InputError(f"{name} is on the meta device: it has no values. Load the weights first.")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        # the sum of all elements is NaN if one is; only then look closer, for it may also be inf - inf
        if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:  # float8 has no sum
            continue
        if torch.isnan(tensor.detach().sum()) and torch.isnan(tensor.detach()).any():
            raise TraceError(f"{name} holds NaN: every output of an engine would too. Was the checkpoint loaded whole?")


def _is_quantized(kind: type[nn.Module]) -> bool:
    """Modules with packed int8 weights; the reference ones are made of quantize and dequantize ops.

    FloatFunctional lives among them, and is float: the place of a fake quantization behind an addition.
    """
    home = kind.__module__
    if kind.__name__ in ("FloatFunctional", "FXFloatFunctional"):
        return False
    return home.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")) and (
        "reference" not in home
    )


def check_inputs(model: nn.Module, tensors: Sequence[torch.Tensor], names: Sequence[str]) -> None:
    """Refuse inputs of size zero, on another device than the model's, or no tensor at all.

    Raises:
        InputError
    """
    if not tensors:
        raise InputError(
            "there is no tensor among the inputs: an engine needs at least one, e.g. convert(model, [x]), or for a shape "
            "alone convert(model, [torch2edge.Input((1, 3, 224, 224))])"
        )
    first = next((t for t in (*model.parameters(), *model.buffers())), tensors[0])
    for tensor, name in zip(tensors, names):
        if 0 in tensor.shape:
            raise InputError(f"the input {name} has the shape {tuple(tensor.shape)}: a dimension is 0")
        if tensor.device != first.device:
            raise InputError(
                f"the input {name} is on {tensor.device}, but the model is on {first.device}: move one to the other"
            )
        if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized:
            raise InputError(
                f"the input {name} is {tensor.layout}, {tensor.dtype}; an engine takes dense real tensors: to_dense(), "
                "view_as_real() or dequantize() before the module that is converted"
            )
