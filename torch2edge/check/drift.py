"""Which module drifts? The network, tensor by tensor, against the traced ops run by PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..graph import Graph
from .reference import ReferenceExecutor
from .verify import compare

__all__ = ["first_drift", "parsed_drift"]


def first_drift(
    graph: Graph, executor: ReferenceExecutor, input_names: Sequence[str], tensor_names: Mapping[int, str],
    inputs: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], tolerance: float,
) -> str:  # fmt: skip
    """A sentence that names the first op whose result in the network is not PyTorch's, or what else is wrong.

    Args:
        input_names: the network's input per input of the graph, "" for none.
        tensor_names: index of a value -> the network's tensor that holds it.
        inputs: fresh inputs of the graph.
        expected: what the original model gives for them.
    """
    held = executor.run(executor.feed(input_names, inputs), keep=set(tensor_names.values()))
    found: list[str] = []

    def look(op: Any, results: list[Any]) -> None:
        for value, result in zip(op.outputs, results):
            name = tensor_names.get(value.index) if value is not None else None
            if found or name is None or name not in held:
                continue
            wide = held[name].to(result.dtype)
            row = compare(wide, result, op.name, "", tolerance)
            if not row.passed:
                found.append(
                    f"the first to drift is {op.name} in {op.module or 'the model itself'}, {op.source}: max abs error "
                    f"{row.max_abs:.3g}, relative L2 error {row.rel_l2:.3g}"
                )

    replayed = graph.replay(inputs, look)
    if not all(compare(r, e, "", "", tolerance).passed for r, e in zip(replayed, expected)):
        return "the traced ops themselves, run by PyTorch, do not give the model's outputs: tracing missed something"
    if found:
        return found[0]
    return (
        "computed layer by layer, the network gives PyTorch's values in every module: what drifts is TensorRT's own "
        "arithmetic (precision, kernels)"
    )


def parsed_drift(
    executor: ReferenceExecutor, input_names: Sequence[str], inputs: Sequence[torch.Tensor], output_names: Sequence[str],
    expected: Sequence[torch.Tensor], tolerance: float,
) -> str:  # fmt: skip
    """The same for a network that came by way of ONNX, whose tensors are not those of the traced ops.

    Args:
        input_names: the network's input for each of the inputs, "" for none.
        inputs: fresh ones.
    """
    held = executor.run(executor.feed(input_names, inputs))
    if all(compare(held[n].to(e.dtype), e, n, "", tolerance).passed for n, e in zip(output_names, expected)):
        return (
            "computed layer by layer, the network gives the model's values: what drifts is TensorRT's own arithmetic "
            "(precision, kernels)"
        )
    return (
        "computed layer by layer, the network that TensorRT parsed does not give the model's values either: the meaning was "
        "lost on the way through ONNX, in the export, in onnxslim or in the parser"
    )
