"""A forward can tell that it is recorded, as under torch.export."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torch2edge
from torch2edge.trace.exporting import as_exporting


class LooksAtItsMask(nn.Module):
    """Leaves the mask out where nothing is padded, as transformers do; not while it is compiled or exported."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_compiling() and mask.all():
            return x.softmax(-1)
        return x.masked_fill(~mask, -1e9).softmax(-1)


@pytest.mark.parametrize("padded", [False, True])
def test_a_forward_that_looks_at_its_mask_converts_whole(padded: bool) -> None:
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = not padded
    module = torch2edge.convert(LooksAtItsMask().eval(), [torch.randn(2, 6), mask])
    assert module.report.check[0].rel_l2 < 1e-6


@pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
def test_encoder_layers_with_a_padding_mask() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    padding = torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    module = torch2edge.convert(encoder, [torch.randn(2, 6, 16)], {"src_key_padding_mask": padding}, verify=False)
    x = torch.randn(2, 6, 16)
    expected = encoder(x, src_key_padding_mask=padding)
    given = module(x, src_key_padding_mask=padding)
    torch.testing.assert_close(given[~padding], expected[~padding], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fails", [False, True])
def test_the_flags_are_put_back(fails: bool) -> None:
    try:
        with as_exporting():
            assert torch.compiler.is_compiling()
            if fails:
                raise ValueError
    except ValueError:
        pass
    assert not torch.compiler.is_compiling()
    assert not getattr(torch.compiler, "is_exporting", bool)()
