"""The check of a conversion: the module's outputs against the original's, and what is said of it. Part of api.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from . import _trt
from ._trt import capabilities, trt
from .account import precision as precision_of
from .build import BuildSession
from .check.drift import first_drift, parsed_drift
from .check.reference import ReferenceExecutor
from .check.sizes import check_size_one, sizes_to_check
from .check.tf32 import tf32 as tf32_switched
from .check.verify import TOLERANCE, draw, verify_batches, verify_sizes
from .errors import (
    ExecutionError,
    InputError,
    ReferenceExecutionError,
    Torch2EdgeError,
    UnsupportedLayerError,
    VerificationError,
)
from .graph import Graph
from .lower import Lowered
from .options import Options
from .report import Report
from .run import EdgeModule
from .structure import flatten, flatten_call, same, text, unflatten
from .trace import unchanged
from .trace.compiled import eager_only

__all__ = ["by_reference", "original_of", "verify_module", "verify_size_one"]


def by_reference(session: BuildSession, lowered: Lowered) -> Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]:
    """The network computed by the reference executor, torch dtypes in and out."""
    executor: list[ReferenceExecutor] = []

    def run(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if not executor:
            executor.append(ReferenceExecutor(session.network, trt))
        given = executor[0].run(executor[0].feed(lowered.input_names, tensors))
        # copies: an identity layer's output is its input's memory, which is the user's
        return [given[n].to(d, copy=True) for n, d in zip(lowered.output_names, lowered.output_dtypes)]

    return run


def original_of(
    model: nn.Module, args: list[Any], kwargs: dict[str, Any], graph: Graph, report: Report | None = None
) -> tuple[Callable[[list[torch.Tensor]], list[torch.Tensor]], list[torch.Tensor]]:
    """The model from tensors to tensors, and the tensors of the example.

    It raises a ``VerificationError`` with ``report`` where the model returns another structure than when it was traced.
    """
    examples, structure = flatten_call(args, kwargs)

    def run(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        call = unflatten(structure, tensors)
        with unchanged(model), eager_only(), torch.no_grad(), tf32_switched(False):
            result, given = flatten(model(*call["args"], **call["kwargs"]))
        if not same(given, graph.output_structure):
            raise VerificationError(
                f"the model returned {text(graph.output_structure)} when it was traced, but {text(given)} for fresh inputs: "
                "what it returns hangs on the inputs' values or sizes, and an engine cannot follow that",
                report,
            )
        return result

    return run, examples


def _in_the_models_dtypes(
    module: EdgeModule, run: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]], graph: Graph
) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:  # fmt: skip
    """``run``, which takes and gives the engine's dtypes, for tensors of the model's; outputs of a wrong dtype stay wrong."""
    taken, given = module.input_dtypes, module.output_dtypes

    def in_dtypes(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        results = run([t.to(dtype) for t, dtype in zip(tensors, taken)])
        return [r.to(v.dtype) if r.dtype == told else r for r, told, v in zip(results, given, graph.outputs, strict=True)]

    return in_dtypes


def _told(original: Callable[[list[torch.Tensor]], list[torch.Tensor]]) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
    """``original``; an error of the model itself says whose it is."""

    def run(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        try:
            return original(tensors)
        except Torch2EdgeError:
            raise
        except torch.cuda.OutOfMemoryError as error:
            raise ExecutionError(
                f"the GPU has too little memory to run the model in the check, beside the engine: {error}. Free memory of the "
                "GPU, or leave the check out (verify=False)"
            ) from error
        except Exception as error:
            reason = (str(error).splitlines() or ["no message"])[0]
            raise InputError(
                f"the model does not run on inputs like the example's, without torch2edge either: {type(error).__name__}: "
                f"{reason}. The check draws floats from normal distributions, and integers between the example's smallest and "
                "largest: give an example that the model takes, Input(..., low=, high=) for one, or leave the check out "
                "(verify=False)"
            ) from error

    return run


def verify_size_one(
    model: nn.Module, args: list[Any], kwargs: dict[str, Any], graph: Graph, options: Options, tolerance: float | None
) -> None:
    """Refuse a dynamic model that computes something else at size 1 than its ops, traced at another size, do."""
    original, examples = original_of(model, args, kwargs, graph)
    precisions = precision_of(graph, options).split("+")
    check_size_one(graph, original, examples, tolerance or max(TOLERANCE[p] for p in precisions))


def verify_module(
    model: nn.Module, args: list[Any], kwargs: dict[str, Any], module: EdgeModule, graph: Graph, lowered: Lowered,
    session: BuildSession, report: Report, batches: Sequence[list[torch.Tensor]] = (), called: str = "",
) -> None:  # fmt: skip
    """Fill the report's check, by executing the engine or by the reference executor.

    The engine takes the same floats in its ``io_dtype``, if it has one. ``batches`` are inputs to check on in the place of
    random ones, and ``called`` what each of them is.

    Raises:
        VerificationError: an output is not the model's; with the module that drifts first.
        InputError: the model itself fails on inputs like the example's.
    """
    unguarded, examples = original_of(model, args, kwargs, graph, report)
    original = _told(unguarded)
    here = not _trt.why_not_executable()
    computed: Callable[[Any], list[torch.Tensor]] = module._run if here else by_reference(session, lowered)
    run = _in_the_models_dtypes(module, computed, graph)
    report.checked_by = f"{capabilities().title} on {_trt.gpu_name()}" if here else "the reference executor"
    if batches:
        report.check, inputs = verify_batches(run, original, batches, graph.output_names, report.tolerance, called)
    else:
        sizes = sizes_to_check(graph, examples)
        report.check, trial = verify_sizes(run, original, examples, graph.output_names, report.tolerance, sizes)
        inputs = draw(examples, trial)
    report.notes += [
        f"note: {row.output} is 0 everywhere in the check, which says little: are weights missing?"
        for row, value in zip(report.check, graph.outputs) if row.ref_max == 0 and row.finite and value.dtype.is_floating_point
    ]  # fmt: skip
    report.notes += [
        f"note: the input {name} is one integer everywhere, and the check draws from the example's range: only that was tried"
        for name, t in zip(graph.input_names, examples)
        if not t.is_floating_point() and t.dtype != torch.bool and t.numel() > 1 and bool((t == t.flatten()[0]).all())
    ]
    report.notes += [
        f"note: {row.output} was never a finite number in the check; only the places of NaN and infinities were compared"
        for row, value in zip(report.check, graph.outputs) if row.finite == 0 and 0 not in value.shape
    ]  # fmt: skip
    bad = [row for row in report.check if not row.passed]
    if not bad:
        return
    try:
        executor = ReferenceExecutor(session.network, trt)
        if lowered.tensor_names:
            where = first_drift(
                graph, executor, lowered.input_names, lowered.tensor_names, inputs, original(inputs), report.tolerance
            )  # fmt: skip
        else:
            where = parsed_drift(
                executor, lowered.input_names, inputs, lowered.output_names, original(inputs), report.tolerance
            )  # fmt: skip
    except (UnsupportedLayerError, ReferenceExecutionError) as error:
        where = f"which module drifts first cannot be told, for the reference executor failed: {error}"
    ranges = "".join(f"\n{note}" for note in report.notes if note.startswith("note: the INT8 ranges are those of"))
    raise VerificationError(
        f"{len(bad)} of {len(report.check)} outputs are not the model's: {where}.\n{report.check_text()}\n"
        "A model whose outputs hang on tiny differences may need tolerance=; verify=False takes the engine as it is."
        f"{ranges}",
        report,
    )
