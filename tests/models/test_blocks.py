"""Building blocks of models through convert(), checked on fresh inputs: small, of our own, one idea each."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support import blocks_attention, blocks_images
from torch import nn

import torch2edge

BLOCKS: dict[str, tuple[nn.Module, list[Any]]] = {**blocks_attention.BLOCKS, **blocks_images.BLOCKS}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", BLOCKS)
def test_block(name: str) -> None:
    model, inputs = BLOCKS[name]
    converted = torch2edge.convert(model.eval(), inputs)
    assert converted.report.check
    assert all(row.passed for row in converted.report.check)


@pytest.mark.parametrize("name", ["rotary", "window", "alibi", "conv_next", "squeeze_excite", "unet"])
def test_half_block(name: str) -> None:
    """The same in float16, where a sum of squares or a mask's minimum may overflow."""
    model, inputs = BLOCKS[name]
    half = [x.half() for x in inputs]
    converted = torch2edge.convert(copy.deepcopy(model).eval().half(), half)
    assert all(row.passed for row in converted.report.check)
