"""Pairs of networks, made by hand, that differ in one thing only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from torch2edge._trt import logger, trt
from torch2edge.fingerprint import Fingerprint, fingerprint

__all__ = ["PAIRS", "Raw", "convolution", "read", "scale"]


class Raw:
    """A network to fill by hand; the builder lives as long, and the weights."""

    def __init__(self) -> None:
        self.builder = trt.Builder(logger())
        explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)
        self.net = self.builder.create_network(0 if explicit is None else 1 << int(explicit))
        self.x = self.net.add_input("x", trt.DataType.FLOAT, (2, 3, 8, 8))
        self.kept: list[Any] = []

    def weights(self, *shape: int) -> Any:
        self.kept.append(np.random.default_rng(len(self.kept)).standard_normal(shape).astype(np.float32))
        return trt.Weights(self.kept[-1])

    def constant(self, *shape: int) -> Any:
        return self.net.add_constant(shape, self.weights(*shape)).get_output(0)


def read(fill: Callable[[Raw], Any]) -> Fingerprint:
    raw = Raw()
    raw.net.mark_output(fill(raw).get_output(0))
    found = fingerprint(raw.net)
    found.weights = {key: tensor.clone() for key, tensor in found.weights.items()}
    return found


def activation(raw: Raw, kind: str = "LEAKY_RELU", alpha: float = 0.1) -> Any:
    layer = raw.net.add_activation(raw.x, getattr(trt.ActivationType, kind))
    layer.alpha = alpha
    return layer


def convolution(raw: Raw, **given: Any) -> Any:
    layer = raw.net.add_convolution_nd(raw.x, 6, given.pop("kernel", (3, 3)), raw.weights(162), raw.weights(6))
    for name, value in given.items():
        setattr(layer, name, value)
    return layer


def pooling(raw: Raw, kind: str = "AVERAGE", window: tuple[int, ...] = (2, 2), **given: Any) -> Any:
    layer = raw.net.add_pooling_nd(raw.x, getattr(trt.PoolingType, kind), window)
    for name, value in given.items():
        setattr(layer, name, value)
    return layer


def shuffle(raw: Raw, **given: Any) -> Any:
    layer = raw.net.add_shuffle(raw.x)
    for name, value in given.items():
        setattr(layer, name, value)
    return layer


def resize(raw: Raw, shape: tuple[int, ...], mode: str = "LINEAR", rule: str = "HALF_PIXEL") -> Any:
    layer = raw.net.add_resize(raw.x)
    layer.shape = shape
    layer.resize_mode = getattr(trt.InterpolationMode, mode)
    layer.coordinate_transformation = getattr(trt.ResizeCoordinateTransformation, rule)
    return layer


def normalization(raw: Raw, epsilon: float = 1e-5, axes: int = 0b1100) -> Any:
    layer = raw.net.add_normalization(raw.x, raw.constant(1, 3, 1, 1), raw.constant(1, 3, 1, 1), axes)
    layer.epsilon = epsilon
    return layer


def scale(raw: Raw, mode: str = "CHANNEL", count: int = 3) -> Any:
    three = (raw.weights(count) for _ in range(3))
    return raw.net.add_scale_nd(raw.x, getattr(trt.ScaleMode, mode), *three, 1)


def elementwise(raw: Raw, op: str = "SUB", swapped: bool = False) -> Any:
    other = raw.constant(1, 3, 1, 1)
    pair = (other, raw.x) if swapped else (raw.x, other)
    return raw.net.add_elementwise(*pair, getattr(trt.ElementWiseOperation, op))


def product(raw: Raw, op: str = "NONE") -> Any:
    none = trt.MatrixOperation.NONE
    return raw.net.add_matrix_multiply(raw.x, none, raw.constant(1, 1, 8, 8), getattr(trt.MatrixOperation, op))


def loop(raw: Raw, trips: int = 3, reverse: bool = False) -> Any:
    made = raw.net.add_loop()
    raw.kept.append(np.array(trips, dtype=np.int32))
    made.add_trip_limit(raw.net.add_constant((), trt.Weights(raw.kept[-1])).get_output(0), trt.TripLimit.COUNT)
    step = made.add_iterator(raw.x, 1, reverse)
    return made.add_loop_output(step.get_output(0), trt.LoopOutput.LAST_VALUE)


PAIRS: dict[str, tuple[Callable[[Raw], Any], Callable[[Raw], Any]]] = {
    "kind": (activation, lambda r: r.net.add_unary(r.x, trt.UnaryOperation.ABS)),
    "activation": (activation, lambda r: activation(r, "ELU")),
    "slope": (activation, lambda r: activation(r, alpha=0.2)),
    "kernel": (convolution, lambda r: convolution(r, kernel=(1, 9), padding_nd=(0, 1))),
    "stride": (convolution, lambda r: convolution(r, stride_nd=(1, 2))),
    "dilation": (convolution, lambda r: convolution(r, dilation_nd=(2, 1))),
    "padding": (lambda r: convolution(r, pre_padding=(1, 0)), lambda r: convolution(r, post_padding=(1, 0))),
    "pooling": (pooling, lambda r: pooling(r, "MAX")),
    "window": (lambda r: pooling(r, window=(1, 4)), lambda r: pooling(r, window=(4, 1))),
    "counted": (lambda r: pooling(r, padding_nd=(1, 1)),
                lambda r: pooling(r, padding_nd=(1, 1), average_count_excludes_padding=False)),
    "permutation": (lambda r: shuffle(r, first_transpose=(0, 1, 2, 3)), lambda r: shuffle(r, first_transpose=(0, 1, 3, 2))),
    "second permutation": (lambda r: shuffle(r, second_transpose=(0, 1, 2, 3)),
                           lambda r: shuffle(r, second_transpose=(0, 1, 3, 2))),
    "reshape": (lambda r: shuffle(r, reshape_dims=(6, 64)), lambda r: shuffle(r, reshape_dims=(64, 6))),
    "slice": (lambda r: r.net.add_slice(r.x, (0, 0, 0, 0), (2, 2, 8, 8), (1, 1, 1, 1)),
              lambda r: r.net.add_slice(r.x, (0, 1, 0, 0), (2, 2, 8, 8), (1, 1, 1, 1))),
    "reduction": (lambda r: r.net.add_reduce(r.x, trt.ReduceOperation.SUM, 0b1000, True),
                  lambda r: r.net.add_reduce(r.x, trt.ReduceOperation.AVG, 0b1000, True)),
    "axes": (lambda r: r.net.add_reduce(r.x, trt.ReduceOperation.SUM, 0b1000, True),
             lambda r: r.net.add_reduce(r.x, trt.ReduceOperation.SUM, 0b0100, True)),
    "mode": (lambda r: resize(r, (2, 3, 9, 9)), lambda r: resize(r, (2, 3, 9, 9), "NEAREST")),
    "rule": (lambda r: resize(r, (2, 3, 9, 9)), lambda r: resize(r, (2, 3, 9, 9), rule="ALIGN_CORNERS")),
    "size": (lambda r: resize(r, (2, 3, 9, 9)), lambda r: resize(r, (2, 3, 9, 16))),
    "epsilon": (normalization, lambda r: normalization(r, 1e-6)),
    "normalized axes": (normalization, lambda r: normalization(r, axes=0b1000)),
    "scale": (scale, lambda r: scale(r, "UNIFORM", 1)),
    "operation": (elementwise, lambda r: elementwise(r, "PROD")),
    "order of inputs": (elementwise, lambda r: elementwise(r, swapped=True)),
    "transposed": (product, lambda r: product(r, "TRANSPOSE")),
    "softmax": (lambda r: r.net.add_softmax(r.x), lambda r: r.net.add_identity(r.x)),
    "iterator": (loop, lambda r: loop(r, reverse=True)),
    "topk": (lambda r: r.net.add_topk(r.x, trt.TopKOperation.MAX, 2, 0b1000),
             lambda r: r.net.add_topk(r.x, trt.TopKOperation.MAX, 3, 0b1000)),
}  # fmt: skip
