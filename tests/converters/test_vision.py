"""Rows of converters/vision.py: interpolation and sampling."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from support.rows import BF16, F16, F32, Row, Spec, check_row, convert_row, rows
from support.torch_features import where_cpu_computes
from torch import nn
from torch.nn import functional as F

from torch2edge.errors import UnsupportedOpError

aten = torch.ops.aten


def to(size: Any = None, scale: Any = None, **options: Any) -> Any:
    return lambda x: F.interpolate(x, size=size, scale_factor=scale, **options)


NEAREST = [
    *rows(
        aten.upsample_nearest2d.vec,
        [
            (nn.Upsample(scale_factor=2), (1, 3, 4, 5)),
            (to(scale=(3, 2)), (2, 3, 4, 5)),
            (to((7, 9)), (1, 2, 4, 5)),
            (to((2, 3)), (1, 2, 4, 9)),
            (to((4, 10)), (1, 2, 4, 5)),
            (to((1, 1)), (1, 2, 4, 5)),
            (to(scale=1.7), (1, 2, 7, 5)),
            (to(scale=0.45), (1, 2, 7, 9)),
            (to(scale=2.2, recompute_scale_factor=True), (1, 2, 7, 5)),
            (to((25, 21)), (1, 1, 10, 1)),
            (to(scale=2), Spec((1, 3, 4, 5), torch.uint8, 0, 255)),
            (to((5, 3)), Spec((1, 3, 4, 5), torch.uint8, 0, 255)),
        ],
    ),
    *rows(aten.upsample_nearest2d.vec, [(to(scale=2), (1, 3, 4, 5)), (to((3, 7)), (1, 3, 4, 5))], (F16, BF16)),
    *rows(aten.upsample_nearest1d.vec, [(to(scale=2), (2, 3, 5)), (to(7), (2, 3, 5)), (to(3), (2, 3, 6))]),
    *rows(aten.upsample_nearest3d.vec, [(to(scale=2), (1, 2, 3, 4, 5)), (to((6, 3, 7)), (1, 2, 3, 4, 5))]),
    *rows(
        aten._upsample_nearest_exact2d.vec,
        [
            (to(scale=2, mode="nearest-exact"), (1, 3, 4, 5)),
            (to((7, 3), mode="nearest-exact"), (1, 2, 4, 5)),
            (to((2, 3), mode="nearest-exact"), (1, 2, 4, 9)),
            (to(scale=1.7, mode="nearest-exact"), (1, 2, 7, 5)),
        ],
    ),
    *rows(aten._upsample_nearest_exact1d.vec, [(to(7, mode="nearest-exact"), (2, 3, 5))]),
    *rows(aten._upsample_nearest_exact3d.vec, [(to((6, 3, 7), mode="nearest-exact"), (1, 2, 3, 4, 5))]),
]


def weighted(
    op: Any, mode: str, axes: int, dtypes: tuple[torch.dtype, ...] = (F32,), aligns: tuple[bool, ...] = (False, True)
) -> list[Row]:
    """Up and down, by size and by factor, down to one pixel and up from one, in both alignments."""
    shape = (1, 2, 4, 7, 5)[: axes + 2]
    cases = []
    for align in (False, True):
        options = {"mode": mode, "align_corners": align}
        cases += [
            (to(scale=2, **options), shape),
            (to((6, 5, 9)[:axes], **options), shape),
            (to((1, 3, 2)[:axes], **options), shape),
            (to(scale=1.7, **options), shape),
            (to(scale=0.6, recompute_scale_factor=True, **options), shape),
            (to((3, 1, 4)[:axes], **options), (1, 1, 1, 1, 1)[: axes + 2]),
        ]
    return rows(op, cases if dtypes == (F32,) else cases[:2], dtypes)


LINEAR = [
    *weighted(aten.upsample_linear1d.vec, "linear", 1),
    *weighted(aten.upsample_bilinear2d.vec, "bilinear", 2),
    *weighted(aten.upsample_bilinear2d.vec, "bilinear", 2, (F16, BF16)),
    *weighted(aten.upsample_trilinear3d.vec, "trilinear", 3),
    *weighted(aten.upsample_bicubic2d.vec, "bicubic", 2),
    *weighted(aten.upsample_bicubic2d.vec, "bicubic", 2, (F16,)),
    *rows(
        aten.upsample_bilinear2d.vec,
        [
            (nn.UpsamplingBilinear2d(scale_factor=2), (1, 2, 3, 4)),
            (to(scale=(0.37, 2), mode="bilinear"), (2, 3, 8, 5)),
            (to((20, 30), mode="bilinear"), (1, 2, 20, 11)),
        ],
    ),
]


def antialiased(op: Any, mode: str) -> list[Row]:
    return rows(
        op,
        [
            (to((3, 9), mode=mode, antialias=True), (2, 3, 8, 5)),
            (to(scale=0.37, mode=mode, antialias=True), (1, 2, 8, 9)),
            (to((1, 2), mode=mode, antialias=True, align_corners=True), (1, 2, 4, 5)),
        ],
    )


ANTIALIASED = [
    *antialiased(aten._upsample_bilinear2d_aa.vec, "bilinear"),
    *antialiased(aten._upsample_bicubic2d_aa.vec, "bicubic"),
]

HALF_SAMPLES = partial(F.grid_sample, torch.ones(1, 1, 2, 2).half(), torch.zeros(1, 1, 1, 2).half(), align_corners=True)
SAMPLED = [
    *rows(
        aten.grid_sampler.default,
        [
            (
                lambda x, grid, m=mode, p=padding, a=align: F.grid_sample(x, grid, m, p, a),
                (2, 3, 5, 7), Spec((2, 4, 6, 2), scale=1.5),
            )
            for mode in ("bilinear", "nearest", "bicubic")
            for padding in ("zeros", "border", "reflection")
            for align in (False, True)
        ],
    ),
    *where_cpu_computes(
        HALF_SAMPLES,
        rows(
            aten.grid_sampler.default,
            [(lambda x, grid: F.grid_sample(x, grid, align_corners=True), (1, 2, 5, 4), (1, 3, 1, 2))],
            (F16,),
        ),
    ),
    *rows(
        aten.affine_grid_generator.default,
        [
            (lambda t: F.affine_grid(t, [2, 3, 4, 5], align_corners=False), (2, 2, 3)),
            (lambda t: F.affine_grid(t, [1, 3, 2, 5], align_corners=True), (1, 2, 3)),
            (lambda t: F.affine_grid(t, [2, 1, 3, 4, 5], align_corners=False), (2, 3, 4)),
        ],
    ),
    *rows(
        aten.grid_sampler.default,
        [
            (
                lambda x, t: F.grid_sample(x, F.affine_grid(t, list(x.shape), align_corners=False), align_corners=False),
                (2, 3, 4, 5), (2, 2, 3),
            )
        ],
    ),
]  # fmt: skip


VOLUMES = [
    *rows(
        aten.grid_sampler.default,
        [
            (
                lambda x, grid, m=mode, p=padding, a=align: F.grid_sample(x, grid, m, p, a),
                (2, 3, 4, 5, 3), Spec((2, 3, 2, 4, 3), scale=1.5),
            )
            for mode in ("bilinear", "nearest")
            for padding in ("zeros", "border", "reflection")
            for align in (False, True)
        ],
    ),
    *rows(
        aten.grid_sampler.default,
        [
            (
                lambda x, g: F.grid_sample(x, g, padding_mode="reflection", align_corners=True),
                (1, 2, 1, 5, 3), Spec((1, 2, 2, 2, 3), scale=3.0),
            ),
            (
                lambda x, t: F.grid_sample(x, F.affine_grid(t, list(x.shape), align_corners=False), align_corners=False),
                (1, 2, 3, 4, 5), (1, 3, 4),
            ),
        ],
    ),
    *where_cpu_computes(
        HALF_SAMPLES,
        rows(
            aten.grid_sampler.default,
            [(lambda x, g: F.grid_sample(x, g, align_corners=True), (1, 2, 3, 4, 5), (1, 2, 3, 2, 3))],
            (F16,),
        ),
    ),
    *rows(aten.grid_sampler_2d.default, [(lambda x, g: aten.grid_sampler_2d(x, g, 0, 2, False), (1, 2, 5, 4), (1, 3, 1, 2))]),
    *rows(aten.grid_sampler_3d.default, [
        (lambda x, g: aten.grid_sampler_3d(x, g, 0, 1, False), (1, 2, 3, 4, 5), (1, 2, 3, 2, 3)),
    ]),
]  # fmt: skip

PLAIN = [
    *rows(aten.upsample_linear1d.default, [(lambda x: aten.upsample_linear1d(x, [9], False, 1.7), (1, 2, 5))]),
    *rows(aten.upsample_trilinear3d.default, [
        (lambda x: aten.upsample_trilinear3d(x, [4, 2, 8], False, None, 0.6, 2.0), (1, 2, 2, 4, 4)),
    ]),
    *[
        row
        for op in (
            aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.default, aten._upsample_bilinear2d_aa.default,
            aten._upsample_bicubic2d_aa.default,
        )
        for row in rows(op, [
            (lambda x, op=op: op(x, [3, 9], False), (2, 3, 8, 5)),
            (lambda x, op=op: op(x, [16, 3], True, 2.0, None), (2, 3, 8, 5)),
            (lambda x, op=op: op(x, [4, 8], False, 0.55, 1.7), (2, 3, 8, 5)),
        ])
    ],
]  # fmt: skip

ROWS = [*NEAREST, *LINEAR, *ANTIALIASED, *SAMPLED, *VOLUMES, *PLAIN]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


@pytest.mark.parametrize(("old", "new"), [(n, m) for n in (3, 10, 49) for m in (29, 98, 100, 335)])
def test_nearest_takes_pytorch_s_elements(old: int, new: int) -> None:
    """Whole coordinates, where float32 decides: which element it is must be PyTorch's choice on every length."""
    check_row(Row(aten.upsample_nearest1d.vec, to(new), ((1, 1, old),)))


