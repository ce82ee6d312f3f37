"""trace(): one run of a module under forward hooks, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import DataDependentError, InputError, Torch2EdgeError, TraceError
from ..graph import Function, Graph
from ..shapes import Dynamic, check_examples
from ..structure import call_names, flatten, flatten_call, leaf_names, text, unflatten
from .checks import check_inputs, check_model
from .compiled import eager_only
from .exporting import as_exporting
from .hooks import module_paths
from .modelopt import modelopt_as_torch
from .source import innermost, place
from .state import RefuseDataAssignment, held, no_draws, unchanged
from .symbolic import Symbols
from .tensor import storage_key
from .tracer import Tracer
from .whole import whole_functions

__all__ = ["names_of", "trace"]

# Hooks, torch.backends.mha and the state to put back belong to the process: one trace at a time.
_one_at_a_time = threading.RLock()
# How PyTorch refuses to hand out the memory of a tensor that has none.
_TAKES_DATA = ("tensor subclasses", "data is not allocated", "cannot be called on meta", "data pointer", "storage", "numpy")


def trace(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    is_leaf: Callable[[Any], bool],
    module_classes: tuple[type[nn.Module], ...] = (),
    dynamic: Dynamic | None = None,
    functions: Sequence[Function] = (),
) -> Graph:
    """Run ``model(*args, **kwargs)`` once and give its ops.

    Args:
        model: in eval mode, on one device.
        args: positional inputs: tensors, numbers, None, nested in tuples, lists, dicts and dataclasses.
        kwargs: keyword inputs.
        is_leaf: says of an ATen overload whether it is recorded whole or taken apart further.
        module_classes: submodules of exactly these classes become one op each.
        dynamic: the axes of the inputs that vary; all others have the examples' sizes for ever.
        functions: functions of which each call becomes one op.

    Raises:
        ConfigError: the model does not take all sizes of ``dynamic``; with the line that says so.
        TraceError: one of its kinds (errors.py), with the module path and the source line.
        InputError: inputs on another device than the model, of size zero, or missing.
    """
    try:
        return _trace(model, args, kwargs or {}, is_leaf, module_classes, functions, dynamic or None)
    except _ForwardError as error:
        _check_without_tracing(model, args, kwargs or {}, error)
        raise TraceError(str(error)) from error.__cause__


def _trace(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], is_leaf: Callable[[Any], bool],
    module_classes: tuple[type[nn.Module], ...], functions: Sequence[Function], dynamic: Dynamic | None,
) -> Graph:  # fmt: skip
    tensors, structure = flatten_call(args, kwargs)
    names = call_names(structure)
    check_model(model)
    check_inputs(model, tensors, names)
    symbols = None
    if dynamic:
        check_examples(names, [t.shape for t in tensors], dynamic)
        symbols = Symbols(dynamic, [t.shape for t in tensors])
    everything = held(model)
    tracer = Tracer(is_leaf, names_of(model), _owned(model, everything, tensors, names), symbols)
    with torch.inference_mode():  # a view in inference mode must be one of an inference tensor
        stand_ins = [tracer.input(t, n, i) for i, (t, n) in enumerate(zip(tensors, names))]
    call = unflatten(structure, stand_ins)
    with (
        contextlib.closing(tracer), _one_at_a_time, unchanged(model, everything), no_draws(), eager_only(),
        _sizes(symbols, tracer), as_exporting(), modelopt_as_torch(), torch.inference_mode(),
    ):  # fmt: skip
        with module_paths(model, tracer, module_classes), whole_functions(tracer, functions):
            result = _run(model, call["args"], call["kwargs"], tracer)
        try:
            flat, output_structure = flatten(result, "output")
        except InputError as error:
            raise TraceError(f"the model's output cannot leave an engine: {error}") from error
        if not flat:
            raise TraceError(f"the model returns no tensor, but {text(output_structure)}: an engine would have no output")
        with tracer:
            inputs, outputs = [t.value for t in stand_ins], [tracer.read(t) for t in flat]
    graph = Graph(
        inputs, tracer.ops, outputs, names, leaf_names(output_structure, "output"), structure, output_structure,
        {path: type(m).__name__ for path, m in model.named_modules()},
    )  # fmt: skip
    graph.drop_unused()
    if symbols:
        symbols.describe(graph)
    return graph


def _sizes(symbols: Symbols | None, tracer: Tracer) -> contextlib.AbstractContextManager[None]:
    return symbols.watching(tracer.here) if symbols else contextlib.nullcontext()


class _ForwardError(TraceError):
    """The forward raised an error of its own; whether it does so without tracing too is still to be seen."""

    where = ""


def _check_without_tracing(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], traced: _ForwardError) -> None:
    """PyTorch's own words, where the model does not run on these inputs at all and tracing has garbled them."""
    tensors, structure = flatten_call(args, kwargs)
    call = unflatten(structure, [t.clone() for t in tensors])
    try:
        with unchanged(model), eager_only(), torch.no_grad():
            model(*call["args"], **call["kwargs"])
    except Exception as error:
        reason = (str(error).splitlines() or ["no message"])[0]
        given = ", ".join(f"{n}: {t.dtype} {tuple(t.shape)}" for n, t in zip(call_names(structure), tensors))
        weights = dict.fromkeys(str(t.dtype) for t in model.parameters())
        raise InputError(
            f"the model does not run on these inputs, without torch2edge either: {type(error).__name__}: {reason} "
            f"({traced.where.removesuffix(', ?')}). The inputs are {given}"
            + (f"; the weights are {', '.join(weights)}" if weights else "")
        ) from error


