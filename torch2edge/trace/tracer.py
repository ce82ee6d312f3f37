"""The dispatch mode that turns one run of a model into ops.

Under ``torch.inference_mode`` every ATen call reaches a TorchDispatchMode before PyTorch decomposes it. So an op that has
a converter is recorded whole (``linear``, ``scaled_dot_product_attention``), any other one is taken apart by PyTorch's own
decomposition. Tensors that depend on an input are ``Traced``: shapes come from the meta device, there is no data.
All others are real and computed for real, so they become constants and nothing else does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import DataDependentError, InplaceError, RandomOpError, TraceError
from ..graph import Constant, Op, Value, map_tensors
from ..sizes import has_symbolic, settle
from .complex import Pair, complex_form
from .functional import (
    FACTORIES,
    FILLS,
    SAME_VALUE,
    core_decompositions,
    filled,
    functional_form,
    is_random,
    schema_of,
    static_index,
)
from .shape_rules import OTHER_FORMS
from .source import caller, place
from .symbolic import Symbols
from .tensor import Buffer, Link, Traced, storage_key, tensors_in
from .views import as_strided, write_through

__all__ = ["Tracer"]

aten = torch.ops.aten
_READS = {
    aten.item.default: "reads into Python (.item(), int(), float())",
    aten._local_scalar_dense.default: "reads into Python (.item(), int(), float(), .tolist())",
    aten.is_nonzero.default: "branches in Python (if, while, and, or, assert, bool()) on",
    aten.equal.default: "branches in Python (torch.equal) on",
}


class Tracer(TorchDispatchMode):
    """Records ops while it is active.

    Args:
        is_leaf: says of an ATen overload whether it is recorded whole.
        names: id of each parameter and buffer -> its name.
        owned: storage key of the model's own and the user's tensors -> what it is; a write to one is refused.
        symbols: the sizes that vary, or None where all shapes are fixed.
    """

    def __init__(
        self, is_leaf: Callable[[Any], bool], names: dict[int, str], owned: dict[int, str], symbols: Symbols | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self.path = ""
        self.broken: str | None = None  # the innermost submodule that did not return
        self.refused: TraceError | None = None  # the first error of ours, which the forward may have caught
        self.depth = 0  # > 0 inside a submodule that is converted as a whole: nothing is recorded
        self.overwritten: list[Buffer] = []  # tensors from outside that such a submodule wrote to
        self._is_leaf, self._names, self._owned = is_leaf, names, owned
        self._symbols = symbols
        self._count = 0
        self._metas: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._promoted: dict[int, tuple[Traced, torch.Tensor]] = {}  # real memory that got a traced write
        self._made: set[int] = set()  # storage keys of the real tensors that the forward made
        self._constants: dict[int, list[Constant]] = {}  # storage key -> constants recorded of it

    def close(self) -> None:
        """Let go of every tensor: PyTorch's caches keep a ShapeEnv, and what it can reach, beyond the trace."""
        self._metas, self._promoted, self._constants, self.refused, self.overwritten = {}, {}, {}, None, []

    # ---- values -----------------------------------------------------------------------------------------------------

    def input(self, tensor: torch.Tensor, name: str, position: int) -> Traced:
        """A traced stand-in for an input of the model."""
        meta = self._symbols.input(tensor, position) if self._symbols else self._like(tensor)
        value = self.new_value(meta)
        return Traced(meta, value, Buffer(value, meta, tensor.device, frozen=f"the input {name}"))

    def new_value(self, meta: torch.Tensor) -> Value:
        """A fresh value of the shape and dtype of ``meta``."""
        self._count += 1
        shape = settle(meta.shape) if self._symbols else tuple(meta.shape)
        return Value(self._count - 1, shape, meta.dtype, self.depth > 0)

    def _like(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor without data of the same layout, for PyTorch's shape rules."""
        if self._symbols:
            return self._symbols.empty(tensor.shape, tensor.stride(), tensor.dtype)
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    def read(self, tensor: torch.Tensor) -> Value | Constant:
        """What ``tensor`` holds now."""
        tensor = self._current(tensor)
        if not isinstance(tensor, Traced):
            return self._constant_of(tensor)
        if isinstance(tensor, Pair):
            raise TraceError(f"a complex result {self.here()}: TensorRT has no complex numbers; use torch.view_as_real on it")
        if tensor.version != tensor.buffer.version:
            fresh = Traced(tensor.buffer.meta, tensor.buffer.value, tensor.buffer)
            for link in tensor.chain:
                result = self._call(link.func, fresh, *link.args, **link.kwargs)
                fresh = result[link.index] if isinstance(result, (list, tuple)) else result
            tensor.value, tensor.version = fresh.value, tensor.buffer.version
        if tensor.value.hidden and not self.depth:
            raise TraceError(
                f"a tensor made inside a submodule that is converted as a whole is used outside of it {self.here()}; "
                "only its outputs can be"
            )
        return tensor.value

    def _constant_of(self, tensor: torch.Tensor) -> Constant:
        constant = Constant(tensor, self._names.get(id(tensor), ""))
        key = storage_key(tensor)
        if key not in self._owned:  # it may still be written to: see _constant_op
            self._constants.setdefault(key, []).append(constant)
        return constant

    def here(self) -> str:
        """``in layer1.0, resnet.py:92`` for messages."""
        return place(self.path, caller())

    def _call(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        with self:
            return func(*args, **kwargs)

    # ---- dispatch ---------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record the op, or compute it where it depends on no input."""
        try:
            return self._dispatch(func, args, kwargs or {})
        except TraceError as error:
            self.refused = self.refused or error
            raise

    def _dispatch(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self._promoted:
            args, kwargs = map_tensors((args, kwargs), self._current)
        tensors = tensors_in((args, kwargs))
        traced = next((t for t in tensors if isinstance(t, Traced)), None)
        if traced is None:
            if self._symbols and has_symbolic((args, kwargs)):
                return self._sized_op(func, args, kwargs)
            return self._constant_op(func, args, kwargs)
        if (form := complex_form(func, args, kwargs, tensors, self.here)) is not None:
            return self._call(form, *args, **kwargs)
        if func in _READS:
            raise DataDependentError(
                f"{func} {self.here()}: the forward {_READS[func]} a value that depends on an input. An engine has no "
                "Python in it: the answer for the traced input would be frozen. Write it with torch.where or torch.clamp, or "
                "move it out of the module that is converted."
            )
        if schema_of(func).refused:
            raise DataDependentError(f"{func} {self.here()}: {schema_of(func).refused}.")
        if schema_of(func).is_mutable:
            return self._write_op(func, args, kwargs)
        if func is aten.as_strided.default:
            with self:
                return as_strided(*args, **kwargs)
        if func in FACTORIES:
            if self._symbols and has_symbolic((traced.shape, args, kwargs)):
                return self._call(FACTORIES[func], *args, **kwargs)
            return self._note_made(FACTORIES[func](*args, **kwargs).to(kwargs.get("device") or traced.device), ())
        if self._is_leaf(func):
            self._refuse_random(func, args, kwargs)
            return self._record(func, args, kwargs, traced.device)
        if func in SAME_VALUE:
            self._refuse_random(func, args, kwargs)
            return self._record(func, args, kwargs, traced.device, same_value=True)
        return self._decompose(func, args, kwargs, traced.device)

    def _decompose(self, func: Any, args: Any, kwargs: Any, device: torch.device) -> Any:
        """PyTorch's own decomposition where there is one; else the op is recorded, and lowering will refuse it."""
        if schema_of(func).composite:
            with self:
                return func.decompose(*args, **kwargs)
        self._refuse_random(func, args, kwargs)
        decomposition = core_decompositions().get(func)
        if decomposition is not None:
            with self:
                return decomposition(*args, **kwargs)
        return self._record(func, args, kwargs, device)

    def _refuse_random(self, func: Any, args: Any, kwargs: Any) -> None:
        if is_random(func, args, kwargs):
            raise RandomOpError(
                f"{func} {self.here()}: the forward draws random numbers, and an engine would repeat one draw for ever. "
                "Draw them outside and pass them in as an input."
            )

    def _constant_op(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An op on tensors that depend on no input: computed for real."""
        self._refuse_random(func, args, kwargs)
        if schema_of(func).is_mutable:
            for target in schema_of(func).written(args, kwargs):
                self._refuse_owned(func, target)
                for constant in self._constants.pop(storage_key(target), []):
                    constant.tensor = constant.tensor.clone()  # ops so far saw the memory as it is now
        return self._note_made(func(*args, **kwargs), () if func is aten.lift_fresh.default else (args, kwargs))

    def _sized_op(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An op on no traced tensor, but with a symbolic size among its arguments: its result depends on the inputs too."""
        if schema_of(func).is_mutable:
            return self._write_op(func, args, kwargs)
        if func in FILLS:
            return self._call(aten.full.default, args[0], FILLS[func], **filled(kwargs))
        given = tensors_in((args, kwargs))
        device = torch.device(kwargs.get("device") or (given[0].device if given else "cpu"))
        if given and schema_of(func).aliases and storage_key(given[0]) in self._made:  # both may still be written to
            return self._dispatch(func, (self._promote(given[0]), *args[1:]), kwargs)
        if self._is_leaf(func):
            self._refuse_random(func, args, kwargs)
            return self._record(func, args, kwargs, device)
        return self._decompose(func, args, kwargs, device)

    def _note_made(self, result: Any, given: Any) -> Any:
        """Remember which memory the forward allocated itself: only that it may write to."""
        keys = {storage_key(t) for t in tensors_in(result) if t.layout == torch.strided}
        self._made |= keys - {storage_key(t) for t in tensors_in(given) if t.layout == torch.strided}
        return result

    def _not_its_own(self, tensor: torch.Tensor) -> str:
        """What a real tensor is that the forward did not make, else ""."""
        key = storage_key(tensor)
        foreign = "a tensor that it did not make (a global, one of another object, NumPy's memory)"
        return self._owned.get(key) or ("" if key in self._made or isinstance(tensor, Traced) else foreign)

    def _refuse_owned(self, func: Any, target: torch.Tensor) -> None:
        if owner := self._not_its_own(target):
            raise InplaceError(
                f"{func} {self.here()}: the forward writes to {owner}. An engine keeps no state between calls: return "
                "the new value as an output and pass it in again."
            )

    # ---- recording --------------------------------------------------------------------------------------------------

    def _record(self, func: Any, args: Any, kwargs: Any, device: torch.device, same_value: bool = False) -> Any:
        if func in (aten.index.Tensor, aten.index_put.default):
            args = (args[0], static_index(args[1], self.here), *args[2:])
        recorded = map_tensors((args, kwargs), self.read)
        layout_matters = self._symbols is None or schema_of(func).aliases or same_value
        meta_args, meta_kwargs = map_tensors((args, kwargs), self._meta if layout_matters else self._dense)
        if self._symbols:
            recorded = settle(recorded)
            if schema_of(func).makes:
                meta_kwargs["device"] = kwargs.get("device") or device
        if meta_kwargs.get("device") is not None:
            device, meta_kwargs["device"] = torch.device(meta_kwargs["device"]), "meta"
        result = self._shapes(func, meta_args, meta_kwargs)
        outputs: list[Value | None] = []

        def wrap(meta: Any, index: int) -> Any:
            if not isinstance(meta, torch.Tensor):
                outputs.append(None)
                return meta
            value = recorded[0][0] if same_value else self.new_value(meta)
            outputs.append(value)
            return self._wrap(meta, value, func, args, kwargs, index, device)

        if isinstance(result, (list, tuple)):
            wrapped: Any = [wrap(m, i) for i, m in enumerate(result)]
            wrapped = wrapped if isinstance(result, list) else tuple(wrapped)
        else:
            wrapped = wrap(result, 0)
        if not self.depth and not same_value:
            self.ops.append(Op(func, recorded[0], recorded[1], outputs, self.path, caller()))
        return wrapped

    def _wrap(self, meta: Any, value: Value, func: Any, args: Any, kwargs: Any, index: int, device: torch.device) -> Traced:
        """A traced tensor for a result; it shares the buffer of ``args[0]`` where the result is a view of it."""
        source = args[0] if args else None
        if isinstance(source, Traced) and meta is source.meta:
            return source  # also where the schema does not tell, as of dropout in eval mode
        if schema_of(func).aliases and isinstance(source, Traced) and storage_key(meta) == storage_key(source.meta):
            with torch.inference_mode(source.is_inference()):
                return Traced(meta, value, source.buffer, (*source.chain, Link(func, tuple(args[1:]), kwargs, index)))
        frozen = self._not_its_own(source) if schema_of(func).aliases and isinstance(source, torch.Tensor) else ""
        # PyTorch demands that a view of a tensor from outside of inference mode (a parameter) is one too
        with torch.inference_mode(not isinstance(source, torch.Tensor) or source.is_inference()):
            return Traced(meta, value, Buffer(value, meta, device, frozen, hidden=self.depth > 0))

    def _meta(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, Traced):
            return tensor.meta
        if id(tensor) not in self._metas:  # the tensor is kept too: its id must not be used again
            self._metas[id(tensor)] = (tensor, self._like(tensor))
        return self._metas[id(tensor)][1]

    def _dense(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same, as if contiguous: comparing the strides of symbolic sizes takes long, and asks what need not be asked."""
        assert self._symbols
        if isinstance(tensor, Traced) and not tensor.chain:
            return tensor.meta
        return self._symbols.empty(tensor.shape, None, tensor.dtype)

    def _shapes(self, func: Any, args: Any, kwargs: Any) -> Any:
        """PyTorch's shape rule of ``func``, run on the meta device."""
        try:
            form = OTHER_FORMS.get(func, func)
            return self._symbols.call(form, args, kwargs) if self._symbols else form(*args, **kwargs)
        except NotImplementedError as error:
            if func.namespace != "aten":
                raise TraceError(
                    f"{func} {self.here()}: this op of {func.namespace} has no shape rule (a kernel for the meta device). "
                    "Register one with torch.library.register_fake, or use PyTorch's own ops (an unquantized model)."
                ) from error
            raise DataDependentError(
                f"{func} {self.here()}: PyTorch cannot tell the shape of its result without the data. An engine needs "
                "shapes that follow from the input shapes: compute with a mask (torch.where) instead of selecting."
            ) from error

    # ---- writes -----------------------------------------------------------------------------------------------------

    def _write_op(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An in-place op: its functional form gives the new value, which then replaces the old one."""
        self._refuse_random(func, args, kwargs)
        targets = schema_of(func).written(args, kwargs)
        form = functional_form(func)
        if form is None:
            if schema_of(func).composite:
                with self:
                    return func.decompose(*args, **kwargs)
            raise InplaceError(
                f"{func} {self.here()}: this in-place op has no functional form in PyTorch. Use the form that returns a "
                "new tensor."
            )
        if func is not aten.detach_.default and isinstance(form, torch._ops.OpOverload) and schema_of(form).aliases:
            return self._turn(func, form, args, kwargs)
        results = self._call(form, *args, **kwargs)
        results = list(results) if isinstance(results, (list, tuple)) else [results]
        if len(results) != len(targets) or any(r.shape != t.shape for r, t in zip(results, targets)):
            raise InplaceError(
                f"{func} {self.here()}: it changes the shape of what it writes to. Use the form that returns a new tensor."
            )
        for target, result in zip(targets, results):
            self._write(func, target, self._call(lambda r, dtype: r.to(dtype), result, target.dtype))
        return targets[0] if len(targets) == 1 else tuple(targets)

    def _turn(self, func: Any, form: Any, args: Any, kwargs: Any) -> Any:
        """``squeeze_``, ``transpose_`` and the like write nothing: the tensor object becomes another view of its memory."""
        target = args[0]
        if not isinstance(target, Traced) or (target.buffer.frozen and not target.chain):
            raise InplaceError(f"{func} {self.here()}: it changes the shape of an input in place; use x.squeeze() or its kin.")
        view = self._call(form, *args, **kwargs)
        with no_dispatch():  # the shape that the object shows
            func(*args, **kwargs)
        target.meta, target.chain, target.value, target.version = view.meta, view.chain, view.value, view.version
        return target

    def _write(self, func: Any, target: torch.Tensor, new: torch.Tensor) -> None:
        if not isinstance(target, Traced):
            self._refuse_owned(func, target)
            target = self._promote(target)
        assert isinstance(target, Traced)
        buffer = target.buffer
        if buffer.frozen:
            raise InplaceError(
                f"{func} {self.here()}: the forward writes to {buffer.frozen}, and an engine does not change its inputs. "
                "Write to a copy: x = x.clone()."
            )
        if self.depth and not buffer.hidden:
            if target.chain:
                raise InplaceError(
                    f"{func} {self.here()}: something that is converted as a whole writes to a part of a tensor from outside."
                )
            self.overwritten.append(buffer)
        value = self.read(new)
        steps = [Traced(buffer.meta, buffer.value, buffer)]
        for link in target.chain[:-1]:
            result = self._call(link.func, steps[-1], *link.args, **link.kwargs)
            steps.append(result[link.index] if isinstance(result, (list, tuple)) else result)
        for base, link in zip(reversed(steps), reversed(target.chain)):
            back = functools.partial(write_through, link.func, (*link.args, *link.kwargs.values()), link.index)
            new = self._call(back, base, new)
            if new is NotImplemented:
                raise InplaceError(
                    f"{func} {self.here()}: it writes through a view made by {link.func}, which torch2edge cannot "
                    "express. Write to a clone, or build the result with torch.where or torch.cat."
                )
        if not isinstance(value, Value):  # a constant was written: it needs a value of its own
            value = self._as_value(new if not target.chain else self._call(aten.clone.default, new), buffer.device)
        buffer.value = value if not target.chain else self._as_value(new, buffer.device)
        buffer.version += 1
        target.value, target.version = (value, buffer.version) if not target.chain else (target.value, -1)

    def _as_value(self, tensor: torch.Tensor, device: torch.device) -> Value:
        """The value of ``tensor``; a constant becomes one through an ``alias`` op."""
        value = self.read(tensor)
        if isinstance(value, Value):
            return value
        wrapped = self._record(aten.alias.default, (tensor,), {}, device)
        return wrapped.value  # type: ignore[no-any-return]

    # ---- real memory that got a traced write ------------------------------------------------------------------------

    def _current(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor``, or the traced view that stands for it since a traced write went to its memory."""
        if isinstance(tensor, Traced) or storage_key(tensor) not in self._promoted:
            return tensor
        owner, _ = self._promoted[storage_key(tensor)]
        meta = self._like(tensor)
        layout = (list(tensor.shape), list(tensor.stride()), tensor.storage_offset())
        view = Traced(meta, owner.value, owner.buffer, (Link(aten.as_strided.default, layout, {}, 0),))
        view.version = -1
        return view

    def _promote(self, target: torch.Tensor) -> torch.Tensor:
        """``target`` is real (``out = torch.zeros(...)``), what is written to it is traced: its memory becomes a value."""
        size = target.untyped_storage().nbytes() // target.element_size()
        value = self._as_value(target.as_strided((size,), (1,), 0).clone(), target.device)
        meta = self._like(target.as_strided((size,), (1,), 0))
        owner = Traced(meta, value, Buffer(value, meta, target.device, hidden=self.depth > 0))
        self._promoted[storage_key(target)] = (owner, target)  # the tensor is kept: its memory must not be used again
        return self._current(target)
