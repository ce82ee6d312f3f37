"""Rows of converters/casting.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, check_row, convert_row, rows

from torch2edge._trt import trt
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.errors import ConversionError

aten = torch.ops.aten
I32, I64, BOOL, U8 = torch.int32, torch.int64, torch.bool, torch.uint8
OP = aten._to_copy.default
FROM = [Spec((20,), scale=3), Spec((20,), F16, scale=3), Spec((20,), BF16, scale=3), Spec((20,), I32, -2, 3),
        Spec((20,), I64, -2, 3), Spec((20,), BOOL)]  # fmt: skip

ROWS = [
    *[row for d in (F32, F16, BF16, I32, I64, BOOL)
      for row in rows(OP, [(lambda x, d=d: x.to(d), s) for s in FROM if s.dtype != d], id=f"to_{str(d)[6:]}")],
    *rows(OP, [(lambda x: x.to(U8), Spec((20,), I64, -300, 600)), (lambda x: x.to(U8), Spec((20,), BOOL)),
               (lambda x: (x.abs() * 60).clamp(0, 255).to(U8), (20,))], id="to_uint8"),
    *[row for d in (F32, F16, I32, I64, BOOL)
      for row in rows(OP, [(lambda x, d=d: x.to(d), Spec((20,), U8, 0, 256))], id="from_uint8")],
    *rows(OP, [
        (lambda x: x.permute(0, 3, 1, 2).float() / 255, Spec((1, 4, 5, 3), U8, 0, 256)),
        (lambda x: x[:, 1:3].half(), Spec((2, 4), U8, 0, 256)),
        (lambda x, y: x.type_as(y), (3,), Spec((3,), I64)),
        (lambda x, y: x.to(y), Spec((3,), BOOL), (3,)),
        (lambda x: x.long().float(), ()),
        (lambda x: x.type(torch.int32), Spec((9,), scale=3)),
        (lambda x: x.to("cpu", torch.float16, copy=True), (3,)),
        (lambda x: x.bool().float(), (2, 3, 4)),
        (lambda x: x.to(memory_format=torch.channels_last), (1, 2, 3, 4)),
    ]),
    *rows(aten.copy.default, [
        (lambda x, y: aten.copy(x, y), (2, 3), Spec((3,), I64)),
        (lambda x: aten.copy(x, torch.tensor(2.5)), Spec((2, 3), I32)),
    ]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (I32, [-2.9, -0.5, 0.5, 2.9, 100000.0]),
        (I64, [-2.9, -0.5, 0.5, 2.9]),
        (BOOL, [-0.5, 0.0, 0.4, 1e-30, float("nan"), float("inf")]),
        (F16, [1e-8, 65504.0, 70000.0, float("nan")]),
    ],
)
def test_values(dtype: torch.dtype, values: list[float]) -> None:
    x = torch.tensor(values)
    _, _, lowered, session = convert_row(Row(OP, lambda x: x.to(dtype), (tuple(x.shape),)))
    given: Any = ReferenceExecutor(session.network, trt).run({lowered.input_names[0]: x})
    assert torch.allclose(given[lowered.output_names[0]].double(), x.to(dtype).double(), equal_nan=True, rtol=0)


@pytest.mark.parametrize(("dtype", "way_out"), [(torch.float64, "model.float()"), (torch.int16, "cast to int32")])
def test_dtypes_that_tensorrt_lacks_are_refused(dtype: torch.dtype, way_out: str) -> None:
    with pytest.raises(ConversionError, match=rf"no data type for {dtype}: .*{way_out[:5]}"):
        convert_row(Row(OP, lambda x: x.to(dtype), ((3,),)))
    with pytest.raises(ConversionError, match=rf"the input args\[0\] is {dtype}.*model.float"):
        convert_row(Row(OP, lambda x: x.float(), (Spec((3,), dtype),)))
