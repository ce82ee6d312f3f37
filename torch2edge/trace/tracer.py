"""The dispatch mode that turns one run of a model into ops.

Under ``torch.inference_mode`` every ATen call reaches a TorchDispatchMode before PyTorch decomposes it. So an op that has
a converter is recorded whole (``linear``, ``scaled_dot_product_attention``), any other one is taken apart by PyTorch's own
decomposition. Tensors that depend on an input are ``Traced``: shapes come from the meta device, there is no data.
All others are real and computed for real, so they become constants and nothing else does; but fake quantization (see
quantized.py) is recorded of them too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import DataDependentError, RandomOpError, TraceError
from ..graph import Constant, Op, Value, is_quantizer, map_tensors
from ..sizes import has_symbolic, settle
from .complex import Pair, complex_form
from .functional import (
    FACTORIES,
    FILLS,
    SAME_VALUE,
    core_decompositions,
    filled,
    is_random,
    schema_of,
    static_index,
)
from .layouts import Layouts
from .memory import Memory
from .quantile import QUANTILES
from .quantized import FUSED
from .shape_rules import CONVOLUTIONS, OTHER_FORMS, as_convolution
from .source import caller, place
from .symbolic import Symbols
from .tensor import Buffer, Link, Traced, storage_key, tensors_in
from .torch_versions import shape_rule
from .views import as_strided

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
        self.memory = Memory(self, owned)
        self._is_leaf, self._names = is_leaf, names
        self._symbols = symbols
        self._layouts = Layouts()
        self._count = 0
        self._metas: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._constants: dict[int, list[Constant]] = {}  # storage key -> constants recorded of it

    def close(self) -> None:
        """Let go of every tensor: PyTorch's caches keep a ShapeEnv, and what it can reach, beyond the trace."""
        self._metas, self._constants, self.refused = {}, {}, None
        self.memory.close()

    # ---- values -----------------------------------------------------------------------------------------------------

    def input(self, tensor: torch.Tensor, name: str, position: int) -> Traced:
        """A traced stand-in for an input of the model."""
        meta = self._symbols.input(tensor, position) if self._symbols else self.like(tensor)
        value = self.new_value(meta)
        return Traced(meta, value, Buffer(value, meta, tensor.device, frozen=f"the input {name}"))

    def new_value(self, meta: torch.Tensor) -> Value:
        """A fresh value of the shape and dtype of ``meta``."""
        self._count += 1
        shape = settle(meta.shape) if self._symbols else tuple(meta.shape)
        return Value(self._count - 1, shape, meta.dtype, self.depth > 0)

    def like(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor without data of the same layout, for PyTorch's shape rules."""
        if self._symbols:
            return self._symbols.empty(tensor.shape, tensor.stride(), tensor.dtype)
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")

    def read(self, tensor: torch.Tensor) -> Value | Constant:
        """What ``tensor`` holds now."""
        tensor = self.memory.current(tensor)
        if not isinstance(tensor, Traced):
            return self._constant_of(tensor)
        if isinstance(tensor, Pair):
            raise TraceError(f"a complex result {self.here()}: TensorRT has no complex numbers; use torch.view_as_real on it")
        if tensor.version != tensor.buffer.version:
            fresh = Traced(tensor.buffer.meta, tensor.buffer.value, tensor.buffer)
            for link in tensor.chain:
                result = self.call(link.func, fresh, *link.args, **link.kwargs)
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
        if not self.memory.is_owned(tensor):  # it may still be written to: see _constant_op
            self._constants.setdefault(storage_key(tensor), []).append(constant)
        return constant

    def here(self) -> str:
        """``in layer1.0, resnet.py:92`` for messages."""
        return place(self.path, caller())

    def call(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """``func(...)``, recorded; without it what the dispatch mode itself does is not."""
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
        if self.memory.promoted:
            args, kwargs = map_tensors((args, kwargs), self.memory.current)
        tensors = tensors_in((args, kwargs))
        if func in FUSED:
            return self.call(FUSED[func], *args, **kwargs)
        traced = next((t for t in tensors if isinstance(t, Traced)), None)
        if traced is None:
            if is_quantizer(func) and tensors and self._is_leaf(func):
                return self.record(func, args, kwargs, tensors[0].device)
            if self._symbols and has_symbolic((args, kwargs)):
                return self._sized_op(func, args, kwargs)
            return self._constant_op(func, args, kwargs)
        if (form := complex_form(func, args, kwargs, tensors, self.here)) is not None:
            return self.call(form, *args, **kwargs)
        if func in _READS:
            raise DataDependentError(
                f"{func} {self.here()}: the forward {_READS[func]} a value that depends on an input. An engine has no "
                "Python in it: the answer for the traced input would be frozen. Write it with torch.where or torch.clamp, or "
                "move it out of the module that is converted."
            )
        if schema_of(func).refused:
            raise DataDependentError(f"{func} {self.here()}: {schema_of(func).refused}.")
        if schema_of(func).is_mutable:
            return self.memory.write_op(func, args, kwargs)
        if func is aten.as_strided.default:
            with self:
                return as_strided(*args, **kwargs)
        if func in FACTORIES:
            if self._symbols and has_symbolic((traced.shape, args, kwargs)):
                return self.call(FACTORIES[func], *args, **kwargs)
            return self.memory.note_made(FACTORIES[func](*args, **kwargs).to(kwargs.get("device") or traced.device), ())
        if self._is_leaf(func):
            self.refuse_random(func, args, kwargs)
            return self.record(func, args, kwargs, traced.device)
        if func in SAME_VALUE:
            self.refuse_random(func, args, kwargs)
            return self.record(func, args, kwargs, traced.device, same_value=True)
        return self._decompose(func, args, kwargs, traced.device)

    def _decompose(self, func: Any, args: Any, kwargs: Any, device: torch.device) -> Any:
        """PyTorch's own decomposition where there is one; else the op is recorded, and lowering will refuse it."""
        if func in QUANTILES:
            return self.call(QUANTILES[func], *args, **kwargs)
        if func in CONVOLUTIONS and (whole := as_convolution(*args, **kwargs)) and self._is_leaf(aten.convolution.default):
            return self.record(aten.convolution.default, whole, {}, device)
        if schema_of(func).composite:
            with self:
                return func.decompose(*args, **kwargs)
        self.refuse_random(func, args, kwargs)
        decomposition = core_decompositions().get(func)
        if decomposition is not None:
            with self:
                return decomposition(*args, **kwargs)
        return self.record(func, args, kwargs, device)

    def refuse_random(self, func: Any, args: Any, kwargs: Any) -> None:
        """Refuse a call that draws random numbers.

        Raises:
            RandomOpError: with its line.
        """
        if is_random(func, args, kwargs):
            raise RandomOpError(
                f"{func} {self.here()}: the forward draws random numbers, and an engine would repeat one draw for ever. "
                "Draw them outside and pass them in as an input."
            )

    def _constant_op(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An op on tensors that depend on no input: computed for real."""
        self.refuse_random(func, args, kwargs)
        if schema_of(func).is_mutable:
            for target in schema_of(func).written(args, kwargs):
                self.memory.refuse_foreign(func, target)
                for constant in self._constants.pop(storage_key(target), []):
                    constant.tensor = constant.tensor.clone()  # ops so far saw the memory as it is now
        return self.memory.note_made(func(*args, **kwargs), () if func is aten.lift_fresh.default else (args, kwargs))

    def _sized_op(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An op on no traced tensor, but with a symbolic size among its arguments: its result depends on the inputs too."""
        if schema_of(func).is_mutable:
            return self.memory.write_op(func, args, kwargs)
        if func in FILLS:
            return self.call(aten.full.default, args[0], FILLS[func], **filled(kwargs))
        given = tensors_in((args, kwargs))
        device = torch.device(kwargs.get("device") or (given[0].device if given else "cpu"))
        if given and schema_of(func).aliases and self.memory.is_made(given[0]):  # both may still be written to
            return self._dispatch(func, (self.memory.promote(given[0]), *args[1:]), kwargs)
        if self._is_leaf(func):
            self.refuse_random(func, args, kwargs)
            return self.record(func, args, kwargs, device)
        return self._decompose(func, args, kwargs, device)

    # ---- recording --------------------------------------------------------------------------------------------------

    def record(self, func: Any, args: Any, kwargs: Any, device: torch.device, same_value: bool = False) -> Any:
        """Append the op and give its results; ``same_value``: they are the first argument's value, and no op is needed."""
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
        frozen = self.memory.foreign(source) if schema_of(func).aliases and isinstance(source, torch.Tensor) else ""
        # PyTorch demands that a view of a tensor from outside of inference mode (a parameter) is one too
        with torch.inference_mode(not isinstance(source, torch.Tensor) or source.is_inference()):
            return Traced(meta, value, Buffer(value, meta, device, frozen, hidden=self.depth > 0))

    def _meta(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, Traced):
            return tensor.meta
        if id(tensor) not in self._metas:  # the tensor is kept too: its id must not be used again
            self._metas[id(tensor)] = (tensor, self.like(tensor))
        return self._metas[id(tensor)][1]

    def _dense(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same, as if contiguous: comparing the strides of symbolic sizes takes long, and asks what need not be asked."""
        assert self._symbols
        if isinstance(tensor, Traced) and not tensor.chain:
            return tensor.meta
        if isinstance(tensor, Traced):
            return self._symbols.empty(tensor.shape, None, tensor.dtype)
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")  # Symbols.call does the rest where it must

    def _shapes(self, func: Any, args: Any, kwargs: Any) -> Any:
        """PyTorch's shape rule of ``func``, run on the meta device."""
        try:
            rule = OTHER_FORMS.get(func) or shape_rule(func)
            return self._symbols.call(rule, args, kwargs) if self._symbols else self._layouts.call(rule, func, args, kwargs)
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