def _run(model: nn.Module, args: Any, kwargs: Any, tracer: Tracer) -> Any:
    guard = RefuseDataAssignment(tracer.here)
    try:
        with guard, tracer:
            result = model(*args, **kwargs)
    except Torch2EdgeError:
        raise
    except Exception as error:
        if refused := tracer.refused or guard.refused:
            raise refused from error
        if isinstance(error, TypeError):
            _check_call(model, args, kwargs)
        raise _wrapped(error, tracer) from error
    if refused := tracer.refused or guard.refused:
        raise refused  # the forward caught it and went another way, which the engine would freeze
    return result


def _check_call(model: nn.Module, args: Any, kwargs: Any) -> None:
    """Tell a call that does not fit forward's parameters from a TypeError inside of it."""
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(
            f"{type(model).__qualname__}.forward does not take these inputs: {error}. It takes "
            f"{inspect.signature(model.forward)}: positional inputs go into the list, keyword inputs into kwargs."
        ) from error


def _wrapped(error: Exception, tracer: Tracer) -> TraceError:
    where, reason = place(tracer.broken or "", innermost(error)), (str(error).splitlines() or ["no message"])[0].rstrip(".?!")
    what = f"{type(error).__name__}: {reason}"
    if any(sign in str(error) for sign in _TAKES_DATA):
        return DataDependentError(
            f"the forward takes data out of PyTorch {where}: {what}. While it is traced there is no data, and an engine "
            "holds ATen ops only, no NumPy, Python lists or C extensions. Write it with PyTorch's ops, or move it out of the "
            "module that is converted."
        )
    forward_error = _ForwardError(
        f"the model's forward failed while it was traced, {where}: {what}. If model(*inputs) works without torch2edge, move "
        "what fails here out of the module that is converted."
    )
    forward_error.where = where
    return forward_error


def names_of(model: nn.Module) -> dict[int, str]:
    """id of each parameter and buffer -> name; a shared one keeps its first name."""
    names: dict[int, str] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        names.setdefault(id(tensor), name)
    return names


def _owned(
    model: nn.Module, everything: list[tuple[str, Any]], inputs: Sequence[torch.Tensor], names: Sequence[str]
) -> dict[int, str]:  # fmt: skip
    """Memory that the forward must not write to -> what to call it."""
    owned: dict[int, str] = {}
    for name, tensor in everything:
        if isinstance(tensor, torch.Tensor):
            owned[storage_key(tensor)] = f"the attribute {name}"
    for name, tensor in model.named_buffers():
        owned[storage_key(tensor)] = f"the buffer {name}"
    for name, tensor in model.named_parameters():
        owned[storage_key(tensor)] = f"the parameter {name}"
    for name, tensor in zip(names, inputs):
        owned[storage_key(tensor)] = f"the input {name}"
    return owned
