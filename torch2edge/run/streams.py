"""Many inputs at once: batches over several CUDA streams, each with an execution context of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from .._trt import why_not_executable
from ..errors import ConfigError, ExecutionError
from .graphs import GraphRunner
from .quick import Ready
from .runner import Runner

__all__ = ["Streams"]

Prepare = Callable[[Sequence[Any]], tuple[Ready, "Runner | GraphRunner"]]


class Streams:
    """Calls an engine on several streams of the current GPU in turn.

    Outputs belong to the stream that is current when it is called: nobody has to tell PyTorch of the others.

    Args:
        prepare: from the arguments of a call to what a runner launches, and the runner.
        nested: from the outputs' tensors to what a call gives.
        n: streams.
        threads: one thread per stream.

    Raises:
        ConfigError: ``n`` is no number from 1 on.
    """

    def __init__(self, prepare: Prepare, nested: Callable[[list[torch.Tensor]], Any], n: int, threads: bool = False) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigError(f"streams: n is the number of streams, from 1 on, but is {n!r}")
        self._prepare, self._nested, self._n, self._threads = prepare, nested, n, threads
        self._streams: dict[int, list[torch.cuda.Stream]] = {}  # by GPU

    def __call__(self, batches: Iterable[Any]) -> list[Any]:
        """The outputs of each batch, in order. The current stream waits for them on the GPU; the host does not.

        Args:
            batches: tensors of the current GPU, or tuples or lists of a call's positional inputs, that are ready on the
                current stream.

        Raises:
            InputError, ExecutionError: see the module.
        """
        if reason := why_not_executable():
            raise ExecutionError(f"there are no CUDA streams to run on: {reason}")
        calls = [self._made(batch if isinstance(batch, (tuple, list)) else (batch,)) for batch in batches]
        current = torch.cuda.current_stream()
        if current.device_index not in self._streams:
            self._streams[current.device_index] = [torch.cuda.Stream() for _ in range(self._n)]
        streams = self._streams[current.device_index]
        for stream in streams:
            stream.wait_stream(current)
        try:
            if self._threads:
                self._in_threads(streams, calls)
            else:
                self._in_turn(streams, calls)
        finally:
            torch.cuda.set_stream(current)
            for stream in streams:
                current.wait_stream(stream)
        return [self._nested(runner.given(results, None) if runner.casts else results) for _, runner, results in calls]

    def _made(self, args: Sequence[Any]) -> _Call:
        """A call with its outputs, which are the current stream's."""
        ready, runner = self._prepare(args)
        return ready, runner, runner.empty(runner.sizes(ready[2], ready[3]))

    def _in_turn(self, streams: Sequence[torch.cuda.Stream], calls: Sequence[_Call]) -> None:
        for i, call in enumerate(calls):
            torch.cuda.set_stream(streams[i % self._n])
            _launch(call)

    def _in_threads(self, streams: Sequence[torch.cuda.Stream], calls: Sequence[_Call]) -> None:
        def share(stream: torch.cuda.Stream, own: Sequence[_Call]) -> None:
            torch.cuda.set_stream(stream)  # of this thread, which begins with the first GPU and its default stream
            for call in own:
                _launch(call)

        with ThreadPoolExecutor(self._n) as pool:
            done = [pool.submit(share, stream, calls[i :: self._n]) for i, stream in enumerate(streams)]
        for future in done:
            future.result()


_Call = tuple[Ready, "Runner | GraphRunner", list[torch.Tensor]]


def _launch(call: _Call) -> None:
    ready, runner, results = call
    runner.launch(*ready, False, results)
