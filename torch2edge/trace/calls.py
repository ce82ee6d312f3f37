"""What each submodule is called with: one real run under hooks, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import InputError
from ..structure import Structure, flatten, flatten_call, text
from .compiled import eager_only
from .state import unchanged
from .tensor import storage_key

__all__ = ["Call", "Seen", "observe", "signature"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_CONTAINERS = (dict, list, set, deque, tuple)


@dataclass(eq=False)
class Call:
    """One call of a submodule; tensors are the run's own, not copies."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    signature: str = ""  # structure, shapes, dtypes, devices of the inputs
    shown: str = ""  # the same for people
    problem: str = ""  # why its inputs or outputs cannot be an engine's
    inputs: tuple[int, int] = (0, 0)  # tensors, bytes
    outputs: tuple[int, int] = (0, 0)
    shared: list[tuple[torch.Tensor, int]] = field(default_factory=list)  # outputs in foreign memory, with their version


@dataclass(eq=False)
class Seen:
    """A submodule in that run."""

    module: nn.Module
    calls: list[Call] = field(default_factory=list)
    ops: int = 0  # ATen calls that ran in it and in no submodule of it
    flops: int = 0  # of its matrix products and convolutions, likewise
    changed: list[str] = field(default_factory=list)  # its attributes that the forward left changed
    problem: str = ""  # why its calls could not be seen

    def written_afterwards(self) -> bool:
        """Whether an output that shares memory with an input or a parameter was written to after it was returned."""
        return any(tensor._version != version for call in self.calls for tensor, version in call.shared)


def observe(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Seen]:
    """Run ``model(*args, **kwargs)`` for real and tell what every submodule did, by path; a shared one by its first path.

    Raises:
        InputError: the model does not run on these inputs.
    """
    seen = {path: Seen(module) for path, module in model.named_modules()}
    with unchanged(model), torch.no_grad(), eager_only(), _hooks(seen) as counting:
        before = {path: _state(s.module) for path, s in seen.items()}
        try:
            with counting:
                model(*args, **kwargs)
        except Exception as error:
            reason = (str(error).splitlines() or ["no message"])[0]
            raise InputError(f"the model does not run on these inputs: {type(error).__name__}: {reason}") from error
        for path, module in seen.items():
            module.changed = _changed(before[path], _state(module.module))
    return seen


class _Counting(TorchDispatchMode):
    """Counts ATen calls, and what they compute, for the submodule that runs."""

    def __init__(self, seen: dict[str, Seen]) -> None:
        from torch.utils.flop_counter import flop_registry  # it imports Triton: 0.2 s, which an import of ours must not cost

        super().__init__()  # type: ignore[no-untyped-call]
        self.seen, self.stack, self.flops_of = seen, [""], flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        one = self.seen[self.stack[-1]]
        one.ops += 1
        result = func(*args, **(kwargs or {}))
        count = self.flops_of.get(getattr(func, "_overloadpacket", None))
        if count is not None:
            one.flops += int(count(*args, **(kwargs or {}), out_val=result))
        return result


@contextlib.contextmanager
def _hooks(seen: dict[str, Seen]) -> Iterator[_Counting]:
    counting, thread, handles = _Counting(seen), threading.get_ident(), []

    def enter(path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if threading.get_ident() == thread:
                counting.stack.append(path)
                seen[path].calls.append(_call(args, kwargs))

        return hook

    def leave(path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if threading.get_ident() == thread:
                _returned(seen[path].calls[-1], module, output)
                counting.stack.pop()

        return hook

    scripted = [path for path, s in seen.items() if isinstance(s.module, torch.jit.ScriptModule)]
    try:
        for path, one in seen.items():
            if any(path.startswith(f"{outer}." if outer else "") and path != outer for outer in scripted):
                continue  # TorchScript runs them without Python
            if isinstance(one.module, torch.jit.RecursiveScriptModule):  # type: ignore[attr-defined]
                one.problem = f"it is a {type(one.module).__name__} (torch.jit), which takes no hooks"
                continue
            handles.append(one.module.register_forward_pre_hook(enter(path), prepend=True, with_kwargs=True))
            handles.append(one.module.register_forward_hook(leave(path), with_kwargs=True))
        yield counting
    finally:
        for handle in handles:
            handle.remove()


def _call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    call = Call(args, kwargs)
    try:
        tensors, structure = flatten_call(args, kwargs)
    except InputError as error:
        call.problem = str(error)
        return call
    call.inputs = _size(tensors)
    call.signature = _signature(tensors, structure)
    call.shown = _shown(tensors, structure)
    return call


def signature(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """``Call.signature`` of these arguments; "" where they cannot be an engine's."""
    try:
        return _signature(*flatten_call(args, kwargs))
    except InputError:
        return ""


def _signature(tensors: Sequence[torch.Tensor], structure: Structure) -> str:
    return json.dumps([structure, [[list(t.shape), str(t.dtype), str(t.device)] for t in tensors]])


def _returned(call: Call, module: nn.Module, output: Any) -> None:
    try:
        tensors, _ = flatten(output, "output")
    except InputError as error:
        call.problem = call.problem or str(error)
        return
    call.outputs = _size(tensors)
    if call.problem:
        return
    given = flatten_call(call.args, call.kwargs)[0]
    foreign = {storage_key(t) for t in (*given, *module.parameters(), *module.buffers()) if t.layout == torch.strided}
    call.shared = [(t, t._version) for t in tensors if t.layout == torch.strided and storage_key(t) in foreign]


def _size(tensors: Sequence[torch.Tensor]) -> tuple[int, int]:
    return len(tensors), sum(t.numel() * t.element_size() for t in tensors)


def _shown(tensors: Sequence[torch.Tensor], structure: Structure) -> str:
    shapes = ", ".join("x".join(map(str, t.shape)) or "scalar" for t in tensors)
    return shapes or text(structure)


def _state(module: nn.Module) -> dict[str, Any]:
    """What the module's attributes hold, one level deep."""
    held = {**vars(module), **vars(module).get("_buffers", {}), **vars(module).get("_parameters", {})}  # TorchScript has none
    held = {k: v for k, v in held.items() if k not in ("_buffers", "_parameters", "_modules") and "_hooks" not in k}
    return {key: _content(value) for key, value in held.items()}


def _content(value: Any) -> tuple[Any, ...]:
    if isinstance(value, torch.Tensor):
        return (value, value._version) if not value.is_inference() else (value, 0)
    if isinstance(value, _CONTAINERS):
        return (type(value), *(value.items() if isinstance(value, dict) else value))  # an equal list is no change
    return (value,)


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [key for key in {**before, **after} if key not in before or key not in after or not _equal(before[key], after[key])]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b))
    return a is b or (type(a) is type(b) and isinstance(a, _PLAIN) and a == b)
