"""A traced model: a flat list of ops over values. What tracing leaves and lowering takes; no TensorRT in it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .shapes import Dim, Range
from .sizes import Constraint, compute, expression, is_symbolic
from .structure import Structure, flatten

__all__ = ["Constant", "Function", "Graph", "Op", "Value", "is_quantizer", "map_tensors"]

_PLAIN = {type(None), bool, int, float, str, torch.dtype, torch.SymInt}


@dataclass(eq=False, slots=True)
class Value:
    """A tensor that depends on an input: its shape, its dtype, and the number under which it is known.

    A size is a torch.SymInt where it depends on a dynamic axis of an input.
    """

    index: int
    shape: tuple[Any, ...]  # of int and torch.SymInt
    dtype: torch.dtype
    hidden: bool = False  # made inside a submodule that is converted as a whole

    def __repr__(self) -> str:
        return f"%{self.index}: {str(self.dtype).removeprefix('torch.')}{list(self.shape)}"


@dataclass(eq=False, slots=True)
class Constant:
    """A tensor that depends on no input; ``name`` is the parameter's or buffer's, else empty."""

    tensor: torch.Tensor
    name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the tensor."""
        return self.tensor.dtype


@dataclass(eq=False, frozen=True)
class Function:
    """A Python function, builtin or method that is converted as a whole, where it is called by name.

    Args:
        holder: the module or class that has it as an attribute.
        attribute: the name under which it has it.
        call: the function itself.
    """

    holder: Any
    attribute: str
    call: Callable[..., Any]

    @property
    def name(self) -> str:
        """``torch.nn.functional.relu``, ``Tensor.add``."""
        return f"{getattr(self.holder, '__qualname__', None) or self.holder.__name__}.{self.attribute}"


@dataclass(eq=False, slots=True)
class Op:
    """One call of an ATen op (or of a submodule or function that is converted as a whole)."""

    target: Any  # torch._ops.OpOverload, the class of a submodule, or a Function
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Value | None]  # None where the op returned no tensor
    module: str  # path of the submodule in which it ran, "" for the model itself
    source: str  # "file.py:123"
    instance: torch.nn.Module | None = None  # the submodule, where target is a class
    nesting: Structure | None = None  # of what a submodule or function that is converted as a whole returned

    @property
    def name(self) -> str:
        """``aten.relu.default``, or the name of the submodule's class or of the function."""
        if isinstance(self.target, Function):
            return self.target.name
        return str(self.target if self.instance is None else self.target.__qualname__)

    @property
    def short_name(self) -> str:
        """``relu``: the op without namespace and overload."""
        if isinstance(self.target, Function):
            return self.target.attribute
        return str(self.target.__qualname__ if self.instance is not None else self.target._schema.name.split("::")[1])

    def arguments(self) -> dict[str, Any]:
        """The arguments of an ATen op by the names of its schema, defaults filled in."""
        schema = self.target._schema.arguments
        given = dict(zip((a.name for a in schema), self.args)) | self.kwargs
        return {a.name: given.get(a.name, a.default_value) for a in schema}

    def inputs(self) -> Iterator[Value]:
        """Every value among the arguments."""
        found: list[Value] = []
        map_tensors((self.args, self.kwargs), lambda v: found.append(v) if isinstance(v, Value) else None)
        return iter(found)


