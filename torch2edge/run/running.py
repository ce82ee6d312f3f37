"""How a module runs: its runners, one per GPU, and what can be switched about them."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import nn

from .._trt import why_not_executable
from ..errors import ConfigError, ExecutionError, InputError
from ..structure import unflatten
from .engine_file import describe
from .graphs import GRAPHS, GraphRunner, why_not_capturable
from .memory import SharedMemories
from .quick import Quick, Ready
from .runner import CONTEXTS, NOT_CALLED, SHAPES, Runner, on
from .signature import Signature, refuse_overlaps, written
from .sizes import Sizes
from .streams import Streams

__all__ = ["Fallback", "ReferenceWarning", "Running"]

_SETTINGS = ("cast_inputs", "engine_host_code_allowed", "_reuse", "_graphs", "_contexts")  # that a copy of a module keeps
Fallback = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]
Self = TypeVar("Self", bound="Running")
_all: weakref.WeakSet[Running] = weakref.WeakSet()


class ReferenceWarning(UserWarning):
    """A forward was computed by the reference executor, not by TensorRT."""


class Running(nn.Module):
    """What an ``EdgeModule`` does with its engine; see there."""

    cast_inputs: bool = False
    engine_host_code_allowed: bool = False
    metadata: dict[str, Any]
    _plan: bytes
    _signature: Signature
    _outputs: list[tuple[str, torch.dtype, tuple[Any, ...]]]
    _sizes: Sizes | None

    def __init__(self, fallback: Fallback | None) -> None:
        super().__init__()
        self._fallback, self._warned = fallback, False
        self._lock = threading.Lock()  # one runner per GPU and one warning, also when threads make the first call
        self._reuse, self._graphs, self._contexts = False, 0, CONTEXTS
        self._memory: SharedMemories | None = None
        self._forked = False
        self._in_graphs: list[Any] = []  # contexts of graphs that users captured, which replay for as long as they like
        self._start_anew()
        _all.add(self)

    def _start_anew(self) -> None:
        """Runners are made at the next call; who is in a call keeps the old ones."""
        with self._lock:
            self._runners: dict[int, Runner | GraphRunner] = {}  # by GPU
            self._profiles: dict[Any, int | None] = {}
            self._quick: Quick | None = None

    def _settings_to(self, other: Running) -> None:
        """Let another module run as this one does; memory is not shared with it."""
        for name in _SETTINGS:
            setattr(other, name, getattr(self, name))

    def _flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        return self._signature.flatten(args, kwargs)

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

    def _remember(self, runner: Runner | GraphRunner, tensors: Sequence[torch.Tensor], profile: int | None) -> None:
        """Calls with inputs of these shapes need no further look, unless the engine was changed meanwhile."""
        if not Quick.can(self._signature) or not Quick.knows(tensors):
            return
        with self._lock:
            if self._runners.get(runner.index) is not runner:
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
        runner = self._loaded()
        if not self._graphs:
            return runner
        return GraphRunner(runner, why_not_capturable(self.metadata, runner.engine), self._graphs)

    def _loaded(self) -> Runner:
        inputs = [(binding, dtype) for _, dtype, _, binding in self._signature.inputs]
        memory = self._memory.here() if self._memory else None
        try:
            return Runner(
                self._plan, inputs, self._outputs, self.metadata["dla_core"], memory, self._contexts,
                host_code=self.engine_host_code_allowed, in_graphs=self._in_graphs,
            )  # fmt: skip
        except ExecutionError as error:
            if self.engine_host_code_allowed or not self.metadata.get("version_compatible"):
                raise
            raise ExecutionError(
                f"{error}\nThe engine is version-compatible, and may hold a lean runtime: code, which runs only where you "
                "trust its file and say so: torch2edge.load(file, engine_host_code_allowed=True), or "
                "module.engine_host_code_allowed = True"
            ) from error

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

    def enable_cuda_graph(self: Self, most: int = GRAPHS) -> Self:
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

    def disable_cuda_graph(self: Self) -> Self:
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

    def warmup(self: Self, *args: Any, calls: int = 3, **kwargs: Any) -> Self:
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

    def streams(self: Self, n: int, threads: bool = False) -> Streams:
        """Runs many inputs at once, over ``n`` streams with an execution context each: ``module.streams(4)(batches)``.

        Args:
            n: streams.
            threads: one thread per stream, where the enqueue takes the host longer than the engine takes the GPU.
        """
        streams = Streams(self._prepared, lambda results: unflatten(self.metadata["output_structure"], results), n, threads)
        if n > self._contexts or 0 < self._graphs < n:
            self._contexts, self._graphs = max(self._contexts, n), self._graphs and max(self._graphs, n)
            self._start_anew()
        return streams

    def _check_usable(self) -> None:
        """Refuse an empty module, and one that came along in a fork.

        Raises:
            ExecutionError: it is one.
        """
        if self._forked:
            raise ExecutionError(
                f"process {os.getpid()} was forked after the engine was loaded, and CUDA does not survive that. Start "
                "processes with multiprocessing's 'spawn' method, and load the engine in each of them"
            )
        if not self.metadata:
            raise ExecutionError("this EdgeModule is empty: load a state dict first, or use torch2edge.load(file)")

    def _prepared(self, args: Sequence[Any]) -> tuple[Ready, Runner | GraphRunner]:
        """What a runner launches for a call with positional inputs on the current GPU, and the runner."""
        self._check_usable()
        quick = self._quick
        ready = quick.ready(args) if quick is not None else None
        if quick is not None and ready is not None:
            return ready, quick.runner
        tensors = self._signature.checked(self._flatten(tuple(args), {}), self.cast_inputs)
        index = torch.cuda.current_device()
        if tensors[0].device != torch.device("cuda", index):
            raise InputError(
                f"streams: {self._signature.inputs[0][0]} is on {tensors[0].device}; the streams are those of cuda:{index}"
            )
        profile = self._sizes.profile(tensors) if self._sizes else None
        runner = self._runner(index)
        self._remember(runner, tensors, profile)
        return (*runner.taken(tensors, profile), profile), runner

    def share_memory_with(self: Self, *others: Running) -> Self:
        """Keep the activations of these engines in one memory, as large as the largest needs. Returns the module.

        Their calls then wait for each other on the GPU, whatever their streams; CUDA graphs keep their own memory.

        Raises:
            ConfigError: another is no EdgeModule.
        """
        if wrong := [type(m).__name__ for m in others if not isinstance(m, Running)]:
            raise ConfigError(f"share_memory_with takes EdgeModules, but is given a {wrong[0]}")
        together: list[Running] = [self, *others]
        memory = next((m._memory for m in together if m._memory), None) or SharedMemories()
        for module in together:
            module._memory = memory
            module._start_anew()
        return self


def _after_fork() -> None:
    for module in _all:
        module._forked, module._quick = bool(module._runners), None


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_after_fork)
