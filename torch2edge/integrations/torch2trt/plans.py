"""What a bare plan, as torch2trt saves it, says of itself, nested as torch2trt's flatteners say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...run.plain import Nested, metadata_of, read_plan
from .flattener import Flattener, structure_of

__all__ = ["nested", "plan_metadata"]


def plan_metadata(
    plan: bytes, input_names: Sequence[str], output_names: Sequence[str], input_flattener: Flattener | None,
    output_flattener: Flattener | None, origin: str,
) -> dict[str, Any]:  # fmt: skip
    """The header that an engine file of ours would have.

    Raises:
        ExecutionError: nothing here can deserialise it.
        EngineFileError: TensorRT refuses it, or it lacks an input or output of these names.
    """
    inputs = nested(input_names, input_flattener.dict() if input_flattener is not None else None, is_input=True)
    outputs = nested(output_names, output_flattener.dict() if output_flattener is not None else None, is_input=False)
    facts = read_plan(plan, origin)
    found = metadata_of(facts, origin, size=len(plan), built_by="torch2trt", inputs=inputs, outputs=outputs)
    return {**found, "from_torch2trt": True}


def nested(names: Sequence[str], flattener: dict[str, Any] | None, is_input: bool) -> Nested:
    """How a call passes the tensors of these names, or takes them.

    Args:
        flattener: what ``Flattener.dict`` gives; without one the tensors are not nested.
        is_input: the arguments of a call, or its outputs (a tuple, or the tensor where there is one).
    """
    if flattener is None and len(names) == 1 and not is_input:
        return Nested(list(names), {"kind": "tensor"})
    structure, order = structure_of(tuple(range(len(names))) if flattener is None else flattener["schema"])
    if is_input:
        structure["kind"] = "list"  # the arguments of a call
    return Nested([names[i] for i in order], structure)
