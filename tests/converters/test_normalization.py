"""Rows of converters/normalization.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, check_row, convert_row, rows
from torch import nn
from torch.nn import functional as F

from torch2edge.errors import Torch2EdgeError
from torch2edge.lower.network import core
from torch2edge.trace.torch_versions import lacks

aten = torch.ops.aten
IMAGE = (2, 6, 5, 8)
FAR = Spec(IMAGE, scale=2.0, center=30.0)  # the mean is far from 0


def drawn(module: nn.Module) -> nn.Module:
    """The module with parameters and statistics that are not all 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=generator) + 0.3
    return module


class OwnBias(nn.Module):
    """A normalization of the first input with a weight and a bias that depend on the second."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.function(x, torch.sigmoid(y), torch.tanh(y))


def untracked(axes: int) -> nn.Module:
    return drawn(getattr(nn, f"BatchNorm{axes}d")(6, track_running_stats=False))


BATCH = [
    *rows(aten.batch_norm.default, [(drawn(nn.BatchNorm2d(6)), IMAGE), (drawn(nn.BatchNorm2d(6)), FAR)]),
    *rows(aten.batch_norm.default, [(drawn(nn.BatchNorm2d(6)), IMAGE)], (F16, BF16)),
    *rows(aten.batch_norm.default, [(drawn(nn.BatchNorm2d(6, eps=0.1, affine=False)), IMAGE)]),
    *rows(aten.batch_norm.default, [(drawn(nn.BatchNorm1d(6)), (4, 6)), (drawn(nn.BatchNorm1d(6)), (4, 6, 7))]),
    *rows(aten.batch_norm.default, [(drawn(nn.BatchNorm3d(6)), (1, 6, 2, 3, 4)), (drawn(nn.SyncBatchNorm(6)), (1, 6, 1, 1))]),
    *rows(aten.batch_norm.default, [(untracked(1), (4, 6)), (untracked(2), FAR), (untracked(3), (2, 6, 2, 3, 4))]),
    *rows(aten.batch_norm.default, [(untracked(2), IMAGE)], (F16,)),
    *rows(
        aten.batch_norm.default,
        [(lambda x, m, v: F.batch_norm(x, m, v.abs()), IMAGE, (6,), Spec((6,), positive=True))],
    ),
    *rows(aten.batch_norm.default, [(OwnBias(lambda x, w, b: F.batch_norm(x, b, w, w, b)), (3, 6, 4), (6,))]),
    *rows(
        aten.native_batch_norm.default,
        [
            (lambda x: aten.native_batch_norm(x, None, None, torch.ones(6), torch.ones(6), False, 0.1, 1e-5)[0], (2, 6, 3)),
            (lambda x, w: aten.native_batch_norm(x, w, w, None, None, True, 0.1, 1e-5)[0], (2, 6, 3), (6,)),
        ],
    ),
    *rows(
        aten._native_batch_norm_legit.no_stats,
        [(lambda x: aten._native_batch_norm_legit.no_stats(x, torch.ones(6), None, True, 0.1, 1e-3)[0], (2, 6, 3, 4))],
    ),
    *rows(
        aten._native_batch_norm_legit_no_training.default,
        [
            (
                lambda x: aten._native_batch_norm_legit_no_training(x, None, None, torch.ones(6), torch.ones(6), 0.1, 1e-5)[0],
                IMAGE,
            )
        ],
    ),
]
INSTANCE = [
    *rows(aten.instance_norm.default, [(nn.InstanceNorm2d(6), IMAGE), (nn.InstanceNorm2d(6), FAR)]),
    *rows(aten.instance_norm.default, [(nn.InstanceNorm2d(6), IMAGE)], (F16,)),
    *rows(aten.instance_norm.default, [(drawn(nn.InstanceNorm2d(6, affine=True)), IMAGE)], (F32, F16, BF16)),
    *rows(aten.instance_norm.default, [(drawn(nn.InstanceNorm2d(6, affine=True, track_running_stats=True)), IMAGE)]),
    *rows(aten.instance_norm.default, [(drawn(nn.InstanceNorm1d(6, affine=True)), (2, 6, 9))]),
    *rows(aten.instance_norm.default, [(drawn(nn.InstanceNorm3d(6, eps=0.1, affine=True)), (2, 6, 2, 3, 4))]),
]
GROUP = [
    *rows(aten.group_norm.default, [(drawn(nn.GroupNorm(3, 6)), IMAGE), (drawn(nn.GroupNorm(3, 6)), FAR)]),
    *rows(aten.group_norm.default, [(drawn(nn.GroupNorm(3, 6)), IMAGE)], (F16,)),
    *rows(aten.group_norm.default, [(nn.GroupNorm(2, 6, affine=False), IMAGE), (drawn(nn.GroupNorm(1, 6, 0.1)), IMAGE)]),
    *rows(
        aten.group_norm.default,
        [(drawn(nn.GroupNorm(6, 6)), (3, 6)), (drawn(nn.GroupNorm(6, 6)), IMAGE), (drawn(nn.GroupNorm(2, 6)), (3, 6))],
    ),
    *rows(aten.group_norm.default, [(drawn(nn.GroupNorm(3, 6)), (2, 6, 5)), (drawn(nn.GroupNorm(3, 6)), (2, 6, 2, 3, 4))]),
    *rows(aten.group_norm.default, [(OwnBias(lambda x, w, b: F.group_norm(x, 3, w, b)), IMAGE, (6,))]),
    *rows(
        aten.native_group_norm.default,
        [(lambda x: aten.native_group_norm(x, None, None, 2, 6, 40, 3, 1e-5)[0], IMAGE)],
    ),
]
LAYER = [
    *rows(aten.layer_norm.default, [(drawn(nn.LayerNorm(8)), IMAGE), (drawn(nn.LayerNorm(8)), FAR)]),
    *rows(aten.layer_norm.default, [(drawn(nn.LayerNorm(8)), IMAGE)], (F16, BF16)),
    *rows(aten.layer_norm.default, [(drawn(nn.LayerNorm((5, 8))), IMAGE), (drawn(nn.LayerNorm((6, 5, 8), 0.1)), IMAGE)]),
    *rows(aten.layer_norm.default, [(drawn(nn.LayerNorm(8, bias=False)), (3, 8)), (drawn(nn.LayerNorm(8)), (8,))]),
    *rows(aten.layer_norm.default, [(nn.LayerNorm(8, elementwise_affine=False), (2, 3, 8)), (nn.LayerNorm((3, 8)), (3, 8))]),
    *rows(aten.layer_norm.default, [(OwnBias(lambda x, w, b: F.layer_norm(x, (8,), w, b)), (2, 3, 8), (8,))]),
    *rows(aten.native_layer_norm.default, [(lambda x: aten.native_layer_norm(x, [8], None, None, 1e-5)[0], (2, 8))]),
]
OTHER = [
    *rows(aten.rms_norm.default, [(drawn(nn.RMSNorm(8)), (2, 3, 8)), (nn.RMSNorm((5, 8), 0.1), IMAGE)]),
    *rows(aten.rms_norm.default, [(drawn(nn.RMSNorm(8)), (2, 3, 8))], (F16,)),
    *rows(
        aten.rms_norm.default, [(nn.RMSNorm(8, elementwise_affine=False), (8,)), (nn.RMSNorm(8), Spec((2, 8), scale=300.0))]
    ),
    *(
        []
        if lacks("aten._fused_rms_norm.default")
        # before it, PyTorch's squares overflowed
        else rows(aten.rms_norm.default, [(nn.RMSNorm(8), Spec((2, 8), scale=300.0))], (F16,))
    ),
    *rows(nn.LocalResponseNorm, [(nn.LocalResponseNorm(5, 0.3, 0.75, 2.0), IMAGE), (nn.LocalResponseNorm(3), IMAGE)]),
    *rows(nn.LocalResponseNorm, [(nn.LocalResponseNorm(4, 0.3), IMAGE), (nn.LocalResponseNorm(3, 0.3), (2, 6, 5))]),
    *rows(nn.LocalResponseNorm, [(nn.LocalResponseNorm(3, 0.3, k=0.0), (2, 6, 2, 3, 4))]),
    *rows(aten.avg_pool3d.default, [(lambda x: F.local_response_norm(x, 3, 0.3), IMAGE)]),
    *rows(aten.linalg_vector_norm.default, [(F.normalize, IMAGE), (lambda x: F.normalize(x, p=1, dim=-1), (3, 4))]),
]
ROWS = [*BATCH, *INSTANCE, *GROUP, *LAYER, *OTHER]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


@pytest.mark.parametrize("row", GROUP, ids=str)
def test_groups_without_a_scale_per_channel(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    old = dataclasses.replace(core.capabilities(), group_normalization=False)
    monkeypatch.setattr(core, "capabilities", lambda: old)
    check_row(row)


def test_statistics_beyond_half() -> None:
    module = nn.BatchNorm2d(6)
    module.running_var.fill_(1e-6)
    module.running_mean.fill_(1000.0)
    check_row(Row(aten.batch_norm.default, module, (Spec(IMAGE, center=1000.0),), dtype=F16))


def test_running_statistics_are_not_updated() -> None:
    row = Row(aten.batch_norm.default, lambda x: F.batch_norm(x, torch.zeros(6), torch.ones(6), training=True), (IMAGE,))
    with pytest.raises(Torch2EdgeError, match="training mode"):
        convert_row(row)
