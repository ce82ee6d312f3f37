"""Runs a plan with TensorRT on CUDA tensors."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .._trt import carried, clear_errors, last_errors, logger, trt, why_not_executable
from ..errors import ExecutionError, InputError

__all__ = ["Runner"]

ALIGNMENT = 256  # bytes; IExecutionContext.set_tensor_address requires it
INT32 = torch.iinfo(torch.int32)


@dataclass
class _Held:
    """An execution context of one thread."""

    context: Any  # IExecutionContext
    stream: torch.cuda.Stream  # of its last use
    done: torch.cuda.Event  # that use
    input_shapes: tuple[tuple[int, ...], ...] | None = None  # what it was told last, where shapes are dynamic
    output_shapes: list[tuple[int, ...]] = field(default_factory=list)


class Runner:
    """An engine with one execution context per thread, and per optimization profile where it has dynamic shapes.

    Args:
        plan: the serialized engine.
        inputs: name and torch dtype per input; the name is "" for one that the engine does not take.
        outputs: name, torch dtype and shape per output; the shape is asked of TensorRT where shapes are dynamic.
        dla_core: the DLA core to run on, or None.
        host_code: run the code for the host that is in a version-compatible plan.

    Raises:
        ExecutionError: nothing here can execute it, or TensorRT refuses the plan.
    """

    def __init__(
        self, plan: bytes, inputs: Sequence[tuple[str, torch.dtype]],
        outputs: Sequence[tuple[str, torch.dtype, tuple[Any, ...]]], dla_core: int | None = None, host_code: bool = False,
    ) -> None:  # fmt: skip
        reason = why_not_executable()
        if reason:
            raise ExecutionError(f"this engine cannot run here: {reason}")
        clear_errors()
        self._runtime = trt.Runtime(logger())
        if dla_core is not None:
            self._runtime.DLA_core = dla_core  # the engine captures it when it is deserialised
        self._runtime.engine_host_code_allowed = host_code
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ExecutionError("TensorRT cannot load this engine:\n" + "\n".join(f"  {line}" for line in last_errors()))
        self._inputs, self._outputs = list(inputs), list(outputs)
        self._contexts = threading.local()

    @property
    def engine(self) -> Any:
        """TensorRT's ICudaEngine."""
        return self._engine

    def context(self, profile: int | None = None) -> Any:
        """The IExecutionContext with which this thread's calls run."""
        return self._context(torch.cuda.current_stream(), profile).context

    def _context(self, stream: torch.cuda.Stream, profile: int | None) -> _Held:
        """This thread's context for a profile, safe to use on ``stream``: its work on another stream is waited for."""
        held: dict[int | None, _Held] = vars(self._contexts).setdefault("held", {})
        if profile not in held:
            context = self._engine.create_execution_context()
            if context is None:
                raise ExecutionError("TensorRT gave no execution context: " + "; ".join(last_errors(2)))
            if profile is not None and not context.set_optimization_profile_async(profile, stream.cuda_stream):
                raise ExecutionError(f"TensorRT refused the optimization profile {profile}: " + "; ".join(last_errors(2)))
            held[profile] = _Held(context, stream, torch.cuda.Event())
            held[profile].done.record(stream)
        mine = held[profile]
        if mine.stream != stream:
            stream.wait_event(mine.done)
            mine.stream = stream
        return mine

    def _output_shapes(self, held: _Held, shapes: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
        """The shapes of the outputs for these shapes of the inputs that the engine takes, which the context is told."""
        if held.input_shapes == shapes:
            return held.output_shapes
        context, held.input_shapes = held.context, None
        names = [name for name, _ in self._inputs if name]
        for name, shape in zip(names, shapes):
            if not context.set_input_shape(name, shape):
                raise ExecutionError(f"TensorRT refused the shape {shape} of {name}: " + "; ".join(last_errors(2)))
        missing = context.infer_shapes()
        if missing:
            raise ExecutionError(f"TensorRT cannot tell all shapes: {', '.join(missing)}: " + "; ".join(last_errors(2)))
        held.output_shapes = [tuple(context.get_tensor_shape(name)) for name, _, _ in self._outputs]
        held.input_shapes = shapes
        return held.output_shapes

    def __call__(self, tensors: Sequence[torch.Tensor], profile: int | None = None) -> list[torch.Tensor]:
        """Outputs for CUDA tensors of the right shapes and dtypes, enqueued on the current stream.

        Args:
            profile: the optimization profile that takes these shapes; None for an engine with fixed shapes.

        Raises:
            InputError: an int64 value does not fit into the INT32 that TensorRT carries it in.
            ExecutionError: TensorRT failed to enqueue.
        """
        device = tensors[0].device
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream(device)
            held = self._context(stream, profile)
            context = held.context
            kept: list[torch.Tensor] = []  # TensorRT keeps no reference to what it reads and writes
            for (name, dtype), tensor in zip(self._inputs, tensors):
                if name:
                    kept.append(_ready(tensor, dtype, name))
                    context.set_tensor_address(name, kept[-1].data_ptr())
            shapes = [shape for _, _, shape in self._outputs]
            if profile is not None:
                shapes = self._output_shapes(held, tuple(tuple(t.shape) for t in kept))
            results = []
            for (name, dtype, _), shape in zip(self._outputs, shapes):
                results.append(torch.empty(shape, dtype=carried(dtype), device=device))
                kept.append(results[-1] if results[-1].numel() else torch.empty(1, device=device))  # no null addresses
                context.set_tensor_address(name, kept[-1].data_ptr())
            if not context.execute_async_v3(stream.cuda_stream):
                raise ExecutionError("TensorRT could not run the engine:\n" + "\n".join(f"  {line}" for line in last_errors()))
            held.done.record(stream)
            for tensor in kept:  # the allocator must not hand their memory to another stream before this one has passed
                tensor.record_stream(stream)
            return [r.to(dtype) for r, (_, dtype, _) in zip(results, self._outputs)]


def _ready(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """Contiguous, aligned, and in the dtype in which TensorRT carries ``dtype``."""
    if dtype == torch.int64 and carried(dtype) == torch.int32:
        low, high = torch.aminmax(tensor)
        if int(low) < INT32.min or int(high) > INT32.max:
            raise InputError(
                f"{name} holds {int(low)} to {int(high)}: this TensorRT carries int64 as INT32, so values must lie in "
                f"[{INT32.min}, {INT32.max}]"
            )
    tensor = tensor.to(carried(dtype)).contiguous()
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()