@dataclass(slots=True)
class Graph:
    """A model as a list of ops in order of execution."""

    inputs: list[Value]
    ops: list[Op]
    outputs: list[Value | Constant]
    input_names: list[str]  # readable: args[0], kwargs['mask']
    output_names: list[str]
    input_structure: Structure
    output_structure: Structure
    modules: dict[str, str] = field(default_factory=dict)  # path -> class name
    dims: dict[str, Dim] = field(default_factory=dict)  # sizes that vary, by name
    axes: dict[int, dict[int, str]] = field(default_factory=dict)  # input -> axis -> name of its Dim
    symbols: dict[str, str] = field(default_factory=dict)  # name of PyTorch's symbol -> name of the Dim
    constraints: list[Constraint] = field(default_factory=list)

    def next_index(self) -> int:
        """An index that no value has, nor has any larger one."""
        values = [*self.inputs, *(v for op in self.ops for v in op.outputs if v is not None)]
        return max((v.index for v in values), default=0) + 1

    def profiles(self) -> list[list[tuple[tuple[int, ...], ...]]]:
        """Per optimization profile and input: its (min, opt, max) shapes. Empty where all shapes are fixed."""
        if not self.dims:
            return []
        count = len(next(iter(self.dims.values())).ranges)
        return [[self._shapes(i, profile) for i in range(len(self.inputs))] for profile in range(count)]

    def _shapes(self, position: int, profile: int) -> tuple[tuple[int, ...], ...]:
        axes, shape = self.axes.get(position, {}), self.inputs[position].shape
        ranges: list[Range] = [
            self.dims[axes[i]].ranges[profile] if i in axes else (int(n), int(n), int(n)) for i, n in enumerate(shape)
        ]
        return tuple(tuple(r[which] for r in ranges) for which in range(3))

    def shapes(self, sizes: Mapping[str, int]) -> tuple[tuple[int, ...], ...]:
        """The shapes of the inputs where the dims have these sizes."""
        return tuple(
            tuple(sizes[axes[a]] if a in (axes := self.axes.get(i, {})) else int(n) for a, n in enumerate(value.shape))
            for i, value in enumerate(self.inputs)
        )

    def allows(self, sizes: Mapping[str, int]) -> bool:
        """Whether the model takes these sizes of the dims."""
        return all(constraint.holds(sizes) for constraint in self.constraints)

    def sizes(self, inputs: Sequence[torch.Tensor]) -> dict[str, int]:
        """The size of every Dim for these inputs."""
        return {name: int(inputs[i].shape[axis]) for i, axes in self.axes.items() for axis, name in axes.items()}

    def shape_at(self, value: Value, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of a value where the dims have these sizes."""
        return tuple(int(compute(self.symbolic(n), sizes)) for n in value.shape)

    def symbolic(self, size: Any) -> Any:
        """``size`` as an expression of ``sizes.py`` over the dims."""
        return expression(size, self.symbols)

    def drop_unused(self) -> None:
        """Remove ops that no output needs."""
        needed = {id(v) for v in self.outputs}
        kept: list[Op] = []
        for op in reversed(self.ops):
            if any(id(v) in needed for v in op.outputs):
                needed.update(id(v) for v in op.inputs())
                kept.append(op)
        self.ops = kept[::-1]

    def unused_inputs(self) -> list[int]:
        """Positions of the inputs on which no output depends; call after ``drop_unused``."""
        used = {id(v) for op in self.ops for v in op.inputs()} | {id(v) for v in self.outputs}
        return [i for i, v in enumerate(self.inputs) if id(v) not in used]

    def replay(
        self, inputs: Sequence[torch.Tensor], on_op: Callable[[Op, list[Any]], None] | None = None
    ) -> list[torch.Tensor]:
        """Run the ops with PyTorch on ``inputs``; ``on_op`` sees each op with its results.

        It tells an error of the tracing from one of the conversion. Symbolic sizes get their values from the inputs.
        """
        sizes = self.sizes(inputs)
        env: dict[int, torch.Tensor] = {id(v): t for v, t in zip(self.inputs, inputs)}
        here = next((t.device for t in inputs), torch.device("cpu"))
        last = {id(v): i for i, op in enumerate(self.ops) for v in op.inputs()}

        def real(value: Any) -> Any:
            return env[id(value)] if isinstance(value, Value) else _on(value.tensor, here)

        with torch.inference_mode():
            for position, op in enumerate(self.ops):
                args, kwargs = map_tensors((op.args, op.kwargs), real)
                if sizes:
                    args, kwargs = self._at((args, kwargs), sizes)
                result = _callee(op)(*args, **kwargs)
                results = leaves(result) if op.nesting is None else flatten(result)[0]
                env.update({id(v): r for v, r in zip(op.outputs, results) if v is not None})
                if on_op:
                    on_op(op, results)
                for value in op.inputs():
                    if last[id(value)] == position and not any(value is o for o in self.outputs):
                        env.pop(id(value), None)
            return [real(v) for v in self.outputs]

    def _at(self, tree: Any, sizes: dict[str, int]) -> Any:
        """``tree`` with its symbolic numbers computed."""
        if isinstance(tree, (tuple, list)):
            return type(tree)([self._at(item, sizes) for item in tree])
        if isinstance(tree, dict):
            return {key: self._at(item, sizes) for key, item in tree.items()}
        return compute(self.symbolic(tree), sizes) if is_symbolic(tree) else tree


# By name: nothing may have registered quantized_decomposed.
_QUANTIZERS = {
    "aten::fake_quantize_per_tensor_affine", "aten::fake_quantize_per_tensor_affine_cachemask",
    "aten::fake_quantize_per_channel_affine", "aten::fake_quantize_per_channel_affine_cachemask",
    "aten::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "quantized_decomposed::quantize_per_tensor", "quantized_decomposed::dequantize_per_tensor",
    "quantized_decomposed::quantize_per_channel", "quantized_decomposed::dequantize_per_channel",
}  # fmt: skip


@functools.cache
def is_quantizer(target: Any) -> bool:
    """Whether an op quantizes or dequantizes; only its first argument is data."""
    return getattr(getattr(target, "_schema", None), "name", "") in _QUANTIZERS


def map_tensors(tree: Any, fn: Callable[[Any], Any]) -> Any:
    """``tree`` with ``fn`` applied to every Value, Constant and tensor in its tuples, lists and dicts."""
    if type(tree) in _PLAIN:  # most arguments are
        return tree
    if isinstance(tree, (Value, Constant, torch.Tensor)):
        return fn(tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*[map_tensors(item, fn) for item in tree])
    if isinstance(tree, (tuple, list)):
        return type(tree)([map_tensors(item, fn) for item in tree])
    if isinstance(tree, dict):
        return {key: map_tensors(item, fn) for key, item in tree.items()}
    return tree


def _on(constant: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A constant where the inputs are: folded weights lie on the CPU; a number there is taken everywhere."""
    return constant.to(device) if device.type == "cuda" and constant.device.type == "cpu" and constant.dim() else constant


def _callee(op: Op) -> Any:
    """What replays ``op``. A view may follow a ``contiguous()`` that left no op, so its argument's strides may not fit."""
    if op.target is torch.ops.aten.view.default:
        return torch.ops.aten.reshape.default
    if isinstance(op.target, Function):
        return op.target.call
    return op.target if op.instance is None else op.instance


def leaves(result: Any) -> list[Any]:
    """An op's result as a flat list: one entry per tensor or other return."""
    if isinstance(result, (tuple, list)):
        return [leaf for item in result for leaf in leaves(item)]
    return [result]
