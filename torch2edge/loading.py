"""load(): an engine's file, whoever wrote it, as a module."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ._trt import load_plugins, why_not_executable
from .errors import ConfigError, EngineFileError
from .files import path_given
from .run import EdgeModule
from .run.engine_file import check_built_for_here
from .run.foreign import Found, recognised
from .run.plain import Nested, metadata_of, read_plan

__all__ = ["described", "load"]


def load(
    path: str | os.PathLike[str], *, dla_core: int | None = None, engine_host_code_allowed: bool = False
) -> EdgeModule:  # fmt: skip
    """The engine in a file, as a module.

    The file is what ``EdgeModule.save`` wrote; or a plan of TensorRT, as trtexec and Polygraphy write it; or an engine of
    Ultralytics; or a state dict of torch2trt. Nothing in it is executed: pickles are read with ``weights_only=True``.

    An engine that torch2edge did not build takes its inputs in the engine's own order, or by the names of its tensors as
    keywords (``module(images=x)``), and gives a tuple of its outputs in the engine's order, or the tensor where there is one;
    torch2trt's are nested as the file says. To read it takes TensorRT and a GPU; ``save`` writes a file of ours, which can be
    read without. What Ultralytics wrote beside it is in ``metadata["ultralytics"]``.

    Which sizes have to be equal, such an engine does not say: each is held against its range in the optimization profiles
    alone, and with two that do not fit together (batches of 4 and 3) TensorRT may end the process (8.6.0 does).

    Args:
        path: the file.
        dla_core: the DLA core to run on, in the place of the one that it was built for.
        engine_host_code_allowed: let TensorRT run code for the host that is in the file: the lean runtime of an engine with
            ``version_compatible=True``. Only for files that you trust.

    Raises:
        ConfigError: no path, or a core for an engine that was not built for a DLA.
        EngineFileError: no such file, damaged bytes, no engine, or built for another TensorRT or GPU.
        ExecutionError: others built it, and TensorRT cannot run here.
    """
    origin = path_given(path, "path is that of an engine's file")
    found = recognised(origin)
    if not why_not_executable():
        load_plugins()  # it may hold some, and a new process does not know them
    if found.metadata is None:
        return _module(found, described(found, origin, dla_core, engine_host_code_allowed), engine_host_code_allowed)
    metadata = found.metadata
    check_built_for_here(metadata, origin)
    if dla_core is not None:
        if metadata["dla_core"] is None:
            raise ConfigError(f"dla_core={dla_core!r}: {origin} was not built for a DLA core")
        metadata["dla_core"] = dla_core
    return _module(found, metadata, engine_host_code_allowed)


def _module(found: Found, metadata: dict[str, Any], host_code: bool) -> EdgeModule:
    module = EdgeModule(found.plan, metadata)
    module.engine_host_code_allowed = host_code
    return module


def described(found: Found, origin: str, dla_core: int | None = None, host_code: bool = False) -> dict[str, Any]:
    """The header of an engine, our own or one made up from what TensorRT tells.

    Args:
        found: what the file holds.
        origin: the file, in messages.
        dla_core: the core to read it for.
        host_code: run the code for the host that is in a version-compatible plan.

    Raises:
        EngineFileError: TensorRT refuses it, or it is of a kind that no EdgeModule can run.
        ExecutionError: others built it, and TensorRT cannot run here.
    """
    if found.metadata is not None:
        return found.metadata
    if dla_core is None:
        dla_core = _dla_core(found.header)
    inputs, outputs = _nested(found, origin)
    facts = read_plan(found.plan, origin, dla_core, host_code)
    metadata = metadata_of(
        facts, origin, size=len(found.plan), built_by=found.built_by, inputs=inputs, outputs=outputs, dla_core=dla_core
    )
    if found.kind == "ultralytics":
        metadata["ultralytics"] = found.header
        metadata["model"] = str(found.header.get("description", ""))
    return metadata


def _dla_core(header: dict[str, Any]) -> int | None:
    """Ultralytics writes ``"dla": "0"``."""
    core = str(header.get("dla") or "")
    return int(core) if core.isdigit() else None


def _nested(found: Found, origin: str) -> tuple[Nested | None, Nested | None]:
    """How torch2trt's call is nested."""
    if found.kind != "torch2trt":
        return None, None
    inputs = _by_flattener(found.header["input_names"], found.header.get("input_flattener"), origin, True)
    return inputs, _by_flattener(found.header["output_names"], found.header.get("output_flattener"), origin, False)


def _by_flattener(names: Sequence[str], flattener: Any, origin: str, is_input: bool) -> Nested:
    from .integrations.torch2trt.plans import nested  # the package of a drop-in is imported where one is met

    try:
        return nested(names, flattener, is_input)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        what = "input" if is_input else "output"
        raise EngineFileError(f"{origin} has a damaged {what}_flattener: {type(error).__name__}: {error}") from error
