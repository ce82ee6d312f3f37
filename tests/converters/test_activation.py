"""Rows of converters/activation.py."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, assert_close, check_row, convert_row, rows
from torch import nn
from torch.nn import functional as F

from torch2edge._trt import trt
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.errors import RandomOpError, UnsupportedOpError
from torch2edge.lower.network import core

aten = torch.ops.aten
IMAGE = (2, 3, 5, 8)
WIDE = Spec(IMAGE, scale=8.0)  # both sides of every corner and threshold
LARGE = Spec((4, 50), scale=100.0)  # exp() of it overflows
BELOW = Spec((3, 7), scale=2.0, center=-20.0)  # all that is left is the tail
ALL = (F32, F16, BF16)

ROWS = [
    *rows(aten.relu.default, [(torch.relu, IMAGE), (torch.relu, (5,)), (torch.relu, ())]),
    *rows(aten.relu.default, [(torch.relu, IMAGE)], (F16, BF16)),
    *rows(aten.relu.default, [(torch.relu, Spec((4, 5), torch.int64, low=-5)), (lambda x: F.relu_(torch.tanh(x)), (1, 1, 4))]),
    *rows(aten.hardtanh.default, [(nn.ReLU6(), WIDE), (nn.Hardtanh(-2, 0.5), WIDE)]),
    *rows(aten.hardtanh.default, [(nn.ReLU6(), WIDE)], (F16,)),
    *rows(aten.leaky_relu.default, [(nn.LeakyReLU(), WIDE), (nn.LeakyReLU(-0.3), (6,)), (nn.LeakyReLU(1.5), (2, 3))]),
    *rows(aten.leaky_relu.default, [(nn.LeakyReLU(0.2), WIDE)], (F16,)),
    *rows(aten.rrelu.default, [(nn.RReLU(), WIDE), (nn.RReLU(0.1, 0.5), (2, 3))]),
    *rows(aten.prelu.default, [(nn.PReLU(3, 0.1), WIDE), (nn.PReLU(init=-0.4), (2, 3, 4)), (nn.PReLU(), (5,))]),
    *rows(aten.prelu.default, [(F.prelu, (2, 3, 4, 5), (3,)), (F.prelu, (2, 3), (3,)), (F.prelu, (2, 3, 2, 2, 2), (1,))]),
    *rows(aten.prelu.default, [(nn.PReLU(3, 0.1), IMAGE)], (F16,)),
    *rows(aten._prelu_kernel.default, [(lambda x, w: aten._prelu_kernel(x, w), IMAGE, (1, 3, 1, 1))]),
    *rows(aten.elu.default, [(nn.ELU(), WIDE), (nn.ELU(-0.7), (6,)), (lambda x: aten.elu(x, 0.5, 2.0, 3.0), WIDE)]),
    *rows(aten.elu.default, [(nn.ELU(1.3), WIDE)], (F16, BF16)),
    *rows(aten.celu.default, [(nn.CELU(), WIDE), (nn.CELU(0.2), WIDE), (nn.CELU(3.0), (6,))]),
    *rows(aten.celu.default, [(nn.CELU(), WIDE)], (F16,)),
    *rows(aten.selu.default, [(nn.SELU(), WIDE), (nn.SELU(), ())]),
    *rows(aten.selu.default, [(nn.SELU(), WIDE)], (F16,)),
    *rows(aten.gelu.default, [(nn.GELU(), WIDE), (nn.GELU(approximate="tanh"), WIDE)]),
    *rows(aten.gelu.default, [(nn.GELU(), WIDE)], (F16, BF16)),
    *rows(aten.sigmoid.default, [(torch.sigmoid, IMAGE), (torch.sigmoid, LARGE)]),
    *rows(aten.sigmoid.default, [(torch.sigmoid, IMAGE)], (F16,)),
    *rows(aten.sigmoid.default, [(torch.sigmoid, Spec((5,), torch.int64, low=-3))]),
    *rows(aten.tanh.default, [(nn.Tanh(), WIDE), (nn.Tanhshrink(), (4, 5))]),
    *rows(aten.tanh.default, [(nn.Tanh(), WIDE)], (F16,)),
    *rows(aten.tanh.default, [(torch.tanh, Spec((5,), torch.int32, low=-3)), (torch.tanh, ())]),
    *rows(aten.silu.default, [(nn.SiLU(), WIDE), (nn.SiLU(inplace=False), LARGE)]),
    *rows(aten.silu.default, [(nn.SiLU(), WIDE)], (F16, BF16)),
    *rows(aten.mish.default, [(nn.Mish(), WIDE), (nn.Mish(), LARGE)]),
    *rows(aten.mish.default, [(nn.Mish(), WIDE)], (F16,)),
    *rows(aten.mish.default, [(nn.Mish(), BELOW)]),
    *rows(aten.hardsigmoid.default, [(nn.Hardsigmoid(), WIDE), (nn.Hardsigmoid(), (7,))]),
    *rows(aten.hardsigmoid.default, [(nn.Hardsigmoid(), WIDE)], (F16,)),
    *rows(aten.hardswish.default, [(nn.Hardswish(), WIDE), (nn.Hardswish(), (2, 9))]),
    *rows(aten.hardswish.default, [(nn.Hardswish(), WIDE)], (F16, BF16)),
    *rows(aten.softplus.default, [(nn.Softplus(), WIDE), (nn.Softplus(), LARGE), (nn.Softplus(), BELOW)]),
    *rows(aten.softplus.default, [(nn.Softplus(), WIDE)], (F16,)),
    *rows(aten.softplus.default, [(nn.Softplus(2.5, 1.0), WIDE), (nn.Softplus(0.3, 0.5), (9,)), (nn.Softplus(-2.0), WIDE)]),
    *rows(aten.div.Tensor, [(nn.Softsign(), WIDE)]),
    *rows(aten.log_sigmoid.default, [(nn.LogSigmoid(), WIDE), (nn.LogSigmoid(), LARGE)]),
    *rows(aten.log_sigmoid.default, [(nn.LogSigmoid(), WIDE)], (F16,)),
    *rows(aten.threshold.default, [(nn.Threshold(0.1, 20.0), IMAGE), (nn.Threshold(-1.0, -2.0), IMAGE)]),
    *rows(aten.threshold.default, [(nn.Threshold(0.1, 20.0), IMAGE)], (F16,)),
    *rows(aten.threshold.default, [(nn.Threshold(1, 7), Spec((9,), torch.int64, low=-5))]),
    *rows(aten.softshrink.default, [(nn.Softshrink(), IMAGE), (nn.Softshrink(0.0), (5,))]),
    *rows(aten.softshrink.default, [(nn.Softshrink(), IMAGE)], (F16,)),
    *rows(aten.hardshrink.default, [(nn.Hardshrink(), IMAGE), (nn.Hardshrink(1.5), (9,))]),
    *rows(aten.hardshrink.default, [(nn.Hardshrink(), IMAGE)], (F16,)),
    *rows(aten.glu.default, [(nn.GLU(), (2, 3, 8)), (nn.GLU(1), (2, 6, 3, 5)), (nn.GLU(-3), (4, 2, 3))]),
    *rows(aten.glu.default, [(nn.GLU(), (2, 3, 8))], (F16,)),
    *rows(aten.softmax.int, [(nn.Softmax(-1), IMAGE), (nn.Softmax(0), (2, 3)), (nn.Softmax(0), (5,))]),
    *rows(aten.softmax.int, [(nn.Softmax(-1), IMAGE)], (F16, BF16)),
    *rows(aten.softmax.int, [(nn.Softmax2d(), IMAGE), (nn.Softmin(1), LARGE), (lambda x: x.softmax(0), ())]),
    *rows(aten.softmax.int, [(lambda x: F.softmax(x, -1, dtype=F32), Spec((2, 9), F16)), (nn.Softmax(-2), (2, 3, 4, 5, 6))]),
    *rows(aten._softmax.default, [(lambda x: aten._softmax(x, 1, False), (2, 9))]),
    *rows(aten.log_softmax.int, [(nn.LogSoftmax(-1), IMAGE), (nn.LogSoftmax(1), LARGE)]),
    *rows(aten.log_softmax.int, [(nn.LogSoftmax(-1), IMAGE)], (F16, BF16)),
    *rows(aten.log_softmax.int, [(lambda x: F.log_softmax(x, 0, dtype=F32), Spec((5,), F16)), (nn.LogSoftmax(0), (3, 2, 2))]),
    *rows(aten._log_softmax.default, [(lambda x: aten._log_softmax(x, 1, False), (2, 9))]),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_without_a_layer_of_its_own(approximate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = dataclasses.replace(core.capabilities(), gelu=False)
    monkeypatch.setattr(core, "capabilities", lambda: old)
    check_row(Row(aten.gelu.default, nn.GELU(approximate=approximate), (WIDE,)))


def test_many_classes_do_not_overflow_half() -> None:
    row = Row(aten.log_softmax.int, nn.LogSoftmax(-1), (Spec((1, 80_000), scale=0.01),), dtype=F16)
    _, _, lowered, session = convert_row(row)
    (x,) = row.draw(seed=1)
    given = ReferenceExecutor(session.network, trt).run({lowered.input_names[0]: x})
    expected = x.float().log_softmax(-1).half()  # PyTorch's own kernel for the CPU does overflow
    assert_close(given[lowered.output_names[0]], expected, row.tolerance())


def test_celu_of_negative_alpha_is_refused() -> None:
    with pytest.raises(UnsupportedOpError, match=r"alpha is -1\.0"):
        convert_row(Row(aten.celu.default, nn.CELU(-1.0), (IMAGE,)))


def test_softplus_of_beta_0_is_refused() -> None:
    with pytest.raises(UnsupportedOpError, match="beta is 0"):
        convert_row(Row(aten.softplus.default, nn.Softplus(0.0), (IMAGE,)))


def test_random_slopes_are_refused() -> None:
    with pytest.raises(RandomOpError):
        convert_row(Row(aten.rrelu.default, lambda x: F.rrelu(x, training=True), (IMAGE,)))
