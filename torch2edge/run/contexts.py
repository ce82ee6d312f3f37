"""Execution contexts: one per call that is under way, kept by the stream on which they worked last."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .._trt import capabilities, context_without_memory, device_memory_size, give_memory, last_errors
from ..errors import ExecutionError
from .driver import capture_id
from .memory import SharedMemory

__all__ = ["Context", "Contexts", "Shapes", "output_shape"]

Shapes = tuple[tuple[int, ...], ...]


class Context:
    """An IExecutionContext, and what it was told last.

    Attributes:
        context: TensorRT's.
        stream: on which it worked last.
        told: the addresses of the engine's inputs and outputs, in their order.
        shapes: of the inputs that the engine takes, where they vary.
        kept: the outputs that it writes again and again, for ``outputs="reuse"``.
        done: of its last work, on a stream that PyTorch does not own and that may end before.
        plain: whether an enqueue on its stream is all that a call takes.
    """

    __slots__ = ("_alone", "context", "done", "enqueue", "kept", "plain", "shapes", "stream", "told")

    def __init__(self, context: Any, stream: torch.cuda.Stream, tensors: int, alone: bool) -> None:
        self.context, self.stream, self.enqueue = context, stream, context.execute_async_v3
        self.told = [-1] * tensors
        self.shapes: Shapes | None = None
        self.kept: tuple[Any, list[torch.Tensor]] | None
        self.done: torch.cuda.Event | None = None
        self._alone = alone
        self.moved(stream)

    def kept_for(self, shapes: Shapes, make: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor]:
        """The outputs for ``outputs="reuse"`` and inputs of these shapes."""
        if self.kept is None or self.kept[0] != shapes:
            with torch.inference_mode(False):  # what is made in it cannot be written outside of it
                self.kept = shapes, make()
        return self.kept[1]

    def moved(self, stream: torch.cuda.Stream) -> None:
        """It is to work on ``stream`` from now on."""
        self.stream, self.kept = stream, None  # the outputs' memory is of the stream before
        foreign = stream.cuda_stream != 0 and stream.stream_id == stream.cuda_stream  # torch.cuda.ExternalStream
        self.done = torch.cuda.Event() if foreign else None
        if self.done is not None:
            self.done.record(stream)
        by_detour = stream.cuda_stream == 0 and capabilities().default_stream_synchronizes
        self.plain = self._alone and not foreign and not by_detour

    def wait_for(self, stream: torch.cuda.Stream) -> None:
        """Let ``stream`` wait for this context's work."""
        if self.done is not None:
            stream.wait_event(self.done)
        elif stream != self.stream:
            stream.wait_event(self.stream.record_event())


class Contexts:
    """The idle contexts of an engine by stream (and profile).

    Taking one and putting it back are a list's ``pop`` and ``append``: no call waits for another. Only making one is locked.

    Args:
        engine: ICudaEngine.
        tensors: how many inputs and outputs it has.
        memory: where the activations are; None for a memory of each context's own.
        most: idle streams' contexts are taken over from so many contexts on.
    """

    def __init__(self, engine: Any, tensors: int, memory: SharedMemory | None, most: int) -> None:
        self._engine, self._tensors, self._memory, self.most = engine, tensors, memory, most
        self.idle: dict[int | None, dict[int, list[Context]]] = {}  # profile -> stream's handle
        self._lock = threading.Lock()
        self._made = 0
        self._profiler: Callable[[], Any] | None = None

    def new(self, stream: torch.cuda.Stream, profile: int | None, own_memory: bool = False) -> Context:
        """A context that nobody else gets; with ``own_memory`` it shares no activations either.

        Raises:
            ExecutionError: TensorRT gives none, mostly for want of memory.
        """
        memory = None if own_memory else self._memory
        context = context_without_memory(self._engine) if memory else self._engine.create_execution_context()
        if context is None:
            raise ExecutionError(_no_context(self._engine))
        if memory:
            size = device_memory_size(self._engine)
            give_memory(context, memory.address(size), size)
        if self._profiler is not None:
            context.profiler = self._profiler()
        if profile is not None and not context.set_optimization_profile_async(profile, stream.cuda_stream):
            raise ExecutionError(f"TensorRT refused the optimization profile {profile}: " + "; ".join(last_errors(2)))
        return Context(context, stream, self._tensors, alone=memory is None)

    def take(self, raw: int, profile: int | None, device: torch.device) -> tuple[Context, list[Context]]:
        """A context for the current stream, which has none idle: another's, or a new one; and where to put it back.

        Args:
            raw: the stream's handle.
            profile: the optimization profile that it is to have.
            device: the stream's.
        """
        stream = torch.cuda.current_stream(device)
        with self._lock:
            idle = self.idle.setdefault(profile, {}).setdefault(raw, [])
            found = self._idle_elsewhere(profile) if self._made >= self.most else None
            if found is None:
                found = self.new(stream, profile)
                self._made += 1
        found.wait_for(stream)
        found.moved(stream)
        return found, idle

    def warm(self, profile: int | None, shapes: Shapes) -> Context | None:
        """An idle context that has worked with inputs of these shapes, the caller's from now on; None where there is none."""
        with self._lock:
            for contexts in list(self.idle.get(profile, {}).values()):
                for held in list(contexts):
                    if held.shapes == shapes and -1 not in held.told:
                        with contextlib.suppress(ValueError):  # a call has just taken it
                            contexts.remove(held)
                            self._made -= 1
                            return held
        return None

    def profile_with(self, profiler: Callable[[], Any]) -> None:
        """Give each context an IProfiler; the idle ones are forgotten, and the caller sees to it that none works."""
        self._profiler = profiler
        self.drop()

    def drop(self) -> None:
        """Forget all idle contexts; the caller sees to it that none works."""
        with self._lock:
            self.idle = {}
            self._made = 0

    def _idle_elsewhere(self, profile: int | None) -> Context | None:
        """Of another stream, but not of one that is captured: an event of it would pull the waiting stream in."""
        for raw, contexts in list(self.idle.get(profile, {}).items()):
            with contextlib.suppress(IndexError):
                if contexts[0].done is not None or not capture_id(raw):  # a stream that is not PyTorch's may be gone
                    return contexts.pop(0)
        return None


def output_shape(context: Any, name: str, shapes: Shapes) -> tuple[int, ...]:
    """The shape of an output of an IExecutionContext that was told the shapes of its inputs.

    ``infer_shapes`` is not asked: its binding of 8.6.0 ends the process where it finds an error.

    Raises:
        ExecutionError: the inputs do not fit together, or the size hangs on values.
    """
    try:
        shape = tuple(context.get_tensor_shape(name))
    except ValueError:  # a rank of -1
        shape = (-1,)
    if any(size < 0 for size in shape):
        raise ExecutionError(
            f"TensorRT cannot tell the shape of {name} for inputs of the shapes {', '.join(map(str, shapes))}: "
            + ("; ".join(last_errors(2)) or "it gives no reason")
        )
    return shape


def _no_context(engine: Any) -> str:
    free, whole = torch.cuda.mem_get_info()
    needs: Sequence[str] = [f"it needs {device_memory_size(engine) / 2**20:.0f} MiB for its activations"]
    return (
        f"TensorRT gave no execution context: {'; '.join([*last_errors(2), *needs])}, and {free / 2**20:.0f} of the GPU's "
        f"{whole / 2**20:.0f} MiB are free. Free some (del, torch.cuda.empty_cache()) and call again, use fewer streams and "
        "threads, or let engines that never run at once share it: share_memory_with()"
    )
