"""Many inputs at once: batches over several CUDA streams, each with an execution context of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from .._trt import why_not_executable
from ..errors import ConfigError, ExecutionError
from ..structure import flatten

__all__ = ["Streams"]


class Streams:
    """Calls a module on several streams of the current GPU in turn.

    Args:
        module: called with each batch; its outputs may be nested.
        n: streams.
        threads: one thread per stream.

    Raises:
        ConfigError: ``n`` is no number from 1 on.
    """

    def __init__(self, module: Callable[..., Any], n: int, threads: bool = False) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigError(f"streams: n is the number of streams, from 1 on, but is {n!r}")
        self._module, self._n, self._threads = module, n, threads
        self._streams: list[torch.cuda.Stream] = []

    def __call__(self, batches: Iterable[Any]) -> list[Any]:
        """The outputs of each batch, in order. The current stream waits for them on the GPU; the host does not.

        Args:
            batches: CUDA tensors, or tuples or lists of a call's inputs, that are ready on the current stream.

        Raises:
            InputError, ExecutionError: see the module.
        """
        if reason := why_not_executable():
            raise ExecutionError(f"there are no CUDA streams to run on: {reason}")
        given = [batch if isinstance(batch, (tuple, list)) else (batch,) for batch in batches]
        current = torch.cuda.current_stream()
        if not self._streams:
            self._streams = [torch.cuda.Stream() for _ in range(self._n)]
        for stream in self._streams:
            stream.wait_stream(current)
        shares = [range(i, len(given), self._n) for i in range(self._n)]
        results: list[Any] = [None] * len(given)
        if self._threads:
            grad = torch.is_grad_enabled()
            with ThreadPoolExecutor(self._n) as pool:
                done = [
                    pool.submit(self._share, stream, share, given, results, grad)
                    for stream, share in zip(self._streams, shares)
                ]
            for future in done:
                future.result()
        else:
            for i, args in enumerate(given):
                with torch.cuda.stream(self._streams[i % self._n]):
                    results[i] = self._module(*args)
        for stream in self._streams:
            current.wait_stream(stream)
        for tensor in flatten(results, "results")[0]:  # made on its stream, and now the current one's
            tensor.record_stream(current)
        return results

    def _share(
        self, stream: torch.cuda.Stream, share: range, given: Sequence[Sequence[Any]], results: list[Any], grad: bool
    ) -> None:  # fmt: skip
        """One thread's batches; a thread begins with its own current GPU and gradient mode."""
        with torch.cuda.stream(stream), torch.set_grad_enabled(grad):
            for i in share:
                results[i] = self._module(*given[i])
