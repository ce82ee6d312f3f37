"""EdgeModule: an engine as a drop-in nn.Module."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError, EngineFileError, InputError
from ..files import check_target, path_given
from ..report import Report
from ..structure import flatten, same, text, unflatten
from .engine_file import check_built_for_here, describe, pieces, unpack, write
from .running import Fallback, ReferenceWarning, Running
from .signature import Signature
from .sizes import Sizes

__all__ = ["EdgeModule", "ReferenceWarning"]

_is_compiling = torch.compiler.is_compiling
_tracing = torch._C._get_tracing_state
Refit = Callable[["EdgeModule", Any, tuple[Any, Any], bool], "EdgeModule"]


class EdgeModule(Running):
    """Takes and gives what the original module did, computed by a TensorRT engine.

    ``EdgeModule()`` is empty until ``load_state_dict``; ``torch2edge.load`` makes one from a file. It has no parameters:
    the weights are in the engine. CUDA inputs run on the current stream, on whichever GPU they are, and a call returns before
    its work is done; it may be made from any thread. CPU inputs are copied to the GPU and back, which waits. Where
    TensorRT cannot execute (no GPU), a freshly converted module computes with the reference executor and warns once.

    Attributes:
        report: how it was converted and how exact it is (``torch2edge.Report``).
        metadata: what the engine file's header holds.
        cast_inputs: whether inputs of another dtype are cast; by default they are refused.
        engine_host_code_allowed: whether code for the host in a version-compatible engine may run; not for what comes from a
            file or a state dict, unless you trust that and say so before the first call.
        network: TensorRT's INetworkDefinition after ``convert(..., keep_network=True)``, else None; copies have none.
    """

    network: Any = None
    _kept: Any = None  # what the network needs to stay alive
    _refit: Refit | None = None  # after ``convert(..., refittable=True)``
    _reopen: Callable[[EdgeModule], Refit | None]  # what refits a loaded one: refitting.py's, which knows all stages

    def __init__(
        self, plan: bytes = b"", metadata: Mapping[str, Any] | None = None, *, fallback: Fallback | None = None
    ) -> None:
        super().__init__(fallback)
        self.eval()
        self._set(plan, dict(metadata or {}))

    def _set(self, plan: bytes, metadata: dict[str, Any]) -> None:
        self._plan, self.metadata = plan, metadata
        self._sizes: Sizes | None = None
        self._start_anew()
        self._refit = None
        self.network = self._kept = None  # they were of another engine
        if not metadata:
            return
        self._signature = Signature(metadata)
        self._outputs = [(o["binding"], getattr(torch, o["dtype"]), tuple(o["shape"])) for o in metadata["outputs"]]
        self._sizes = Sizes(metadata) if metadata.get("dims") else None
        self._one_output = metadata["output_structure"] == {"kind": "tensor"}
        self._takes_out = "out" not in metadata["parameters"]

    @property
    def report(self) -> Report | None:
        """How it was converted and how exact it is; None while the module is empty."""
        return Report.from_dict(self.metadata["report"]) if self.metadata else None

    @property
    def input_dtypes(self) -> list[torch.dtype]:
        """Of the tensors that it takes, in the order of ``metadata["inputs"]``."""
        return [dtype for _, dtype, _, _ in self._signature.inputs]

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

        Args:
            out: CUDA tensors to write the outputs into, nested like them (where the original has no parameter of that name).

        Raises:
            InputError: inputs of another structure, dtype or device than the engine was built for, or of a shape outside of
                its ranges; or ``out`` does not fit.
            ExecutionError: nothing here can run the engine.
        """
        if _is_compiling():  # Dynamo reads this, and is to read no further
            return torch.compiler.disable(self._call)(args, kwargs)
        if _tracing() is not None:
            raise InputError(
                "an EdgeModule cannot be traced by torch.jit (torch.onnx.export with dynamo=False does that too): its outputs "
                "would become constants. Trace the original module, or the modules around this one"
            )
        quick = self._quick
        if quick is not None and not kwargs:
            results = quick(args, self._reuse)
            if results is not None:
                return results[0] if self._one_output else unflatten(self.metadata["output_structure"], results)
        return self._call(args, kwargs)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call of which nothing is known yet."""
        self._check_usable()
        given = kwargs.pop("out", None) if self._takes_out else None
        out = None if given is None else self._out(given)
        tensors = self._signature.checked(self._flatten(args, kwargs), self.cast_inputs)
        return unflatten(self.metadata["output_structure"], self._run(tensors, out))

    def _out(self, given: Any) -> list[torch.Tensor]:
        """The tensors of ``out=``."""
        tensors, structure = flatten(given, "out")
        wanted = self.metadata["output_structure"]
        if not same(structure, wanted):
            raise InputError(f"out= is {text(structure)}, but the module gives {text(wanted)}")
        return tensors

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
            old, self._runners = self._runners, new._runners if not self._graphs and self._memory is None else {}
            self._profiles, self._quick = {}, None
            self._plan, self.metadata, self._fallback = new._plan, new.metadata, new._fallback
            self.network, self._kept = new.network, new._kept
        for index in old:
            torch.cuda.synchronize(index)  # its execution contexts may still be at work

    # ---- saving -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an engine file, for ``torch2edge.load``.

        Raises:
            ConfigError: there is no such folder, or the path is one.
            EngineFileError: the module is empty.
            OSError: the file cannot be written; one that was there stays as it was.
        """
        if not self.metadata:
            raise EngineFileError("this EdgeModule is empty: there is nothing to save")
        check_target(path_given(path, "save takes the path of a file"))
        write(path_given(path, ""), self.metadata, self._plan)

    def get_extra_state(self) -> torch.Tensor:
        """The engine file as a uint8 tensor; it travels in the ``state_dict``, also of a module around this one."""
        data = bytearray().join(pieces(self.metadata, self._plan)) if self.metadata else bytearray(1)
        return torch.frombuffer(data, dtype=torch.uint8)

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
        self._fallback, self.engine_host_code_allowed = None, False
        self._set(plan, metadata)

    def __deepcopy__(self, memo: dict[int, Any]) -> EdgeModule:
        made = EdgeModule(self._plan, copy.deepcopy(self.metadata, memo), fallback=self._fallback)
        self._settings_to(made)
        made._refit = self._refit
        return made

    def __reduce__(self) -> Any:
        return _unpickled, (self._plan, self.metadata)


def _unpickled(plan: bytes, metadata: dict[str, Any]) -> EdgeModule:
    if metadata:
        check_built_for_here(metadata, "the pickled EdgeModule")
    return EdgeModule(plan, metadata)
