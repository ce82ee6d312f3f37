"""What goes in and out of a loadable, and the memory that it needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .layer import Layer, Setting, Tensor, batch_of, chw_of
from .plan import Crossing, Pools

__all__ = ["SRAM", "crossings", "pools", "tensor_bytes"]

VECTOR = 32  # bytes that the channels are padded to, in kCHW16 (FP16) and kCHW32 (INT8) [G84 D]
SMALLEST_POOL = 4096
SRAM = {"orin": 2**20, "xavier": 2**20}
"""Bytes of managed SRAM that TensorRT asks for by default. Orin has 1 MiB per core, Xavier 4 MiB for two cores and two PVAs
[DLASW FAQ]."""
SCALE_BYTES, SCALE_VECTOR = 4, {1: 32, 2: 16}  # weights that are no kernels: FP19 in 4 bytes, channels padded [S3]


def tensor_bytes(tensor: Tensor, at: Setting) -> int:
    """Bytes of a tensor on the DLA, C padded to whole vectors."""
    shape, size = tensor.shape or (), at.element_size
    channels, *plane = chw_of(shape) or (1,)
    vectors = math.ceil(channels * size / VECTOR)
    return batch_of(shape) * vectors * VECTOR * math.prod(plane)


def crossings(groups: Sequence[Sequence[Layer]], gone: set[int], at: Setting) -> list[Crossing]:
    """What crosses the borders of each loadable, once per tensor and direction."""
    home = {layer.index: number for number, group in enumerate(groups) for layer in group}
    found: list[Crossing] = []
    for number, group in enumerate(groups):
        found += _going_in(number, group, home, gone, at)
        found += _going_out(number, group, home, gone, at)
    return found


def _going_in(
    number: int, group: Sequence[Layer], home: Mapping[int, int], gone: set[int], at: Setting
) -> list[Crossing]:  # fmt: skip
    found: dict[str, Crossing] = {}
    for layer in group:
        for tensor in layer.data:
            maker = _maker(layer, tensor, gone)
            if maker is not None and home.get(maker.index) == number:
                continue
            other = "network input" if maker is None else _other(maker, home)
            found.setdefault(
                tensor.name, Crossing(tensor.name, number, "in", other, tensor_bytes(tensor, at), _reformats(other))
            )
    return list(found.values())


def _maker(layer: Layer, tensor: Tensor, gone: set[int]) -> Layer | None:
    """The layer that a tensor comes from, through shuffles that go away; None for an input of the network."""
    maker = next((m for m in layer.makers if any(t.name == tensor.name for t in m.outputs)), None)
    while maker is not None and maker.index in gone:
        maker = maker.makers[0] if maker.makers else None
    return maker


def _going_out(
    number: int, group: Sequence[Layer], home: Mapping[int, int], gone: set[int], at: Setting
) -> list[Crossing]:  # fmt: skip
    found: list[Crossing] = []
    for layer in group:
        for tensor in layer.outputs:
            readers = _readers(layer, tensor, gone)
            others = dict.fromkeys(_other(r, home) for r in readers if home.get(r.index) != number)
            if tensor.output:
                others["network output"] = None
            found += [
                Crossing(tensor.name, number, "out", other, tensor_bytes(tensor, at), _reformats(other)) for other in others
            ]
    return found


def _readers(layer: Layer, tensor: Tensor, gone: set[int]) -> list[Layer]:
    found: list[Layer] = []
    for reader in layer.readers:
        if any(t.name == tensor.name for t in reader.data):
            found += reader.readers if reader.index in gone else [reader]
    return found


def _other(layer: Layer, home: Mapping[int, int]) -> str:
    return f"loadable {home[layer.index]}" if layer.index in home else "GPU"


def _reformats(other: str) -> bool:
    return not other.startswith("loadable")


# ---- memory -------------------------------------------------------------------------------------------------------------


def pools(groups: Sequence[Sequence[Layer]], at: Setting) -> list[Pools]:
    """What each loadable needs at most."""
    return [
        Pools(number, SRAM[at.target], _power_of_two(inside_bytes(group, at)), _power_of_two(_weight_bytes(group, at)))
        for number, group in enumerate(groups)
    ]


def inside_bytes(group: Sequence[Layer], at: Setting) -> int:
    """Bytes of the tensors that stay in a loadable, as if all lived at once."""
    members = {layer.index for layer in group}
    return sum(
        tensor_bytes(tensor, at)
        for layer in group
        for tensor in layer.outputs
        if not tensor.output and all(reader.index in members for reader in layer.readers)
    )


def _weight_bytes(group: Sequence[Layer], at: Setting) -> int:
    pad = SCALE_VECTOR[at.element_size]
    total = 0
    for layer in group:
        kernels = layer.options.get("weights", 0) if layer.type != "SCALE" else 0
        others = layer.options.get("bias", 0) + (layer.options.get("weights", 0) if layer.type == "SCALE" else 0)
        constants = [math.prod(t.shape or ()) for t in layer.inputs if t is not None and t.constant]
        if layer.type == "MATRIX_MULTIPLY":
            kernels, constants = sum(constants), []
        others += sum(constants)
        total += kernels * at.element_size + math.ceil(others / pad) * pad * SCALE_BYTES
    return total


def _power_of_two(count: int) -> int:
    return max(SMALLEST_POOL, 1 << max(count - 1, 0).bit_length())
