"""An INetworkDefinition, of whatever TensorRT, as plain layers. The only file of the planner that touches TensorRT's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .._trt import trt
from .layer import Layer, Tensor

__all__ = ["read"]

Reader = Callable[[Any], dict[str, Any]]


def read(network: Any, module_of: Callable[[str], str] = lambda name: "") -> list[Layer]:
    """The layers of ``network`` (TensorRT's INetworkDefinition) in its order, each with its neighbours.

    Args:
        module_of: name of a layer -> path of its module.
    """
    outputs = {network.get_output(i).name for i in range(network.num_outputs)}
    layers = [_layer(network.get_layer(i), i, outputs, module_of) for i in range(network.num_layers)]
    _fold(layers)
    _connect(layers)
    return layers


def _layer(raw: Any, index: int, outputs: set[str], module_of: Callable[[str], str]) -> Layer:
    # Through ILayer: activation and pooling layers have a `type` of their own.
    kind, name = str(trt.ILayer.type.__get__(raw).name), str(raw.name)
    inputs = [_tensor(raw.get_input(i), outputs) for i in range(raw.num_inputs)]
    made = [_tensor(raw.get_output(i), outputs) for i in range(raw.num_outputs)]
    return Layer(index, name, kind, module_of(name), tuple(inputs), tuple(t for t in made if t), _options(raw, kind))


def _fold(layers: list[Layer]) -> None:
    """Find what depends on no data. A layer may stand before the one that it reads from."""
    constants: set[str] = set()
    changed = True
    while changed:
        changed = False
        for layer in layers:
            if not layer.folded and _is_folded(layer, constants):
                layer.folded = changed = True
                constants.update(t.name for t in layer.outputs)
    for layer in layers:
        layer.inputs = tuple(t and replace(t, constant=t.name in constants) for t in layer.inputs)
        layer.outputs = tuple(replace(t, constant=layer.folded) for t in layer.outputs)


def _is_folded(layer: Layer, constants: set[str]) -> bool:
    """Whether it depends on no data: constants, what is computed of them, and fixed sizes."""
    if layer.type == "SHAPE":
        return all(t.shape is not None and -1 not in t.shape for t in layer.inputs if t)
    known = [t is None or t.name in constants for t in layer.inputs]
    return layer.type == "CONSTANT" or (bool(known) and all(known))


def _connect(layers: list[Layer]) -> None:
    made = {tensor.name: layer for layer in layers for tensor in layer.outputs}
    for layer in layers:
        for tensor in layer.data:
            maker = made.get(tensor.name)
            if maker is None or layer.folded or maker in layer.makers:
                continue
            layer.makers.append(maker)
            maker.readers.append(layer)


def _tensor(raw: Any, outputs: set[str]) -> Tensor | None:
    if raw is None:
        return None
    try:
        shape: tuple[int, ...] | None = tuple(int(size) for size in raw.shape)
    except (RuntimeError, ValueError, TypeError):  # TensorRT could not infer it
        shape = None
    limits = getattr(raw, "dynamic_range", None)  # weakly typed TensorRTs have it
    largest = max(map(abs, limits)) if limits is not None else None
    return Tensor(str(raw.name), str(raw.dtype.name), shape, output=raw.name in outputs, range=largest)


# ---- what there is to a layer, by its type ------------------------------------------------------------------------------


def _options(raw: Any, kind: str) -> dict[str, Any]:
    name, reader = READERS.get(kind, ("", None))
    api_class = getattr(trt, name, None) if name else None
    if reader is None or api_class is None:
        return {}
    raw.__class__ = api_class  # a layer read back is a plain ILayer; this makes its own attributes readable
    return reader(raw)


def _dims(value: Any) -> tuple[int, ...]:
    """A Dims; () where it is unset (None from TensorRT 10 on, before it a Dims that cannot be iterated)."""
    try:
        return () if value is None else tuple(int(size) for size in value)
    except (ValueError, TypeError):
        return ()


def _count(weights: Any) -> int:
    return int(weights.size)


def _convolution(raw: Any) -> dict[str, Any]:
    kernel = _dims(raw.kernel_size_nd)
    return {
        "kernel": kernel, "stride": _dims(raw.stride_nd), "dilation": _dims(raw.dilation_nd),
        "padding": _padding(raw, kernel), "groups": int(raw.num_groups), "maps": int(raw.num_output_maps),
        "weights": _count(raw.kernel), "bias": _count(raw.bias),
    }  # fmt: skip


def _pooling(raw: Any) -> dict[str, Any]:
    window = _dims(raw.window_size_nd)
    return {
        "op": raw.type.name, "kernel": window, "stride": _dims(raw.stride_nd), "padding": _padding(raw, window),
        "excludes_padding": bool(raw.average_count_excludes_padding),
    }  # fmt: skip


def _padding(raw: Any, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """The padding before and after each spatial axis, one after the other."""
    if raw.padding_mode.name.startswith("SAME"):  # TensorRT computes it: at most one less than the (dilated) window
        dilation = _dims(getattr(raw, "dilation_nd", None)) or (1,) * len(kernel)
        return tuple(d * (k - 1) // 2 + d * (k - 1) % 2 for k, d in zip(kernel, dilation))
    return _dims(raw.pre_padding) + _dims(raw.post_padding)


def _activation(raw: Any) -> dict[str, Any]:
    return {"op": raw.type.name, "alpha": float(raw.alpha), "beta": float(raw.beta)}


def _scale(raw: Any) -> dict[str, Any]:
    power = np.asarray(raw.power, dtype=np.float64) if _count(raw.power) else np.ones(1)
    return {"op": raw.mode.name, "power": power, "weights": _count(raw.scale) + _count(raw.shift) + _count(raw.power)}


def _resize(raw: Any) -> dict[str, Any]:
    return {
        "op": raw.resize_mode.name, "scales": tuple(float(s) for s in raw.scales or ()),
        "rounding": (
            raw.coordinate_transformation.name, raw.selector_for_single_pixel.name, raw.nearest_rounding.name
        ),
    }  # fmt: skip


def _slice(raw: Any) -> dict[str, Any]:
    return {"op": raw.mode.name, "start": _dims(raw.start), "size": _dims(raw.shape), "stride": _dims(raw.stride)}


def _shuffle(raw: Any) -> dict[str, Any]:
    return {"transposes": (tuple(raw.first_transpose), tuple(raw.second_transpose))}


def _matrix_multiply(raw: Any) -> dict[str, Any]:
    return {"ops": (raw.op0.name, raw.op1.name)}


#: LayerType name -> TensorRT's class, and what to read of it.
READERS: dict[str, tuple[str, Reader]] = {
    "ACTIVATION": ("IActivationLayer", _activation),
    "CONCATENATION": ("IConcatenationLayer", lambda raw: {"axis": int(raw.axis)}),
    "CONVOLUTION": ("IConvolutionLayer", _convolution),
    "DECONVOLUTION": ("IDeconvolutionLayer", _convolution),
    "ELEMENTWISE": ("IElementWiseLayer", lambda raw: {"op": raw.op.name}),
    "LRN": ("ILRNLayer", lambda raw: {"window": int(raw.window_size)}),
    "MATRIX_MULTIPLY": ("IMatrixMultiplyLayer", _matrix_multiply),
    "POOLING": ("IPoolingLayer", _pooling),
    "REDUCE": ("IReduceLayer", lambda raw: {"op": raw.op.name, "axes": int(raw.axes)}),
    "RESIZE": ("IResizeLayer", _resize),
    "SCALE": ("IScaleLayer", _scale),
    "SHUFFLE": ("IShuffleLayer", _shuffle),
    "SLICE": ("ISliceLayer", _slice),
    "SOFTMAX": ("ISoftMaxLayer", lambda raw: {"axes": int(raw.axes)}),
    "UNARY": ("IUnaryLayer", lambda raw: {"op": raw.op.name}),
}
