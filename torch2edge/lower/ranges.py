"""INT8 ranges of values for the DLA, which computes some layers in one scale.

NVIDIA's Deep-Learning-Accelerator-SW says of INT8: the input and the output of a pooling, all inputs and the output of a
concatenation, and both inputs of an elementwise layer need the same range. The largest of them holds all.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..graph import Graph, Value

__all__ = ["equalized"]

_WITH_RESULT = {"max_pool2d", "max_pool2d_with_indices", "avg_pool2d", "adaptive_avg_pool2d", "cat", "concat"}
_INPUTS_ONLY = {"add", "sub", "mul", "div", "maximum", "minimum"}


def equalized(graph: Graph, ranges: Mapping[int, float]) -> dict[int, float]:
    """``ranges`` (index of a value -> largest magnitude) with the largest of each group in all of it."""
    parent = {index: index for index in ranges}

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    for op in graph.ops:
        if op.nesting is not None or op.short_name not in _WITH_RESULT | _INPUTS_ONLY:
            continue
        values: list[Value | None] = list(op.inputs())
        if op.short_name in _WITH_RESULT:
            values.append(op.outputs[0])
        indices = [v.index for v in values if v is not None and v.dtype == torch.float32 and v.index in parent]
        for other in indices[1:]:
            parent[root(other)] = root(indices[0])
    largest: dict[int, float] = {}
    for index, value in ranges.items():
        largest[root(index)] = max(largest.get(root(index), 0.0), value)
    return {index: largest[root(index)] for index in ranges}
