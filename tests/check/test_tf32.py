"""The reference of a check computes without TF32, whatever PyTorch is set to, and PyTorch is set to it again afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import torch2edge
from torch2edge.check.tf32 import tf32

pytestmark = pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")


def allowed() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def _default() -> Iterator[None]:
    before = allowed()
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("cudnn", [True, False])
@pytest.mark.parametrize("matmul", [True, False])
def test_it_is_put_back(cudnn: bool, matmul: bool) -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul
    for wanted in (True, False):
        with contextlib.suppress(KeyError), tf32(wanted):
            assert allowed() == (wanted, wanted)
            assert torch.backends.cudnn.enabled
            raise KeyError
        assert allowed() == (cudnn, matmul)


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="the switches by operator came with torch 2.9")
def test_switches_by_operator() -> None:
    holders = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [holder.fp32_precision for holder in holders]
    try:
        for holder, value in zip(holders, ("ieee", "tf32", "ieee")):
            holder.fp32_precision = value
        with pytest.raises(RuntimeError):
            allowed()  # the old ones cannot be read now
        with tf32(False):
            assert [holder.fp32_precision for holder in holders] == ["ieee"] * 3
        assert [holder.fp32_precision for holder in holders] == ["ieee", "tf32", "ieee"]
    finally:
        for holder, value in zip(holders, before):
            holder.fp32_precision = value


@pytest.mark.parametrize("road", ["error", "torch"])
def test_the_check_runs_without(road: str) -> None:
    seen: list[tuple[bool, bool]] = []

    class Notes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.body(x)
            seen.append(allowed())
            return x if road == "error" or x.sum() > 0 else -x

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    torch2edge.convert(Notes().eval(), [torch.randn(1, 3, 8, 8)], fallback=road)
    assert seen[0] == (True, True)  # traced
    assert seen[-1] == (False, False)  # checked
    assert allowed() == (True, True)
