"""Rows of converters/pooling.py: windows that follow from the size of the result."""

from __future__ import annotations

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, check_row, rows
from torch import nn

aten = torch.ops.aten
LINE, IMAGE, VOLUME = (2, 3, 11), (2, 3, 9, 14), (1, 2, 6, 7, 9)
FAR = Spec(IMAGE, center=-9.0)
Avg1, Avg2, Avg3 = nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d
Max1, Max2, Max3 = nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d

ROWS = [
    *rows(
        aten.adaptive_avg_pool2d.default, [(Avg2(1), IMAGE), (Avg2(1), (2, 3, 7, 7)), (Avg2((3, 7)), FAR)], (F32, F16, BF16)
    ),
    *rows(aten.adaptive_avg_pool2d.default, [(Avg2((4, 5)), FAR), (Avg2((3, 4)), IMAGE)]),
    *rows(aten.adaptive_avg_pool2d.default, [(Avg2((4, 5)), FAR)], (F16,)),
    *rows(aten.adaptive_avg_pool2d.default, [(Avg2((None, 4)), FAR), (Avg2((12, 3)), IMAGE), (Avg2(3), (2, 7, 7))]),
    *rows(aten.adaptive_avg_pool2d.default, [(Avg2((9, 14)), IMAGE), (Avg2((1, 14)), IMAGE), (Avg2(5), (1, 1, 3, 1))]),
    *rows(aten._adaptive_avg_pool2d.default, [(lambda x: aten._adaptive_avg_pool2d(x, [2, 3]), IMAGE)]),
    *rows(aten.adaptive_avg_pool1d.default, [(Avg1(1), LINE), (Avg1(4), LINE), (Avg1(3), (3, 6)), (Avg1(17), LINE)]),
    *rows(aten.adaptive_avg_pool3d.default, [(Avg3(1), VOLUME), (Avg3((2, 3, 4)), VOLUME), (Avg3((3, 1, 4)), (2, 6, 7, 9))]),
    *rows(aten._adaptive_avg_pool3d.default, [(lambda x: aten._adaptive_avg_pool3d(x, [2, 3, 3]), VOLUME)]),
    *rows(aten.adaptive_max_pool2d.default, [(Max2(1), FAR), (Max2(1), (2, 3, 7, 7)), (Max2((4, 5)), FAR)]),
    *rows(aten.adaptive_max_pool2d.default, [(Max2(1), FAR)], (F16, BF16)),
    *rows(aten.adaptive_max_pool2d.default, [(Max2((3, 4)), FAR), (Max2((12, None)), IMAGE), (Max2(3), (2, 7, 7))]),
    *rows(aten.adaptive_max_pool1d.default, [(Max1(1), LINE), (Max1(4), LINE), (Max1(3), (3, 6))]),
    *rows(aten.adaptive_max_pool3d.default, [(Max3(1), VOLUME), (Max3((2, 3, 4)), VOLUME), (Max3((3, 1, 4)), (2, 6, 7, 9))]),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)