@pytest.mark.parametrize(
    ("op", "fn", "shape", "kinds"),
    [
        (aten.upsample_nearest2d.vec, to(scale=2), (1, 2, 3, 4), {"RESIZE"}),
        (aten.upsample_bilinear2d.vec, to(scale=2, mode="bilinear"), (1, 2, 3, 4), {"RESIZE"}),
        (aten.upsample_nearest2d.vec, to((2, 2)), (1, 2, 4, 6), {"SLICE"}),
        (aten.upsample_bilinear2d.vec, to(scale=1.7, mode="bilinear"), (1, 2, 7, 5), {"CONSTANT", "MATRIX_MULTIPLY"}),
    ],
)
def test_layers(op: Any, fn: Any, shape: tuple[int, ...], kinds: set[str]) -> None:
    layers = [layer.raw for layer in convert_row(Row(op, fn, (shape,)))[2].network.layers]
    assert {layer.type.name for layer in layers} - {"SHUFFLE"} == kinds
    if kinds == {"RESIZE"}:
        assert list(layers[0].scales) == [1, 1, 2, 2]  # DLA takes no `shape`


def test_interpolated_bytes_are_refused() -> None:
    row = Row(aten.upsample_bilinear2d.vec, to(scale=2, mode="bilinear"), (Spec((1, 3, 4, 5), torch.uint8),))
    with pytest.raises(UnsupportedOpError, match=r"upsample_bilinear2d\.vec.*uint8"):
        convert_row(row)


def test_bytes_are_refused_of_the_plain_overloads_too() -> None:
    row = Row(
        aten.upsample_bilinear2d.default, lambda x: aten.upsample_bilinear2d.default(x, [2, 2], False),
        (Spec((1, 3, 4, 5), torch.uint8),),
    )  # fmt: skip
    with pytest.raises(UnsupportedOpError, match=r"upsample_bilinear2d\.default.*uint8"):
        convert_row(row)
