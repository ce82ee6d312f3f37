"""nn.MultiheadAttention takes its ordinary path while a model is traced, exported and compared with."""

from __future__ import annotations

import threading

import pytest
import torch
from support.torch_features import SAFE_SOFTMAX
from torch import nn

import torch2edge
from torch2edge.attention import plain_attention


def is_fast() -> bool:
    return torch.backends.mha.get_fastpath_enabled()


def test_the_fast_path_is_off_inside_and_back_behind() -> None:
    assert is_fast()
    with plain_attention():
        with plain_attention():
            assert not is_fast()
        assert not is_fast()
    assert is_fast()
    with pytest.raises(ValueError, match="on purpose"), plain_attention():
        raise ValueError("on purpose")
    assert is_fast()


def test_who_has_switched_it_off_finds_it_so() -> None:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with plain_attention():
            assert not is_fast()
        assert not is_fast()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_it_stays_off_until_the_last_thread_is_done() -> None:
    entered, go = threading.Event(), threading.Event()

    def work() -> None:
        with plain_attention():
            entered.set()
            go.wait(30)

    thread = threading.Thread(target=work)
    with plain_attention():
        thread.start()
        assert entered.wait(30)
    assert not is_fast()
    go.set()
    thread.join(30)
    assert is_fast()


class Padded(nn.Module):
    """An encoder layer with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        return self.layer(x, src_key_padding_mask=padding)


@SAFE_SOFTMAX
@pytest.mark.parametrize("fallback", ["error", "torch"])
def test_a_sequence_that_is_all_padding_is_compared_by_the_ordinary_path(fallback: str) -> None:
    x, padding = torch.randn(6, 1, 8), torch.tensor([[True], [False]] * 3)  # one step: half of the sequences see nothing
    model = Padded().eval()
    with torch.no_grad():
        assert model(x, padding).isnan().any(), "the fast path gives NaN"
    report = torch2edge.convert(model, [x, padding], fallback=fallback).report
    assert all(row.passed for row in report.check)
    assert all(row.finite == 4 * x.numel() for row in report.check), "a NaN was compared"
