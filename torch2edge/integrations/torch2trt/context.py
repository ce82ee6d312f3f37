"""ConversionContext: what a converter written for torch2trt is called with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..._trt import from_trt_dtype, last_errors, trt
from ...errors import ConversionError
from ...lower.network import Network, Tensor
from ...structure import flatten, unflatten

__all__ = ["ConversionContext", "NetworkWrapper"]

_REFUSED = {"add_input": "an input of its own", "mark_output": "an output of its own"}


class NetworkWrapper:
    """TensorRT's INetworkDefinition; a layer added through it gets its module's path as name, and its device."""

    def __init__(self, net: Network) -> None:
        self._net, self._network = net, net.raw
        self._attached: list[torch.Tensor] = []  # constants that got a _trt for the time of this call

    def __getattr__(self, name: str) -> Any:
        if name in _REFUSED:
            raise ConversionError(f"the converter calls network.{name}: an engine cannot have {_REFUSED[name]}")
        found = getattr(self._network, name)
        return self._adding(found) if name.startswith("add_") else found

    def _adding(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def add(*args: Any, **kwargs: Any) -> Any:
            result = method(*map(self._held, args), **{k: self._held(v) for k, v in kwargs.items()})
            return self._net.layer(result) if result is None or isinstance(result, trt.ILayer) else result

        return add

    def _held(self, value: Any) -> Any:
        """An argument whose memory stays until the build."""
        if isinstance(value, np.ndarray):
            value = np.ascontiguousarray(value)
        if isinstance(value, (np.ndarray, trt.Weights)):
            self._net.keep(value)
        return value


class ConversionContext:
    """One call that a converter turns into layers.

    Tensors that depend on an input are stand-ins: on the meta device, with shape, dtype and ``_trt``, their ITensor, but
    without values. All others are the real ones. The converter sets ``_trt`` on what ``method_return`` holds.

    Attributes:
        network: the network to add layers to.
        method_args: positional arguments of the call; the module or object itself comes first where it is a method.
        method_kwargs: keyword arguments.
        method_return: what it returned.
        method_str: dotted name of what was called.
        torch2trt_kwargs: all arguments of ``torch2trt()``, ``converter_kwargs`` among them.
    """

    def __init__(
        self, net: Network, method_str: str, args: Sequence[Any], kwargs: Mapping[str, Any],
        torch2trt_kwargs: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self._net, self._seen = net, dict[int, torch.Tensor]()
        self.network = NetworkWrapper(net)
        self.method_str, self.torch2trt_kwargs = method_str, dict(torch2trt_kwargs)
        self.method_args = self._shown(tuple(args))
        self.method_kwargs = self._shown(dict(kwargs))
        self._outputs = [None if v is None else torch.empty(v.shape, dtype=v.dtype, device="meta") for v in net.outputs]
        assert net.nesting is not None  # functions and modules that are converted as a whole have one
        self._given = self.method_return = unflatten(net.nesting, self._outputs)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"torch2edge calls converters with no ctx.{name}; there are network, method_args, method_kwargs, method_return, "
            "method_str, torch2trt_kwargs and current_module_name()"
        )

    def current_module_name(self) -> str:
        """Path of the submodule in which the call was made."""
        return self._net.module

    def _shown(self, tree: Any) -> Any:
        if isinstance(tree, Tensor):
            return self._stand_in(tree)
        if isinstance(tree, tuple) and hasattr(tree, "_fields"):
            return type(tree)(*map(self._shown, tree))
        if isinstance(tree, (tuple, list)):
            return type(tree)([self._shown(item) for item in tree])
        if isinstance(tree, dict):
            return {key: self._shown(item) for key, item in tree.items()}
        return tree

    def _stand_in(self, tensor: Tensor) -> torch.Tensor:
        if id(tensor) not in self._seen:
            stand_in = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            stand_in._trt = tensor.raw  # type: ignore[attr-defined]
            self._seen[id(tensor)] = stand_in
        return self._seen[id(tensor)]

    def results(self) -> list[Tensor | None]:
        """The network's tensors for the op's results, from what the converter left in ``method_return``.

        Raises:
            ConversionError: it set no ``_trt``, or returned something nested otherwise.
        """
        wanted = [v for v in self._net.outputs if v is not None]
        given = [t for t in self._outputs if t is not None]
        if self.method_return is not self._given:
            given = flatten(self.method_return, "ctx.method_return")[0]
        raws = [getattr(t, "_trt", None) for t in given]
        if len(raws) != len(wanted) or all(raw is None for raw in raws):
            raise ConversionError(
                f"{sum(r is not None for r in raws)} tensors in ctx.method_return have a _trt after the converter, but "
                f"{self.method_str} returns {len(wanted)}: set output._trt = layer.get_output(0)"
            )
        found = iter([None if raw is None else self._tensor(raw, value) for raw, value in zip(raws, wanted)])
        return [None if v is None else next(found) for v in self._net.outputs]

    def _tensor(self, raw: Any, value: Any) -> Tensor:
        try:
            shape = tuple(raw.shape)
        except (RuntimeError, ValueError) as error:  # before TensorRT 10 a wrong layer has a shape of rank -1
            raise ConversionError("; ".join(last_errors(2)) or str(error)) from error
        same = raw.dtype == self._net.data_type(value.dtype)
        dtype = value.dtype if same else from_trt_dtype(raw.dtype)
        if not self._net.capabilities.strongly_typed and dtype.is_floating_point and value.dtype.is_floating_point:
            dtype = value.dtype  # TensorRT has still to choose
        return Tensor(raw, shape, dtype)

    def close(self) -> None:
        """Take every ``_trt`` from the user's own tensors, where the next conversion would find it."""
        for tensor in (*self.network._attached, *_real_tensors((self.method_args, self.method_kwargs))):
            vars(tensor).pop("_trt", None)


def _real_tensors(tree: Any) -> Iterator[torch.Tensor]:
    """Constants among the arguments, and the parameters and buffers of modules among them."""
    if isinstance(tree, torch.Tensor):
        if tree.device.type != "meta":
            yield tree
    elif isinstance(tree, nn.Module):
        yield from (*tree.parameters(), *tree.buffers())
    elif isinstance(tree, (tuple, list, dict)):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from _real_tensors(item)
