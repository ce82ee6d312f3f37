"""One computation per element of an axis, in order: unrolled, or as TensorRT's loop; and prefixes by doubling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..._trt import trt
from .core import Tensor, Value
from .shapes import Shapes

__all__ = ["Loops"]

States = list[Tensor]
Step = Callable[[Tensor, States], tuple[Tensor, States]]
# TensorRT-RTX 1.7 on two cores: bidirectional LSTMs of 16 steps build in 0.6 s (1 of them), 5.2 s (4) and 42 s (12)
# unrolled, in 0.2 s, 0.7 s and 2.4 s as loops.
UNROLLED_STEPS = 128


class Loops(Shapes):
    """Layers in which one element follows from those before it."""

    _unrolled_steps = 0  # of this network so far

    def scan(
        self, step: Step, x: Tensor, states: Sequence[Value], reverse: bool = False, unrolled: int = 16
    ) -> tuple[Tensor, States]:
        """``y[t], states = step(x[t], states)`` for every t along axis 0, the last one first if ``reverse``.

        Up to ``unrolled`` steps every step has layers of its own, which every device takes and a CUDA graph holds. More
        steps are one ILoop: its size does not grow with the number of steps, but it runs on the GPU only. So are all further
        ones of a network with UNROLLED_STEPS: its build time grows with the square of the layers.

        Returns:
            All y along axis 0, and the states after the last step.
        """
        held = [self.tensor(s) for s in states]
        if x.shape[0] <= min(unrolled, UNROLLED_STEPS - self._unrolled_steps):
            self._unrolled_steps += x.shape[0]
            return self._unrolled(step, x, held, reverse)
        return self._loop(step, x, held, reverse)

    def _unrolled(self, step: Step, x: Tensor, states: States, reverse: bool) -> tuple[Tensor, States]:
        count = x.shape[0]
        results: list[Tensor] = []
        for t in reversed(range(count)) if reverse else range(count):
            y, states = step(self.reshape(self.slice(x, 0, t, 1), x.shape[1:]), states)
            results.append(self.unsqueeze(y, 0))
        return self.concat(results[::-1] if reverse else results, 0), states

    def _loop(self, step: Step, x: Tensor, states: States, reverse: bool) -> tuple[Tensor, States]:
        count = self.constant(torch.tensor(x.shape[0], dtype=torch.int32))
        loop = self.raw.add_loop()
        self.layer(loop.add_trip_limit(count.raw, trt.TripLimit.COUNT))
        element = self.layer(loop.add_iterator(x.raw, 0, reverse))
        recurrences = [self.layer(loop.add_recurrence(state.raw)) for state in states]
        now = [self.result(r, state.dtype) for r, state in zip(recurrences, states)]
        y, following = step(self.result(element, x.dtype), now)
        for recurrence, state in zip(recurrences, following):
            recurrence.set_input(1, state.raw)
        kind = trt.LoopOutput.REVERSE if reverse else trt.LoopOutput.CONCATENATE
        every = self.layer(loop.add_loop_output(y.raw, kind, 0))
        every.set_input(1, count.raw)
        last = [self.layer(loop.add_loop_output(r.get_output(0), trt.LoopOutput.LAST_VALUE, 0)) for r in recurrences]
        return self.result(every, y.dtype), [self.result(o, state.dtype) for o, state in zip(last, states)]

    def prefixes(self, combine: Callable[[Tensor, Tensor], Tensor], x: Tensor, dim: int) -> Tensor:
        """Element i becomes ``combine`` of the elements 0 to i of axis ``dim``, for an associative ``combine``.

        In log2(size) rounds, each over the whole tensor: after a round, an element stands for twice as many before it.
        """
        dim, reach = dim % x.ndim, 1
        while reach < x.shape[dim]:
            rest = x.shape[dim] - reach
            later = combine(self.slice(x, dim, 0, rest), self.slice(x, dim, reach, rest))
            x = self.concat([self.slice(x, dim, 0, reach), later], dim)
            reach *= 2
        return x
