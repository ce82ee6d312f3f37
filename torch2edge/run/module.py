"""EdgeModule: an engine as a drop-in nn.Module."""

from __future__ import annotations

import copy
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from .._trt import why_not_executable
from ..errors import ConfigError, EngineFileError, ExecutionError, InputError
from ..report import Report
from ..structure import flatten, same, text, unflatten
from .engine_file import check_built_for_here, describe, pack, unpack, write
from .graphs import GRAPHS, GraphRunner, why_not_capturable
from .memory import SharedMemories
from .quick import Quick
from .runner import CONTEXTS, NOT_CALLED, SHAPES, Runner, on
from .signature import Signature, refuse_overlaps, written
from .sizes import Sizes
from .streams import Streams

__all__ = ["EdgeModule", "ReferenceWarning"]

_all: weakref.WeakSet[EdgeModule] = weakref.WeakSet()
_is_compiling = torch.compiler.is_compiling
Fallback = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]


class ReferenceWarning(UserWarning):
    """A forward was computed by the reference executor, not by TensorRT."""


class EdgeModule(nn.Module):
    """Takes and gives what the original module did, computed by a TensorRT engine.

    ``EdgeModule()`` is empty until ``load_state_dict``; ``torch2edge.load`` makes one from a file. It has no parameters:
    the weights are in the engine. CUDA inputs run on the current stream, on whichever GPU they are, and a call returns before
    its work is done; it may be made from any thread. CPU inputs are copied to the GPU and back, which waits. Where
    TensorRT cannot execute (no GPU), a freshly converted module computes with the reference executor and warns once.

    Attributes:
        report: how it was converted and how exact it is (``torch2edge.Report``).
        metadata: what the engine file's header holds.
        cast_inputs: whether inputs of another dtype are cast; by default they are refused.
        network: TensorRT's INetworkDefinition after ``convert(..., keep_network=True)``, else None; copies have none.
    """

    cast_inputs: bool = False
    network: Any = None
    _kept: Any = None  # what the network needs to stay alive

    def __init__(
        self, plan: bytes = b"", metadata: Mapping[str, Any] | None = None, *, fallback: Fallback | None = None
    ) -> None:
        super().__init__()
        self.eval()
        self._fallback = fallback
        self._warned = False
        self._lock = threading.Lock()  # one runner and one warning, also when threads make the first call
        self._reuse, self._graphs, self._contexts = False, 0, CONTEXTS
        self._memory: SharedMemories | None = None
        self._forked = False
        _all.add(self)
        self._set(plan, dict(metadata or {}))

    def _set(self, plan: bytes, metadata: dict[str, Any]) -> None:
        self._plan, self.metadata = plan, metadata
        self._sizes: Sizes | None = None
        self._start_anew()
        if not metadata:
            return
        self._signature = Signature(metadata)
        self._outputs = [(o["binding"], getattr(torch, o["dtype"]), tuple(o["shape"])) for o in metadata["outputs"]]
        self._sizes = Sizes(metadata) if metadata.get("dims") else None
        self._one_output = metadata["output_structure"] == {"kind": "tensor"}
        self._takes_out = "out" not in metadata["parameters"]

    def _start_anew(self) -> None:
        """Runners are made at the next call; who is in a call keeps the old ones."""
        self._runners: dict[int, Runner | GraphRunner] = {}  # by GPU
        self._profiles: dict[Any, int | None] = {}
        self._quick: Quick | None = None

    @property
    def report(self) -> Report | None:
        """How it was converted and how exact it is; None while the module is empty."""
        return Report.from_dict(self.metadata["report"]) if self.metadata else None

    @property
    def input_dtypes(self) -> list[torch.dtype]:
        """Of the tensors that it takes, in the order of ``metadata["inputs"]``."""
        return [dtype for _, dtype, _, _ in self._signature.inputs]

    @property
    def output_dtypes(self) -> list[torch.dtype]:
        """Of the tensors that it gives, in the order of ``metadata["outputs"]``."""
        return [dtype for _, dtype, _ in self._outputs]

    def extra_repr(self) -> str:
        """One line for ``print(module)``."""
        return describe(self.metadata) if self.metadata else "empty"

    # ---- forward ----------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs, nested as the original module's.

        Args:
            out: CUDA tensors to write the outputs into, nested like them (where the original has no parameter of that name).

        Raises:
            InputError: inputs of another structure, dtype or device than the engine was built for, or of a shape outside of
                its ranges; or ``out`` does not fit.
            ExecutionError: nothing here can run the engine.
        """
        if _is_compiling():  # Dynamo reads this, and is to read no further
            return torch.compiler.disable(self._call)(args, kwargs)
        quick = self._quick
        if quick is not None and not kwargs:
            results = quick(args, self._reuse)
            if results is not None:
                return results[0] if self._one_output else unflatten(self.metadata["output_structure"], results)
        return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of which nothing is known yet."""
        if self._forked:
            raise ExecutionError(
                f"process {os.getpid()} was forked after the engine was loaded, and CUDA does not survive that. Start "
                "processes with multiprocessing's 'spawn' method, and load the engine in each of them"
            )
        if not self.metadata:
            raise ExecutionError("this EdgeModule is empty: load a state dict first, or use torch2edge.load(file)")
        out = self._out(kwargs.pop("out")) if self._takes_out and kwargs.get("out") is not None else None
        tensors = self._signature.checked(self._flatten(args, kwargs), self.cast_inputs)
        return unflatten(self.metadata["output_structure"], self._run(tensors, out))

    def _flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        return self._signature.flatten(args, kwargs)

    def _out(self, given: Any) -> list[torch.Tensor]:
        """The tensors of ``out=``."""
        tensors, structure = flatten(given, "out")
        wanted = self.metadata["output_structure"]
        if not same(structure, wanted):
            raise InputError(f"out= is {text(structure)}, but the module gives {text(wanted)}")
        return tensors

    def _run(self, tensors: list[torch.Tensor], out: list[torch.Tensor] | None = None) -> list[torch.Tensor]:
        """From the checked tensors of a call to the outputs' tensors."""
        device = tensors[0].device
        if out is not None:
            refuse_overlaps(out, tensors)
        profile = self._sizes.profile(tensors) if self._sizes else None
        if self._fallback is not None and why_not_executable():
            self._warn()
            results = [t.to(device) for t in self._fallback([t.cpu() for t in tensors])]
            return results if out is None else written(out, results)
        if device.type == "cpu":
            results = [t.cpu() for t in self._runner(None)([t.cuda() for t in tensors], profile)]
            return results if out is None else written(out, results)
        runner = self._runner(device.index)
        results = runner(tensors, profile, reuse=self._reuse, out=out)
        self._remember(runner, tensors, profile)
        return results

    def _remember(self, runner: Runner | GraphRunner, tensors: Sequence[torch.Tensor], profile: int | None) -> None:
        """Calls with inputs of these shapes need no further look."""
        if not Quick.can(self._signature) or not Quick.knows(tensors):
            return
        if len(self._profiles) >= SHAPES:
            self._profiles.clear()
        self._profiles[tuple(t.shape for t in tensors)] = profile
        if self._quick is None or self._quick.index != runner.index:
            self._quick = Quick(self._signature, runner, self._profiles)

    def _runner(self, index: int | None) -> Runner | GraphRunner:
        """What runs the engine on a GPU, on the current one for None."""
        if index is None:
            index = torch.cuda.current_device() if not why_not_executable() else 0
        with self._lock:
            if index not in self._runners:
                with on(index) if not why_not_executable() else nullcontext():
                    self._runners[index] = self._make_runner()
            return self._runners[index]

    def _make_runner(self) -> Runner | GraphRunner:
        reason = why_not_executable()
        if reason:
            raise ExecutionError(
                f"this engine was {describe(self.metadata)} and cannot run here: {reason}. It needs such a GPU and "
                f"{self.metadata['title']}. (Only a module that was converted in this process can be computed without.)"
            )
        if torch.cuda.is_current_stream_capturing():
            raise ExecutionError(NOT_CALLED)
        inputs = [(binding, dtype) for _, dtype, _, binding in self._signature.inputs]
        memory = self._memory.here() if self._memory else None
        runner = Runner(self._plan, inputs, self._outputs, self.metadata["dla_core"], memory, self._contexts)
        if not self._graphs:
            return runner
        return GraphRunner(runner, why_not_capturable(self.metadata, runner.engine), self._graphs)

    def _warn(self) -> None:
        with self._lock:
            first, self._warned = not self._warned, True
        if first:
            warnings.warn(
                f"{why_not_executable()}: the reference executor computes this module's outputs, slowly and on the CPU. "
                f"The engine itself was {describe(self.metadata)}.",
                ReferenceWarning,
                stacklevel=7,
            )

    # ---- how it runs ------------------------------------------------------------------------------------------------

    @property
    def outputs(self) -> str:
        """``"fresh"``: each call gives new tensors. ``"reuse"``: a call overwrites what the last one gave on its stream."""
        return "reuse" if self._reuse else "fresh"

    @outputs.setter
    def outputs(self, mode: str) -> None:
        if mode not in ("fresh", "reuse"):
            raise ConfigError(f"outputs is {mode!r}; it must be 'fresh' or 'reuse'")
        self._reuse = mode == "reuse"

    def enable_cuda_graph(self, most: int = GRAPHS) -> EdgeModule:
        """Make calls replays of CUDA graphs: one launch in the place of one per kernel. Returns the module.

        Each stream and each shape of the inputs gets a graph at its first call, which is compared with a plain one. Inputs are
        copied in and outputs are fresh tensors, unless the caller writes into ``input_buffers`` and ``outputs`` is "reuse".
        Calls that no graph can hold (loops, a DLA, values that the host reads) run without, after a ``GraphWarning``.

        Args:
            most: graphs to keep; the one that was not used for the longest time is dropped.

        Raises:
            ConfigError: ``most`` is no number from 1 on.
        """
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise ConfigError(f"most is the number of graphs to keep, from 1 on, but is {most!r}")
        self._graphs = most
        self._start_anew()
        return self

    def disable_cuda_graph(self) -> EdgeModule:
        """Enqueue calls as without ``enable_cuda_graph``. Returns the module."""
        self._graphs = 0
        self._start_anew()
        return self

    @property
    def input_buffers(self) -> list[torch.Tensor]:
        """The tensors that the CUDA graph of the current stream reads, for the engine's (most usual) shapes.

        A call with these very tensors copies nothing in; fill them on the same stream.

        Raises:
            ExecutionError: there is no CUDA graph: ``enable_cuda_graph()`` comes first, and some engines cannot have any.
        """
        return self.buffers_for()

    def buffers_for(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """``input_buffers`` for calls with inputs of these shapes, on the current GPU and stream.

        Raises:
            InputError, ExecutionError: see ``forward`` and ``input_buffers``.
        """
        runner = self._runner(None)
        if not isinstance(runner, GraphRunner):
            raise ExecutionError("there are no input buffers without a CUDA graph: call enable_cuda_graph() first")
        tensors = self._signature.zeros(torch.device("cuda", runner.index))
        if args or kwargs:
            tensors = [t.cuda() for t in self._signature.checked(self._flatten(args, kwargs), self.cast_inputs)]
        return runner.buffers(tensors, self._sizes.profile(tensors) if self._sizes else None)

    def warmup(self, *args: Any, calls: int = 3, **kwargs: Any) -> EdgeModule:
        """Call it until all that the first calls do is done: loading, contexts, CUDA graphs. Returns the module.

        Args:
            args: inputs, to warm up for their shapes; by default zeros of the engine's shapes, of each optimization profile.
            calls: for each of them.
            kwargs: inputs by name.

        Raises:
            InputError, ExecutionError: see ``forward``.
        """
        if args or kwargs:
            examples = [self._signature.checked(self._flatten(args, kwargs), self.cast_inputs)]
        else:
            profiles = len(next(iter(self.metadata["dims"].values()))) if self._sizes else 1
            examples = [self._signature.zeros(torch.device("cuda", self._runner(None).index), p) for p in range(profiles)]
        for tensors in examples:
            for _ in range(calls):
                self._run(tensors)
        torch.cuda.synchronize()
        return self

    def streams(self, n: int, threads: bool = False) -> Streams:
        """Runs many inputs at once, over ``n`` streams with an execution context each: ``module.streams(4)(batches)``.

        Args:
            n: streams.
            threads: one thread per stream, where the enqueue takes the host longer than the engine takes the GPU.
        """
        streams = Streams(self, n, threads)
        if n > self._contexts:
            self._contexts = n
            self._start_anew()
        return streams

    def share_memory_with(self, *others: EdgeModule) -> EdgeModule:
        """Keep the activations of these engines in one memory, as large as the largest needs. Returns the module.

        Their calls then wait for each other on the GPU, whatever their streams; CUDA graphs keep their own memory.

        Raises:
            ConfigError: another is no EdgeModule.
        """
        if wrong := [type(m).__name__ for m in others if not isinstance(m, EdgeModule)]:
            raise ConfigError(f"share_memory_with takes EdgeModules, but is given a {wrong[0]}")
        memory = next((m._memory for m in (self, *others) if m._memory), None) or SharedMemories()
        for module in (self, *others):
            module._memory = memory
            module._start_anew()
        return self

    # ---- saving -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an engine file, for ``torch2edge.load``."""
        if not self.metadata:
            raise EngineFileError("this EdgeModule is empty: there is nothing to save")
        write(path, self.metadata, self._plan)

    def get_extra_state(self) -> torch.Tensor:
        """The engine file as a uint8 tensor; it travels in the ``state_dict``, also of a module around this one."""
        data = pack(self.metadata, self._plan) if self.metadata else b"\x00"
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Take the engine from a ``state_dict``.

        Raises:
            EngineFileError: the state is not an engine, is damaged, or is for another TensorRT or GPU.
        """
        if not isinstance(state, torch.Tensor) or state.dtype != torch.uint8:
            what = state.dtype if isinstance(state, torch.Tensor) else type(state).__name__
            raise EngineFileError(f"the state dict holds {what} where the bytes of an engine should be (a uint8 tensor)")
        data = state.cpu().numpy().tobytes()
        if data == b"\x00":
            self._set(b"", {})
            return
        metadata, plan = unpack(data, "the engine in this state dict")
        check_built_for_here(metadata, "the engine in this state dict")
        self._fallback = None
        self._set(plan, metadata)

    def __deepcopy__(self, memo: dict[int, Any]) -> EdgeModule:
        made = EdgeModule(self._plan, copy.deepcopy(self.metadata, memo), fallback=self._fallback)
        made.cast_inputs, made._reuse, made._graphs, made._contexts = (
            self.cast_inputs, self._reuse, self._graphs, self._contexts
        )  # fmt: skip
        return made

    def __reduce__(self) -> Any:
        return _unpickled, (self._plan, self.metadata)


def _unpickled(plan: bytes, metadata: dict[str, Any]) -> EdgeModule:
    if metadata:
        check_built_for_here(metadata, "the pickled EdgeModule")
    return EdgeModule(plan, metadata)


def _after_fork() -> None:
    for module in _all:
        module._forked, module._quick = bool(module._runners), None


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_after_fork)
