"""INT8 of a model that is cut into parts: each part is calibrated on what the whole model calls it with. Part of api.py."""

from __future__ import annotations

import contextlib
import inspect
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from .build.calibration import Arguments, Calibration, CalibrationWarning, Derived
from .build.calibration.data import open_data
from .build.calibration.distributed import this_rank
from .build.calibration.intake import Intake
from .build.calibration.run import KEPT
from .cut import NOT_TO_SKIP
from .errors import CalibrationError, ConfigError, ConversionError, Torch2EdgeError
from .graph import Graph, Value
from .structure import call_names, flatten_call, unflatten
from .trace import Contents, unchanged
from .trace.calls import signature
from .trace.compiled import eager_only
from .trace.state import held

__all__ = ["PartData", "WholeData", "on_all_ranks", "whole_data"]

T = TypeVar("T")
_ONE_WAY = ("builtins", "itertools")  # whose iterators are: generators, map, zip, chain


@dataclass
class WholeData:
    """A user's calibration of the whole model, and what its parts get of it.

    Attributes:
        model: the original, in PyTorch.
        args: positional inputs of the conversion's example.
        kwargs: its keyword inputs.
        calibration: the user's.
        kept: the first batches, as the tensors of a call; for the check of the whole.
        parts: the data of each part that was asked for, by its path.
    """

    model: nn.Module
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    calibration: Calibration
    kept: list[list[torch.Tensor]] = field(default_factory=list)
    parts: dict[str, PartData] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)

    def of_part(
        self, path: str, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Calibration:  # fmt: skip
        """The calibration of a submodule that is called as given; its cache is its own file.

        Raises:
            ConfigError: the data can be gone through once only.
        """
        data = self.calibration.data
        if isinstance(data, Iterator) and type(data).__module__ in _ONE_WAY:  # a user's own may begin anew
            raise ConfigError(
                f"calibration: the data is an iterator ({type(data).__name__}), which is empty the second time, but with "
                "fallback='torch' every part goes through it. Give a list or a DataLoader, which begin anew"
            )
        part = self.parts[path] = PartData(self, path, module, signature(args, kwargs))
        return replace(self.calibration, data=part, cache=_cache_of(self.calibration.cache, path), batch_to_inputs=None)

    def batches(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """This rank's batches with their numbers, as calibration takes them in: on the model's device, of the example's sizes.

        Raises:
            CalibrationError: the data failed, is none, or does not fit the model.
        """
        ranks, graph = this_rank(), _without_ops(self.args, self.kwargs)
        examples, _ = flatten_call(self.args, self.kwargs)
        device = next((t.device for t in examples), torch.device("cpu"))
        parameters = list(inspect.signature(self.model.forward).parameters)
        intake = Intake(graph, self.args, self.kwargs, self.calibration, device, parameters)
        number = 0
        for number, batch in open_data(self.calibration, graph.inputs, examples, ranks):
            for tensors in intake.ready(intake.tensors(batch, number), number):
                self._keep(tensors)
                yield number, tensors
        left = intake.left_over()
        if left and not intake.samples and ranks.world == 1:
            self._warn(f"there are only {left} samples, fewer than the example's batch; they were repeated to fill it")
            tensors = intake.padded()
            self._keep(tensors)
            yield number, tensors
        elif left and ranks.rank == 0:
            self._warn(f"the last {left} samples are left out: they do not fill a batch of the example's size")

    @contextlib.contextmanager
    def named(self, path: str) -> Iterator[None]:
        """Name a part in what is said of its own tensors: the user knows their batches, not what becomes of them."""
        try:
            yield
        except CalibrationError as error:
            if path not in self.parts or self.parts[path].told:
                raise
            raise CalibrationError(f"in {path}: {error}") from error

    def _keep(self, tensors: Sequence[torch.Tensor]) -> None:
        if len(self.kept) < KEPT:
            self.kept.append([t.clone() for t in tensors])

    def _warn(self, text: str) -> None:
        """Once, however many parts there are."""
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(f"calibration: {text}", CalibrationWarning, stacklevel=2)


def whole_data(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], calibration: Calibration | None, in_int8: bool
) -> WholeData | None:
    """The data of a model that is cut into parts; None without a calibration.

    Args:
        in_int8: whether INT8 is asked for anywhere.

    Raises:
        ConfigError: it is not, and the calibration would have no effect.
    """
    if calibration is not None and not in_int8:
        raise ConfigError("calibration is given, but nothing is to be INT8: add int8=True, or precisions={module: 'int8'}")
    return None if calibration is None else WholeData(model, args, kwargs, calibration)


class PartData(Derived):
    """What the whole model calls one of its submodules with, batch after batch; every call counts.

    The whole runs in PyTorch, to its end: the data may call the submodule more often than the example did. Between two batches
    nothing is held but copies of one forward's calls. What a forward writes to a buffer is there in the next one, as at run
    time, but outside the forwards the model is the user's. Calls that the part's engine would leave to PyTorch, for they have
    other shapes or arguments, are passed over and counted.

    Args:
        whole: the data, and the model.
        path: of the submodule.
        module: the submodule.
        wanted: ``trace.calls.signature`` of the calls that the engine is for.

    Attributes:
        told: whether an error came from here, and says already what it is about.
        taken: calls of the last iteration.
        passed_over: its calls that are not such as the engine is for.
        assigned: buffers to which a forward assigns. Each batch begins with what they were, unlike those that are written in
            place, whose contents go on.
    """

    def __init__(self, whole: WholeData, path: str, module: nn.Module, wanted: str) -> None:
        self.origin = whole.model
        self.is_there = whole.calibration.data is not None
        self.path, self.told, self.taken, self.passed_over = path, False, 0, 0
        self.assigned: list[str] = []
        self._whole, self._module, self._wanted = whole, module, wanted

    def __iter__(self) -> Iterator[Arguments]:
        self.taken = self.passed_over = 0
        everything = held(self.origin)
        contents = Contents(self.origin, everything)
        try:
            for number, tensors in self._whole.batches():
                for call in self._calls(number, tensors, everything, contents):
                    self.taken += 1
                    yield call
        except Exception:
            self.told = True
            raise

    def nothing(self) -> str:
        """Why there was no call to observe."""
        self.told = True
        tip = f"or leave it in floats: precisions={{{self.path!r}: 'fp32'}}"
        if self.passed_over:
            return (
                f"calibration: all {self.passed_over} calls of {self.path} with this data have other shapes, dtypes or plain "
                f"arguments than the example's, for which its engine is. Convert with an example like the data, {tip}"
            )
        return (
            f"calibration: the model never calls {self.path} with this data, so nothing tells its ranges. Give data that "
            f"reaches it, {tip}"
        )

    def note(self) -> str:
        """For the report; "" where every call was observed as it will be."""
        if self.assigned:
            return (
                f"note: calibration: the forward assigns to {', '.join(self.assigned)}, and each batch began with what it "
                f"was: the ranges of {self.path} know nothing of what builds up over calls"
            )
        if not self.passed_over:
            return ""
        count = self.passed_over + self.taken
        return (
            f"note: calibration: {self.passed_over} of {count} calls of {self.path} have other shapes or arguments than its "
            "engine, and were passed over: such calls run in PyTorch"
        )

    def _calls(
        self, number: int, tensors: Sequence[torch.Tensor], everything: list[tuple[str, Any]], contents: Contents
    ) -> list[Arguments]:  # fmt: skip
        """The calls of one forward of the whole."""
        found: list[Arguments] = []
        thread = threading.get_ident()

        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if threading.get_ident() != thread:
                return
            if signature(args, kwargs) != self._wanted:
                self.passed_over += 1
            else:
                found.append(_copied(args, kwargs))

        # copies: a forward may write to its inputs, which may be the user's own
        _, structure = flatten_call(self._whole.args, self._whole.kwargs)
        call = unflatten(structure, [t.clone() for t in tensors])
        with contents.put_back(), unchanged(self.origin, everything), eager_only(), torch.no_grad():
            handle = self._module.register_forward_pre_hook(look, prepend=True, with_kwargs=True)
            before = dict(self.origin.named_buffers())
            try:
                self.origin(*call["args"], **call["kwargs"])
                self.assigned = [name for name, t in self.origin.named_buffers() if t is not before.get(name)]
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:
                reason = (str(error).splitlines() or ["no message"])[0]
                raise CalibrationError(
                    f"calibration: the model does not run on batch {number}: {type(error).__name__}: {reason}"
                ) from error
            finally:
                handle.remove()
        return found


def _copied(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
    """Copies: the rest of the forward may write to the tensors."""
    tensors, structure = flatten_call(args, kwargs)
    call = unflatten(structure, [t.clone() for t in tensors])
    return Arguments(call["args"], call["kwargs"])


def _without_ops(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Graph:
    """The inputs of a model that cannot be traced, of the example's shapes."""
    tensors, structure = flatten_call(args, kwargs)
    inputs = [Value(i, tuple(t.shape), t.dtype) for i, t in enumerate(tensors)]
    nothing = {"kind": "plain", "value": None}
    return Graph(inputs, [], [], call_names(structure), [], structure, nothing)


def _cache_of(cache: str | os.PathLike[str] | None, path: str) -> Path | None:
    """``calib.json`` -> ``calib.backbone.layer1.json``"""
    if cache is None:
        return None
    file = Path(cache)
    return file.with_name(f"{file.stem}.{path.replace(os.sep, '_')}{file.suffix}")


def on_all_ranks(attempt: Callable[[], T]) -> T:
    """What ``attempt`` gives. With torch.distributed, where it fails on one rank it fails on all.

    Else the ranks would go on with other parts, and wait for each other in the calibrations of different ones.

    Raises:
        ConversionError: it did not convert on another rank.
        CalibrationError: another rank has stopped for good.
    """
    ranks, error = this_rank(), None
    try:
        made = attempt()
    except Exception as raised:
        error = raised
    failed = "" if error is None else f"{type(error).__name__}: {error}"
    final = error is not None and (isinstance(error, NOT_TO_SKIP) or not isinstance(error, Torch2EdgeError))
    told = ranks.gather((failed, final))
    if error is not None and (final or not any(final for _, final in told)):
        raise error
    for rank, (failure, final) in enumerate(told):
        if final:
            raise CalibrationError(f"the conversion stopped on rank {rank} of {ranks.world}: {failure}") from error
    for rank, (failure, _) in enumerate(told):
        if failure:
            raise ConversionError(f"it did not convert on rank {rank} of {ranks.world}: {failure}")
    return made
