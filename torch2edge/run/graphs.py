"""Calls of an engine as replays of CUDA graphs: one launch in the place of one per kernel."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .._trt import clear_errors, last_errors
from .runner import Runner

__all__ = ["GraphRunner", "GraphWarning"]

MOST = 8  # graphs per thread
_capturing = threading.Lock()  # torch.cuda.graph synchronizes and empties the cache, which no other capture survives
Shapes = tuple[tuple[int, ...], ...]


class GraphWarning(UserWarning):
    """A call could not become a CUDA graph; the engine is enqueued as without."""


@dataclass
class _Captured:
    """A graph of one thread, for inputs of certain shapes."""

    graph: torch.cuda.CUDAGraph
    held: Any  # the execution context, whose memory the graph uses
    inputs: list[torch.Tensor]  # it reads these
    outputs: list[torch.Tensor]  # and writes these
    stream: torch.cuda.Stream  # of its last replay
    done: torch.cuda.Event  # that replay


class GraphRunner:
    """Takes and gives what a ``Runner`` does. Inputs are copied into a graph's own, fresh outputs are copied out.

    Args:
        runner: of the engine; calls that cannot be captured are its.
        most: graphs to keep per thread; the one that was not used for the longest time is dropped.
    """

    def __init__(self, runner: Runner, most: int = MOST) -> None:
        self._runner, self._most = runner, most
        self._threads = threading.local()
        self._refused = ""  # why the engine cannot be captured

    @property
    def graphs(self) -> int:
        """How many this thread holds."""
        return len(self._mine())

    def __call__(self, tensors: Sequence[torch.Tensor], profile: int | None = None) -> list[torch.Tensor]:
        """Outputs for CUDA tensors of the right shapes and dtypes, enqueued on the current stream."""
        if self._refused or torch.cuda.is_current_stream_capturing():
            return self._runner(tensors, profile)
        device = tensors[0].device
        with torch.cuda.device(device):
            given = self._runner.taken(tensors)
            key = tuple(tuple(t.shape) for t in given)
            captured = self._mine().get((device.index, key)) or self._captured(given, profile, (device.index, key))
            if captured is None:
                return self._runner(tensors, profile)
            self._mine().move_to_end((device.index, key))
            return self._runner.given(self._replayed(captured, given))

    def _mine(self) -> OrderedDict[tuple[int, Shapes], _Captured]:
        held: OrderedDict[tuple[int, Shapes], _Captured] = vars(self._threads).setdefault("held", OrderedDict())
        return held

    def _replayed(self, captured: _Captured, given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        stream = torch.cuda.current_stream()
        if captured.stream != stream:
            stream.wait_event(captured.done)
            captured.stream = stream
        for own, tensor in zip(captured.inputs, given):
            own.copy_(tensor, non_blocking=True)
        captured.graph.replay()
        results = [t.clone() for t in captured.outputs]
        captured.done.record(stream)
        for tensor in given:  # it may be another stream's, and dropped before the copy has run
            tensor.record_stream(stream)
        return results

    def _captured(self, given: Sequence[torch.Tensor], profile: int | None, key: tuple[int, Shapes]) -> _Captured | None:
        """A new graph, or None where there can be none."""
        clear_errors()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                inputs = [t.clone(memory_format=torch.contiguous_format) for t in given]
                held, outputs = self._runner.bound(inputs, profile)
                enqueue = held.context.execute_async_v3
                if not enqueue(stream.cuda_stream):  # the first call of a context sets it up, which is not for a graph
                    raise RuntimeError("; ".join(last_errors(2)))
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with _capturing, torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                if not enqueue(stream.cuda_stream):
                    raise RuntimeError("; ".join(last_errors(2)))
        except RuntimeError as error:
            self._refuse(str(error))
            return None
        torch.cuda.current_stream().wait_stream(stream)
        mine = self._mine()
        mine[key] = _Captured(graph, held, inputs, outputs, torch.cuda.current_stream(), torch.cuda.Event())
        mine[key].done.record(torch.cuda.current_stream())
        while len(mine) > self._most:
            _, oldest = mine.popitem(last=False)
            oldest.done.synchronize()
        return mine[key]

    def _refuse(self, why: str) -> None:
        self._refused = (why.splitlines() or ["TensorRT gave no reason"])[0]
        warnings.warn(
            f"this engine cannot be captured as a CUDA graph, and is enqueued without: {self._refused}. Loops, and layers "
            "whose work on the host depends on the data, are reasons",
            GraphWarning,
            stacklevel=4,
        )
