"""Averages over large images as chains of poolings, and those that stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.dla import proven, traced
from support.rows import F16, Function
from torch import nn
from torch.nn import functional as F

from torch2edge.dla.rewrites import rewritten
from torch2edge.dla.rewrites.pooling import _steps
from torch2edge.inputs import read_inputs

CALLS: dict[str, Callable[[Any], Any]] = {
    "mean": lambda x: x.mean((2, 3)),
    "mean-keep": lambda x: x.mean((-1, -2), keepdim=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1),
    "window": lambda x: F.avg_pool2d(x, x.shape[2:]),
}


@pytest.mark.parametrize("dtype", [torch.float32, F16])
@pytest.mark.parametrize("size", [(9, 9), (14, 14), (7, 56), (112, 64), (11, 3), (13, 13), (22, 26), (17, 31), (1, 200)])
@pytest.mark.parametrize("call", CALLS)
def test_a_global_average(call: str, size: tuple[int, int], dtype: torch.dtype) -> None:
    result = proven(Function(CALLS[call]), (2, 3, *size), dtype=dtype)
    assert result.refused() == []
    assert set(result.ops()) <= {"avg_pool2d", "mul", "reshape"}
    assert "SHUFFLE" not in {op.upper() for op in result.ops()} or call == "mean"
    assert len(result.notes) == 1
    assert result.notes[0].startswith("note: the model itself: ")


@pytest.mark.parametrize("dtype", [torch.float32, F16])
@pytest.mark.parametrize(
    ("call", "shape", "ops"),
    [
        (lambda x: x.mean((2, 3)), (1, 4, 7, 7), ["avg_pool2d", "reshape"]),
        (lambda x: x.mean((2, 3)), (1, 4, 1, 1), ["avg_pool2d", "reshape"]),
        (lambda x: x.mean(3), (2, 4, 5, 12), ["avg_pool2d", "avg_pool2d", "reshape"]),
        (lambda x: x.mean(2, True), (2, 4, 5, 12), ["avg_pool2d"]),
        (lambda x: x.mean(-2, True), (2, 4, 11, 6), ["avg_pool2d", "avg_pool2d", "mul"]),
        (lambda x: F.adaptive_avg_pool2d(x, (2, 3)), (1, 2, 40, 30), ["avg_pool2d", "avg_pool2d"]),
        (lambda x: F.avg_pool2d(x, 10), (1, 2, 20, 30), ["avg_pool2d", "avg_pool2d"]),
        (lambda x: F.avg_pool2d(x, (3, 16), ceil_mode=True, count_include_pad=False), (1, 2, 6, 16), ["avg_pool2d"] * 2),
        (lambda x: F.avg_pool2d(x, 9, stride=1), (1, 2, 9, 9), ["avg_pool2d"] * 2),
        (lambda x: x.mean(3).mean(2), (2, 3, 7, 7), ["avg_pool2d", "avg_pool2d", "reshape"]),
        (lambda x: x.mean(-1).mean(-1), (2, 3, 6, 12), ["avg_pool2d"] * 3 + ["reshape"]),
        (lambda x: x.mean(-1).mean(-1, True), (2, 3, 6, 7), ["avg_pool2d", "avg_pool2d", "reshape"]),
    ],
)  # fmt: skip
def test_windows_side_by_side(call: Any, shape: tuple[int, ...], ops: list[str], dtype: torch.dtype) -> None:
    result = proven(Function(call), shape, dtype=dtype)
    assert result.ops() == ops
    assert result.refused() == []


@pytest.mark.parametrize(
    ("call", "shape"),
    [
        (lambda x: F.adaptive_avg_pool2d(x, 1), (1, 2, 8, 8)),  # the DLA takes it
        (lambda x: F.avg_pool2d(x, 2), (1, 2, 8, 8)),
        (lambda x: F.adaptive_avg_pool2d(x, 3), (1, 2, 40, 40)),  # windows of two sizes
        (lambda x: F.avg_pool2d(x, 10, stride=5), (1, 2, 20, 20)),  # they overlap
        (lambda x: F.avg_pool2d(x, 10), (1, 2, 25, 25)),  # what is left over does not count
        (lambda x: F.avg_pool2d(x, 10, padding=5), (1, 2, 20, 20)),
        (lambda x: F.avg_pool2d(x, 10, divisor_override=7), (1, 2, 20, 20)),
        (lambda x: x.mean((1, 2, 3)), (2, 2, 20, 20)),
        (lambda x: x.mean(1), (2, 9, 5, 5)),
        (lambda x: x.mean(), (2, 2, 9, 9)),
        (lambda x: x.mean((1, 2)), (2, 9, 9)),
        (lambda x: x.flatten(2).mean(2), (2, 3, 5, 5)),
        (lambda x: x.flatten(2).mean(1), (2, 3, 5, 1)),
        (lambda x: x.sum((2, 3)), (1, 2, 9, 9)),
        (lambda x: F.max_pool2d(x, 9), (1, 2, 9, 9)),
    ],
)
def test_what_stays(call: Any, shape: tuple[int, ...]) -> None:
    result = proven(Function(call), shape)
    assert [op.target for op in result.after.ops] == [op.target for op in result.before.ops]
    assert result.notes == []


@pytest.mark.parametrize("call", [lambda x: F.avg_pool2d(x, 11), lambda x: F.adaptive_avg_pool2d(x, (2, 2))])
def test_a_prime_above_8_in_several_windows_is_told(call: Any) -> None:
    result = proven(Function(call), (1, 2, 22, 22))
    assert len(result.after.ops) == 1
    assert "over 11x11 of 22x22 pixels stays as it is" in result.notes[0]


def test_a_size_without_poolings_is_told() -> None:
    result = proven(Function(CALLS["mean"]), (1, 2, 107, 4))
    assert result.ops() == ["mean"]
    assert result.notes == [
        "note: the model itself: mean over 107x4 of 107x4 pixels stays as it is: average poolings one after the other, in "
        "windows of at most 8x8, do not give it"
    ]


def test_half_sums_of_large_numbers_do_not_overflow() -> None:
    model = Function(lambda x: (x * 0 + 60000).mean((2, 3)))
    result = proven(model, (1, 2, 56, 56), dtype=F16)
    assert result.after.replay([torch.zeros(1, 2, 56, 56, dtype=F16)])[0].isfinite().all()


def test_a_result_in_another_dtype_stays() -> None:
    before = traced(Function(lambda x: x.mean((2, 3), dtype=torch.float32)), [torch.randn(1, 2, 9, 9).half()])
    after, notes = rewritten(before, lambda path: True)
    assert [op.target for op in after.ops] == [op.target for op in before.ops]
    assert notes == []


def test_a_varying_size_stays() -> None:
    model = Function(lambda x: x.mean((2, 3)))
    x = torch.randn(1, 2, 16, 16)
    args, _, _, declared = read_inputs([x], {}, torch.device("cpu"), dynamic={0: {2: (8, 16, 32)}})
    before = traced(model, args, dynamic=declared)
    after, notes = rewritten(before, lambda path: True)
    assert [op.target for op in after.ops] == [op.target for op in before.ops]
    assert notes == []


def test_only_where_it_is_to_run_on_a_dla() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.AdaptiveAvgPool2d(1))
    result = proven(nn.Sequential(model, nn.Identity()), (1, 2, 27, 27), on_dla=lambda path: path == "0.0")
    assert [(op.module, op.short_name) for op in result.after.ops][-1] == ("0.1", "adaptive_avg_pool2d")
    assert {note.split(": ")[1] for note in result.notes} == {"0.0"}
    assert proven(model, (1, 2, 27, 27), on_dla=lambda path: False).notes == []


def test_ones_own_converter_keeps_its_op() -> None:
    result = proven(Function(CALLS["mean"]), (1, 2, 9, 9), fixed=lambda op: op.short_name == "mean")
    assert result.ops() == ["mean"]


def smooth(n: int) -> bool:
    """Whether ``n`` has no prime factor above 7."""
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1


def test_the_poolings_of_a_size() -> None:
    """Sizes without a prime factor above 7 need no zeros, all others some; every size up to 106 has poolings."""
    for n in range(1, 8193):
        steps, left = _steps(n, True), n
        if steps is None:
            assert n >= 107
            continue
        for padding, window in steps:
            assert 1 < window <= 8
            assert 2 * padding <= window
            left, rest = divmod(left + 2 * padding, window)
            assert rest == 0
        assert left == 1
        assert any(padding for padding, _ in steps) == (not smooth(n))
        assert (_steps(n, False) is None) == (not smooth(n))
    assert _steps(107, True) is None
    assert [len(_steps(n, True) or ()) for n in (1, 8, 9, 49, 64, 112, 512, 13, 39, 8191)] == [0, 1, 2, 2, 2, 3, 3, 2, 3, 5]


@pytest.mark.parametrize("n", range(1, 80))
def test_every_size_up_to_79(n: int) -> None:
    assert proven(Function(CALLS["mean-keep"]), (1, 2, n, 80 - n)).refused() == []
