"""What the low precision of each module contributes to the error of the outputs. Part of api.py, knows the stages too.

It is measured with PyTorch: the traced ops in the arithmetic of the low precision in one module alone, against float32. Errors
of different modules are taken for independent, so that their squares add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from .check.figures import Figures
from .check.rounding import rounding
from .check.tf32 import tf32
from .check.verify import TRIALS, draw
from .graph import Graph, is_quantizer
from .lower import Registry
from .lower.float32_ops import MOVES
from .options import Options
from .prepare import Call, typed

__all__ = ["Contribution", "Step", "moved"]

LOW = (torch.float16, torch.bfloat16)
# they hand on elements as they are, or one of two numbers: rounded inputs give rounded results
EXACT = MOVES | {"abs", "clamp", "hardtanh", "leaky_relu", "neg", "relu", "relu6", "_to_copy"}


@dataclass(frozen=True)
class Step:
    """One module to a higher precision, and by how much the square of the error falls."""

    module: str
    precision: str
    gain: float


def moved(precisions: Mapping[str, str], steps: Iterable[Step]) -> dict[str, str]:
    """``precisions``, one entry per module in which ops ran, after some steps; float32 is never left again."""
    result = dict(precisions)
    for step in steps:
        if result[step.module] != "fp32":
            result[step.module] = step.precision
    return result


class Contribution:
    """Errors of the outputs with some modules low.

    Args:
        options: with the precisions that are asked for.
        graph: as traced.
        inputs: to measure on; by default what the conversion is checked on.

    Attributes:
        given: the precision that each module in which ops ran is to have.
    """

    def __init__(
        self, options: Options, call: Call, graph: Graph, converting: Registry,
        inputs: Sequence[list[torch.Tensor]] = ()
    ) -> None:  # fmt: skip
        self._options, self._call, self._graph, self._converting = options, call, graph, converting
        self.given = {path: options.precision_of(path) for path in sorted({op.module for op in graph.ops})}
        self._inputs = inputs or call.seen or [draw(call.tensors, trial) for trial in TRIALS]
        with tf32(False):
            self._exact = [graph.replay(inputs) for inputs in self._inputs]

    def error(self, precisions: Mapping[str, str]) -> float:
        """The largest relative L2 error of an output, with these precisions."""
        options = replace(self._options, precisions=dict(precisions))
        graph = rounding(typed(self._graph, options, self._converting, self._call).graph)
        worst = 0.0
        for inputs, exact in zip(self._inputs, self._exact):
            with tf32(False):
                results = graph.replay(inputs)
            for given, expected in zip(results, exact):
                figures = Figures()
                figures.add(given, expected)
                worst = max(worst, figures.rel_l2)
        return worst

    def steps(self) -> list[Step]:
        """Every module's steps to higher precisions, the largest gain first."""
        quantized, low = self._computing()
        exact = dict.fromkeys(self.given, "fp32")
        found = []
        for path in sorted(quantized | low):
            in_floats = self._options.low if self.given[path] == "int8" else self.given[path]
            above = self.error({**exact, path: in_floats}) if path in low else 0.0
            if path in low:
                found.append(Step(path, "fp32", above**2))
            if path in quantized:
                error = self.error({**exact, path: "int8"})
                target = in_floats if path in low else "fp32"
                found.append(Step(path, target, error**2 - above**2 if math.isfinite(above) else 0.0))
        return sorted(found, key=lambda step: -step.gain)

    def alone(self) -> dict[str, float]:
        """Module -> the error of the outputs with it alone in its low precision, the largest first."""
        squares: dict[str, float] = {}
        for step in self.steps():
            squares[step.module] = squares.get(step.module, 0.0) + step.gain
        return {path: math.sqrt(max(0.0, s)) for path, s in sorted(squares.items(), key=lambda item: -item[1])}

    def _computing(self) -> tuple[set[str], set[str]]:
        """Modules that quantize, and those that round to half or bfloat16 by themselves."""
        graph = typed(self._graph, self._options, self._converting, self._call).graph
        quantized = {op.module for op in graph.ops if is_quantizer(op.target) and self.given.get(op.module) == "int8"}
        low = {
            op.module for op in graph.ops
            if op.short_name not in EXACT and self._options.float_of(op.module) in LOW
            and any(v is not None and v.dtype in LOW for v in op.outputs)
        }  # fmt: skip
        return quantized if self._call.calibration else set(), low
