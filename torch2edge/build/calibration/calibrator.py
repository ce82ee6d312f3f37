"""TensorRT's own calibrators, fed from the same data: ``calibrator="tensorrt"``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..._trt import capabilities, from_trt_dtype, trt
from ...errors import ConfigError
from ...graph import Graph
from .cache import read_tensorrt_cache, write_text
from .data import open_data
from .distributed import this_rank
from .intake import Intake
from .progress import Progress
from .run import FEW, KEPT
from .settings import Calibration, CalibrationWarning

__all__ = ["calibrator", "raise_its_error"]

_KINDS = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}


def calibrator(
    graph: Graph, network: Any, input_names: Sequence[str], calibration: Calibration, *, args: Sequence[Any],
    kwargs: Mapping[str, Any],
    parameters: Sequence[str] = (), line: Callable[[str], None] | None = None, keep: list[list[torch.Tensor]] | None = None,
) -> Any:  # fmt: skip
    """An IInt8EntropyCalibrator2 or IInt8MinMaxCalibrator for ``config.int8_calibrator``.

    ``calibration.cache`` is a file in TensorRT's own format here, which trtexec reads too. TensorRT takes it where its first
    line names the same version and algorithm; of which weights it is it does not say.

    Args:
        graph: as traced, for the model's inputs; nothing of it runs.
        network: the INetworkDefinition, whose inputs may have other dtypes (``io_dtype``).
        input_names: the network's input per input of the graph, "" for one that it has not.
        calibration: the data.
        args: positional inputs of the conversion's example.
        kwargs: its keyword inputs.
        parameters: names of the positional parameters of the model's forward.
        line: takes lines on the progress, in the place of a bar on stderr.
        keep: gets the tensors of the first batches.

    Raises:
        ConfigError: an algorithm that TensorRT has not, shapes that vary, several ranks, or a cache of another network.
    """
    kind = _KINDS.get(calibration.algorithm)
    if kind is None:
        raise ConfigError(
            f"calibrator='tensorrt': {capabilities().title} has no {calibration.algorithm!r}; use 'entropy' or 'minmax', or "
            "calibrator='pytorch'"
        )
    if graph.dims:
        raise ConfigError(
            f"calibrator='tensorrt' with shapes that vary ({', '.join(graph.dims)}) is not there yet; calibrator='pytorch' "
            "takes them"
        )
    if this_rank().world > 1:
        raise ConfigError("calibrator='tensorrt' sees the data of one process; calibrator='pytorch' joins those of all ranks")
    device = torch.device("cuda", torch.cuda.current_device())
    intake = Intake(graph, args, kwargs, calibration, device, parameters)
    size = next((int(t.shape[0]) for t in intake.examples if t.dim()), 1)
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    dtypes = {tensor.name: from_trt_dtype(tensor.dtype) for tensor in inputs}
    feed = _Feed(_batches(graph, intake, calibration, line, keep), input_names, dtypes, size)
    path = None if calibration.cache is None else Path(calibration.cache)
    if path is not None and path.exists() and not calibration.force:
        _check_cache(path, [n for n in input_names if n])
    return _class(getattr(trt, kind))(feed, path)


def raise_its_error(made: Any) -> None:
    """Raise what went wrong while TensorRT asked for batches; it takes an error there for the end of the data."""
    if made.feed.error is not None:
        raise made.feed.error


def _check_cache(path: Path, inputs: Sequence[str]) -> None:
    held = read_tensorrt_cache(path)
    missing = [name for name in inputs if name not in held]
    if missing:
        raise ConfigError(
            f"the TensorRT calibration cache {path} is not of this network: it lacks the input {', '.join(missing)}. Delete "
            "it, or name another file, to calibrate anew, or Calibration(..., force=True) takes it as it is"
        )


def _batches(
    graph: Graph, intake: Intake, calibration: Calibration, line: Callable[[str], None] | None,
    keep: list[list[torch.Tensor]] | None,
) -> Iterator[list[torch.Tensor]]:  # fmt: skip
    """What the network takes, of the example's shapes."""
    batches = open_data(calibration, graph.inputs, intake.examples, this_rank())
    total = None if batches.known is None else min(batches.known, batches.limit)
    with Progress(total, calibration.progress, line) as progress:
        for number, batch in batches:
            for tensors in intake.ready(intake.tensors(batch, number), number):
                if keep is not None and len(keep) < KEPT:
                    keep.append([t.clone() for t in tensors])
                yield tensors
            progress.step()
    if intake.left_over() and not intake.samples:
        yield intake.padded()
    for doubt in _doubts(intake):
        warnings.warn(f"calibration: {doubt}", CalibrationWarning, stacklevel=2)


def _doubts(intake: Intake) -> Iterator[str]:
    if intake.samples < FEW:
        yield f"only {intake.samples} samples; scales of fewer than {FEW} say little of other data"
    if intake.left_over() and intake.samples > intake.left_over():
        yield f"the last {intake.left_over()} samples are left out: they do not fill a batch of the example's size"


class _Feed:
    """Addresses of batches.

    Attributes:
        error: what stopped it.
        size: samples in a batch.
    """

    def __init__(
        self, batches: Iterator[list[torch.Tensor]], names: Sequence[str], dtypes: Mapping[str, torch.dtype], size: int
    ) -> None:  # fmt: skip
        self.error: BaseException | None = None
        self.size = size
        self._batches, self._names, self._dtypes = batches, list(names), dtypes
        self._held: dict[str, torch.Tensor] = {}  # TensorRT reads it until it asks for the next

    def next(self, names: Sequence[str]) -> list[int] | None:
        """The addresses of the next batch's tensors, in the order of ``names``; None at the end."""
        try:
            tensors = next(self._batches, None)
            if tensors is None:
                return None
            self._held = {n: t.to(self._dtypes[n]).contiguous() for n, t in zip(self._names, tensors) if n}
            torch.cuda.synchronize()  # TensorRT reads on a stream of its own
            return [self._held[name].data_ptr() for name in names]
        except BaseException as error:  # also an interrupt: raised again once TensorRT has returned
            self.error = error
            return None


def _class(base: Any) -> Any:
    """A calibrator that is a ``base``, which TensorRT has to be there for."""

    class Calibrator(base):  # type: ignore[misc]
        def __init__(self, feed: _Feed, cache: Path | None) -> None:
            base.__init__(self)  # pybind11 trampolines crash when the base is not initialised by name
            self.feed, self.cache = feed, cache

        def get_batch_size(self) -> int:
            return self.feed.size

        def get_batch(self, names: list[str]) -> list[int] | None:
            return self.feed.next(names)

        def read_calibration_cache(self) -> bytes | None:
            return self.cache.read_bytes() if self.cache is not None and self.cache.exists() else None

        def write_calibration_cache(self, cache: Any) -> None:
            if self.cache is not None and self.feed.error is None:
                write_text(self.cache, bytes(cache).decode())

    return Calibrator
