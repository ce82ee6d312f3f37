"""Memory while a model is traced: whose it is, and what a write to it becomes.

A write replaces the value of a ``Buffer``. One of a traced value to real memory (``out = torch.zeros(...)``) promotes that
memory: it becomes a value, and every tensor on it a view of that value.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._mode_utils import no_dispatch

from ..errors import InplaceError
from ..graph import Value
from .functional import functional_form, schema_of
from .tensor import Buffer, Link, Traced, storage_key, tensors_in
from .views import write_through

if TYPE_CHECKING:
    from .tracer import Tracer

__all__ = ["Memory"]

aten = torch.ops.aten


class Memory:
    """What one trace knows of memory.

    Args:
        tracer: records what a write is made of.
        owned: storage key of the model's own and the user's tensors -> what it is; a write to one is refused.
    """

    def __init__(self, tracer: Tracer, owned: dict[int, str]) -> None:
        self.promoted: dict[int, tuple[Traced, torch.Tensor]] = {}  # real memory that got a traced write
        self.overwritten: list[Buffer] = []  # from outside a submodule that is converted as a whole, written to by it
        self._tracer, self._owned = tracer, owned
        self._made: set[int] = set()  # storage keys of the real tensors that the forward made

    def close(self) -> None:
        """Let go of every tensor."""
        self.promoted, self.overwritten = {}, []

    # ---- whose it is ------------------------------------------------------------------------------------------------

    def is_owned(self, tensor: torch.Tensor) -> bool:
        """Whether it is the memory of a weight, an attribute of the model or an input."""
        return storage_key(tensor) in self._owned

    def is_made(self, tensor: torch.Tensor) -> bool:
        """Whether the forward made it, as a real tensor."""
        return storage_key(tensor) in self._made

    def note_made(self, result: Any, given: Any) -> Any:
        """Remember which memory the forward allocated itself: only that it may write to."""
        keys = {storage_key(t) for t in tensors_in(result) if t.layout == torch.strided}
        self._made |= keys - {storage_key(t) for t in tensors_in(given) if t.layout == torch.strided}
        return result

    def foreign(self, tensor: torch.Tensor) -> str:
        """What a real tensor is that the forward did not make, else ""."""
        key = storage_key(tensor)
        foreign = "a tensor that it did not make (a global, one of another object, NumPy's memory)"
        return self._owned.get(key) or ("" if key in self._made or isinstance(tensor, Traced) else foreign)

    def refuse_foreign(self, func: Any, target: torch.Tensor) -> None:
        """Refuse a write to real memory that the forward did not make.

        Raises:
            InplaceError: with its line, and whose memory it is.
        """
        if owner := self.foreign(target):
            raise InplaceError(
                f"{self._at(func)}: the forward writes to {owner}. An engine keeps no state between calls: return "
                "the new value as an output and pass it in again."
            )

    # ---- writes -----------------------------------------------------------------------------------------------------

    def write_op(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An in-place op: its functional form gives the new value, which then replaces the old one."""
        self._tracer.refuse_random(func, args, kwargs)
        targets = schema_of(func).written(args, kwargs)
        form = functional_form(func)
        if form is None:
            if schema_of(func).composite:
                return self._tracer.call(func.decompose, *args, **kwargs)
            raise InplaceError(
                f"{self._at(func)}: this in-place op has no functional form in PyTorch. Use the form that returns a "
                "new tensor."
            )
        if func is not aten.detach_.default and isinstance(form, torch._ops.OpOverload) and schema_of(form).aliases:
            return self._turn(func, form, args, kwargs)
        results = self._tracer.call(form, *args, **kwargs)
        results = list(results) if isinstance(results, (list, tuple)) else [results]
        if len(results) != len(targets) or any(r.shape != t.shape for r, t in zip(results, targets)):
            raise InplaceError(
                f"{self._at(func)}: it changes the shape of what it writes to. Use the form that returns a new tensor."
            )
        for target, result in zip(targets, results):
            self._write(func, target, self._tracer.call(lambda r, dtype: r.to(dtype), result, target.dtype))
        return targets[0] if len(targets) == 1 else tuple(targets)

    def _turn(self, func: Any, form: Any, args: Any, kwargs: Any) -> Any:
        """``squeeze_``, ``transpose_`` and the like write nothing: the tensor object becomes another view of its memory."""
        target = args[0]
        if not isinstance(target, Traced) or (target.buffer.frozen and not target.chain):
            raise InplaceError(f"{self._at(func)}: it changes the shape of an input in place; use x.squeeze() or its kin.")
        view = self._tracer.call(form, *args, **kwargs)
        with no_dispatch():  # the shape that the object shows
            func(*args, **kwargs)
        target.meta, target.chain, target.value, target.version = view.meta, view.chain, view.value, view.version
        return target

    def _write(self, func: Any, target: torch.Tensor, new: torch.Tensor) -> None:
        if not isinstance(target, Traced):
            self.refuse_foreign(func, target)
            target = self.promote(target)
        assert isinstance(target, Traced)
        buffer = target.buffer
        if buffer.frozen:
            raise InplaceError(
                f"{self._at(func)}: the forward writes to {buffer.frozen}, and an engine does not change its inputs. "
                "Write to a copy: x = x.clone()."
            )
        if self._tracer.depth and not buffer.hidden:
            if target.chain:
                raise InplaceError(
                    f"{self._at(func)}: something that is converted as a whole writes to a part of a tensor from outside."
                )
            self.overwritten.append(buffer)
        value = self._tracer.read(new)
        steps = [Traced(buffer.meta, buffer.value, buffer)]
        for link in target.chain[:-1]:
            result = self._tracer.call(link.func, steps[-1], *link.args, **link.kwargs)
            steps.append(result[link.index] if isinstance(result, (list, tuple)) else result)
        for base, link in zip(reversed(steps), reversed(target.chain)):
            back = functools.partial(write_through, link.func, (*link.args, *link.kwargs.values()), link.index)
            new = self._tracer.call(back, base, new)
            if new is NotImplemented:
                raise InplaceError(
                    f"{self._at(func)}: it writes through a view made by {link.func}, which torch2edge cannot "
                    "express. Write to a clone, or build the result with torch.where or torch.cat."
                )
        if not isinstance(value, Value):  # a constant was written: it needs a value of its own
            value = self._as_value(new if not target.chain else self._tracer.call(aten.clone.default, new), buffer.device)
        buffer.value = value if not target.chain else self._as_value(new, buffer.device)
        buffer.version += 1
        target.value, target.version = (value, buffer.version) if not target.chain else (target.value, -1)

    def _at(self, func: Any) -> str:
        return f"{func} {self._tracer.here()}"

    def _as_value(self, tensor: torch.Tensor, device: torch.device) -> Value:
        """The value of ``tensor``; a constant becomes one through an ``alias`` op."""
        value = self._tracer.read(tensor)
        if isinstance(value, Value):
            return value
        wrapped = self._tracer.record(aten.alias.default, (tensor,), {}, device)
        return wrapped.value  # type: ignore[no-any-return]

    # ---- real memory that got a traced write ------------------------------------------------------------------------

    def current(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor``, or the traced view that stands for it since a traced write went to its memory."""
        if isinstance(tensor, Traced) or storage_key(tensor) not in self.promoted:
            return tensor
        owner, _ = self.promoted[storage_key(tensor)]
        meta = self._tracer.like(tensor)
        layout = (list(tensor.shape), list(tensor.stride()), tensor.storage_offset())
        view = Traced(meta, owner.value, owner.buffer, (Link(aten.as_strided.default, layout, {}, 0),))
        view.version = -1
        return view

    def promote(self, target: torch.Tensor) -> torch.Tensor:
        """``target`` is real (``out = torch.zeros(...)``), what is written to it is traced: its memory becomes a value."""
        size = target.untyped_storage().nbytes() // target.element_size()
        value = self._as_value(target.as_strided((size,), (1,), 0).clone(), target.device)
        meta = self._tracer.like(target.as_strided((size,), (1,), 0))
        owner = Traced(meta, value, Buffer(value, meta, target.device, hidden=self._tracer.depth > 0))
        self.promoted[storage_key(target)] = (owner, target)  # the tensor is kept: its memory must not be used again
        return self.current(target)
