"""Layers over dynamic axes whose sizes TensorRT works out by itself: convolution, pooling, normalization, arithmetic."""

from __future__ import annotations

import pytest
import torch
from support.dynamic_rows import check_dynamic_row, dynamic_rows
from support.rows import F16, F32, Spec
from torch import nn
from torch.nn import functional as F

aten = torch.ops.aten
IMAGE = ("n", 3, "h", "w")

DYNAMIC_ROWS = [
    *dynamic_rows(aten.relu.default, [(torch.relu, IMAGE), (torch.relu, ("t",)), (torch.relu, ("n", "c", "h", "w", 2))]),
    *dynamic_rows(aten.add.Tensor, [
        (lambda x, y: x + y, IMAGE, (3, 1, 1)), (lambda x, y: x + y, ("n", "t"), ("t",)),
        (lambda x, y: x + y, ("n", 1, "w"), (1, "h", "w")), (lambda x: x + x.shape[0], ("n", 4)),
        (lambda x: x + x.shape[1], IMAGE),
    ]),
    *dynamic_rows(aten.mul.Tensor, [(lambda x: x * 2.5, IMAGE), (lambda x: x * x.shape[-1], ("n", "t"))], [F32, F16]),
    *dynamic_rows(aten.div.Tensor, [(lambda x: x / x.shape[2], IMAGE), (lambda x: x / (x.shape[-1] ** 0.5), ("n", "t"))]),
    *dynamic_rows(aten.where.self, [(lambda x, y: torch.where(x > 0, x, y), ("n", "t"), ("t",))]),
    *dynamic_rows(aten.convolution.default, [
        (nn.Conv2d(3, 5, 3, stride=2, padding=1), IMAGE), (nn.Conv2d(3, 6, 3, dilation=2, groups=3, padding=2), IMAGE),
        (nn.Conv1d(3, 4, 3, padding=1), ("n", 3, "t")), (nn.Conv3d(3, 4, 3, padding=1), ("n", 3, "t", "h", 6)),
        (nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), IMAGE),
        (nn.ConvTranspose1d(3, 4, 4, stride=2), ("n", 3, "t")),
    ]),
    *dynamic_rows(aten.conv2d.padding, [(nn.Conv2d(3, 4, 3, dilation=2, padding="same"), IMAGE)]),
    *dynamic_rows(aten.max_pool2d.default, [
        (nn.MaxPool2d(3, 2, 1), IMAGE), (nn.MaxPool2d(2, ceil_mode=True), IMAGE), (nn.MaxPool2d(3, 2, ceil_mode=True), IMAGE),
        (nn.MaxPool2d(3, 2, 1, ceil_mode=True), IMAGE),
    ]),
    *dynamic_rows(aten.max_pool1d.default, [(nn.MaxPool1d(2), ("n", 3, "t"))]),
    *dynamic_rows(aten.avg_pool2d.default, [
        (nn.AvgPool2d(2), IMAGE), (nn.AvgPool2d(3, 2, 1), IMAGE), (nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE),
        (nn.AvgPool2d(3, 2, ceil_mode=True), IMAGE), (nn.AvgPool2d(2, divisor_override=3), IMAGE),
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), IMAGE),
    ]),
    *dynamic_rows(aten.adaptive_avg_pool2d.default, [
        (nn.AdaptiveAvgPool2d(1), IMAGE), (nn.AdaptiveAvgPool2d((None, 1)), IMAGE), (nn.AdaptiveAvgPool2d((7, 3)), IMAGE),
        (lambda x, y: F.adaptive_avg_pool2d(x, y.shape[2:]), ("n", 3, 8, 9), (1, 1, "h", "w")),
    ]),
    *dynamic_rows(aten.adaptive_max_pool2d.default, [(nn.AdaptiveMaxPool2d(1), IMAGE), (nn.AdaptiveMaxPool2d((3, 4)), IMAGE)]),
    *dynamic_rows(aten.batch_norm.default, [
        (nn.BatchNorm2d(3), IMAGE), (nn.BatchNorm1d(3), ("n", 3)), (nn.BatchNorm1d(3), ("n", 3, "t")),
        (nn.BatchNorm2d(3, track_running_stats=False), IMAGE),
    ]),
    *dynamic_rows(aten.group_norm.default, [(nn.GroupNorm(2, 4), ("n", 4, "h", "w")), (nn.GroupNorm(2, 4), ("n", 4, "t"))]),
    *dynamic_rows(aten.instance_norm.default, [(nn.InstanceNorm2d(3), IMAGE), (nn.InstanceNorm1d(3), ("n", 3, "t"))]),
    *dynamic_rows(aten.layer_norm.default, [(nn.LayerNorm(8), ("n", "t", 8)), (nn.LayerNorm([3, 4]), ("n", 3, 4))]),
    *dynamic_rows(aten.rms_norm.default, [(nn.RMSNorm(8), ("n", "t", 8))]),
    *dynamic_rows(nn.LocalResponseNorm, [(nn.LocalResponseNorm(3), IMAGE), (nn.LocalResponseNorm(4), IMAGE)]),
    *dynamic_rows(aten.mean.dim, [
        (lambda x: x.mean([2, 3]), IMAGE), (lambda x: x.mean(0), ("n", "t")), (lambda x: x.mean(-1, keepdim=True), ("n", "t")),
    ]),
    *dynamic_rows(aten.sum.dim_IntList, [(lambda x: x.sum(1), ("n", "t", 3)), (lambda x: (x > 0).sum(0), ("n", "t"))]),
    *dynamic_rows(aten.amax.default, [(lambda x: x.amax((2, 3)), IMAGE)]),
    *dynamic_rows(aten.var.correction, [(lambda x: x.var(1), ("n", "t")), (lambda x: x.var(1, correction=0), ("n", "t"))]),
    *dynamic_rows(aten.linalg_vector_norm.default, [
        (lambda x: F.normalize(x, dim=-1), ("n", "t")),
        (lambda x: x.norm(), ("n", "t")),
    ]),
    *dynamic_rows(aten.argmax.default, [
        (lambda x: x.argmax(1), IMAGE),
        (lambda x: x.argmax(-1), ("n", "t")),
        (lambda x: x.argmax(), ("n", "t")),
    ]),
    *dynamic_rows(aten.max.dim, [(lambda x: x.max(1), ("n", "t")), (lambda x: x.max(1)[1], Spec(("n", "t"), torch.int64))]),
    *dynamic_rows(aten.cumsum.default, [(lambda x: x.cumsum(1), ("n", "t")), (lambda x: (x > 0).cumsum(-1), ("n", "t"))]),
    *dynamic_rows(aten.softmax.int, [(lambda x: x.softmax(-1), ("n", "t")), (lambda x: x.softmax(1), IMAGE)]),
    *dynamic_rows(aten.log_softmax.int, [(lambda x: x.log_softmax(-1), ("n", "t"))]),
    *dynamic_rows(aten.glu.default, [(lambda x: F.glu(x, 1), ("n", 4, "t"))]),
]  # fmt: skip


@pytest.mark.parametrize("row", DYNAMIC_ROWS, ids=str)
def test_row(row):
    check_dynamic_row(row)
