"""Runs a plan with TensorRT on CUDA tensors."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from .._trt import carried, clear_errors, last_errors, logger, trt, why_not_executable
from ..errors import ExecutionError, InputError

__all__ = ["Runner"]

ALIGNMENT = 256  # bytes; IExecutionContext.set_tensor_address requires it
INT32 = torch.iinfo(torch.int32)


class Runner:
    """An engine with one execution context per thread.

    Args:
        plan: the serialized engine.
        inputs: name and torch dtype per input; the name is "" for one that the engine does not take.
        outputs: name, torch dtype and shape per output.
        dla_core: the DLA core to run on, or None.

    Raises:
        ExecutionError: nothing here can execute it, or TensorRT refuses the plan.
    """

    def __init__(
        self, plan: bytes, inputs: Sequence[tuple[str, torch.dtype]],
        outputs: Sequence[tuple[str, torch.dtype, tuple[int, ...]]], dla_core: int | None = None,
    ) -> None:  # fmt: skip
        reason = why_not_executable()
        if reason:
            raise ExecutionError(f"this engine cannot run here: {reason}")
        clear_errors()
        self._runtime = trt.Runtime(logger())
        if dla_core is not None:
            self._runtime.DLA_core = dla_core  # the engine captures it when it is deserialised
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise ExecutionError("TensorRT cannot load this engine:\n" + "\n".join(f"  {line}" for line in last_errors()))
        self._inputs, self._outputs = list(inputs), list(outputs)
        self._contexts = threading.local()

    @property
    def engine(self) -> Any:
        """TensorRT's ICudaEngine."""
        return self._engine

    def context(self) -> Any:
        """The IExecutionContext with which this thread's calls run."""
        return self._context(torch.cuda.current_stream())

    def _context(self, stream: torch.cuda.Stream) -> Any:
        """This thread's context, safe to use on ``stream``: its work on another stream is waited for."""
        local = self._contexts
        if not hasattr(local, "context"):
            local.context = self._engine.create_execution_context()
            if local.context is None:
                raise ExecutionError("TensorRT gave no execution context: " + "; ".join(last_errors(2)))
            local.stream, local.done = stream, torch.cuda.Event()
        if local.stream != stream:
            stream.wait_event(local.done)
            local.stream = stream
        return local.context

    def __call__(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Outputs for CUDA tensors of the right shapes and dtypes, enqueued on the current stream.

        Raises:
            InputError: an int64 value does not fit into the INT32 that TensorRT carries it in.
            ExecutionError: TensorRT failed to enqueue.
        """
        device = tensors[0].device
        with torch.cuda.device(device):
            stream = torch.cuda.current_stream(device)
            context = self._context(stream)
            kept: list[torch.Tensor] = []  # TensorRT keeps no reference to what it reads and writes
            for (name, dtype), tensor in zip(self._inputs, tensors):
                if name:
                    kept.append(_ready(tensor, dtype, name))
                    context.set_tensor_address(name, kept[-1].data_ptr())
            results = []
            for name, dtype, shape in self._outputs:
                results.append(torch.empty(shape, dtype=carried(dtype), device=device))
                kept.append(results[-1] if results[-1].numel() else torch.empty(1, device=device))  # no null addresses
                context.set_tensor_address(name, kept[-1].data_ptr())
            if not context.execute_async_v3(stream.cuda_stream):
                raise ExecutionError("TensorRT could not run the engine:\n" + "\n".join(f"  {line}" for line in last_errors()))
            self._contexts.done.record(stream)
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
