"""A module and its inputs, put in place to be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from ..structure import flatten_call, unflatten
from .contender import Contender
from .lanes import DeviceLane, HostLane, Work
from .settings import Settings

__all__ = ["contender_of"]

BEFORE_CAPTURE = 3  # calls; torch.cuda.CUDAGraph wants some, so that libraries are loaded and workspaces are there


def contender_of(
    name: str, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], device: torch.device, settings: Settings,
    capture: bool,
) -> Contender:  # fmt: skip
    """The module with its inputs in the memory of ``device``, ready to be called again and again.

    Args:
        capture: replay a CUDA graph of a call in the place of calls.

    Raises:
        ConfigError: the module cannot be captured.
    """
    tensors, structure = flatten_call(args, kwargs)
    if device.type == "cpu":
        work, _ = _call(module, structure, tensors)
        return Contender(name, [HostLane(work)])

    def make(stream: torch.cuda.Stream) -> tuple[Work, Sequence[torch.Tensor]]:
        work, given = _call(module, structure, [tensor.to(device, copy=True) for tensor in tensors])
        torch.cuda.synchronize()
        return (_captured(name, work, stream) if capture else work), given

    with torch.cuda.device(device), torch.no_grad():
        lanes = [DeviceLane(make, settings) for _ in range(settings.streams)]
        torch.cuda.synchronize()
    return Contender(name, lanes, settings.threads, device)


def _call(module: nn.Module, structure: Any, tensors: Sequence[torch.Tensor]) -> tuple[Work, Sequence[torch.Tensor]]:
    call = unflatten(structure, tensors)
    args, kwargs = call["args"], call["kwargs"]
    return (lambda: module(*args, **kwargs)), tensors


def _captured(name: str, work: Work, stream: torch.cuda.Stream) -> Work:
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.stream(stream):
            for _ in range(BEFORE_CAPTURE):
                work()
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            outputs = work()
    except RuntimeError as error:
        raise ConfigError(
            f"{name} cannot be captured as a CUDA graph: {str(error).splitlines()[0]}. A call must not wait for the GPU "
            "(.item(), .cpu(), shapes that depend on data). Measure it without."
        ) from error

    def replay() -> Any:
        graph.replay()
        return outputs

    return replay
