"""Rows of converters/detection.py."""

from __future__ import annotations

import pytest
import torch
from support.rows import F16, Row, Spec, check_row, convert_row, rows
from torch import nn

from torch2edge.errors import DataDependentError, UnsupportedOpError

torchvision = pytest.importorskip("torchvision")
tvops = torchvision.ops
ROI_ALIGN, DEFORM = torch.ops.torchvision.roi_align.default, torch.ops.torchvision.deform_conv2d.default
IMAGES, BOXES = (2, 3, 9, 7), Spec((5, 4), scale=4, center=3)


def ordered(boxes: torch.Tensor) -> torch.Tensor:
    """(x1, y1, x2, y2) with x1 < x2 and y1 < y2."""
    a, b = boxes[:, :2], boxes[:, 2:]
    return torch.cat([torch.minimum(a, b), torch.maximum(a, b)], 1)


def with_image(boxes: torch.Tensor) -> torch.Tensor:
    """The rows of roi_align: the image's number, and the box."""
    return torch.cat([(torch.arange(len(boxes)) % 2)[:, None].to(boxes.dtype), ordered(boxes)], 1)


class Deform(nn.Module):
    """A deformable convolution that computes its own offsets."""

    def __init__(self, mask: bool, groups: int = 1, offset_groups: int = 1, **kwargs: object) -> None:
        super().__init__()
        self.conv = tvops.DeformConv2d(4, 6, (3, 2), groups=groups, **kwargs)
        options = {k: kwargs[k] for k in ("stride", "padding", "dilation") if k in kwargs}
        self.offset = nn.Conv2d(4, 2 * 6 * offset_groups, (3, 2), **options)
        self.mask = nn.Conv2d(4, 6 * offset_groups, (3, 2), **options) if mask else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x, 3 * self.offset(x), None if self.mask is None else self.mask(x).sigmoid())


ROWS = [
    *rows(ROI_ALIGN, [
        (lambda x, b: tvops.roi_align(x, [ordered(b[:2]), ordered(b[2:])], 3, sampling_ratio=2), IMAGES, BOXES),
        (lambda x, b: tvops.roi_align(x, with_image(b), (2, 4), 0.5, 1, aligned=True), IMAGES, BOXES),
        (lambda x, b: tvops.roi_align(x, with_image(b), (5, 1), 2.0, 3), IMAGES, BOXES),
        (lambda x, b: tvops.roi_align(x, [ordered(b)], 7, 0.25, 2, aligned=True), (1, 8, 12, 12), BOXES),
        (lambda x: tvops.roi_align(x, [torch.tensor([[1.0, 0, 4, 6], [0, 0, 9, 9]])], 2, sampling_ratio=2), (1, 2, 5, 6)),
        (lambda x, i, b: tvops.roi_align(x, torch.cat([i[:, None].to(b), ordered(b)], 1), 2, sampling_ratio=2),
         IMAGES, Spec((5,), torch.int64, 0, 2), BOXES),
    ]),
    *rows(DEFORM, [
        (Deform(False), (2, 4, 6, 5)), (Deform(True), (1, 4, 6, 5)),
        (Deform(True, offset_groups=2, stride=2, padding=1, dilation=(1, 2), bias=False), (2, 4, 9, 8)),
        (Deform(False, groups=2, padding=(2, 1)), (2, 4, 5, 5)),
        (lambda x, w, o: tvops.deform_conv2d(x, o, w), (1, 3, 5, 5), (2, 3, 2, 2), (1, 8, 4, 4)),
    ]),
    *rows(DEFORM, [(Deform(True), (1, 4, 6, 5))], (F16,), rtol=2e-2,
          why="PyTorch computes the places of the samples in half precision"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


def test_adaptive_sampling_is_refused():
    with pytest.raises(UnsupportedOpError, match="sampling_ratio <= 0"):
        convert_row(Row(ROI_ALIGN, lambda x, b: tvops.roi_align(x, [ordered(b)], 2), ((1, 3, 9, 7), BOXES)))


def test_nms_is_refused():
    with pytest.raises(DataDependentError, match=r"how many boxes are kept.*call nms on the engine's outputs"):
        convert_row(Row(ROI_ALIGN, lambda b: tvops.nms(ordered(b), b[:, 0], 0.5), (BOXES,)))
