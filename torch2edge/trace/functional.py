"""What the tracer has to know of single ATen ops: which ones write, alias, draw, or only make a tensor."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import DataDependentError
from .torch_versions import decompositions

__all__ = [
    "FACTORIES",
    "FILLS",
    "SAME_VALUE",
    "Schema",
    "core_decompositions",
    "filled",
    "functional_form",
    "is_random",
    "schema_of",
    "static_index",
]

aten = torch.ops.aten

# Ops that have no form of fixed shapes, by name, for torchvision may not be imported: why, and the way out.
_MANY = "how many boxes are kept depends on the data, and an engine needs shapes that follow from the input shapes. "
_REFUSED = {
    "aten::_pack_padded_sequence": (
        "a packed sequence: its batch shrinks from step to step with the lengths, and the shapes of an engine do not. Pad the "
        "sequences, run the layer on the padded batch, and read each one's result at its own length; for a layer that is "
        "bidirectional convert one engine a length"
    ),
    "torchvision::nms": _MANY + "Return boxes and scores, and call nms on the engine's outputs",
}


@dataclass(frozen=True)
class Schema:
    """The parts of an op's schema that tracing asks for."""

    is_mutable: bool
    aliases: bool  # a result may share memory with an argument
    composite: bool  # PyTorch can take it apart (CompositeImplicitAutograd)
    random: bool
    makes: bool  # a tensor out of nothing, on a device
    refused: str  # why no engine can hold it, and the way out
    writes: tuple[tuple[int, str], ...]  # position and name of each argument that is written to

    def written(self, args: Any, kwargs: Any) -> list[torch.Tensor]:
        """The arguments that the op writes to."""
        found = [args[i] if i < len(args) else kwargs.get(name) for i, name in self.writes]
        return [t for item in found for t in (item if isinstance(item, (list, tuple)) else [item]) if t is not None]


@functools.cache
def schema_of(func: Any) -> Schema:
    """The Schema of an overload."""
    schema = func._schema
    return Schema(
        is_mutable=schema.is_mutable,
        aliases=any(r.alias_info is not None for r in schema.returns),
        composite=torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"),
        random=torch.Tag.nondeterministic_seeded in func.tags,
        makes=any(a.name == "device" for a in schema.arguments) and "Tensor" not in str([a.type for a in schema.arguments]),
        refused=_REFUSED.get(schema.name, ""),
        writes=tuple(
            (i, a.name) for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write
        ),
    )


