"""A copy of a model without its weights, to be filled from a state dict. Part of api.py: a refit makes a model of one."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .errors import ConfigError
from .modules import flatten_recurrent

__all__ = ["Skeleton"]

SHOWN = 5  # names in a message


class Skeleton:
    """A model as it is now; parameters and buffers of its state dict take no memory. It lives on when the model is gone.

    What is in no state dict (buffers that are not persistent, tensors that are plain attributes) is copied with its values.

    Args:
        model: it is copied, and left as it was. One that cannot be copied is told by ``filled``.
    """

    def __init__(self, model: nn.Module) -> None:
        self._devices: dict[int, torch.device] = {}  # id of a tensor without memory -> where its original was
        self._reason = self._shared = ""
        memo: dict[int, Any] = {}
        try:
            for tensor in model.state_dict(keep_vars=True).values():
                if type(tensor) in (torch.Tensor, nn.Parameter):
                    memo[id(tensor)] = self._empty(tensor)
            # deepcopy keeps its own list of what it has copied in the memo, under the memo's own id
            self._model = copy.deepcopy(model, memo)
            self._shared = _shared(model, memo.get(id(memo), ()))
        except Exception as error:
            self._model, self._reason = nn.Module(), f"{type(error).__name__}: {error}"

    def _empty(self, tensor: torch.Tensor) -> torch.Tensor:
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        if isinstance(tensor, nn.Parameter):
            empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        self._devices[id(empty)] = tensor.device
        return empty

    def filled(self, state: Mapping[str, Any]) -> nn.Module:
        """A model with the tensors of a state dict, where and of the dtypes that the original's were.

        Raises:
            ConfigError: the original cannot be copied; it has tensors outside of the state dict that are views of those in it
                (``v = self.w.t()``), which the copy does not have; or the state dict is of another model: it lacks tensors,
                has others, or has other shapes; with their names.
        """
        if self._reason:
            raise ConfigError(
                f"refit: the model cannot be copied ({self._reason}), so no state dict can be loaded into a copy of it. Give "
                "the model itself: refit(model)"
            )
        if self._shared:
            raise ConfigError(
                f"refit: {self._shared}, and would keep its old values when a state dict is loaded into a copy of the model. "
                "Give the model itself: refit(model)"
            )
        memo: dict[int, Any] = {}
        for tensor in (*self._model.parameters(), *self._model.buffers()):
            if id(tensor) in self._devices:
                memo[id(tensor)] = self._room(tensor)
        model = copy.deepcopy(self._model, memo)
        self._check(model.state_dict(), state)
        self._check_shared(model.state_dict(keep_vars=True), state)
        try:
            model.load_state_dict(dict(state))
        except Exception as error:
            raise ConfigError(f"refit: the model does not take this state dict: {error}") from error
        flatten_recurrent(model)
        return model

    def _room(self, empty: torch.Tensor) -> torch.Tensor:
        """Memory for a tensor; NaN, so that what a state dict does not reach cannot pass for a weight."""
        room = torch.empty_strided(empty.shape, empty.stride(), dtype=empty.dtype, device=self._devices[id(empty)])
        room.fill_(math.nan if room.is_floating_point() else 0)
        return nn.Parameter(room, requires_grad=empty.requires_grad) if isinstance(empty, nn.Parameter) else room

    @staticmethod
    def _check_shared(wanted: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        names: dict[int, str] = {}
        for name, tensor in wanted.items():
            first = names.setdefault(id(tensor), name)
            if isinstance(tensor, torch.Tensor) and first != name and not torch.equal(state[first], state[name]):
                raise ConfigError(
                    f"refit: {first} and {name} are one tensor in the model, and two different ones in the state dict. Give "
                    "both the same, or convert a model in which they are two"
                )

    @staticmethod
    def _check(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        missing, more = [n for n in wanted if n not in given], [n for n in given if n not in wanted]
        shapes = [
            f"{name} {list(given[name].shape)} in the place of {list(tensor.shape)}"
            for name, tensor in wanted.items()
            if isinstance(tensor, torch.Tensor)
            and isinstance(given.get(name), torch.Tensor)
            and given[name].shape != tensor.shape
        ]
        told = [
            f"{what} {', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}"
            for what, names in (("it lacks", missing), ("it has, and the model has not,", more), ("it has", shapes)) if names
        ]  # fmt: skip
        if told:
            prefix = next((p for p in ("module.", "_orig_mod.") if given and all(n.startswith(p) for n in given)), "")
            tip = f" Take {prefix!r} off its names." if prefix and not wanted.keys() <= given.keys() else ""
            raise ConfigError(f"refit: the state dict is of another model: {'; '.join(told)}.{tip}")


def _shared(model: nn.Module, copied: Sequence[Any]) -> str:
    """Which tensor outside of the state dict lies in the memory of one that is in it, or "".

    Args:
        copied: what a deepcopy of the model has copied, its plain attributes at any depth among it.
    """
    inside: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, torch.Tensor) and (where := _storage(tensor)):
            inside.setdefault(where, name)
    for tensor in copied:
        if isinstance(tensor, torch.Tensor) and (name := inside.get(_storage(tensor), "")):
            return f"{_called(model, tensor)} shares memory with {name}, is in no state dict"
    return ""


def _storage(tensor: torch.Tensor) -> int:
    """Address of the memory; 0 where there is none."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def _called(model: nn.Module, tensor: torch.Tensor) -> str:
    for path, module in model.named_modules():
        for name, value in (*module._buffers.items(), *module.__dict__.items()):
            if value is tensor:
                return f"{path}.{name}" if path else name
    return f"a tensor of the model, {list(tensor.shape)},"
