"""Zeros around an image: the padding of the convolution that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...graph import Constant, Op
from .editor import Editor, is_image, is_parameter

__all__ = ["padding_of_convolution"]

aten = torch.ops.aten
MOST_PADDING, LARGEST_KERNEL = 31, 32  # of a convolution (facts.md 3.2)


def padding_of_convolution(op: Op, to: Editor) -> bool:
    """Replaces a convolution of an image that was padded with zeros by one that pads it itself.

    Exact because a convolution's own padding is of zeros. ATen pads both ends of an axis alike: where the ends differ, as in
    TensorFlow's SAME, the larger number is taken for both, and zeros at the kernel's other end (its start, where the
    padding's end was longer) read what is too much; the windows begin as they did, there are as many, and a zero adds nothing.

    Serves facts.md 3.2: "Pad: not on DLA"; "Convolution: kernel [1,32], padding [0,31] and padding < kernel".
    """
    given = _convolution(op)
    if given is None:
        return False
    pad = to.maker(given["input"])
    ends = _ends(pad) if pad is not None and to.may_change(pad) else None
    if pad is None or ends is None:
        return False
    grown = [_grown(*axis) for axis in zip(ends, given["padding"], given["dilation"])]
    weight = given["weight"]
    if any(g is None for g in grown) or (any(g[1] or g[2] for g in grown if g) and not is_parameter(weight, 4)):
        return False
    added = [g for g in grown if g is not None]
    kernel = [k + start + end for k, (_, start, end) in zip(weight.shape[2:], added)]
    padding = [p for p, _, _ in added]
    if max(kernel) > LARGEST_KERNEL or any(p > MOST_PADDING or p >= k for p, k in zip(padding, kernel)):
        to.note(
            op, f"a padding of {_told(ends)} stays in front of the convolution: on a DLA that pads less than its kernel, and "
            "31 at most"
        )  # fmt: skip
        return False
    args = {**given, "input": pad.arguments()["self"], "padding": padding}
    if kernel != list(weight.shape[2:]):
        (_, top, bottom), (_, left, right) = added
        zeros = torch.nn.functional.pad(weight.tensor.detach(), (left, right, top, bottom))
        args["weight"] = Constant(zeros)
    to.add(op, aten.convolution.default, tuple(args.values()), op.outputs[0])  # type: ignore[arg-type]
    larger = "" if kernel == list(weight.shape[2:]) else f", its kernel {kernel[0]}x{kernel[1]} with zeros at an end"
    to.note(op, f"a padding of {_told(ends)} became the convolution's own{larger}")
    return True


def _told(ends: Sequence[tuple[int, int]]) -> str:
    return " and ".join(f"{start}+{end}" for start, end in ends)


def _convolution(op: Op) -> dict[str, Any] | None:
    """The arguments of ``aten.convolution`` in its order, of a convolution of images; None of any other op."""
    given = op.arguments()
    if op.target is aten.conv2d.padding and given["padding"] == "valid":
        told = {"padding": [0, 0], "transposed": False, "output_padding": [0, 0]}
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups")
        given = {name: told.get(name, given.get(name)) for name in names}
    elif op.target is not aten.convolution.default or given["transposed"]:
        return None
    if not is_image(given["input"]):
        return None
    for name in ("stride", "padding", "dilation", "output_padding"):
        given[name] = list(given[name]) * (2 if len(given[name]) == 1 else 1)
    return given


def _ends(op: Op) -> list[tuple[int, int]] | None:
    """Zeros at both ends of height and width; None of an op that does anything else."""
    given = op.arguments()
    zeros = op.target is aten.constant_pad_nd.default or (op.target is aten.pad.default and given["mode"] == "constant")
    if not zeros or (given["value"] or 0) != 0 or not is_image(given["self"]):
        return None
    pad = [*given["pad"], *[0] * (8 - len(given["pad"]))]
    if min(pad) < 0 or any(pad[4:]):
        return None
    return [(pad[2], pad[3]), (pad[0], pad[1])]


def _grown(ends: tuple[int, int], padding: int, dilation: int) -> tuple[int, int, int] | None:
    """The padding of both ends of an axis, and by how many taps of zeros its kernel grows at the start and at the end."""
    start, end = ends
    taps, rest = divmod(abs(end - start), dilation)
    return None if rest else (padding + max(ends), taps if end > start else 0, taps if start > end else 0)
