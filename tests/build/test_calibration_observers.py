"""Extremes and histograms: what they hold is what a look at all elements gives, in whatever order these came."""

from __future__ import annotations

import math

import pytest
import torch

from torch2edge.build.calibration.observers import BINS, COUNTED, Extremes, Histogram, stride

CPU = torch.device("cpu")


def observed(*tensors: torch.Tensor) -> Histogram:
    histogram = Histogram(["x"], CPU)
    for tensor in tensors:
        histogram.observe(tensor)
    return histogram


def counted(tensors: list[torch.Tensor]) -> tuple[torch.Tensor, int]:
    """The bins of all magnitudes by division in float64, and the exponent of the range."""
    values = torch.cat([t.detach().double().flatten() for t in tensors]).abs()
    exponent = math.frexp(float(values.max()))[1]
    places = (values * BINS / 2.0**exponent).floor().long()
    return torch.bincount(places, minlength=BINS), exponent


def batches() -> list[torch.Tensor]:
    """Of very different ranges, with negative zeros, exact powers of two, numbers too small to matter."""
    seed = int(torch.seed()) % 2**31
    print(f"seed {seed}")
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    powers = torch.tensor([0.0, -0.0, 1.0, -2.0, 4.0, 0.25, 2.0**-40, 1e-42])
    return [draw(64, 9) * 1e-6, draw(31, 7) * 3, draw(5, 40).relu(), powers, draw(3, 3, 300) * 40, draw(1) * 0.1]


def test_bins_are_those_of_all_elements_at_once():
    tensors = batches()
    histogram = observed(*tensors)
    counts, exponent = counted(tensors)
    assert histogram.exponent == exponent
    assert torch.equal(histogram.linear(), counts)
    assert histogram.width == 2.0**exponent / BINS


def test_bins_do_not_hang_on_the_order():
    tensors = batches()
    forth, back, together = observed(*tensors), observed(*tensors[::-1]), observed(torch.cat([t.flatten() for t in tensors]))
    assert forth.exponent == back.exponent == together.exponent
    assert torch.equal(forth.counts, back.counts)
    assert torch.equal(forth.counts, together.counts)
    assert torch.equal(forth.bounds, back.bounds)


@pytest.mark.parametrize("scale", [1e-37, 1e-25, 1e-3, 1.0, 1e9, 1e38])
def test_ranges_from_the_smallest_to_the_largest(scale):
    tensors = [torch.rand(500) * scale, -torch.rand(500) * scale * 2]
    counts, exponent = counted(tensors)
    assert observed(*tensors).exponent == exponent or scale < 1e-30
    if scale > 1e-30:
        assert torch.equal(observed(*tensors).linear(), counts)
    assert int(observed(*tensors).linear().sum()) == 1000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_counted_as_float32(dtype):
    tensor = (torch.randn(1000) * 5).to(dtype)
    assert torch.equal(observed(tensor).counts, observed(tensor.float()).counts)
    assert observed(tensor).bounds.tolist() == [-float(tensor.min()), float(tensor.max())]


def test_strides_do_not_matter():
    tensor = torch.randn(6, 5, 4, 3)
    expected = observed(tensor[::2]).counts
    assert torch.equal(observed(tensor[::2].permute(3, 0, 2, 1)).counts, expected)
    assert torch.equal(observed(tensor[::2].contiguous(memory_format=torch.channels_last)).counts, expected)


def test_growing_keeps_every_element():
    histogram = observed(*batches())
    total = int(histogram.counts.sum())
    for octaves in (1, 3, 11, 12, 40):
        histogram.grow(histogram.exponent + octaves)
        assert int(histogram.counts.sum()) == total
    assert int(histogram.linear()[0]) == total
    before = histogram.exponent
    histogram.grow(before - 5)
    assert histogram.exponent == before


def test_extremes_over_batches():
    extremes = Extremes(["x"], CPU)
    for tensor in (torch.tensor([1.0, 3.0]), torch.tensor([-7.0, 2.0]), torch.empty(0), torch.tensor([0.5])):
        extremes.observe(tensor)
    assert extremes.bounds.tolist() == [7.0, 3.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_visible(bad):
    for observer in (Extremes(["x"], CPU), Histogram(["x"], CPU)):
        observer.observe(torch.tensor([1.0, bad]))
        observer.observe(torch.tensor([2.0]))
        assert not bool(observer.bounds.isfinite().all())


def test_the_callers_tensor_is_left_alone():
    tensor = torch.randn(100)
    before = tensor.clone()
    observed(tensor, tensor)
    assert torch.equal(tensor, before)


def test_large_tensors_are_counted_by_a_sample():
    tensor = torch.randn(2, 96, 56, 56)
    tensor[0, 0, 0, 1] = 1000.0
    step = stride(tensor.numel())
    assert step == 5  # 2.3 times what is counted; 3 and 4 share a factor with the sizes
    histogram = observed(tensor)
    assert histogram.bounds[1] == 1000
    assert histogram.exponent == 10
    expected = torch.bincount((tensor.abs().double() * BINS / 1024).floor().long().flatten()[::step], minlength=BINS)
    assert torch.equal(histogram.linear(), expected * step)
    assert abs(int(histogram.linear().sum()) - tensor.numel()) < step


@pytest.mark.parametrize(
    "shape", [(8, 64, 112, 112), (1, 197, 768), (8, 197, 768), (3, 1280, 7, 7), (1, 3, 640, 640), (2**18,)]
)
def test_a_sample_favours_no_row_and_no_channel(shape):
    elements = math.prod(shape)
    step = stride(elements)
    assert elements / step <= COUNTED
    assert step == 1 or elements / step > COUNTED / 4
    index = torch.arange(0, elements, step)
    inner = 1
    for size in reversed(shape):  # how often each place along an axis is counted
        hits = torch.bincount(index // inner % size, minlength=size)
        assert int(hits.min()) >= 0.8 * len(index) / size - 1
        assert int(hits.max()) <= 1.2 * len(index) / size + 1
        inner *= size
