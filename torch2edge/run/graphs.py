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
from .runner import Outputs, Runner, Taken, on

__all__ = ["GRAPHS", "GraphRunner", "GraphWarning", "why_not_capturable"]

GRAPHS = 8  # of an engine; the one that was not used for the longest time is dropped
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


class _Captured:
    """The graphs of one context: inputs copied in or not, the engine, outputs copied out or not.

    Args:
        held: a context that was enqueued once with these tensors, and that nothing else uses.
        inputs: what the engine reads.
        outputs: what it writes.
        stream: on which it is launched.
    """

    def __init__(
        self, held: Context, inputs: list[torch.Tensor], outputs: list[torch.Tensor], stream: torch.cuda.Stream
    ) -> None:
        self._held, self.inputs, self.outputs, self.stream = held, inputs, outputs, stream
        self.addresses = [t.data_ptr() for t in inputs]
        self._made: dict[tuple[bool, bool], tuple[driver.Graph, _Changes, _Changes]] = {}

    def launch(self, raw: int, tensors: Sequence[torch.Tensor], addresses: Sequence[int], results: list[torch.Tensor]) -> None:
        """Enqueue one call on the stream ``raw``; ``results`` may be the graph's own outputs."""
        copy_in, copy_out = addresses != self.addresses, results is not self.outputs
        if copy_in and any(a == own for a, own in zip(addresses, self.addresses)):
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

    def _copy_others(self, tensors: Sequence[torch.Tensor], addresses: Sequence[int]) -> None:
        """Copy the inputs that are not the graph's own: a copy onto itself is undefined."""
        for own, tensor, address in zip(self.inputs, tensors, addresses):
            if address != own.data_ptr():
                own.copy_(tensor, non_blocking=True)

    def _capture(self, copy_in: bool, copy_out: bool) -> tuple[driver.Graph, _Changes, _Changes]:
        stream = torch.cuda.Stream()
        given, taken = ([torch.empty_like(t) for t in tensors] for tensors in (self.inputs, self.outputs))
        with driver.captured(stream.cuda_stream) as made:
            for own, tensor in zip(self.inputs, given) if copy_in else ():
                driver.copy(own.data_ptr(), tensor.data_ptr(), own.nbytes, stream.cuda_stream)
            if not self._held.enqueue(stream.cuda_stream):
                raise driver.CudaError("; ".join(last_errors(2)) or "TensorRT could not enqueue")
            for own, result in zip(self.outputs, taken) if copy_out else ():
                driver.copy(result.data_ptr(), own.data_ptr(), own.nbytes, stream.cuda_stream)
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
            taken = self.taken(tensors, profile)
            key = self.runner.raw_stream(self.index), taken.shapes
            idle = self._idle.get(key)
            captured = idle[-1] if idle else None if self.refused else self._new(key, taken, profile)
            if captured is None:
                raise ExecutionError(f"there are no input buffers, for there is no CUDA graph: {self.refused}")
            if not idle:
                self._idle[key].append(captured)
            return list(captured.inputs)

    def __call__(
        self, tensors: Sequence[torch.Tensor], profile: int | None = None, *, reuse: bool = False, out: Outputs = None
    ) -> list[torch.Tensor]:
        """See ``Runner.__call__``."""
        with on(self.index):
            return self.launch(self.taken(tensors, profile), profile, reuse, out)

    def launch(self, taken: Taken, profile: int | None, reuse: bool = False, out: Outputs = None) -> list[torch.Tensor]:
        """See ``Runner.launch``."""
        tensors, addresses, shapes = taken
        raw = self.runner.raw_stream(self.index)
        if self.refused or self.runner.forked or self.runner.capturing():
            return self.runner.launch(taken, profile, reuse, out)
        captured = None
        with contextlib.suppress(KeyError, IndexError):
            idle = self._idle[raw, shapes]
            captured = idle.pop()
            self._used.move_to_end((raw, shapes))
        if captured is None:
            captured = self._new((raw, shapes), taken, profile)
            if captured is None:
                return self.runner.launch(taken, profile, reuse, out)
            idle = self._idle[raw, shapes]
        results = self._results(captured, shapes, reuse, out)
        captured.launch(raw, tensors, addresses, results)
        for tensor in tensors:  # it may be another stream's, and dropped before the copy has run
            tensor.record_stream(captured.stream)
        idle.append(captured)
        return self.runner.given(results, out) if self.runner.casts else results

    def _results(self, captured: _Captured, shapes: Shapes, reuse: bool, out: Outputs) -> list[torch.Tensor]:
        if out is not None:
            return [o if o.dtype == own.dtype else own for o, own in zip(out, captured.outputs)]
        return captured.outputs if reuse else self.runner.fresh(shapes)

    def _new(self, key: Key, taken: Taken, profile: int | None) -> _Captured | None:
        """A graph for these shapes on the current stream, or None where there can be none."""
        if not all(t.numel() for t in taken.tensors):
            return None
        clear_errors()
        try:
            captured = self._checked(taken, profile, key[0])
        except driver.CudaError as error:
            self._refuse(str(error))
            return None
        with self._lock:
            while self._used and self.graphs >= self._most:
                oldest, _ = self._used.popitem(last=False)
                for dropped in self._idle.pop(oldest):
                    dropped.stream.synchronize()
            self._idle.setdefault(key, [])
            self._used[key] = None
        return captured

    def _checked(self, taken: Taken, profile: int | None, raw: int) -> _Captured:
        """A graph whose replay gives what a plain call gives, on other inputs than it was captured with."""
        runner, stream = self.runner, torch.cuda.current_stream()
        inputs = [t.clone(memory_format=torch.contiguous_format) for t in taken.tensors]
        held = runner.contexts.new(stream, profile, own_memory=True)
        own = Taken(inputs, [t.data_ptr() for t in inputs], taken.shapes)
        outputs = runner.run_with(held, raw, own.addresses, own.shapes, reuse=True)  # sets the context up, too
        expected = [t.clone() for t in outputs]
        if not all(t.numel() for t in outputs):
            raise driver.CudaError("an output has no elements")
        for tensor in inputs:
            tensor.zero_()
        stream.synchronize()
        captured = _Captured(held, inputs, outputs, stream)
        given = runner.fresh(taken.shapes)
        captured.launch(raw, taken.tensors, taken.addresses, given)
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
