"""What converters written for torch2trt call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..._trt import from_trt_dtype, to_trt_dtype
from ...errors import ConversionError
from .context import ConversionContext, NetworkWrapper

__all__ = [
    "IntWrapper",
    "SizeWrapper",
    "add_missing_trt_tensors",
    "add_trt_constant",
    "broadcast_trt_tensors",
    "check_torch_dtype",
    "get_arg",
    "torch_dim_resolve_negative",
    "torch_dim_to_trt_axes",
    "torch_dtype_from_trt",
    "torch_dtype_to_trt",
    "trt_",
]


class IntWrapper(int):
    """For isinstance() only: sizes are plain ints here, and never one of these."""


class SizeWrapper(tuple):  # type: ignore[type-arg]
    """For isinstance() only: shapes are plain ``torch.Size`` here, and never one of these."""


def get_arg(ctx: ConversionContext, name: str, pos: int, default: Any) -> Any:
    """The argument ``name`` of the call, at ``pos`` where it is positional."""
    if name in ctx.method_kwargs:
        return ctx.method_kwargs[name]
    return ctx.method_args[pos] if len(ctx.method_args) > pos else default


def check_torch_dtype(*tensors: Any) -> torch.dtype:
    """The dtype that all tensors among the arguments have.

    Raises:
        ConversionError: they differ, or there is no tensor.
    """
    dtypes = {t.dtype for t in tensors if isinstance(t, torch.Tensor)}
    if len(dtypes) != 1:
        raise ConversionError(f"tensors of one dtype are needed, but they are {sorted(map(str, dtypes)) or 'no tensors'}")
    return dtypes.pop()


def torch_dim_resolve_negative(dim: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """Dimensions counted from the front."""
    return tuple(d + ndim if d < 0 else d for d in ((dim,) if isinstance(dim, int) else dim))


def torch_dim_to_trt_axes(dim: int | Sequence[int]) -> int:
    """TensorRT's bit mask of axes.

    Raises:
        ValueError: a dimension is negative; ``torch_dim_resolve_negative`` first.
    """
    axes = 0
    for d in (dim,) if isinstance(dim, int) else dim:
        if d < 0:
            raise ValueError(f"dim {d} is counted from the end: torch_dim_resolve_negative(dim, ndim) first")
        axes |= 1 << d
    return axes


def torch_dtype_to_trt(dtype: torch.dtype) -> Any:
    """TensorRT's DataType of a torch dtype."""
    return to_trt_dtype(dtype)


def torch_dtype_from_trt(dtype: Any) -> torch.dtype:
    """The torch dtype of TensorRT's DataType."""
    return from_trt_dtype(dtype)


def add_trt_constant(network: NetworkWrapper, tensor: torch.Tensor) -> Any:
    """A constant layer's ITensor with the values of ``tensor``."""
    return _constant(network, tensor)


def add_missing_trt_tensors(network: NetworkWrapper, tensors: Sequence[Any]) -> list[Any]:
    """The ITensor of each; numbers and weights become constants, weights without leading axes of size 1.

    Raises:
        ConversionError: one depends on an input and has none: it cannot become a constant.
    """
    dtype = check_torch_dtype(*tensors)
    found = []
    for t in tensors:
        if isinstance(t, (int, float)):
            t = torch.full((1,), t, dtype=dtype)
        elif isinstance(t, torch.Tensor) and not hasattr(t, "_trt"):
            ones = next((i for i, size in enumerate(t.shape) if size != 1), t.dim())
            t._trt = _constant(network, t.reshape(t.shape[ones:]))  # type: ignore[attr-defined]
            network._attached.append(t)
        found.append(_raw(network, t))
    return found


def broadcast_trt_tensors(network: NetworkWrapper, trt_tensors: Sequence[Any], broadcast_ndim: int) -> list[Any]:
    """Each ITensor with axes of size 1 in front, up to ``broadcast_ndim``."""
    return [_padded(network, t, broadcast_ndim) for t in trt_tensors]


def trt_(network: NetworkWrapper, *tensors: Any) -> Any:
    """The ITensor of each argument, of one rank so that they broadcast; a tuple, or the one.

    Raises:
        ConversionError: see ``add_missing_trt_tensors``.
    """
    dtype = check_torch_dtype(*tensors)
    rank = max(len(t._trt.shape) if hasattr(t, "_trt") else t.dim() for t in tensors if isinstance(t, torch.Tensor))
    values = [torch.full((1,) * rank, t, dtype=dtype) if isinstance(t, (int, float)) else t for t in tensors]
    found = tuple(_padded(network, _raw(network, t), rank) for t in values)
    return found[0] if len(found) == 1 else found


def _raw(network: NetworkWrapper, tensor: Any) -> Any:
    return tensor._trt if hasattr(tensor, "_trt") else _constant(network, tensor)


def _constant(network: NetworkWrapper, tensor: Any) -> Any:
    if not isinstance(tensor, torch.Tensor):
        raise ConversionError(f"a tensor or a number is needed, but not a {type(tensor).__name__}")
    if tensor.device.type == "meta":
        raise ConversionError(
            f"a tensor of shape {list(tensor.shape)} depends on an input and has no _trt: it cannot become a constant. Take "
            "ctx.method_args as they are, and compute on them with layers."
        )
    return network._net.constant(tensor).raw


def _padded(network: NetworkWrapper, raw: Any, rank: int) -> Any:
    if len(raw.shape) >= rank:
        return raw
    layer = network.add_shuffle(raw)
    layer.reshape_dims = (1,) * (rank - len(raw.shape)) + tuple(raw.shape)
    return layer.get_output(0)
