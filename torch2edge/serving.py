"""export(): an engine for programs other than torch2edge: a plan without any header, a model of NVIDIA's Triton."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ConfigError, EngineFileError
from .files import check_target, path_given, write_whole
from .loading import described
from .run import EdgeModule
from .run.foreign import recognised
from .run.triton import TritonOptions, config

__all__ = ["Exported", "export"]


@dataclass
class Exported:
    """What ``export`` wrote.

    Attributes:
        files: in the order of writing.
        notes: what whoever serves the engine has to know.
    """

    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([*(f"wrote {file}" for file in self.files), *(f"note: {note}" for note in self.notes)])


def export(
    engine: EdgeModule | str | os.PathLike[str],
    *,
    plain: str | os.PathLike[str] | None = None,
    triton: str | os.PathLike[str] | None = None,
    name: str | None = None,
    version: int = 1,
    instances: int = 1,
    gpus: Sequence[int] = (),
    profiles: Sequence[int] = (),
    max_batch_size: int | None = None,
    preferred_batch_sizes: Sequence[int] = (),
    max_queue_delay_us: int = 0,
) -> Exported:
    """Write an engine for other programs.

    Args:
        engine: a converted module, or the file of an engine of any of the kinds that ``load`` takes. It may be for another
            machine: a plan and, of our own engines, a Triton model are written without TensorRT and without a GPU.
        plain: write TensorRT's plan alone to this file, for trtexec, DeepStream, C++.
        triton: write ``<name>/config.pbtxt`` and ``<name>/<version>/model.plan`` into this folder, a model repository of
            NVIDIA's Triton Inference Server. The tensors have the engine's names, and its dtypes: int64 is INT32 where
            TensorRT has no INT64.
        name: of the model there; by default the name of the file, or of the model's class.
        version: of the model there.
        instances: how many copies run at once, on each GPU.
        gpus: their numbers; by default all that Triton sees.
        profiles: the optimization profiles to use; by default all.
        max_batch_size: the largest batch that Triton makes of requests. By default, where the first axis of all inputs and
            outputs is one size that varies, the largest that the engine takes, else 0: requests have the engine's own shapes.
            Give 0 for a model that does not treat the items of a batch one by one.
        preferred_batch_sizes: batches that Triton runs at once, without waiting for more requests.
        max_queue_delay_us: microseconds that a request waits for others.

    Returns:
        The files, and notes: unused inputs, sizes that Triton does not check.

    Raises:
        ConfigError: nothing to write was named, an option that Triton does not take, or an engine that it cannot serve.
        EngineFileError: the file is no engine, or cannot be written.
        ExecutionError: for ``triton``, others built the engine, and TensorRT cannot run here.
    """
    if plain is None and triton is None:
        raise ConfigError("nothing to write: give plain=FILE or triton=FOLDER, or both")
    file = None if plain is None else path_given(plain, "plain is the path of a file")
    if file is not None:
        check_target(file, engine if isinstance(engine, (str, os.PathLike)) else None)
    repository = None if triton is None else path_given(triton, "triton is the path of a folder")
    plan, metadata, default = _opened(engine, wanted=repository is not None)
    written = Exported()
    text, folder = "", Path()
    if repository is not None:
        options = TritonOptions(
            name if name is not None else default, version, instances, gpus, profiles, max_batch_size,
            preferred_batch_sizes, max_queue_delay_us,
        )  # fmt: skip
        text, written.notes = config(metadata, options)
        folder = Path(repository) / options.name
    if file is not None:
        _write(Path(file), plan, written)
    if repository is not None:
        _write(folder / str(version) / "model.plan", plan, written, parents=True)
        _write(folder / "config.pbtxt", text.encode(), written)
    return written


def _opened(engine: Any, wanted: bool) -> tuple[bytes, dict[str, Any], str]:
    """The plan, its header (only where it is ``wanted``) and a name for it."""
    if isinstance(engine, EdgeModule):
        if not engine.metadata:
            raise EngineFileError("this EdgeModule is empty: there is nothing to export")
        return engine._plan, engine.metadata, _name(engine.metadata["model"].rpartition(".")[2])
    if not isinstance(engine, (str, os.PathLike)):
        raise ConfigError(
            f"export takes an EdgeModule or the file of an engine, not a {type(engine).__name__}. Of a PartitionedModule each "
            "engine is exported by itself: module.module.get_submodule(path).edge_engine."
        )
    found = recognised(engine)
    metadata = described(found, os.fspath(engine)) if wanted else {}
    return found.plan, metadata, _name(Path(engine).name.partition(".")[0])


def _name(text: str) -> str:
    """As Triton's models may be called."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-") or "model"


def _write(path: Path, data: bytes, written: Exported, parents: bool = False) -> None:
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    except OSError as error:
        raise EngineFileError(f"cannot write {path}: {error.strerror or error}") from error
    written.files.append(path)
