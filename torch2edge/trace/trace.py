"""trace(): one run of a module under forward hooks, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import nn

from ..errors import InputError, RandomOpError, Torch2EdgeError, TraceError
from ..structure import flatten, leaf_names, unflatten
from .checks import check_inputs, check_model
from ..graph import Constant, Graph, Op, Value, map_tensors
from .source import innermost, place
from .tensor import Traced
from .tracer import Tracer, finish, storage_key

__all__ = ["trace"]


def trace(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    is_leaf: Callable[[Any], bool],
    module_classes: tuple[type[nn.Module], ...] = (),
) -> Graph:
    """Run ``model(*args, **kwargs)`` once and give its ops.

    Args:
        model: in eval mode, on one device.
        args: positional inputs: tensors, numbers, None, nested in tuples, lists, dicts and dataclasses.
        kwargs: keyword inputs.
        is_leaf: says of an ATen overload whether it is recorded whole or taken apart further.
        module_classes: submodules of exactly these classes become one op each.

    Raises:
        TraceError: one of its kinds (errors.py), with the module path and the source line.
        InputError: inputs on another device than the model, of size zero, or missing.
    """
    kwargs = dict(kwargs or {})
    tensors, structure = flatten({"args": list(args), "kwargs": kwargs})
    names = [n.removeprefix("['args']").join(("args", "")) if n.startswith("['args']") else
             n.removeprefix("['kwargs']").join(("kwargs", "")) for n in leaf_names(structure)]  # fmt: skip
    check_model(model)
    check_inputs(model, tensors, names)
    tracer = Tracer(is_leaf, _names(model), _owned(model, tensors, names))
    stand_ins = [tracer.input(t, n) for t, n in zip(tensors, names)]
    call = unflatten(structure, stand_ins)
    with _unchanged(model), _paths(model, tracer, module_classes), _eager_attention(), torch.inference_mode():
        result = _run(model, call["args"], call["kwargs"], tracer)
        try:
            flat, output_structure = flatten(result)
        except InputError as error:
            raise TraceError(f"the model's output cannot leave an engine: {error}") from error
        with tracer:
            inputs, outputs = finish(tracer, stand_ins, flat)
    graph = Graph(
        inputs, tracer.ops, outputs, names, leaf_names(output_structure, "output"), structure, output_structure,
        {path: type(m).__name__ for path, m in model.named_modules()},
    )  # fmt: skip
    graph.drop_unused()
    return graph


def _run(model: nn.Module, args: Any, kwargs: Any, tracer: Tracer) -> Any:
    try:
        with tracer:
            return model(*args, **kwargs)
    except Torch2EdgeError:
        raise
    except TypeError as error:
        if not tracer.ops and "argument" in str(error):
            raise InputError(f"the model does not take these inputs: {error}") from error
        raise _wrapped(error, tracer) from error
    except Exception as error:
        raise _wrapped(error, tracer) from error


def _wrapped(error: Exception, tracer: Tracer) -> TraceError:
    where = place(tracer.broken or "", innermost(error))
    hint = ""
    if "numpy" in str(error) or "data pointer" in str(error) or "storage" in str(error):
        hint = " An engine holds ATen ops only: NumPy, C extensions and raw memory in forward cannot be traced."
    return TraceError(f"the model's forward failed while it was traced, {where}: {type(error).__name__}: {error}.{hint}")


def _names(model: nn.Module) -> dict[int, str]:
    """id of each parameter and buffer -> name; a shared one keeps its first name."""
    names: dict[int, str] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        names.setdefault(id(tensor), name)
    return names


def _owned(model: nn.Module, inputs: Sequence[torch.Tensor], names: Sequence[str]) -> dict[int, str]:
    """Memory that the forward must not write to -> what to call it."""
    owned: dict[int, str] = {}
    for path, module in model.named_modules():
        for name, tensor in vars(module).items():
            if isinstance(tensor, torch.Tensor):
                owned[storage_key(tensor)] = f"the attribute {path + '.' if path else ''}{name}"
    for name, tensor in model.named_buffers():
        owned[storage_key(tensor)] = f"the buffer {name}"
    for name, tensor in model.named_parameters():
        owned[storage_key(tensor)] = f"the parameter {name}"
    for name, tensor in zip(names, inputs):
        owned[storage_key(tensor)] = f"the input {name}"
    return owned


@contextlib.contextmanager
def _paths(model: nn.Module, tracer: Tracer, module_classes: tuple[type[nn.Module], ...]) -> Iterator[None]:
    """Hooks that keep ``tracer.path``, and that turn submodules of ``module_classes`` into one op each."""
    stack: list[tuple[str, Any]] = []
    handles: list[Any] = []

    def enter(path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        whole = type(module) in module_classes
        recorded = map_tensors((args, kwargs), tracer.read) if whole and not tracer.depth else None
        stack.append((tracer.path, recorded))
        tracer.path = path
        tracer.depth += whole

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        outer, recorded = stack.pop()
        tracer.broken = None if output is not None else tracer.broken or tracer.path
        tracer.depth -= type(module) in module_classes
        if recorded is not None and output is not None:
            _record_module(tracer, module, recorded, output)
        tracer.path = outer

    try:
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                raise TraceError(
                    f"the submodule {path or '(the model itself)'} is a {type(module).__name__} (torch.jit): hooks do not "
                    "reach inside. Convert the Python module that it was made from."
                )
            handles.append(
                module.register_forward_pre_hook(
                    lambda m, a, k, path=path: enter(path, m, a, k),  # type: ignore[misc]
                    prepend=True, with_kwargs=True,
                )  # fmt: skip
            )
            handles.append(module.register_forward_hook(leave, with_kwargs=True, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
        tracer.path = ""


def _record_module(tracer: Tracer, module: nn.Module, recorded: Any, output: Any) -> None:
    outputs: list[Value | None] = []
    for tensor in flatten(output)[0]:
        if isinstance(tensor, Traced) and tensor.value.hidden:
            value = tracer.new_value(tensor.meta)
            tensor.value = tensor.buffer.value = value
            tensor.chain, tensor.version, tensor.buffer.hidden = (), tensor.buffer.version, False
            outputs.append(value)
        else:
            outputs.append(None)
    source = f"{type(module).__module__}.{type(module).__qualname__}"
    tracer.ops.append(Op(type(module), recorded[0], recorded[1], outputs, tracer.path, source, module))


@contextlib.contextmanager
def _eager_attention() -> Iterator[None]:
    """nn.MultiheadAttention's fused fast path is one opaque op; its ordinary path is made of ops that convert."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Put back every attribute of every submodule, and refuse a forward that drew from Python's or NumPy's generators."""
    before = [(m, dict(vars(m)), {k: _contents(v) for k, v in vars(m).items()}) for m in model.modules()]
    python, numbers = random.getstate(), numpy.random.get_state(legacy=False)
    try:
        yield
        if random.getstate() != python or str(numpy.random.get_state(legacy=False)) != str(numbers):
            raise RandomOpError(
                "the forward drew from Python's random or NumPy's generator; an engine would freeze that draw. Draw "
                "outside and pass the numbers in."
            )
    finally:
        random.setstate(python)
        numpy.random.set_state(numbers)
        for module, attributes, contents in before:
            vars(module).clear()
            vars(module).update(attributes)
            for key, content in contents.items():
                _restore(attributes[key], content)


def _contents(value: Any) -> Any:
    return value.copy() if isinstance(value, (dict, list, set)) else None


def _restore(container: Any, content: Any) -> None:
    if content is None or (len(container) == len(content) and all(a is b for a, b in zip(container, content))
                           and (not isinstance(container, dict) or all(container[k] is content[k] for k in content))):
        return  # fmt: skip
    container.clear()
    container.extend(content) if isinstance(container, list) else container.update(content)


__all__ += ["Constant"]
