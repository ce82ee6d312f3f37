"""Calls of an engine as replays of CUDA graphs: one launch in the place of one per kernel."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .._trt import clear_errors, last_errors, trt
from ..errors import ExecutionError
from . import driver
from .contexts import Context, Shapes
from .runner import Outputs, Runner, Sizes, check_out, on

__all__ = ["GRAPHS", "GraphRunner", "GraphWarning", "why_not_capturable"]

GRAPHS = 8  # of an engine; the one that was not used for the longest time is dropped
SPARE = 2**24  # bytes of outputs that are held for the next call
Key = tuple[int, Shapes]  # the stream's handle, the inputs' shapes
_Changes = list[Callable[[int], None]]


class GraphWarning(UserWarning):
    """A call could not become a CUDA graph; the engine is enqueued as without."""


def why_not_capturable(metadata: dict[str, Any], engine: Any) -> str:
    """Why TensorRT's work for this engine cannot be in a CUDA graph, or "" where nothing is known against it.

    Loops, conditions and sizes that hang on values are decided on the host; the DLA takes no graphs ("not simultaneously
    supported": trtexec's sampleOptions.cpp).
    """
    if metadata.get("host_decides"):
        return f"the host decides during the call what runs next ({metadata['host_decides']})"
    if metadata.get("on_dla"):
        return "parts of it run on a DLA, which CUDA graphs do not reach"
    for i in range(engine.num_io_tensors):
        name = engine.get_tensor_name(i)
        if engine.get_tensor_location(name) == trt.TensorLocation.HOST:
            return f"{name} is read by the host"
    return ""


class _CaptureStream:
    """A stream that nobody else has: what others enqueued on it would become part of a graph."""

    def __init__(self) -> None:
        self.handle, self.lock = driver.private_stream(), threading.Lock()


class _Captured:
    """The graphs of one context: inputs copied in or not, the engine, outputs copied out or not.

    Args:
        held: a context that was enqueued once with these tensors, and that nothing else uses.
        inputs: what the engine reads.
        outputs: what it writes.
        stream: on which it is launched.
        capture: where it is captured.
        sizes: of the outputs.
    """

    def __init__(
        self, held: Context, inputs: list[torch.Tensor], outputs: list[torch.Tensor], stream: torch.cuda.Stream,
        capture: _CaptureStream, sizes: list[Sizes],
    ) -> None:  # fmt: skip
        self.held, self.inputs, self.outputs, self.stream, self.sizes = held, inputs, outputs, stream, sizes
        self.addresses = [t.data_ptr() for t in inputs]
        self.spare: list[torch.Tensor] | None = None  # the next call's outputs
        self._small = sum(t.nbytes for t in outputs) <= SPARE
        self._own = [range(t.data_ptr(), t.data_ptr() + t.nbytes) for t in inputs]
        self._capturing = capture
        self._made: dict[tuple[bool, bool], tuple[driver.Graph, _Changes, _Changes]] = {}

    def launch(self, raw: int, tensors: Sequence[torch.Tensor], addresses: list[int], results: list[torch.Tensor]) -> bool:
        """Enqueue one call on the stream ``raw``; ``results`` may be the graph's own outputs. Whether ``tensors`` are read."""
        copy_in, copy_out = addresses != self.addresses, results is not self.outputs
        if copy_in and len(addresses) > 1 and self._touches_own(addresses):  # one of its shape lies in it as a whole or not
            self._copy_others(tensors, addresses)
            copy_in = False
        try:
            graph, sources, targets = self._made[copy_in, copy_out]
        except KeyError:
            graph, sources, targets = self._made[copy_in, copy_out] = self._capture(copy_in, copy_out)
        for change, address in zip(sources, addresses):
            change(address)
        for change, result in zip(targets, results):
            change(result.data_ptr())
        graph.launch(raw)
        return addresses != self.addresses

    def _touches_own(self, addresses: list[int]) -> bool:
        for own in self._own:
            for address in addresses:
                if address in own:
                    return True
        return False

    def _copy_others(self, tensors: Sequence[torch.Tensor], addresses: list[int]) -> None:
        """Copy the inputs that are not where the graph reads them; some lie in its own inputs, which are about to change."""
        given = zip(self.inputs, tensors, addresses)
        others = [(own, t.detach().clone()) for own, t, a in given if a != own.data_ptr()]
        for own, tensor in others:
            own.copy_(tensor, non_blocking=True)

    def prepare(self, empty: Callable[[Sequence[Sizes]], list[torch.Tensor]]) -> None:
        """Make the next call's outputs while the GPU works on this one's; the copy learns where they are, too."""
        if torch.is_inference_mode_enabled() or not self._small:  # what is made there cannot be used everywhere
            return
        with contextlib.suppress(torch.cuda.OutOfMemoryError):  # this call has its outputs; the next one says so
            self.spare = empty(self.sizes)
            for made in self._made.values():
                for change, result in zip(made[2], self.spare):
                    change(result.data_ptr())

    def _capture(self, copy_in: bool, copy_out: bool) -> tuple[driver.Graph, _Changes, _Changes]:
        stream = self._capturing.handle
        given, taken = ([torch.empty_like(t) for t in tensors] for tensors in (self.inputs, self.outputs))
        with self._capturing.lock, driver.captured(stream) as made:
            for own, tensor in zip(self.inputs, given) if copy_in else ():
                driver.copy(own.data_ptr(), tensor.data_ptr(), own.nbytes, stream)
            if not self.held.enqueue(stream):
                raise driver.CudaError("; ".join(last_errors(2)) or "TensorRT could not enqueue")
            for own, result in zip(self.outputs, taken) if copy_out else ():
                driver.copy(result.data_ptr(), own.data_ptr(), own.nbytes, stream)
        graph = made[0]
        sources = [graph.source(own.data_ptr()) for own in self.inputs] if copy_in else []
        targets = [graph.target(o.data_ptr(), r.data_ptr()) for o, r in zip(self.outputs, taken)] if copy_out else []
        return graph, sources, targets


class GraphRunner:
    """Takes and gives what a ``Runner`` does, by graphs where it can.

    By default inputs are copied into a graph's own and outputs are fresh tensors: both copies are in the graph. An input that
    is the graph's own is not copied, and with ``reuse`` neither are the outputs.

    Args:
        runner: of the engine; calls that cannot be captured are its.
        refused: why none can be, or "".
        most: graphs to keep.
    """

    def __init__(self, runner: Runner, refused: str = "", most: int = GRAPHS) -> None:
        self.runner, self._most = runner, most
        self.index, self.engine, self.context, self.taken = runner.index, runner.engine, runner.context, runner.taken
        self.sizes, self.empty, self.casts, self.given = runner.sizes, runner.empty, runner.casts, runner.given
        self._capturing = _CaptureStream()
        self._idle: dict[Key, list[_Captured]] = {}
        self._used: OrderedDict[Key, None] = OrderedDict()
        self._lock = threading.Lock()
        self.refused = ""
        if refused:
            self._refuse(refused)

    @property
    def graphs(self) -> int:
        """How many are held."""
        return sum(map(len, list(self._idle.values())))

    def forget(self) -> None:
        """Wait for the GPU, and capture anew at the next call: the engine was changed."""
        self.runner.forget()
        with self._lock:
            self._idle, self._used = {}, OrderedDict()

    def profile_with(self, profiler: Callable[[], Any]) -> None:
        """See ``Runner.profile_with``; calls are no graphs from now on, which TensorRT does not profile."""
        self.refused = self.refused or "it is profiled"
        self.runner.profile_with(profiler)

    def buffers(self, tensors: Sequence[torch.Tensor], profile: int | None) -> list[torch.Tensor]:
        """The inputs that the graph for the current stream and for inputs of these shapes reads in place.

        Raises:
            ExecutionError: there can be no graph.
        """
        with on(self.index):
            ready, addresses, shapes = self.taken(tensors, profile)
            key = self.runner.raw_stream(self.index), shapes
            idle = self._idle.get(key)
            if idle:
                return list(idle[-1].inputs)
            captured, idle = (None, []) if self.refused else self._new(key, ready, addresses, profile)
            if captured is None:
                raise ExecutionError(f"there are no input buffers, for there is no CUDA graph: {self.refused}")
            idle.append(captured)
            return list(captured.inputs)

    def __call__(
        self, tensors: Sequence[torch.Tensor], profile: int | None = None, *, reuse: bool = False, out: Outputs = None
    ) -> list[torch.Tensor]:
        """See ``Runner.__call__``."""
        with on(self.index):
            ready, addresses, shapes = self.taken(tensors, profile)
            if out is not None:
                check_out(out, self.sizes(shapes, profile), [dtype for _, dtype, _ in self.runner.outputs], self.runner.device)
            return self.launch(ready, addresses, shapes, profile, reuse, out)

    def launch(
        self, tensors: Sequence[torch.Tensor], addresses: list[int], shapes: Shapes, profile: int | None, reuse: bool = False,
        out: Outputs = None,
    ) -> list[torch.Tensor]:  # fmt: skip
        """See ``Runner.launch``."""
        runner = self.runner
        runner.bind()
        key = runner.raw_stream(self.index), shapes
        if key[0] and runner.capturing():
            self._lend(key, profile)
            return runner.launch(tensors, addresses, shapes, profile, reuse, out)
        if self.refused:
            return runner.launch(tensors, addresses, shapes, profile, reuse, out)
        try:
            idle = self._idle[key]
            captured = idle.pop()
        except (KeyError, IndexError):
            made, idle = self._new(key, tensors, addresses, profile)
            if made is None:
                return runner.launch(tensors, addresses, shapes, profile, reuse, out)
            captured = made
        results = self._results(captured, reuse, out)
        try:
            copied = captured.launch(key[0], tensors, addresses, results)
        except driver.CudaError as error:
            self._refuse(str(error))
            return runner.launch(tensors, addresses, shapes, profile, reuse, out)
        if copied:
            for tensor in tensors:  # it may be another stream's, and dropped before the copy has run
                tensor.record_stream(captured.stream)
        if not reuse and out is None:
            captured.prepare(runner.empty)
        idle.append(captured)
        if len(self._used) > 1:
            self._touch(key)
        return runner.given(results, out) if runner.casts or out is not None else results

    def _results(self, captured: _Captured, reuse: bool, out: Outputs) -> list[torch.Tensor]:
        """Where a graph's outputs go to: its own stay where they are."""
        if out is None:
            if reuse:
                return captured.outputs
            results, captured.spare = captured.spare or self.empty(captured.sizes), None
            return results
        own = {t.data_ptr() for t in captured.outputs}
        fits = [o.dtype == sizes[2] and o.data_ptr() not in own for o, sizes in zip(out, captured.sizes)]
        if all(fits):
            return list(out)
        return [o if fit else new for o, fit, new in zip(out, fits, self.empty(captured.sizes))]

    def _lend(self, key: Key, profile: int | None) -> None:
        """A call that the user captures takes a context that has worked, and here all that have are those of graphs."""
        raw, shapes = key
        for (_, other), idle in list(self._idle.items()):
            if other == shapes and not self.runner.has_context(raw, profile, shapes):
                with contextlib.suppress(IndexError):
                    lent = idle.pop()
                    self.runner.in_graphs.append(lent)  # to destroy its graphs would break the capture
                    self.runner.keep_for_capture(lent.held, raw, profile, shapes)

    def _touch(self, key: Key) -> None:
        """It was used last."""
        with contextlib.suppress(KeyError):  # another thread dropped it meanwhile
            self._used.move_to_end(key)

    def _new(
        self, key: Key, tensors: Sequence[torch.Tensor], addresses: list[int], profile: int | None
    ) -> tuple[_Captured | None, list[_Captured]]:
        """A graph for these shapes on the current stream, or None where there can be none; and where it is put back."""
        foreign = key[0] and torch.cuda.current_stream().stream_id == key[0]  # its handle may be another stream's tomorrow
        if foreign or not all(t.numel() for t in tensors):
            return None, []
        clear_errors()
        try:
            with torch.inference_mode(False), torch.no_grad():  # buffers are written in whatever mode
                captured = self._checked(key, tensors, addresses, profile)
        except driver.CudaError as error:
            self._refuse(str(error))
            return None, []
        with self._lock:
            while self._used and self.graphs >= self._most:
                oldest, _ = self._used.popitem(last=False)
                torch.cuda.synchronize(self.index)
                self._idle.pop(oldest, None)
            self._used[key] = None
            return captured, self._idle.setdefault(key, [])

    def _checked(self, key: Key, tensors: Sequence[torch.Tensor], addresses: list[int], profile: int | None) -> _Captured:
        """A graph whose replay gives what a plain call gives, on other inputs than it was captured with."""
        (raw, shapes), runner, stream = key, self.runner, torch.cuda.current_stream()
        inputs = [t.detach().clone(memory_format=torch.contiguous_format) for t in tensors]
        held = runner.contexts.new(stream, profile, own_memory=True)
        runner.launch(inputs, [t.data_ptr() for t in inputs], shapes, profile, reuse=True, own=held)  # sets it up, too
        sizes = runner.sizes(shapes, profile)
        outputs = held.kept_for(shapes, lambda: runner.empty(sizes))
        expected = [t.clone() for t in outputs]
        if not all(t.numel() for t in outputs):
            raise driver.CudaError("an output has no elements")
        for tensor in inputs:
            tensor.fill_(1)
        stream.synchronize()
        captured = _Captured(held, inputs, outputs, stream, self._capturing, sizes)
        given = runner.empty(sizes)
        captured.launch(raw, tensors, addresses, given)
        if not all(map(_close, given, expected)):
            raise driver.CudaError("a replay gave other outputs than a plain call")
        return captured

    def _refuse(self, why: str) -> None:
        self.refused = (why.splitlines() or ["TensorRT gave no reason"])[0]
        warnings.warn(
            f"the engine's calls cannot be CUDA graphs, and are enqueued one by one: {self.refused}",
            GraphWarning,
            stacklevel=2,
        )


def _close(given: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two runs of one engine agree; kernels with atomics sum in any order."""
    if not given.is_floating_point():
        return torch.equal(given, expected)
    given, expected = given.float(), expected.float()
    largest = float(expected[expected.isfinite()].abs().max()) if expected.isfinite().any() else 0.0
    return torch.allclose(given, expected, rtol=1e-2, atol=1e-2 * largest, equal_nan=True)
