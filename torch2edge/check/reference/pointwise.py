"""Element by element: constants, casts, activations, unary and binary operations, scale, select, fill, quantization."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from torch2edge.check.reference.layer import Layer, common, handles, ints, wide

Binary = Callable[[Tensor, Tensor], Tensor]


@handles("CONSTANT")
def constant(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Weights of the given shape (NvInfer.h, IConstantLayer). A dimension of -1 follows from the number of weights."""
    values = layer.weights("weights")
    shape = layer.dims("shape") or ()
    return torch.empty(shape, dtype=layer.dtype) if values is None else values.reshape(shape)


@handles("IDENTITY", "CAST", "CONDITIONAL_INPUT", "ATTENTION_OUTPUT")
def cast(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """The input as the output's type.

    Floating point to integer cuts the fraction off. What happens to a value outside the integer's range, or NaN, is
    documented nowhere. Models make such values where they then leave them out (T5 takes log(0), and a where() later the
    other branch), so it is an arbitrary one here: a result that hangs on it is not PyTorch's. To BOOL, everything but zero
    is true.
    """
    (data,) = inputs
    target = layer.dtype
    if data.dtype == target or target.is_floating_point or torch.bool in (target, data.dtype):
        return data.to(target)
    limits = torch.iinfo(target)
    whole = wide(data).double().trunc() if data.is_floating_point() else data.long()
    # float64 has no 2^63 - 1: the first value that is too large is 2^63, which "<" on the next number excludes.
    inside = (whole >= limits.min) & (whole < float(limits.max) + 1 if whole.is_floating_point() else whole <= limits.max)
    if not bool(inside.all()):
        warnings.warn(
            f"layer {layer.name!r} casts a value outside of the range of {target}, of which TensorRT documents nothing; the "
            "reference executor takes an arbitrary number for it",
            RuntimeWarning, stacklevel=2,
        )  # fmt: skip
        return torch.where(inside, whole, 0).to(target).masked_fill(~inside, limits.max // 3 * 2 + 1)
    return whole.to(target)


def _softplus(x: Tensor, alpha: float, beta: float) -> Tensor:
    return alpha * F.softplus(beta * x, threshold=math.inf)


#: NvInfer.h, ActivationType: the formulas in x, alpha and beta.
ACTIVATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "RELU": lambda x, alpha, beta: x.clamp(min=0),
    "SIGMOID": lambda x, alpha, beta: torch.sigmoid(x),
    "TANH": lambda x, alpha, beta: torch.tanh(x),
    "LEAKY_RELU": lambda x, alpha, beta: torch.where(x >= 0, x, alpha * x),
    "ELU": lambda x, alpha, beta: torch.where(x >= 0, x, alpha * torch.expm1(x)),
    "SELU": lambda x, alpha, beta: beta * torch.where(x > 0, x, alpha * torch.expm1(x)),
    "SOFTSIGN": lambda x, alpha, beta: x / (1 + x.abs()),
    "SOFTPLUS": _softplus,
    "CLIP": lambda x, alpha, beta: x.clamp(max=beta).clamp(min=alpha),
    "HARD_SIGMOID": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "SCALED_TANH": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
    "THRESHOLDED_RELU": lambda x, alpha, beta: torch.where(x > alpha, x, torch.zeros_like(x)),
    "GELU_ERF": lambda x, alpha, beta: F.gelu(x),
    "GELU_TANH": lambda x, alpha, beta: F.gelu(x, approximate="tanh"),
}


@handles("ACTIVATION")
def activation(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """One of ActivationType's formulas. Of these only RELU has a meaning on integers."""
    data, kind = wide(inputs[0]), layer.option("type")
    if kind not in ACTIVATIONS or not (data.is_floating_point() or kind == "RELU"):
        raise layer.unsupported(f"the activation {kind} on {data.dtype}")
    return ACTIVATIONS[kind](data, float(layer.api.alpha), float(layer.api.beta))


@handles("PARAMETRIC_RELU")
def parametric_relu(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Leaky ReLU with a slope per element, broadcast to the input (NvInfer.h, addParametricReLU)."""
    data, slopes = common(*inputs)
    return torch.where(data >= 0, data, data * slopes)


#: NvInfer.h, UnaryOperation. ROUND goes to the nearest even; SIGN of 0 is 0.
UNARIES: dict[str, Callable[[Tensor], Tensor]] = {
    "EXP": torch.exp,
    "LOG": torch.log,
    "SQRT": torch.sqrt,
    "RECIP": torch.reciprocal,
    "ABS": torch.abs,
    "NEG": torch.neg,
    "SIN": torch.sin,
    "COS": torch.cos,
    "TAN": torch.tan,
    "SINH": torch.sinh,
    "COSH": torch.cosh,
    "ASIN": torch.asin,
    "ACOS": torch.acos,
    "ATAN": torch.atan,
    "ASINH": torch.asinh,
    "ACOSH": torch.acosh,
    "ATANH": torch.atanh,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "ERF": torch.erf,
    "NOT": torch.logical_not,
    "SIGN": torch.sign,
    "ROUND": torch.round,
    "ISINF": torch.isinf,
    "ISNAN": torch.isnan,
}


@handles("UNARY")
def unary(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """NOT takes BOOL, ABS, SIGN and NEG take integers too, everything else floating point."""
    data, op = wide(inputs[0]), layer.option("op")
    allowed = data.dtype == torch.bool if op == "NOT" else data.is_floating_point() or op in ("ABS", "SIGN", "NEG")
    if op not in UNARIES or not allowed:
        raise layer.unsupported(f"the operation {op} on {data.dtype}")
    return UNARIES[op](data)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _floor_divide(a: Tensor, b: Tensor) -> Tensor:
    return torch.floor(a / b) if a.is_floating_point() else torch.div(a, b, rounding_mode="floor")


#: NvInfer.h, ElementWiseOperation. Integers wrap around; DIV of integers truncates, as C++ does.
BINARIES: dict[str, Binary] = {
    "SUM": torch.add,
    "PROD": torch.mul,
    "MAX": torch.maximum,
    "MIN": torch.minimum,
    "SUB": torch.sub,
    "DIV": _divide,
    "POW": torch.pow,
    "FLOOR_DIV": _floor_divide,
    "AND": torch.logical_and,
    "OR": torch.logical_or,
    "XOR": torch.logical_xor,
    "EQUAL": torch.eq,
    "GREATER": torch.gt,
    "LESS": torch.lt,
}


@handles("ELEMENTWISE")
def elementwise(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Two tensors of one rank, dimensions of length 1 broadcast (NvInfer.h, IElementWiseLayer)."""
    op = layer.option("op")
    a, b = common(*inputs)
    if op not in BINARIES:
        raise layer.unsupported(f"the operation {op}")
    if a.dim() != b.dim():
        raise layer.wrong(f"the inputs have ranks {a.dim()} and {b.dim()}; they must be equal")
    if op in ("AND", "OR", "XOR") and a.dtype != torch.bool:
        raise layer.wrong(f"{op} takes BOOL, not {a.dtype}")
    return BINARIES[op](a, b)


@handles("SCALE")
def scale(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """(x * scale + shift) ^ power; empty weights mean 1, 0 and 1 (NvInfer.h, IScaleLayer, addScaleNd).

    UNIFORM has one coefficient, CHANNEL one for each index of `channel_axis`, ELEMENTWISE one for each element of the
    dimensions from `channel_axis` on. With an INT8 output it quantizes: ties to even, clamped to [-128, 127].
    """
    data = wide(inputs[0])
    for name, combine in (("scale", torch.mul), ("shift", torch.add), ("power", torch.pow)):
        weights = layer.weights(name)
        if weights is not None:
            data = combine(data, _spread(layer, wide(weights), data.shape))
    return data.round().clamp(-128, 127) if layer.dtype == torch.int8 else data


def _spread(layer: Layer, weights: Tensor, shape: Sequence[int]) -> Tensor:
    mode, axis = layer.option("mode"), int(layer.api.channel_axis)
    if mode == "UNIFORM":
        return weights.reshape(())
    if mode == "CHANNEL":
        return weights.reshape(-1, *[1] * (len(shape) - axis - 1))
    return weights.reshape(tuple(shape[axis:]))


@handles("SELECT")
def select(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """Where the condition holds the second input, elsewhere the third; all broadcast (NvInfer.h, ISelectLayer)."""
    condition, *branches = inputs
    yes, no = common(*branches)
    return torch.where(condition, yes, no)


@handles("FILL")
def fill(layer: Layer, inputs: Sequence[Tensor | None]) -> Tensor:
    """LINSPACE: alpha + sum of beta[d] * index[d]; a static beta is Beta = [b] (NvInfer.h, FillOperation)."""
    if layer.option("operation") != "LINSPACE":
        raise layer.unsupported("random numbers")
    shape = _given(inputs, 0)
    sizes = ints(shape) if shape is not None else list(layer.dims("shape") or ())
    exact = torch.float64 if layer.dtype.is_floating_point else torch.int64
    alpha, beta = _given(inputs, 1), _given(inputs, 2)
    start = alpha.to(exact) if alpha is not None else torch.tensor(layer.api.alpha, dtype=exact)
    steps = beta.to(exact).reshape(-1) if beta is not None else torch.tensor([layer.api.beta], dtype=exact)
    if len(steps) != len(sizes):
        raise layer.wrong(f"{len(sizes)} dimensions and {len(steps)} deltas")
    result = start.reshape(()).expand(sizes)
    for axis, step in enumerate(steps):
        index = torch.arange(sizes[axis], dtype=exact)
        result = result + (index * step).reshape(-1, *[1] * (len(sizes) - axis - 1))
    return result


def _given(inputs: Sequence[Tensor | None], index: int) -> Tensor | None:
    return inputs[index] if index < len(inputs) else None


@handles("ONE_HOT")
def one_hot(layer: Layer, inputs: Sequence[Tensor]) -> Tensor:
    """output[..., indices[...], ...] = values[1], elsewhere values[0]; `axis` counts in the output (IOneHotLayer).

    An index outside [0, depth) is documented nowhere and an error here.
    """
    indices, values, depth = inputs[0].long(), inputs[1], ints(inputs[2])[0]
    if bool(((indices < 0) | (indices >= depth)).any()):
        raise layer.wrong(f"an index is outside [0, {depth}); the result of that is undefined")
    axis = int(layer.api.axis)
    hot = F.one_hot(indices, depth).movedim(-1, axis if axis >= 0 else axis + indices.dim() + 1)
    return torch.where(hot.bool(), values[1], values[0])
