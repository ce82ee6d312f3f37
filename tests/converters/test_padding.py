"""Rows of converters/padding.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.rows import BF16, F16, Row, Spec, check_row, rows
from support.torch_features import where_cpu_computes
from torch import nn

aten = torch.ops.aten


def padder(*args: Any, **kwargs: Any) -> Any:
    """F.pad with these arguments."""
    return lambda x: F.pad(x, *args, **kwargs)


ROWS = [
    *rows(
        aten.pad.default,
        [
            (padder((1, 2)), (3,)),
            (padder((1, 2, 0, 3), value=-1.5), (2, 3, 4)),
            (padder((0, 0, 1, -1), value=2), (2, 3, 4, 5)),
            (padder((-1, -2)), (2, 3, 4, 5)),
            (padder((1, 1, 2, 0, 0, 1, 1, 0, 0, 1), value=float("-inf")), (1, 2, 3, 2, 2)),
            (padder((2, 1), value=7), Spec((2, 3), torch.int64)),
            (padder((2, 1), value=True), Spec((2, 3), torch.bool)),
            (padder((0, 0)), (2, 3)),
            (padder((2, 1), mode="reflect"), (2, 4)),
            (padder((2, 1, 0, 3), mode="reflect"), (2, 3, 4, 5)),
            (padder((-1, 2, 1, -1), mode="reflect"), (2, 4, 5)),
            (padder((1, 0, 0, 1, 1, 1), mode="reflect"), (1, 2, 3, 2, 2)),
            (padder((5, 1), mode="replicate"), (2, 4)),
            (padder((2, 1, 0, 7), mode="replicate"), (1, 3, 4, 5)),
            (padder((-1, 2, 1, 1, 2, 0), mode="replicate"), (1, 2, 3, 2, 4)),
            (padder((3, 1), mode="circular"), (2, 4)),
            (padder((4, 5, 1, 2), mode="circular"), (2, 3, 4, 5)),
            (padder((2, -1), mode="circular"), (2, 3, 5)),
            (padder((1, 0, 0, 1, 3, 3), mode="circular"), (1, 2, 3, 2, 2)),
            (nn.ConstantPad2d((1, 2, 3, 0), 3.5), (2, 3, 4)),
            (nn.ZeroPad2d(1), (1, 2, 3, 4)),
            (nn.ReflectionPad2d((1, 2, 0, 1)), (1, 2, 3, 4)),
            (nn.ReplicationPad3d(2), (1, 2, 3, 4, 2)),
            (nn.CircularPad2d((1, 2, 0, 1)), (1, 2, 3, 4)),
        ],
    ),
    *rows(aten.pad.default, [(padder((1, 2), value=0.1), (2, 3))], (F16, BF16)),
    *rows(aten.pad.default, [(padder((1, 2), mode="reflect"), (2, 3))], (BF16,)),
    *where_cpu_computes(
        lambda: nn.ReflectionPad1d(1)(torch.ones(2, 3).half()),
        rows(aten.pad.default, [(padder((1, 2), mode="reflect"), (2, 3))], (F16,)),
    ),
    *rows(
        aten.constant_pad_nd.default,
        [(lambda x: torch.constant_pad_nd(x, (1, 2, -1, 0), 2.5), (3, 4)), (lambda x: torch.constant_pad_nd(x, (1, 1)), (2,))],
    ),
    *rows(aten.reflection_pad1d.default, [(lambda x: torch._C._nn.reflection_pad1d(x, (1, 2)), (2, 3))]),
    *rows(aten.reflection_pad2d.default, [(lambda x: torch._C._nn.reflection_pad2d(x, (1, 2, 0, 1)), (2, 3, 4))]),
    *rows(aten.reflection_pad3d.default, [(lambda x: torch._C._nn.reflection_pad3d(x, (1, 0, 0, 1, 1, 0)), (1, 2, 2, 3))]),
    *rows(aten.replication_pad1d.default, [(lambda x: torch._C._nn.replication_pad1d(x, (4, 2)), (2, 3))]),
    *rows(aten.replication_pad2d.default, [(lambda x: torch._C._nn.replication_pad2d(x, (1, 2, 5, 1)), (2, 3, 4))]),
    *rows(aten.replication_pad3d.default, [(lambda x: torch._C._nn.replication_pad3d(x, (1, 0, 0, 3, 1, 0)), (1, 2, 2, 3))]),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)
