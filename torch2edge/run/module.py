"""EdgeModule: an engine as a drop-in nn.Module."""

from __future__ import annotations

import copy
import os
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .._trt import why_not_executable
from ..errors import ConfigError, EngineFileError, ExecutionError, InputError
from ..report import Report
from ..sizes import shape_text
from ..structure import arrange, call_names, flatten_call, same, text, unflatten
from .engine_file import check_built_for_here, describe, pack, unpack, write
from .runner import Runner
from .sizes import Sizes

__all__ = ["EdgeModule", "ReferenceWarning"]

Fallback = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]
Refit = Callable[["EdgeModule", Any, tuple[Any, Any], bool], "EdgeModule"]


class ReferenceWarning(UserWarning):
    """A forward was computed by the reference executor, not by TensorRT."""


class EdgeModule(nn.Module):
    """Takes and gives what the original module did, computed by a TensorRT engine.

    ``EdgeModule()`` is empty until ``load_state_dict``; ``torch2edge.load`` makes one from a file. It has no parameters:
    the weights are in the engine. CUDA inputs run on the current stream; CPU inputs are copied to the GPU and back. Where
    TensorRT cannot execute (no GPU), a freshly converted module computes with the reference executor and warns once.

    Attributes:
        report: how it was converted and how exact it is (``torch2edge.Report``).
        metadata: what the engine file's header holds.
        network: TensorRT's INetworkDefinition after ``convert(..., keep_network=True)``, else None; copies have none.
    """

    network: Any = None
    _kept: Any = None  # what the network needs to stay alive
    _refit: Refit | None = None  # after ``convert(..., refittable=True)``
    _reopen: Callable[[EdgeModule], Refit | None]  # what refits a loaded one: refitting.py's, which knows all stages

    def __init__(
        self, plan: bytes = b"", metadata: Mapping[str, Any] | None = None, *, fallback: Fallback | None = None
    ) -> None:
        super().__init__()
        self.eval()
        self._fallback = fallback
        self._warned = False
        self._lock = threading.Lock()  # one runner and one warning, also when threads make the first call
        self._set(plan, dict(metadata or {}))

    def _set(self, plan: bytes, metadata: dict[str, Any]) -> None:
        self._plan, self.metadata = plan, metadata
        self._runner: Runner | None = None
        self._simple = False
        self._sizes: Sizes | None = None
        self._refit = None
        if not metadata:
            return
        self._inputs = [(i["name"], _dtype(i["dtype"]), tuple(i["shape"]), i["binding"]) for i in metadata["inputs"]]
        self._outputs = [(o["binding"], _dtype(o["dtype"]), tuple(o["shape"])) for o in metadata["outputs"]]
        self._sizes = Sizes(metadata) if metadata.get("dims") else None
        args, kwargs = metadata["input_structure"]["items"]
        self._simple = not kwargs["items"] and all(item["kind"] == "tensor" for item in args["items"])

    @property
    def report(self) -> Report | None:
        """How it was converted and how exact it is; None while the module is empty."""
        return Report.from_dict(self.metadata["report"]) if self.metadata else None

    @property
    def input_dtypes(self) -> list[torch.dtype]:
        """Of the tensors that it takes, in the order of ``metadata["inputs"]``."""
        return [dtype for _, dtype, _, _ in self._inputs]

    @property
    def output_dtypes(self) -> list[torch.dtype]:
        """Of the tensors that it gives, in the order of ``metadata["outputs"]``."""
        return [dtype for _, dtype, _ in self._outputs]

    def extra_repr(self) -> str:
        """One line for ``print(module)``."""
        return describe(self.metadata) if self.metadata else "empty"

    # ---- forward ----------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs, nested as the original module's.

        Raises:
            InputError: inputs of another structure, dtype or device than the engine was built for, or of a shape outside of
                its ranges.
            ExecutionError: nothing here can run the engine.
        """
        if not self.metadata:
            raise ExecutionError("this EdgeModule is empty: load a state dict first, or use torch2edge.load(file)")
        tensors = self._flatten(args, kwargs)
        for tensor, (name, dtype, shape, _) in zip(tensors, self._inputs):
            if tensor.layout != torch.strided or tensor.device.type not in ("cpu", "cuda"):
                raise InputError(f"{name} is {tensor.layout} on {tensor.device}; an engine takes dense CUDA or CPU tensors")
            if tensor.dtype != dtype or (tensor.shape != shape and self._sizes is None):
                fixed = ", and its shapes are fixed. Convert the model for this shape" if self._sizes is None else ""
                if tensor.shape == shape:
                    fixed = f". Cast it (.to({dtype})), or convert with io_dtype={tensor.dtype}"
                raise InputError(
                    f"{name} is {tensor.dtype} {tuple(tensor.shape)}; the engine was built for {dtype} "
                    f"{shape_text(shape)}{fixed}."
                )
            if tensor.device != tensors[0].device:
                raise InputError(f"{name} is on {tensor.device}, but {self._inputs[0][0]} on {tensors[0].device}")
        return unflatten(self.metadata["output_structure"], self._run(tensors))

    def _flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        if self._simple and not kwargs and len(args) == len(self._inputs) and all(isinstance(a, torch.Tensor) for a in args):
            return list(args)
        wanted = self.metadata["input_structure"]
        tensors, given = flatten_call(args, kwargs)
        if not same(given, wanted):
            rebound = arrange(self._rebound(args, kwargs), wanted)
            tensors, given = flatten_call(rebound["args"], rebound["kwargs"])
        if not same(given, wanted):
            raise InputError(
                f"the module was converted for {_call_text(wanted)}, but is called with {_call_text(given)}: the structure of "
                "the inputs, and what is no tensor, are fixed. Call it like that, or convert the model for this call."
            )
        return tensors

    def _rebound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The call with each argument passed as it was when traced, by position or by name."""
        names, defaults = self.metadata["parameters"], self.metadata["defaults"]
        positional, by_name = self.metadata["input_structure"]["items"]
        wanted = names[: len(positional["items"])]
        given = {**dict(zip(names, args)), **kwargs}
        bound = {**defaults, **given}
        twice_or_too_many = len(given) != len(args) + len(kwargs) or len(wanted) < len(positional["items"])
        if twice_or_too_many or any(n not in bound for n in wanted):
            return {"args": list(args), "kwargs": kwargs}
        ordered = [bound.pop(n) for n in wanted]
        rest = {k: bound.pop(k) for k in by_name["keys"] if k in bound}
        extra = {k: v for k, v in bound.items() if k not in defaults or not _equal(v, defaults[k])}
        return {"args": ordered, "kwargs": {**rest, **extra}}

    def _run(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        device = tensors[0].device
        profile = self._sizes.profile(tensors) if self._sizes else None
        if self._fallback is not None and why_not_executable():
            self._warn()
            return [t.to(device) for t in self._fallback([t.cpu() for t in tensors])]
        with self._lock:
            if self._runner is None:
                self._runner = self._make_runner()
        if device.type == "cuda":
            return self._runner(tensors, profile)
        return [t.cpu() for t in self._runner([t.cuda() for t in tensors], profile)]

    def _make_runner(self) -> Runner:
        reason = why_not_executable()
        if reason:
            raise ExecutionError(
                f"this engine was {describe(self.metadata)} and cannot run here: {reason}. It needs such a GPU and "
                f"{self.metadata['title']}. (Only a module that was converted in this process can be computed without.)"
            )
        inputs = [(binding, dtype) for _, dtype, _, binding in self._inputs]
        return Runner(self._plan, inputs, self._outputs, self.metadata["dla_core"])

    def _warn(self) -> None:
        with self._lock:
            first, self._warned = not self._warned, True
        if first:
            warnings.warn(
                f"{why_not_executable()}: the reference executor computes this module's outputs, slowly and on the CPU. "
                f"The engine itself was {describe(self.metadata)}.",
                ReferenceWarning,
                stacklevel=6,
            )

    # ---- other weights ----------------------------------------------------------------------------------------------

    def refit(
        self, weights: nn.Module | Mapping[str, Any], inputs: Any = None, kwargs: Mapping[str, Any] | None = None, *,
        verify: bool = True,
    ) -> None:  # fmt: skip
        """Take the weights of another model, without a build, after ``convert(..., refittable=True)``.

        All that was computed of parameters when the engine was built is computed of the new ones: folded batch norms, halves,
        scales of INT8 weights. The ranges of activations in INT8 stay. Calls that run meanwhile get the old weights; the new
        engine is made beside the old one, so there must be GPU memory for both. When this fails, all is as it was.

        Args:
            weights: a model like the one that was converted, in eval mode; or a state dict for a copy of that one. What is in
                no state dict is as it was when the model was converted, which need not exist any more. A module that was
                loaded from a file takes a model only.
            inputs: example inputs in the place of those of the conversion; a module that was loaded has none.
            kwargs: the keyword inputs.
            verify: compare with the model on fresh random inputs, as ``convert`` does.

        Raises:
            ConfigError: the module cannot be refitted; the model is another one; or a weight changed that the engine cannot
                be given, or whose new values no longer fit the engine's kernels; with names.
            ExecutionError: TensorRT fails.
            InputError: the example does not fit the engine, or is missing.
            VerificationError: the outputs are not those of the new model.
            Torch2EdgeError: the model cannot be converted any more, see ``convert``.
        """
        self._become(self.refitted(weights, inputs, kwargs, verify=verify))

    def refitted(
        self, weights: nn.Module | Mapping[str, Any], inputs: Any = None, kwargs: Mapping[str, Any] | None = None, *,
        verify: bool = True,
    ) -> EdgeModule:  # fmt: skip
        """A module of its own with other weights, while this one stays as it is; the rest as for ``refit``."""
        if self._refit is None:
            self._refit = self._reopen(self)
        if self._refit is None:
            raise ConfigError(
                "this EdgeModule cannot be refitted: convert with refittable=True, and where TensorRT executes if the "
                "engine is to be refitted when it was saved and loaded. (One with converters= only before.)"
            )
        return self._refit(self, weights, (inputs, kwargs), verify)

    def _become(self, new: EdgeModule) -> None:
        """Take the engine of ``new``, whose inputs and outputs are the same."""
        with self._lock:
            old, self._runner = self._runner, new._runner
            self._plan, self.metadata, self._fallback = new._plan, new.metadata, new._fallback
            self.network, self._kept = new.network, new._kept
        if old is not None:
            torch.cuda.synchronize()  # its execution contexts may still be at work

    # ---- saving -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an engine file, for ``torch2edge.load``."""
        if not self.metadata:
            raise EngineFileError("this EdgeModule is empty: there is nothing to save")
        write(path, self.metadata, self._plan)

    def get_extra_state(self) -> torch.Tensor:
        """The engine file as a uint8 tensor; it travels in the ``state_dict``, also of a module around this one."""
        data = pack(self.metadata, self._plan) if self.metadata else b"\x00"
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Take the engine from a ``state_dict``.

        Raises:
            EngineFileError: the state is not an engine, is damaged, or is for another TensorRT or GPU.
        """
        if not isinstance(state, torch.Tensor) or state.dtype != torch.uint8:
            what = state.dtype if isinstance(state, torch.Tensor) else type(state).__name__
            raise EngineFileError(f"the state dict holds {what} where the bytes of an engine should be (a uint8 tensor)")
        data = state.cpu().numpy().tobytes()
        if data == b"\x00":
            self._set(b"", {})
            return
        metadata, plan = unpack(data, "the engine in this state dict")
        check_built_for_here(metadata, "the engine in this state dict")
        self._fallback = None
        self._set(plan, metadata)

    def __deepcopy__(self, memo: dict[int, Any]) -> EdgeModule:
        new = EdgeModule(self._plan, copy.deepcopy(self.metadata, memo), fallback=self._fallback)
        new._refit = self._refit
        return new

    def __reduce__(self) -> Any:
        return _unpickled, (self._plan, self.metadata)


def _unpickled(plan: bytes, metadata: dict[str, Any]) -> EdgeModule:
    if metadata:
        check_built_for_here(metadata, "the pickled EdgeModule")
    return EdgeModule(plan, metadata)


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)  # type: ignore[no-any-return]


def _equal(a: Any, b: Any) -> bool:
    """Whether a plain argument is the default; a tensor never is."""
    return type(a) is type(b) and not isinstance(a, torch.Tensor) and bool(a == b)


def _call_text(structure: dict[str, Any]) -> str:
    """A call for people: ``2 tensors, module(tensor, mask=tensor)``."""
    args, kwargs = structure["items"]
    given = [*map(text, args["items"]), *(f"{k}={text(v)}" for k, v in zip(kwargs["keys"], kwargs["items"]))]
    count = len(call_names(structure))
    return f"{count} tensor{'s' * (count != 1)}, module({', '.join(given)})"
