"""Runs a plan with TensorRT on CUDA tensors of one GPU."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from .._trt import capabilities, carried, clear_errors, last_errors, load_plugins, logger, trt, why_not_executable
from ..errors import ExecutionError, InputError
from .contexts import Context, Contexts, Shapes, output_shape
from .detour import Detour
from .driver import capture_id, current_context, set_context
from .memory import SharedMemory

__all__ = ["ALIGNMENT", "CONTEXTS", "NOT_CALLED", "SHAPES", "Outputs", "Runner", "Sizes", "check_out", "on"]

ALIGNMENT = 256  # bytes; IExecutionContext.set_tensor_address requires it
CONTEXTS = 4  # per engine, before idle ones of other streams are taken over
SHAPES = 256  # whose outputs are remembered
INT32 = torch.iinfo(torch.int32)
Sizes = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]  # of an output: its shape, strides and dtype
NOT_CALLED = (
    "a CUDA graph is captured here, and the engine was not called with inputs of these shapes before, or was in as many calls "
    "as it has execution contexts: TensorRT sets itself up in a first call, which no graph can hold. Call the module (or "
    "module.warmup()) before the capture, on as many streams as are captured"
)
Outputs = Sequence[torch.Tensor] | None


class Runner:
    """An engine on one GPU; it may be called on any stream and from any thread, and never waits for the GPU.

    What can be known before a call is computed before it, and TensorRT is told an address only where it changed.

    Args:
        plan: the serialized engine.
        inputs: name and torch dtype per input; the name is "" for one that the engine does not take.
        outputs: name, torch dtype and shape per output; the shape is asked of TensorRT where shapes are dynamic.
        dla_core: the DLA core to run on, or None.
        memory: where the activations are; None for a memory of each context's own.
        contexts: idle streams' execution contexts are taken over from so many on.
        host_code: run the code for the host that is in a version-compatible plan.
        in_graphs: what graphs of the user have captured is put here; such a graph needs it for ever.

    Raises:
        ExecutionError: nothing here can execute it, or TensorRT refuses the plan.
    """

    def __init__(
        self, plan: bytes, inputs: Sequence[tuple[str, torch.dtype]],
        outputs: Sequence[tuple[str, torch.dtype, tuple[Any, ...]]], dla_core: int | None = None,
        memory: SharedMemory | None = None, contexts: int = CONTEXTS, host_code: bool = False,
        in_graphs: list[Any] | None = None,
    ) -> None:  # fmt: skip
        reason = why_not_executable()
        if reason:
            raise ExecutionError(f"this engine cannot run here: {reason}")
        clear_errors()
        self.index = torch.cuda.current_device()
        # What Inductor's code calls, too. On an H200's host torch.cuda.current_stream() takes 4.5 us, torch.empty 3.2,
        # empty_like 1.8; these take 0.1 and 1.1. A torch without CUDA has no streams.
        self.raw_stream: Callable[[int], int] = torch._C._cuda_getCurrentRawStream
        self._empty: Callable[..., torch.Tensor] = torch._C._dynamo.guards._empty_strided_cuda  # type: ignore[attr-defined]
        self.capturing: Callable[[], bool] = torch._C._cuda_isCurrentStreamCapturing
        self.device = torch.device("cuda", self.index)
        load_plugins()
        self._runtime = trt.Runtime(logger())
        if dla_core is not None:
            self._runtime.DLA_core = dla_core  # the engine captures it when it is deserialised
        self._runtime.engine_host_code_allowed = host_code
        self.engine = self._runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise ExecutionError("TensorRT cannot load this engine:\n" + "\n".join(f"  {line}" for line in last_errors()))
        self.outputs = list(outputs)
        self._taken = [(i, name, dtype) for i, (name, dtype) in enumerate(inputs) if name]
        self.names = [n for _, n, _ in self._taken] + [n for n, _, _ in self.outputs]
        self.casts = any(carried(dtype) != dtype for _, dtype, _ in self.outputs)
        self._memory = memory
        self.contexts = Contexts(self.engine, len(self.names), memory, contexts)
        self._detour = Detour(self.device) if capabilities().default_stream_synchronizes else None
        self.in_graphs = in_graphs if in_graphs is not None else []
        self._captures: dict[tuple[int, int, int | None, Shapes], Context] = {}
        self._threads = threading.local()
        self._bound = threading.local()
        self._spare = torch.empty(1, device=self.device)  # an address for tensors without elements: null is refused
        self._made: dict[Shapes, list[Sizes]] = {}
        self._cuda_context = current_context()  # the tensor above has made it, if nothing else

    def context(self, profile: int | None = None) -> Any:
        """An IExecutionContext of this thread's own, for whoever calls TensorRT directly; calls do not use it."""
        held: dict[int | None, Any] = vars(self._threads).setdefault("held", {})
        if profile not in held:
            with torch.cuda.device(self.index):
                held[profile] = self.contexts.new(torch.cuda.current_stream(), profile, own_memory=True).context
        return held[profile]

    def forget(self) -> None:
        """Wait for the GPU, and make contexts anew at the next call: the engine was changed."""
        torch.cuda.synchronize(self.device)
        self.contexts.drop()
        self._threads = threading.local()

    def profile_with(self, profiler: Callable[[], Any]) -> None:
        """Wait for the GPU, and give each context of the calls from now on an IProfiler, made by ``profiler``."""
        torch.cuda.synchronize(self.device)
        self.contexts.profile_with(profiler)

    # ---- a call -----------------------------------------------------------------------------------------------------

    def __call__(
        self, tensors: Sequence[torch.Tensor], profile: int | None = None, *, reuse: bool = False, out: Outputs = None
    ) -> list[torch.Tensor]:
        """Outputs for CUDA tensors of the right shapes and dtypes on this GPU, enqueued on the current stream.

        Args:
            profile: the optimization profile that takes these shapes; None for an engine with fixed shapes.
            reuse: the outputs are those of the last such call, overwritten.
            out: the outputs, one per output of the engine: to be written, and returned.

        Raises:
            InputError: an int64 value does not fit into the INT32 that TensorRT carries it in.
            ExecutionError: TensorRT failed to enqueue.
        """
        with on(self.index):
            ready, addresses, shapes = self.taken(tensors, profile)
            if out is not None:
                check_out(out, self.sizes(shapes, profile), [dtype for _, dtype, _ in self.outputs], self.device)
            return self.launch(ready, addresses, shapes, profile, reuse, out)

    def taken(
        self, tensors: Sequence[torch.Tensor], profile: int | None
    ) -> tuple[Sequence[torch.Tensor], list[int], Shapes]:  # fmt: skip
        """Of the tensors of a call those that the engine takes: contiguous, aligned, in its dtypes.

        Returns:
            The tensors, their addresses, and their shapes where those vary, else ().
        """
        ready = [_ready(tensors[i], dtype, name) for i, name, dtype in self._taken]
        shapes = () if profile is None else tuple(tuple(t.shape) for t in ready)
        return ready, [t.data_ptr() or self._spare.data_ptr() for t in ready], shapes

    def launch(
        self, tensors: Sequence[torch.Tensor], addresses: list[int], shapes: Shapes, profile: int | None, reuse: bool = False,
        out: Outputs = None, own: Context | None = None,
    ) -> list[torch.Tensor]:  # fmt: skip
        """A call with what ``taken`` gave; this GPU is the current one.

        Args:
            out: tensors that fit.
            own: a context of the caller's, in the place of one that is idle.
        """
        self.bind()
        raw = self.raw_stream(self.index)
        if raw and own is None and self.capturing():  # the default stream cannot be
            own = self._of_a_graph(raw, profile, shapes)
        idle: list[Context] = []
        try:
            if own is None:
                idle = self.contexts.idle[profile][raw]
            held = own or idle.pop()
        except (KeyError, IndexError):
            held, idle = self.contexts.take(raw, profile, self.device)
        try:
            made = self._made.get(shapes)
            if held.shapes != shapes or made is None:
                made = self._tell_shapes(held, shapes)
            if out is None and not reuse:
                results = [self._empty(*sizes) for sizes in made]
            elif out is None:
                results = held.kept_for(shapes, partial(self.empty, made))
                tensors, addresses = _apart(tensors, addresses, results)
            else:  # TensorRT may carry another dtype
                results = [o if o.dtype == sizes[2] else self._empty(*sizes) for o, sizes in zip(out, made)]
            now = addresses + [t.data_ptr() for t in results]
            if now != held.told:
                self._tell_addresses(held, now)
        except torch.cuda.OutOfMemoryError:
            idle.append(held)  # for the next call; after other errors it is not trusted
            raise
        if not (held.enqueue(raw) if held.plain else self._enqueue_in_turn(held, raw)):
            raise ExecutionError("TensorRT could not run the engine:\n" + "\n".join(f"  {line}" for line in last_errors()))
        stream = held.stream
        idle.append(held)
        for tensor in tensors:  # the allocator must not hand their memory to another stream before this one has passed
            tensor.record_stream(stream)
        return self.given(results, out) if self.casts else results

    def bind(self) -> None:
        """TensorRT calls the driver, which knows no context in a thread that has done nothing with CUDA yet."""
        try:
            self._bound.yes  # noqa: B018
        except AttributeError:
            if not current_context():
                set_context(self._cuda_context)
            self._bound.yes = True

    def _tell_addresses(self, held: Context, now: list[int]) -> None:
        """The addresses that changed, in the order of ``names``."""
        for i, (address, before) in enumerate(zip(now, held.told)):
            if address != before and not held.context.set_tensor_address(self.names[i], address or self._spare.data_ptr()):
                raise ExecutionError(
                    f"TensorRT refused the address {address:#x} of {self.names[i]}: " + "; ".join(last_errors(2))
                )
        held.told = now

    def _enqueue_in_turn(self, held: Context, raw: int) -> bool:
        """Enqueue where the stream alone does not see to the order."""
        with self._memory.turn(held.stream) if self._memory else contextlib.nullcontext():
            if held.done is not None:  # a stream of the same handle may be another one by now
                held.stream.wait_event(held.done)
            if raw == 0 and self._detour is not None:
                return self._detour.enqueue(held.enqueue, held.stream)
            enqueued = bool(held.enqueue(raw))
            if held.done is not None:
                held.done.record(held.stream)
        return enqueued

    def _of_a_graph(self, raw: int, profile: int | None, shapes: Shapes) -> Context:
        """For a call that the user captures: a context that only that graph uses, for it replays when it likes.

        Calls one after the other on one stream of one capture may share it. Nothing may work on it any more:
        ``torch.cuda.graph`` has synchronized the GPU before.
        """
        key = capture_id(raw), raw, profile, shapes
        if key in self._captures:
            return self._captures[key]
        if self._memory is not None:
            raise ExecutionError(
                "a CUDA graph is captured here, but the engine shares its activation memory with others, whose work a graph's "
                "replay does not wait for. Call a copy (copy.deepcopy(module)) that shares none"
            )
        held = self.contexts.warm(profile, shapes)
        if held is None:
            raise ExecutionError(NOT_CALLED)
        self.keep_for_capture(held, raw, profile, shapes)
        return held

    def has_context(self, raw: int, profile: int | None, shapes: Shapes) -> bool:
        """Whether the capture on the current stream has one for such calls."""
        return (capture_id(raw), raw, profile, shapes) in self._captures

    def keep_for_capture(self, held: Context, raw: int, profile: int | None, shapes: Shapes) -> None:
        """A context belongs to the graph that is captured on the current stream, for as long as the module lives."""
        held.stream, held.done, held.plain = torch.cuda.current_stream(self.device), None, True
        self._captures[capture_id(raw), raw, profile, shapes] = held
        self.in_graphs.append(held)

    # ---- outputs ----------------------------------------------------------------------------------------------------

    def empty(self, made: Sequence[Sizes]) -> list[torch.Tensor]:
        """New tensors on this GPU."""
        return [self._empty(*sizes) for sizes in made]

    def sizes(self, shapes: Shapes, profile: int | None) -> list[Sizes]:
        """Of the outputs for inputs of these shapes, in the dtypes that TensorRT gives; this GPU is the current one."""
        made = self._made.get(shapes)
        if made is None:
            held, idle = self.contexts.take(self.raw_stream(self.index), profile, self.device)
            made = self._tell_shapes(held, shapes)
            idle.append(held)
        return made

    def given(self, results: Sequence[torch.Tensor], out: Outputs) -> list[torch.Tensor]:
        """Outputs in the dtypes that they are to have, and where they are to be."""
        wanted: Sequence[torch.Tensor | None] = out or [None] * len(results)
        return [
            r.to(dtype) if given is None else given if given is r else given.copy_(r)
            for r, given, (_, dtype, _) in zip(results, wanted, self.outputs)
        ]

    def _tell_shapes(self, held: Context, shapes: Shapes) -> list[Sizes]:
        """Tell a context the shapes of its inputs; what the outputs are made after."""
        context, held.shapes = held.context, None
        for (_, name, _), shape in zip(self._taken, shapes):
            if not context.set_input_shape(name, shape):
                raise ExecutionError(f"TensorRT refused the shape {shape} of {name}: " + "; ".join(last_errors(2)))
        made = self._made.get(shapes)
        if made is None:
            asked = [output_shape(context, n, shapes) if shapes else shape for n, _, shape in self.outputs]
            made = [
                (tuple(shape), torch.empty(shape, device="meta").stride(), carried(dtype))
                for (_, dtype, _), shape in zip(self.outputs, asked)
            ]
            if len(self._made) >= SHAPES:
                self._made = {}  # the next calls ask again
            self._made[shapes] = made
        held.shapes = shapes
        return made


