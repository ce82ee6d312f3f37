"""What TensorRT does to a network before it makes DLA subgraphs, as far as that moves their borders.

Seen in published logs (``GH NVIDIA-AI-IOT/jetson_dla_tutorial``): a matrix product with a constant becomes a 1x1 convolution
that takes the bias after it along, the reshape from (N, C, 1, 1) to (N, C) before it goes away, and a shuffle on the GPU
makes the result a matrix again (``reshape_after_Gemm_15``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .layer import Layer

__all__ = ["Fused", "fuse"]


@dataclass
class Fused:
    """What becomes of layers."""

    joined: dict[int, Layer] = field(default_factory=dict)  # index of a layer -> the layer that it becomes part of
    gone: set[int] = field(default_factory=set)  # indices of shuffles that go away
    products: list[Layer] = field(default_factory=list)  # matrix products that become convolutions


def fuse(layers: Sequence[Layer]) -> Fused:
    """Look for matrix products with a constant, and what goes along with them."""
    found = Fused()
    for layer in layers:
        if layer.type == "MATRIX_MULTIPLY" and not layer.folded and _by_constant(layer):
            found.products.append(layer)
            bias = _bias(layer)
            if bias is not None:
                found.joined[bias.index] = layer
            found.gone.update(maker.index for maker in layer.makers if _flattens(maker))
    return found


def _by_constant(layer: Layer) -> bool:
    second = layer.inputs[1]
    return second is not None and second.constant and layer.first is layer.inputs[0]


def _bias(product: Layer) -> Layer | None:
    """The addition of a constant that alone reads a matrix product."""
    if len(product.readers) != 1:
        return None
    reader = product.readers[0]
    adds = reader.type == "ELEMENTWISE" and reader.options["op"] == "SUM" and len(reader.data) == 1
    return reader if adds and reader.outputs[0].shape == product.outputs[0].shape else None


def _flattens(layer: Layer) -> bool:
    """Whether it makes (N, C) of (N, C, 1, 1), for matrix products alone."""
    if layer.type not in ("SHUFFLE", "SQUEEZE") or any(reader.type != "MATRIX_MULTIPLY" for reader in layer.readers):
        return False
    before, after = layer.first.shape or (), layer.outputs[0].shape or ()
    return len(before) == 4 and after == before[:2]
