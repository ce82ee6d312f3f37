"""The GPU's memory in a build: what the build needs, what is free, and what to do where that is too little.

Sources. The TensorRT developer guide, Memory: timing needs buffers for the inputs, outputs and weights of layers, also where
the workspace is small; its limit is all of the GPU's memory by default; a loaded engine has the weights on the GPU.
What TensorRT says when it is short: "Tactic Device request: 448MB Available: 425MB. Device memory is insufficient to use
tactic.", "Skipping tactic 3 due to insufficient memory on requested size of 449 ... Try decreasing the workspace size" (in
yolov5 #12248, with one f in some versions), "Error Code 2: OutOfMemory", "Requested amount of GPU memory (68719476736 bytes)
could not be allocated" (in TensorRT #2643).
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .._trt import from_trt_dtype
from ..report import bytes_text

__all__ = ["SHORT", "BuildMemoryWarning", "Need", "Room", "free_text", "skipped_note"]

# What TensorRT says when the GPU has too little memory; the last is about a workspace that was set too small.
SHORT = re.compile(
    r"out ?of ?memory|insuf+icient memory|memory is insufficient|GPU memory .* could not be allocated|"
    r"do not have sufficient workspace memory",
    re.IGNORECASE,
)
_OF_CONSTANTS = ("CONSTANT", "SHUFFLE", "CAST", "IDENTITY", "DEQUANTIZE", "QUANTIZE")
_SKIPPED = re.compile(r"skipping tactic|insufficient to use tactic|do not have sufficient workspace", re.IGNORECASE)


class BuildMemoryWarning(UserWarning):
    """The GPU has less memory free than a build needs."""


@dataclass(frozen=True)
class Need:
    """What a build, and then the engine, take on the GPU, in bytes.

    Attributes:
        weights: the constants of the network; less where a weakly typed TensorRT stores them in fewer bits.
        tensors: the inputs and outputs of the layer where these are the largest; layers whose sizes vary are left out.
        workspace: the most that a layer's scratch may take besides.
    """

    weights: int
    tensors: int
    workspace: int

    @classmethod
    def of(cls, network: Any, weights: int, workspace: int) -> Need:
        """That of an INetworkDefinition with so many bytes of weights, under a limit of the workspace."""
        largest = 0
        constant: set[str] = set()  # tensors that are computed of constants alone: they count as weights
        for layer in (network.get_layer(i) for i in range(network.num_layers)):
            inputs = [t for t in (layer.get_input(i) for i in range(layer.num_inputs)) if t is not None]
            outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
            if layer.type.name in _OF_CONSTANTS and all(t.name in constant for t in inputs):
                constant.update(t.name for t in outputs)
            largest = max(largest, sum(_bytes(t) for t in (*inputs, *outputs) if t.name not in constant))
        return cls(weights, largest, workspace)

    @property
    def least(self) -> int:
        """About as much as it takes without any scratch."""
        return self.weights + self.tensors


@dataclass(frozen=True)
class Room:
    """What is free on the current GPU, in bytes, before a build."""

    free: int
    total: int
    shared: bool = False  # with the host, as on a Jetson: what the system keeps as a cache does not count as free there

    @classmethod
    def here(cls, need: Need) -> Room | None:
        """None without a GPU. Where it is short, PyTorch first gives back what it holds and does not use."""
        if not torch.cuda.is_available():
            return None
        if torch.cuda.mem_get_info()[0] < need.least:
            torch.cuda.empty_cache()
        shared = bool(torch.cuda.get_device_properties(torch.cuda.current_device()).is_integrated)
        return cls(*torch.cuda.mem_get_info(), shared)

    def lacks(self, need: Need) -> bool:
        """Whether it is surely too little."""
        return self.free < need.least and not self.shared

    def warn(self, need: Need, offload: bool) -> None:
        """Say what the build needs, where less is free."""
        if self.lacks(need):
            warnings.warn(self.told(need, offload), BuildMemoryWarning, stacklevel=2)

    def told(self, need: Need, offload: bool) -> str:
        """What is needed, what is free, what to do."""
        steps = [
            "close other programs that hold its memory (nvidia-smi names them), free tensors of your own",
            *([] if offload else ["offload=True, which keeps the model in host memory during the build"]),
            f'a smaller workspace than {bytes_text(need.workspace)}, e.g. workspace="{max(self.free // 2**22, 1)}M"',
            "fewer tactics to time, by optimization_level=0, 1 or 2",
            "smaller inputs, or smaller largest shapes where they vary",
            "a build on another GPU of the same compute capability",
        ]
        return (
            f"to build and load this engine takes about {bytes_text(need.least)} on the GPU ({bytes_text(need.weights)} of "
            f"weights, {bytes_text(need.tensors)} for the inputs and outputs of the largest layer) and scratch besides (at "
            f"most the workspace, {bytes_text(need.workspace)}), but {bytes_text(self.free)} of {bytes_text(self.total)} were "
            f"free. What helps: {'; '.join(steps)}."
        )

    def explains(self, need: Need, lines: Sequence[str]) -> bool:
        """Whether a build that failed did so for lack of memory, by TensorRT's words or by the figures."""
        return self.lacks(need) or any(SHORT.search(line) for line in lines)


def free_text() -> str:
    """How much memory the GPU has free, to be put behind what failed; "" without a GPU."""
    if not torch.cuda.is_available():
        return ""
    free, total = torch.cuda.mem_get_info()
    return f" (where {bytes_text(free)} of the {bytes_text(total)} of the GPU are free)"


def skipped_note(lines: Sequence[str]) -> str:
    """What to say in the report of an engine for which tactics were left out, or ""."""
    skipped = [line for line in lines if _SKIPPED.search(line)]
    if not skipped:
        return ""
    return (
        f"note: TensorRT says that it left out tactics for lack of memory ({len(skipped)} times; "
        f'"{" ".join(skipped[0].split())[:160]}"): the engine may be slower than it could be. Free memory of the GPU, or '
        "change workspace, to see"
    )


def _bytes(tensor: Any) -> int:
    """Of a tensor of the network; 0 where its size varies, or is that of a type that torch has not."""
    try:
        shape = tuple(tensor.shape)
        return 0 if -1 in shape else math.prod(shape) * from_trt_dtype(tensor.dtype).itemsize
    except (ValueError, StopIteration):
        return 0
