"""Every row of the op tables on a real GPU engine: many rows to one network, so that the tier stays short."""

from __future__ import annotations

import warnings

import pytest
import torch
from support.gpu import FAST, Many, disagreement, executes, halved, needs_gpu
from support.rows import Row, assert_close, convert_row
from support.tables import all_rows
from torch import nn

import torch2edge
from torch2edge._trt import capabilities, carried, trt
from torch2edge.build import BuildSession
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.lower import Lowered, registry
from torch2edge.structure import flatten
from torch2edge.trace import trace

ROWS_PER_ENGINE = 24
# No kernel for some fusions (of casts and POW, of elementwise layers on vectors and quantize), and it says so. What is built
# all the same must be right.
NOT_BUILT_BY_8_6 = {
    "pow.Tensor_Tensor-2_3-float16",
    "fake_quantize_per_tensor_affine.default-600",
    "fake_quantize_per_tensor_affine.default-600#2",
    "fake_quantize_per_tensor_affine_cachemask.default-7",
    "quantized_decomposed.quantize_per_tensor.default-600",
}

pytestmark = [pytest.mark.gpu, needs_gpu]


def float_dtypes(row: Row) -> tuple[str, ...]:
    """The float dtypes of a row's tensors; they decide what a weakly typed TensorRT may compute in half."""
    graph = trace(row.module(), row.draw(seed=0), is_leaf=registry().is_leaf, module_classes=registry().module_classes())
    values = [*graph.inputs, *(v for op in graph.ops for v in op.outputs if v is not None)]
    return tuple(sorted({str(v.dtype)[6:] for v in values if v.dtype.is_floating_point}))


def groups() -> list[list[Row]]:
    """The rows, in parts of equal float dtypes: a half tensor in the network lets TensorRT choose half kernels."""
    if not executes():
        return [all_rows()]
    kinds: dict[tuple[str, ...], list[Row]] = {}
    with warnings.catch_warnings():  # PyTorch's own, once per process; the CPU tier runs the same rows with errors on
        warnings.simplefilter("ignore")
        for row in all_rows():
            kinds.setdefault(float_dtypes(row), []).append(row)
    return [rows[i : i + ROWS_PER_ENGINE] for rows in kinds.values() for i in range(0, len(rows), ROWS_PER_ENGINE)]


def execute(rows: list[Row]) -> list[str]:
    """Convert the rows to one engine, execute it, compare; a line per row that is wrong."""
    model = Many(rows).eval()
    traced = [t for row in rows for t in row.draw(seed=0)]
    engine = torch2edge.convert(model, traced, verify=False, **FAST)
    inputs = [t for row in rows for t in row.draw(seed=2)]
    with torch.no_grad():
        expected = model(*[t.clone() for t in inputs])
    given = engine(*[t.cuda() for t in inputs])
    return [f"{row}: {told}" for row, g, e in zip(rows, given, expected) if (told := disagreement(row, g, e))]


def refusal(row: Row) -> str:
    """Why the TensorRT at hand does not take a row, in the words of the error; or an empty string."""
    try:
        model, _, lowered, session = convert_row(row)
    except torch2edge.Torch2EdgeError as error:
        return f"{row}: {type(error).__name__}: {str(error)[:900]}"
    return reference_complaint(row, model, lowered, session)


def reference_complaint(row: Row, model: nn.Module, lowered: Lowered, session: BuildSession) -> str:
    """The reference executor must agree over the network of this TensorRT too: it is what names a drifting module."""
    inputs = row.draw(seed=1)
    with torch.no_grad():
        expected, _ = flatten(model(*[t.clone() for t in inputs]))
    try:
        feed = {n: t.to(carried(t.dtype)) for n, t in zip(lowered.input_names, inputs) if n}
        given = ReferenceExecutor(session.network, trt).run(feed)
        for name, reference in zip(lowered.output_names, expected, strict=True):
            assert_close(given[name].to(reference.dtype), reference, row.tolerance())
    except (torch2edge.Torch2EdgeError, AssertionError) as error:
        return f"{row}: by the reference executor: {type(error).__name__}: {str(error)[:600]}"
    return ""


def expected_refusal(row: Row, told: str) -> bool:
    """What this TensorRT lacks, and says so."""
    caps = capabilities()
    return (
        (not caps.bf16 and "no data type for torch.bfloat16" in told)
        or (not caps.cubic_grid_sample and "bicubic grid_sample" in told)
        or (not caps.int64 and "needs int64" in told)
        or (not caps.quantizes_elementwise and "this TensorRT quantizes wrongly" in told)
        or (not caps.quantizes_elementwise and "quantized along its second axis" in told)
    )


def fits(row: Row) -> bool:
    """Whether a row's integers can be carried: INT32 where there is no INT64."""
    limit = torch.iinfo(torch.int64 if capabilities().int64 else torch.int32)
    return all(limit.min <= s.low and s.high <= limit.max for s in row.specs())


def no_kernel(row: Row) -> str:
    """What TensorRT says of a row that it does not build, or ""."""
    try:
        execute([row])
    except torch2edge.BuildError as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore")  # as in groups()
@pytest.mark.parametrize("rows", groups(), ids=lambda rows: f"{str(rows[0].dtype)[6:]}-{rows[0]}..{rows[-1]}")
def test_rows(rows: list[Row]) -> None:
    rows = [row for row in rows if fits(row)]
    told = {str(row): refusal(row) for row in rows}
    wrong = [text for row in rows if (text := told[str(row)]) and not expected_refusal(row, text)]
    if not capabilities().int64:  # TensorRT 8.6
        for row in [row for row in rows if str(row) in NOT_BUILT_BY_8_6]:
            rows.remove(row)
            text = no_kernel(row)
            assert not text or "Could not find any implementation" in text, text
    taken = [row for row in rows if not told[str(row)] or "by the reference executor" in told[str(row)]]
    wrong += halved(taken, execute) if taken else []
    assert not wrong, f"{len(wrong)} of {len(rows)} rows:\n" + "\n".join(wrong)