def is_random(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether this call draws: dropouts carry PyTorch's tag too, but draw only when they train or have a probability."""
    if not schema_of(func).random:
        return False
    bound = dict(zip((a.name for a in func._schema.arguments), args)) | kwargs
    for switch in ("train", "training"):
        if bound.get(switch, True) is False or (switch in {a.name for a in func._schema.arguments} and not bound.get(switch)):
            return False
    if any(a.name == "dropout_p" for a in func._schema.arguments):
        return bool(bound.get("dropout_p", 0.0) > 0)
    return "dropout" not in func._schema.name or bound.get("p", 1.0) > 0


@functools.cache
def core_decompositions() -> dict[Any, Callable[..., Any]]:
    """What takes ops apart into core ATen ops."""
    return decompositions()


@functools.cache
def functional_form(func: Any) -> Callable[..., Any] | None:
    """The op that returns what ``func`` would write; same arguments, except for ``out=``."""
    if func in _WRITES:
        return _WRITES[func]
    packet, name = func.overloadpacket, func._schema.name.split("::")[1]
    own = [a.name for a in func._schema.arguments]
    out = [name for _, name in schema_of(func).writes]
    if name.endswith("_") and out == [own[0]]:
        base = getattr(getattr(torch.ops, func.namespace), name[:-1], None)
        overloads = [] if base is None else [getattr(base, o) for o in base.overloads()]
        # by schema, not by overload name: the form of pow_.Scalar is pow.Tensor_Scalar
        wanted = _parameters(func)
        return next((o for o in overloads if not o._schema.is_mutable and _parameters(o) == wanted), None)
    for candidate in packet.overloads():
        overload = getattr(packet, candidate)
        names = [a.name for a in overload._schema.arguments]
        if not overload._schema.is_mutable and names == [n for n in own if n not in out]:
            return lambda *args, **kw: overload(*args, **{k: v for k, v in kw.items() if k not in out})
    return None


def _parameters(func: Any) -> list[tuple[str, str]]:
    """Names and types of an overload's arguments."""
    return [(a.name, str(a.type)) for a in func._schema.arguments]


def _copy(self: torch.Tensor, src: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    return src.to(dtype=self.dtype).expand(self.shape)


def _fill(self: torch.Tensor, value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.to(dtype=self.dtype).expand(self.shape)
    return torch.full(self.shape, value, dtype=self.dtype, device=self.device)


def _index_put(self: torch.Tensor, indices: Any, values: torch.Tensor, accumulate: bool = False) -> torch.Tensor:
    """``x[mask] = number`` with a mask that depends on an input needs no size: it is a select."""
    given = [(dim, i) for dim, i in enumerate(indices) if i is not None]
    dim, mask = given[0]
    if len(given) > 1 or mask.dtype not in (torch.bool, torch.uint8) or accumulate or values.numel() != 1:
        return aten.index_put.default(self, indices, values, accumulate)  # type: ignore[no-any-return]
    behind = [1] * (self.dim() - dim - mask.dim())
    return torch.where(mask.reshape(*mask.shape, *behind).to(torch.bool), values.reshape(()), self)


_WRITES: dict[Any, Callable[..., Any]] = {
    aten.copy_.default: _copy,
    aten.fill_.Scalar: _fill,
    aten.fill_.Tensor: _fill,
    aten.zero_.default: lambda self: _fill(self, 0),
    aten.index_put_.default: _index_put,
}

# The result has the value of the first argument: no op is recorded. A clone differs only in what later writes reach.
SAME_VALUE = {
    aten.alias.default, aten.detach.default, aten.clone.default, aten.lift_fresh.default, aten.lift_fresh_copy.default,
    aten.contiguous.default, aten.positive.default,
    # in eval mode, and then they give their argument back; PyTorch's Python decomposition would make a copy
    aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default, aten.feature_alpha_dropout.default,
}  # fmt: skip


def _made(value: Any) -> Callable[..., torch.Tensor]:
    """A factory that takes only shape, dtype and device from its tensor; memory left undefined by ``empty`` is zero."""

    def factory(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        like = not args or not isinstance(args[0], (list, tuple, torch.Size))
        shape = self.shape if like else args[0]
        fill = kwargs.get("fill_value", args[-1] if args and not isinstance(args[-1], (list, tuple)) else 0)
        return torch.full(
            shape, fill if value is None else value, dtype=kwargs.get("dtype") or self.dtype,
            device=kwargs.get("device") or self.device,
        )  # fmt: skip

    return factory


FACTORIES: dict[Any, Callable[..., torch.Tensor]] = {
    aten.zeros_like.default: _made(0),
    aten.ones_like.default: _made(1),
    aten.empty_like.default: _made(0),
    aten.full_like.default: _made(None),
    aten.new_zeros.default: _made(0),
    aten.new_ones.default: _made(1),
    aten.new_empty.default: _made(0),
    aten.new_full.default: _made(None),
}


# What makes a tensor of one number, by that number; where the size is symbolic, all of them are ``full``.
FILLS: dict[Any, int] = {aten.zeros.default: 0, aten.ones.default: 1, aten.empty.memory_format: 0}


def filled(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keywords of ``aten.full`` for those of an op in FILLS."""
    return {"dtype": kwargs.get("dtype") or torch.get_default_dtype(), "device": kwargs.get("device")}


def static_index(indices: Any, here: Callable[[], str]) -> list[Any]:
    """Index tensors as integers: a constant boolean mask becomes the positions of its true elements."""
    result: list[Any] = []
    for index in indices:
        if not isinstance(index, torch.Tensor) or index.dtype not in (torch.bool, torch.uint8):
            result.append(index)
        elif hasattr(index, "meta"):
            raise DataDependentError(
                f"indexing with a boolean mask {here()}: the mask depends on an input, so the size of the result would "
                "too. Use torch.where, or multiply by the mask."
            )
        else:
            result.extend(index.nonzero().unbind(1))
    return result
