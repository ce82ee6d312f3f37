"""TRTModule: an EdgeModule whose state dict is torch2trt's."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..._trt import trt
from ...errors import ConfigError, EngineFileError
from ...run import EdgeModule
from ...run.engine_file import check_built_for_here
from ...run.foreign import own_metadata
from .flattener import Flattener, schema_of
from .plans import plan_metadata

__all__ = ["TRTModule"]

_KEYS = ("engine", "input_names", "output_names", "input_flattener", "output_flattener")
_OURS = "torch2edge"  # a sixth key, which torch2trt does not look at: what our engine files say, and a checksum


class TRTModule(EdgeModule):
    """An engine as a module, with torch2trt's attributes and ``state_dict`` keys.

    ``TRTModule()`` is empty until ``load_state_dict``, which takes what torch2trt saved and what this class saved; what this
    class saves, torch2trt loads (a dataclass or named tuple is a tuple there). Engines that torch2trt made need a GPU to be
    loaded.

    Args:
        engine: a serialized engine: bytes, TensorRT's IHostMemory, a deserialised engine, or the path of a file.
        input_names: its inputs, one per number of ``input_flattener``.
        output_names: its outputs.
        input_flattener: how the positional inputs are nested; by default not at all.
        output_flattener: how the outputs are; by default a tuple, or the tensor where there is one.
    """

    def __init__(
        self, engine: Any = None, input_names: Sequence[str] | None = None, output_names: Sequence[str] | None = None,
        input_flattener: Flattener | None = None, output_flattener: Flattener | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if engine is None:
            return
        if input_names is None or output_names is None:
            raise ConfigError("TRTModule(engine) needs input_names and output_names: the engine does not tell their order")
        plan = _plan_of(engine)
        metadata = plan_metadata(plan, input_names, output_names, input_flattener, output_flattener, "this engine")
        self._set(plan, metadata)

    @classmethod
    def _of(cls, edge: EdgeModule) -> TRTModule:
        """A module of the same engine."""
        made = cls()
        made._set(edge._plan, edge.metadata)
        made._fallback, made.network, made._kept = edge._fallback, edge.network, edge._kept
        edge._settings_to(made)
        return made

    # ---- torch2trt's attributes -------------------------------------------------------------------------------------

    @property
    def engine(self) -> Any:
        """TensorRT's ICudaEngine, deserialised on first use; None while the module is empty.

        Raises:
            ExecutionError: no engine can be deserialised here.
        """
        return self._runner(None).engine if self.metadata else None

    @property
    def context(self) -> Any:
        """An IExecutionContext of this thread's own, which the module's calls do not use; None while the module is empty.

        Raises:
            ExecutionError: no engine can be deserialised here.
        """
        return self._runner(None).context() if self.metadata else None

    def enable_profiling(self) -> None:
        """TensorRT prints the time of each layer after each call from now on.

        Raises:
            ExecutionError: no engine can be deserialised here.
        """
        if self.metadata:
            self._runner(None).profile_with(trt.Profiler)

    @property
    def input_names(self) -> list[str] | None:
        """Names of the engine's inputs by their numbers in ``input_flattener``."""
        return self._bindings("inputs")[0]

    @property
    def output_names(self) -> list[str] | None:
        """Names of the engine's outputs by their numbers in ``output_flattener``."""
        return self._bindings("outputs")[0]

    @property
    def input_flattener(self) -> Flattener | None:
        """How the positional inputs are nested; what the engine does not take has no number."""
        return self._bindings("inputs")[1]

    @property
    def output_flattener(self) -> Flattener | None:
        """How the outputs are nested."""
        return self._bindings("outputs")[1]

    def _bindings(self, which: str) -> tuple[list[str] | None, Flattener | None]:
        if not self.metadata:
            return None, None
        rows = self.metadata[which]
        structure = self.metadata[which.removesuffix("s") + "_structure"]
        if which == "inputs":
            structure, by_name = structure["items"]
            if by_name["items"]:
                raise ConfigError(
                    "this engine takes keyword inputs, which torch2trt has no form for: use torch2edge.EdgeModule"
                )
        schema, order = schema_of(structure, lambda position: bool(rows[position]["binding"]))
        return [rows[position]["binding"] for position in order], Flattener(schema, len(order))

    def _flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
        if self.metadata.get("from_torch2trt"):  # what has no number was no tensor of the engine's: any value will do
            flattener = self.input_flattener
            assert flattener is not None
            with contextlib.suppress(ValueError):  # EdgeModule says what is wrong
                args = tuple(flattener.unflatten(flattener.flatten(args)))
        return super()._flatten(args, kwargs)

    # ---- saving -----------------------------------------------------------------------------------------------------

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if not self.metadata:
            raise EngineFileError("this TRTModule is empty: there is nothing to save")
        (inputs, input_flattener), (outputs, output_flattener) = self._bindings("inputs"), self._bindings("outputs")
        assert input_flattener is not None
        assert output_flattener is not None
        flatteners = input_flattener.dict(), output_flattener.dict()
        values = (bytearray(self._plan), inputs, outputs, *flatteners)
        destination.update({prefix + key: value for key, value in zip(_KEYS, values)})
        header = {"metadata": self.metadata, "sha256": hashlib.sha256(self._plan).hexdigest()}
        destination[prefix + _OURS] = json.dumps(header)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str],
        unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        if "_extra_state" in own:  # an EdgeModule saved it
            self.set_extra_state(own.pop("_extra_state"))
        elif any(key not in own for key in _KEYS[:3]):
            missing_keys += [prefix + key for key in _KEYS[:3] if key not in own]
        else:
            self._load(own, f"the engine {prefix and repr(prefix.rstrip('.')) + ' '}in this state dict")
        unexpected_keys += [prefix + key for key in own if strict and key not in (*_KEYS, _OURS)]

    def _load(self, own: Mapping[str, Any], origin: str) -> None:
        if not isinstance(own["engine"], (bytes, bytearray)):
            raise EngineFileError(f"{origin} is a {type(own['engine']).__name__} where a bytearray should be")
        plan = bytes(own["engine"])
        if _OURS in own:
            metadata = own_metadata(own[_OURS], plan, origin)
            check_built_for_here(metadata, origin)
        else:
            flatteners = [Flattener.from_dict(own[key]) if own.get(key) else None for key in _KEYS[3:]]
            metadata = plan_metadata(plan, own["input_names"], own["output_names"], flatteners[0], flatteners[1], origin)
        self._fallback, self.network, self._kept = None, None, None
        self._set(plan, metadata)

    def __deepcopy__(self, memo: dict[int, Any]) -> TRTModule:
        return TRTModule._of(super().__deepcopy__(memo))

    def __reduce__(self) -> Any:
        return _unpickled, (self._plan, self.metadata)


def _unpickled(plan: bytes, metadata: dict[str, Any]) -> TRTModule:
    if metadata:
        check_built_for_here(metadata, "the pickled TRTModule")
    return TRTModule._of(EdgeModule(plan, metadata))


def _plan_of(engine: Any) -> bytes:
    if isinstance(engine, (str, os.PathLike)):
        return Path(engine).read_bytes()
    if isinstance(engine, trt.ICudaEngine):
        engine = engine.serialize()
    return bytes(engine)
