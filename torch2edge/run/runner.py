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


def _raw_stream(index: int) -> int:
    """The handle of the current stream, without a torch.cuda.Stream around it, which takes 6 us to make."""
    return int(torch._C._cuda_getCurrentRawStream(index))


@dataclass
class _Held:
    """An execution context of one thread."""

    context: Any  # IExecutionContext
    stream: torch.cuda.Stream  # of its last use
    raw: int  # its handle
    done: torch.cuda.Event  # that use
    addresses: list[int]  # of inputs and outputs, as the context was told last
    templates: list[torch.Tensor]  # outputs of one element, spread over the shapes; none where shapes vary or hold a 0
    dynamic: bool
    input_shapes: tuple[tuple[int, ...], ...] | None = None  # what it was told last, where shapes are dynamic
    output_shapes: list[tuple[int, ...]] = field(default_factory=list)
    spare: torch.Tensor | None = None


class Runner:
    """An engine with one execution context per thread, and per optimization profile where it has dynamic shapes.

    What can be known before a call is computed before it, and TensorRT is told an address only where it changed.

    Args:
        plan: the serialized engine.
        inputs: name and torch dtype per input; the name is "" for one that the engine does not take.
        outputs: name, torch dtype and shape per output; the shape is asked of TensorRT where shapes are dynamic.
        dla_core: the DLA core to run on, or None.

    Raises:
        ExecutionError: nothing here can execute it, or TensorRT refuses the plan.
    """

    def __init__(
        self, plan: bytes, inputs: Sequence[tuple[str, torch.dtype]],
        outputs: Sequence[tuple[str, torch.dtype, tuple[Any, ...]]], dla_core: int | None = None,
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
        self._outputs = list(outputs)
        # position, name, dtype, and whether the tensor can go in as it is
        self._taken = [(i, n, d, carried(d) == d) for i, (n, d) in enumerate(inputs) if n]
        self._names = [n for _, n, _, _ in self._taken] + [n for n, _, _ in self._outputs]
        self._cast = any(carried(dtype) != dtype for _, dtype, _ in self._outputs)
        self._contexts = threading.local()

    @property
    def engine(self) -> Any:
        """TensorRT's ICudaEngine."""
        return self._engine

    def context(self, profile: int | None = None) -> Any:
        """The IExecutionContext with which this thread's calls run."""
        device = torch.device("cuda", torch.cuda.current_device())
        held = self._held(_raw_stream(device.index), device, profile)
        held.addresses = [0] * len(self._names)  # whoever asks for it may set others
        return held.context

    def _held(self, raw: int, device: torch.device, profile: int | None) -> _Held:
        """This thread's context for a profile, safe to use on the current stream: its work on another one is waited for."""
        try:
            mine: _Held = self._contexts.held[profile]
        except (AttributeError, KeyError):
            mine = self._new(device, profile)
        if mine.raw != raw:
            mine.stream, mine.raw = torch.cuda.current_stream(device), raw
            mine.stream.wait_event(mine.done)
        return mine

    def taken(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Of the tensors of a call those that the engine takes, as it takes them."""
        return [
            t if plain and t.is_contiguous() and not t.data_ptr() % ALIGNMENT else _ready(t, dtype, name)
            for t, (_, name, dtype, plain) in zip([tensors[i] for i, _, _, _ in self._taken], self._taken)
        ]

    def given(self, results: list[torch.Tensor]) -> list[torch.Tensor]:
        """Outputs in the dtypes that they are to have."""
        return [r.to(d) for r, (_, d, _) in zip(results, self._outputs)] if self._cast else results

    def bound(self, inputs: Sequence[torch.Tensor], profile: int | None) -> tuple[_Held, list[torch.Tensor]]:
        """A context of its own that reads these tensors (as of ``taken``), and the outputs that it writes."""
        device = inputs[0].device if inputs else torch.device("cuda", torch.cuda.current_device())
        held = self._made(torch.cuda.current_stream(device), device, profile)
        results = self._empty(held, inputs, device)
        self._tell(held, [*inputs, *results], device)
        return held, results

    def _new(self, device: torch.device, profile: int | None) -> _Held:
        held = self._made(torch.cuda.current_stream(device), device, profile)
        held.done.record(held.stream)
        vars(self._contexts).setdefault("held", {})[profile] = held
        return held

    def _made(self, stream: torch.cuda.Stream, device: torch.device, profile: int | None) -> _Held:
        raw = int(stream.cuda_stream)
        context = self._engine.create_execution_context()
        if context is None:
            raise ExecutionError("TensorRT gave no execution context: " + "; ".join(last_errors(2)))
        if profile is not None and not context.set_optimization_profile_async(profile, raw):
            raise ExecutionError(f"TensorRT refused the optimization profile {profile}: " + "; ".join(last_errors(2)))
        templates: list[torch.Tensor] = []
        if profile is None and all(0 not in shape for _, _, shape in self._outputs):
            templates = [torch.empty(1, dtype=carried(d), device=device).expand(shape) for _, d, shape in self._outputs]
        told = [0] * len(self._names)
        return _Held(context, stream, raw, torch.cuda.Event(), told, templates, profile is not None)

    def _output_shapes(self, held: _Held, shapes: tuple[tuple[int, ...], ...]) -> list[tuple[int, ...]]:
        """The shapes of the outputs for these shapes of the inputs that the engine takes, which the context is told."""
        if held.input_shapes == shapes:
            return held.output_shapes
        context, held.input_shapes = held.context, None
        for (_, name, _, _), shape in zip(self._taken, shapes):
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
        if device.index == torch.cuda.current_device():
            return self._enqueue(tensors, profile, device)
        with torch.cuda.device(device):
            return self._enqueue(tensors, profile, device)

    def _enqueue(self, tensors: Sequence[torch.Tensor], profile: int | None, device: torch.device) -> list[torch.Tensor]:
        raw = _raw_stream(device.index)
        held = self._held(raw, device, profile)
        kept = self.taken(tensors)  # TensorRT keeps no reference to what it reads and writes
        results = self._empty(held, kept, device)
        self._tell(held, [*kept, *results], device)
        if not held.context.execute_async_v3(raw):
            raise ExecutionError("TensorRT could not run the engine:\n" + "\n".join(f"  {line}" for line in last_errors()))
        held.done.record(held.stream)
        for tensor in kept:  # the allocator must not hand their memory to another stream before this one has passed
            tensor.record_stream(held.stream)
        return self.given(results)

    def _empty(self, held: _Held, inputs: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        """Outputs to be written."""
        if held.templates:
            return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in held.templates]
        shapes: Sequence[tuple[Any, ...]] = [shape for _, _, shape in self._outputs]
        if held.dynamic:
            shapes = self._output_shapes(held, tuple(tuple(t.shape) for t in inputs))
        return [torch.empty(shape, dtype=carried(d), device=device) for (_, d, _), shape in zip(self._outputs, shapes)]

    def _tell(self, held: _Held, tensors: Sequence[torch.Tensor], device: torch.device) -> None:
        """The addresses that changed."""
        addresses, context = held.addresses, held.context
        for i, tensor in enumerate(tensors):
            address = tensor.data_ptr() or self._somewhere(held, device)
            if addresses[i] != address:
                context.set_tensor_address(self._names[i], address)
                addresses[i] = address

    def _somewhere(self, held: _Held, device: torch.device) -> int:
        """An address for a tensor without elements, which TensorRT does not take a null for."""
        if held.spare is None:
            held.spare = torch.empty(1, device=device)
        return held.spare.data_ptr()


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