def on(index: int) -> Any:
    """A context in which the GPU is the current one."""
    return contextlib.nullcontext() if torch.cuda.current_device() == index else torch.cuda.device(index)


def check_out(
    out: Sequence[torch.Tensor], made: Sequence[Sizes], dtypes: Sequence[torch.dtype], device: torch.device
) -> None:  # fmt: skip
    """Refuse tensors that the engine cannot write its outputs into.

    Raises:
        InputError: another shape, dtype or GPU, not contiguous, not aligned, or two of one memory.
    """
    for i, (given, (shape, _, _), dtype) in enumerate(zip(out, made, dtypes, strict=True)):
        if (given.shape, given.dtype, given.device) != (shape, dtype, device):
            raise InputError(
                f"out[{i}] is {given.dtype} {tuple(given.shape)} on {given.device}; the output is {dtype} {shape} on {device}"
            )
        if not given.is_contiguous() or given.data_ptr() % ALIGNMENT or given.is_neg():
            raise InputError(
                f"out[{i}] is not contiguous, or does not begin at a multiple of {ALIGNMENT} bytes, which TensorRT writes to: "
                "give a tensor of torch.empty"
            )


def _apart(
    tensors: Sequence[torch.Tensor], addresses: list[int], results: Sequence[torch.Tensor]
) -> tuple[Sequence[torch.Tensor], list[int]]:
    """Inputs of which none lies in what is about to be written: an output of the last call that is fed back is copied."""
    written = [range(t.data_ptr(), t.data_ptr() + t.nbytes) for t in results]
    if not any(address in area for address in addresses for area in written):
        return tensors, addresses
    tensors = [t.clone() if any(a in area for area in written) else t for t, a in zip(tensors, addresses)]
    return tensors, [t.data_ptr() or a for t, a in zip(tensors, addresses)]


def _ready(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """Contiguous, aligned, and in the dtype in which TensorRT carries ``dtype``."""
    if tensor.dtype == torch.int64 and carried(dtype) == torch.int32 and tensor.numel():
        low, high = torch.aminmax(tensor)
        if int(low) < INT32.min or int(high) > INT32.max:
            raise InputError(
                f"{name} holds {int(low)} to {int(high)}: this TensorRT carries int64 as INT32, so values must lie in "
                f"[{INT32.min}, {INT32.max}]"
            )
    tensor = tensor.to(carried(dtype)).resolve_neg().contiguous()
    if tensor.numel() and not tensor.data_ptr():
        raise InputError(f"{name} has no memory (a tensor of PyTorch's own for zeros?): give a clone of ordinary zeros")
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()
