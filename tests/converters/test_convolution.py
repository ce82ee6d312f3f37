"""Rows of converters/convolution.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, check_row, convert_row, rows
from torch import nn
from torch.nn import functional as F

from torch2edge.build import BuildSession
from torch2edge.errors import UnsupportedOpError
from torch2edge.lower import lower, registry
from torch2edge.options import Options
from torch2edge.trace import trace

aten = torch.ops.aten
CONV = aten.convolution.default
UNFOLD_BACKWARD = aten.unfold_backward.default
WINDOW = torch.hann_window(32)
LINE, IMAGE, VOLUME = (2, 4, 11), (2, 4, 9, 12), (1, 4, 5, 6, 7)


def conv(axes: int, *args: Any, **kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    return getattr(nn, f"Conv{axes}d")(*args, **kwargs)  # type: ignore[no-any-return]


def back(axes: int, *args: Any, **kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    return getattr(nn, f"ConvTranspose{axes}d")(*args, **kwargs)  # type: ignore[no-any-return]


PLAIN = [
    *rows(CONV, [(conv(2, 4, 6, 3), IMAGE), (conv(2, 4, 6, (3, 5), (2, 1), (1, 2), groups=2), IMAGE)]),
    *rows(CONV, [(conv(2, 4, 6, 3), IMAGE)], (F16, BF16)),
    *rows(CONV, [(conv(2, 4, 8, 3, padding=2, dilation=2, bias=False), IMAGE), (conv(2, 4, 4, 3, groups=4), IMAGE)]),
    *rows(CONV, [(conv(2, 4, 6, 1, 2), IMAGE), (conv(2, 4, 6, 3, padding=4), (1, 4, 1, 1)), (conv(2, 4, 6, 3), (4, 9, 12))]),
    *rows(CONV, [(lambda x: F.conv2d(x, torch.ones(2, 4, 3, 3), stride=[2], padding=[1], dilation=[2]), IMAGE)]),
    *rows(CONV, [(conv(1, 4, 6, 3), LINE), (conv(1, 4, 6, 3, 2, 1, 2, 2), LINE), (conv(1, 4, 6, 5), (4, 11))]),
    *rows(CONV, [(conv(1, 4, 6, 3), LINE)], (F16,)),
    *rows(CONV, [(conv(3, 4, 6, 3), VOLUME), (conv(3, 4, 6, (1, 2, 3), 2, 1, (1, 2, 1), 2), VOLUME)]),
    *rows(CONV, [(conv(2, 4, 6, 3, padding=1, padding_mode="reflect"), IMAGE)]),
    *rows(CONV, [(conv(2, 4, 6, 3, padding=(2, 1), padding_mode="circular"), IMAGE)]),
    *rows(CONV, [(conv(1, 4, 6, 3, padding=2, padding_mode="replicate"), LINE)]),
]
SAME = [
    *rows(
        aten.conv2d.padding,
        [(conv(2, 4, 6, 3, padding="same"), IMAGE), (conv(2, 4, 6, (4, 2), padding="same"), IMAGE)],
        (F32, F16),
    ),
    *rows(aten.conv2d.padding, [(conv(2, 4, 6, (4, 3), dilation=(3, 2), padding="same"), (4, 9, 12))]),
    *rows(aten.conv2d.padding, [(conv(2, 4, 6, 3, 2, padding="valid"), IMAGE)]),
    *rows(
        aten.conv1d.padding, [(conv(1, 4, 6, 4, padding="same", groups=2), LINE), (conv(1, 4, 6, 3, padding="same"), (4, 11))]
    ),
    *rows(aten.conv3d.padding, [(conv(3, 4, 6, (1, 2, 3), padding="same", bias=False), VOLUME)]),
]
TRANSPOSED = [
    *rows(CONV, [(back(2, 4, 6, 2, 2), IMAGE), (back(2, 4, 6, 4, 2, 1), IMAGE)]),
    *rows(CONV, [(back(2, 4, 6, 2, 2), IMAGE)], (F16, BF16)),
    *rows(CONV, [(back(2, 4, 6, 3, 2, 1, 1), IMAGE), (back(2, 4, 6, 3, (2, 3), 1, (1, 0), 2, False), IMAGE)]),
    *rows(CONV, [(back(2, 4, 6, 2, 2, 0, 1), IMAGE), (back(2, 4, 6, 3, (4, 2), (1, 0), (3, 1), 1, True, 2), IMAGE)]),
    *rows(CONV, [(back(2, 4, 6, 3, 1, 1, dilation=2), IMAGE), (back(2, 4, 6, 3, 1, 0, 1, dilation=2), IMAGE)]),
    *rows(CONV, [(back(2, 4, 6, 3, 1, 3), IMAGE), (back(2, 4, 4, 3, 2, 1, 1, 4), (4, 5, 6)), (back(2, 4, 6, 1, 3), IMAGE)]),
    *rows(CONV, [(back(1, 4, 6, 4, 2, 1), LINE), (back(1, 4, 6, 3, 3, 0, 2, 2, True, 2), LINE)]),
    *rows(CONV, [(back(1, 4, 6, 4, 2, 1), LINE)], (F16,)),
    *rows(CONV, [(back(3, 4, 6, 2, 2), VOLUME), (back(3, 4, 6, 3, 2, 1, 1, 2), VOLUME)]),
]
# Kernels that depend on an input, and a constant image
COMPUTED = [
    *rows(aten.col2im.default, [(nn.Fold((6, 7), (2, 3)), (2, 12, 25)), (nn.Fold(8, 3, padding=1, stride=2), (1, 18, 16))]),
    *rows(aten.col2im.default, [(nn.Fold((9, 8), 3, 2, (1, 2), (3, 2)), (2, 9, 12)), (nn.Fold(7, 2, stride=2), (8, 9))]),
    *rows(aten.col2im.default, [(nn.Fold((10, 9), (2, 3), (1, 2), 1, (1, 3)), (1, 6, 33))]),
    *rows(aten.col2im.default, [(nn.Fold(8, 3, padding=1, stride=2), (1, 18, 16))], (F16, BF16)),
    *rows(UNFOLD_BACKWARD, [(lambda x: aten.unfold_backward(x, [2, 11], 1, 4, 2), (2, 4, 4))]),
    *rows(UNFOLD_BACKWARD, [(lambda x: aten.unfold_backward(x, [3, 12, 2], -2, 5, 3), (3, 3, 2, 5))], (F32, F16)),
    *rows(UNFOLD_BACKWARD, [(lambda x: aten.unfold_backward(x, [9, 2], 0, 2, 4), (2, 2, 2))]),
    *rows(
        UNFOLD_BACKWARD,
        [(lambda x: torch.istft(torch.stft(x, 32, 8, window=WINDOW, return_complex=True), 32, 8, window=WINDOW), (2, 160))],
    ),
    *rows(CONV, [(lambda x, w: F.conv2d(x, w, stride=2, padding=1), IMAGE, (6, 4, 3, 3))], (F32, F16)),
    *rows(CONV, [(lambda x, w, b: F.conv2d(x, w, b, groups=2), IMAGE, (6, 2, 3, 3), (6,))]),
    *rows(CONV, [(lambda x, w: F.conv1d(x, w, padding=1), LINE, (6, 4, 3))]),
    *rows(CONV, [(lambda x, b: F.conv2d(x, torch.ones(6, 4, 2, 2), b), IMAGE, (6,))]),
    *rows(CONV, [(lambda w: F.conv2d(torch.ones(2, 4, 5, 6), w), (6, 4, 3, 3))]),
    *rows(CONV, [(lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1), IMAGE, (4, 6, 3, 3))]),
    *rows(aten.conv2d.padding, [(lambda x, w, b: F.conv2d(x, w, b, padding="same"), IMAGE, (6, 4, 2, 3), (6,))]),
]
ROWS = [*PLAIN, *SAME, *TRANSPOSED, *COMPUTED]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


def test_weights_keep_their_names() -> None:
    model = nn.Sequential(conv(1, 4, 6, 3), back(1, 6, 4, 2)).eval()
    graph = trace(model, [torch.zeros(LINE)], is_leaf=registry().is_leaf)
    session = BuildSession(Options())
    lowered = lower(graph, session.network, registry(), names={id(p): n for n, p in model.named_parameters()})
    assert set(lowered.network.weights_by_name) == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_computed_kernel_that_would_have_to_grow_is_refused() -> None:
    row = Row(CONV, lambda x, w: F.conv_transpose2d(x, w, stride=2, output_padding=1), (IMAGE, (4, 6, 3, 3)))
    with pytest.raises(UnsupportedOpError, match="output_padding greater than the padding"):
        convert_row(row)


def test_integers_are_refused() -> None:
    with pytest.raises(UnsupportedOpError, match=r"no convolution of torch\.int64"):
        convert_row(Row(CONV, lambda x: F.conv2d(x, torch.ones(2, 4, 3, 3, dtype=torch.int64)), (Spec(IMAGE, torch.int64),)))
