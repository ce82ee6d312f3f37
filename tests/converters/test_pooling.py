"""Rows of converters/pooling.py: windows of a fixed size. The adaptive ones are in test_pooling_adaptive.py."""

from __future__ import annotations

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, check_row, convert_row, rows
from torch import nn
from torch.nn import functional as F

from torch2edge.errors import ConversionError, UnsupportedOpError

aten = torch.ops.aten
LINE, IMAGE, VOLUME = (2, 3, 11), (2, 3, 9, 14), (1, 2, 6, 7, 9)
FAR = Spec(IMAGE, center=-9.0)  # padding with 0 instead of -inf would show

MAX = [
    *rows(aten.max_pool2d.default, [(nn.MaxPool2d(3, 2, 1), FAR), (nn.MaxPool2d((2, 3), (1, 2)), IMAGE)]),
    *rows(aten.max_pool2d.default, [(nn.MaxPool2d(3, 2, 1), FAR)], (F16, BF16)),
    *rows(
        aten.max_pool2d.default,
        [(nn.MaxPool2d(3, 2, (1, 0), ceil_mode=True), FAR), (nn.MaxPool2d(2, 3, 1, 1, False, True), FAR)],
    ),
    *rows(aten.max_pool2d.default, [(nn.MaxPool2d(5, 1, 2), (2, 3, 4, 4)), (nn.MaxPool2d(2, ceil_mode=True), (3, 7, 5))]),
    *rows(aten.max_pool2d.default, [(nn.MaxPool2d(3, 1, 1, 2), FAR), (nn.MaxPool2d(2, 3, (0, 1), (3, 1), False, True), FAR)]),
    *rows(aten.max_pool2d.default, [(lambda x: F.max_pool2d(x, [3], [1], [1]), (2, 5, 5)), (nn.MaxPool2d(1, 2), IMAGE)]),
    *rows(aten.max_pool2d.default, [(nn.MaxPool2d(3, 2, 1, 2), FAR)], (F16,)),
    *rows(aten.max_pool1d.default, [(nn.MaxPool1d(3, 2, 1), LINE), (nn.MaxPool1d(4, 3, 2, 1, False, True), LINE)]),
    *rows(aten.max_pool1d.default, [(nn.MaxPool1d(3, 2, 1), LINE)], (F16,)),
    *rows(aten.max_pool1d.default, [(nn.MaxPool1d(2, 1, 1, 3), LINE), (nn.MaxPool1d(2), (3, 7))]),
    *rows(aten.max_pool3d.default, [(nn.MaxPool3d(3, 2, 1, ceil_mode=True), VOLUME), (nn.MaxPool3d((1, 2, 3)), (2, 4, 5, 6))]),
    *rows(aten.max_pool3d.default, [(nn.MaxPool3d((2, 1, 2), 1, 0, (2, 1, 3)), VOLUME)]),
    *rows(aten.max_pool1d_with_indices.default, [(lambda x: F.max_pool1d(x, 3, return_indices=True)[0], LINE)]),
    *rows(aten.max_pool2d_with_indices.default, [(lambda x: F.max_pool2d(x, 3, 2, return_indices=True)[0], IMAGE)]),
    *rows(aten.max_pool3d_with_indices.default, [(lambda x: F.max_pool3d(x, 2, return_indices=True)[0], VOLUME)]),
]
AVERAGE = [
    *rows(aten.avg_pool2d.default, [(nn.AvgPool2d(3, 2, 1), IMAGE), (nn.AvgPool2d((2, 3), (1, 2)), IMAGE)]),
    *rows(aten.avg_pool2d.default, [(nn.AvgPool2d(3, 2, 1), IMAGE)], (F16, BF16)),
    *rows(aten.avg_pool2d.default, [(nn.AvgPool2d(3, 2, 1, count_include_pad=False), FAR)], (F32, F16)),
    *rows(aten.avg_pool2d.default, [(nn.AvgPool2d(3, 2, 1, True), FAR), (nn.AvgPool2d(4, 3, (2, 0), True), FAR)]),
    *rows(aten.avg_pool2d.default, [(nn.AvgPool2d(3, 2, 1, True), FAR)], (F16,)),
    *rows(aten.avg_pool2d.default, [(nn.AvgPool2d(2, 3, 1, True), FAR), (nn.AvgPool2d(3, 2, 0, True, False), FAR)]),
    *rows(aten.avg_pool2d.default, [(nn.AvgPool2d(4, 3, 2, True, False), FAR), (nn.AvgPool2d(3, 2, 1, True, False, 7), FAR)]),
    *rows(aten.avg_pool2d.default, [(nn.AvgPool2d(3, 1, 1, divisor_override=2), FAR), (nn.AvgPool2d(2), (3, 7, 5))]),
    # EfficientNet of transformers averages by windows larger than its maps
    *rows(
        aten.avg_pool2d.default,
        [(nn.AvgPool2d(2560, ceil_mode=True), FAR), (nn.AvgPool2d((40, 3), (40, 2), (1, 0), True), FAR)],
    ),
    *rows(
        aten.avg_pool2d.default, [(nn.AvgPool2d(50, 40, 3, True, False), FAR), (nn.AvgPool2d(50, 40, 3, True, True, 9), FAR)]
    ),
    *rows(
        aten.max_pool2d.default,
        [(nn.MaxPool2d(2560, ceil_mode=True), FAR), (nn.MaxPool2d((40, 3), (40, 2), (1, 0), 1, False, True), FAR)],
    ),
    *rows(aten.avg_pool2d.default, [(nn.LPPool2d(2, 3, 2), IMAGE), (nn.AvgPool2d(5, 3, 2, True), (1, 1, 4, 5))]),
    *rows(aten.avg_pool1d.default, [(nn.AvgPool1d(3, 2, 1), LINE), (nn.AvgPool1d(4, 3, 2, True), LINE)]),
    *rows(aten.avg_pool1d.default, [(nn.AvgPool1d(4, 3, 2, True, False), LINE), (nn.AvgPool1d(3), (3, 7))]),
    *rows(aten.avg_pool1d.default, [(nn.AvgPool1d(4, 3, 2, True, False), LINE)], (F16,)),
    *rows(aten.avg_pool1d.default, [(nn.LPPool1d(1, 3), LINE)]),
    *rows(aten.avg_pool3d.default, [(nn.AvgPool3d(3, 2, 1, True), VOLUME), (nn.AvgPool3d((1, 2, 3), 2, 0, True), VOLUME)]),
    *rows(
        aten.avg_pool3d.default,
        [(nn.AvgPool3d(3, 2, 1, True, False), VOLUME), (nn.AvgPool3d(2, 1, 1, divisor_override=3), VOLUME)],
    ),
]
ROWS = [*MAX, *AVERAGE]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


def test_indices_are_refused_by_name() -> None:
    row = Row(aten.max_pool2d_with_indices.default, nn.MaxPool2d(2, return_indices=True), (IMAGE,))
    with pytest.raises(ConversionError, match=r"result 1 of aten\.max_pool2d_with_indices"):
        convert_row(row)


def test_integers_are_refused() -> None:
    with pytest.raises(UnsupportedOpError, match=r"no pooling of torch\.int64"):
        convert_row(Row(aten.max_pool2d.default, nn.MaxPool2d(2), (Spec(IMAGE, torch.int64),)))
