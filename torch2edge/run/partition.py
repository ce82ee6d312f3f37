"""PartitionedModule: a model whose largest convertible submodules are engines and whose rest is PyTorch."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from ..cut import Plan
from ..errors import ConfigError, EngineFileError, InputError
from ..modules import flatten_recurrent
from ..report import CheckRow, Report, check_table
from .module import EdgeModule

__all__ = ["Part", "PartitionReport", "PartitionWarning", "PartitionedModule"]

FORMAT = 1  # of the extra state
Refit = Callable[["PartitionedModule", Any, bool], "PartitionedModule"]


class PartitionWarning(UserWarning):
    """A submodule that has an engine ran in PyTorch."""


@dataclass
class PartitionReport:
    """Printable account of a partitioned model; ``to_dict()`` is the same as JSON."""

    plan: Plan
    engines: dict[str, Report] = field(default_factory=dict)  # by submodule path
    check: list[CheckRow] = field(default_factory=list)  # of the whole model
    checked_by: str = ""
    tolerance: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)  # seconds by stage
    notes: list[str] = field(default_factory=list)
    calls: dict[str, tuple[int, int]] = field(default_factory=dict)  # path -> forwards by the engine, by PyTorch; so far

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and numbers."""
        plain = {name: getattr(self, name) for name in ("checked_by", "tolerance", "timings", "notes")}
        return {
            "plan": self.plan.to_dict(), "engines": {path: r.to_dict() for path, r in self.engines.items()},
            "check": [asdict(row) for row in self.check], "calls": {p: list(c) for p, c in self.calls.items()}, **plain,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PartitionReport:
        """The inverse of ``to_dict``."""
        engines = {path: Report.from_dict(r) for path, r in data["engines"].items()}
        rows = [CheckRow(**row) for row in data["check"]]
        rest = {name: data[name] for name in ("checked_by", "tolerance", "timings", "notes")}
        return cls(
            Plan.from_dict(data["plan"]), engines, rows, calls={p: (a, b) for p, (a, b) in data["calls"].items()}, **rest
        )

    def __str__(self) -> str:
        """The cut, the check of the whole, what ran where so far."""
        parts = [str(self.plan), check_table(self.check, self.checked_by, self.tolerance)]
        elsewhere = [f"  {path}: {torch} of {engine + torch} calls" for path, (engine, torch) in self.calls.items() if torch]
        if elsewhere:
            parts.append(
                "\n".join(["ran in PyTorch although there is an engine (other shapes, or training mode)", *elsewhere])
            )
        return "\n\n".join([*parts, *(["\n".join(self.notes)] if self.notes else [])])


class _StandsFor(nn.Module):
    """What it has not itself is that of the submodule named by ``_inner``."""

    _inner: str

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if self._inner not in self.__dict__.get("_modules", {}):  # while it is made, copied or unpickled
                raise
        return getattr(self._modules[self._inner], name)


class Part(_StandsFor):
    """A submodule and its engine. Inputs that the engine was not built for go to the submodule, with a warning once.

    Attributes and methods other than ``forward`` are the submodule's own.
    """

    _inner = "edge_original"

    def __init__(self, original: nn.Module, engine: EdgeModule, path: str) -> None:
        super().__init__()
        self._path, self._by_engine, self._by_torch = path, 0, 0
        self.edge_original, self.edge_engine = original, engine
        self.training = original.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The engine's outputs; the submodule's where the engine takes no such inputs, or in training mode."""
        if self.training:
            return self._in_torch("it is in training mode", args, kwargs)
        try:
            result = self.edge_engine(*args, **kwargs)
        except InputError as error:
            return self._in_torch(str(error), args, kwargs)
        self._by_engine += 1
        return result

    def _in_torch(self, reason: str, args: Any, kwargs: Any) -> Any:
        self._by_torch += 1
        if self._by_torch == 1:
            warnings.warn(
                f"{self._path} has an engine, but this call runs in PyTorch: {reason} (The report counts such calls.)",
                PartitionWarning,
                stacklevel=4,
            )
        return self.edge_original(*args, **kwargs)


class _Sequence(Part):
    """A part in the place of a container: it can be indexed and iterated over too."""

    def __len__(self) -> int:
        return len(self.edge_original)  # type: ignore[arg-type]

    def __getitem__(self, key: Any) -> Any:
        return self.edge_original[key]  # type: ignore[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.edge_original)  # type: ignore[call-overload,no-any-return]

    def __contains__(self, key: Any) -> bool:
        return key in self.edge_original  # type: ignore[operator]


class PartitionedModule(_StandsFor):
    """A copy of a model in which some submodules are engines, each beside the submodule that it stands for.

    ``PartitionedModule(model)`` with a model of the same class takes the ``state_dict`` of a saved one: engines, weights
    and report. Attributes that it has not itself are the copy's, which is ``.module``. It is for inference: what engines
    compute has no gradient. A submodule with an engine that is called with other shapes than the engine's runs in PyTorch.

    Args:
        model: it is copied, and left as it was.
        engines: path of a submodule -> its engine.
        report: of the cut.

    Raises:
        InputError: the model cannot be copied.
    """

    _inner = "module"
    _refit: Refit | None = None  # after ``convert(..., refittable=True)``

    def __init__(
        self, model: nn.Module, engines: Mapping[str, EdgeModule] | None = None, report: PartitionReport | None = None
    ) -> None:
        super().__init__()
        self.eval()
        try:
            self.module = copy.deepcopy(model)
        except Exception as error:
            raise InputError(
                f"the model cannot be copied ({type(error).__name__}: {error}); engines are put into a copy"
            ) from error
        flatten_recurrent(self.module)
        self._report = report
        self._parts: dict[str, Part] = {}
        self._install(engines or {})

    def _install(self, engines: Mapping[str, EdgeModule]) -> None:
        """Put each engine wherever its submodule hangs; engines that are there already are taken out first."""
        self._replace({id(part): part.edge_original for part in self._parts.values()})
        self._parts = {}
        for path, engine in engines.items():
            original = self.module.get_submodule(path)
            kind = _Sequence if hasattr(type(original), "__len__") else Part
            self._parts[path] = kind(original, engine, path)
        self._replace({id(part.edge_original): part for part in self._parts.values()})

    def _replace(self, new: Mapping[int, nn.Module]) -> None:
        parents = [m for m in self.module.modules() if not isinstance(m, torch.jit.ScriptModule)]
        for parent in parents:
            if isinstance(parent, Part):
                continue
            for name, child in parent._modules.items():
                if id(child) in new:
                    parent._modules[name] = new[id(child)]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the original model gives."""
        return self.module(*args, **kwargs)

    def refit(self, model: nn.Module, *, verify: bool = True) -> None:
        """Take the weights of another model: engines and PyTorch, after ``convert(..., fallback="torch", refittable=True)``.

        What stays in PyTorch is a fresh copy of the new model, with all that it is made of: buffers in no state dict and
        attributes, too. When this fails, all is as it was. There must be memory for both, engines and copies. Calls of other
        threads that have begun before it ends may get old weights here and new ones there.

        Args:
            model: like the one that was converted, in eval mode.
            verify: compare each engine with its submodule, and the whole with the model, on fresh random inputs (on the
                calibration's batches where INT8 was checked on these).

        Raises:
            ConfigError: an engine cannot be refitted, or the model is another one; see ``EdgeModule.refit``.
            InputError: it is no model.
            TrainingModeError: a module is in training mode.
            VerificationError: the outputs of an engine are not those of its submodule, or those of the whole not the model's.
        """
        not_made = [path for path, part in self._parts.items() if part.edge_engine._refit is None]
        if self._refit is None or not_made:
            raise ConfigError(
                f"refit: the engines of {', '.join(not_made or self._parts) or 'an empty module'} cannot be refitted: they "
                "were converted without refittable=True, or loaded"
            )
        self._become(self._refit(self, model, verify))

    def _become(self, new: PartitionedModule) -> None:
        """Take the copy of ``new``; the engines stay these, with what is set about them, and take what is in the new ones."""
        old, self._parts = self._parts, new._parts
        self.module, self._report = new.module, new._report
        for path, part in new._parts.items():
            part._by_engine, part._by_torch = old[path]._by_engine, old[path]._by_torch
            old[path].edge_engine._become(part.edge_engine)
            part.edge_engine = old[path].edge_engine

    def _original_state(self) -> dict[str, Any]:
        """The state dict of the copy as it was before engines were put in."""
        with self._originals():
            return self.module.state_dict()

    @property
    def report(self) -> PartitionReport | None:
        """The cut, the check, and how many calls ran in PyTorch so far; None until a state dict is loaded."""
        if self._report is not None:
            self._report.calls = {path: (part._by_engine, part._by_torch) for path, part in self._parts.items()}
        return self._report

    def reset_calls(self) -> dict[str, tuple[int, int]]:
        """Forget the calls so far, and the warnings that they gave; returns them by path, by engine and by PyTorch."""
        counted = {path: (part._by_engine, part._by_torch) for path, part in self._parts.items()}
        for part in self._parts.values():
            part._by_engine = part._by_torch = 0
            part.edge_engine._warned = False
        return counted

    def extra_repr(self) -> str:
        """One line for ``print(module)``."""
        return f"engines: {', '.join(self._parts) or 'none'}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """``torch.save`` of the state dict; load it into ``PartitionedModule(model)``."""
        torch.save(self.state_dict(), path)

    def get_extra_state(self) -> torch.Tensor:
        """Which submodules are engines, and the report, as JSON in a uint8 tensor."""
        report = self._report.to_dict() if self._report else None
        data = json.dumps({"format": FORMAT, "engines": list(self._parts), "report": report}).encode()
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Make room for the engines of a ``state_dict``, which are loaded after this.

        Raises:
            EngineFileError: it is none of a partitioned model, or of another model.
        """
        try:
            data = json.loads(state.cpu().numpy().tobytes())
            wanted = {"format": FORMAT}.items() <= data.items()
        except (AttributeError, ValueError) as error:
            raise EngineFileError(f"the state dict is none of a PartitionedModule ({error})") from error
        if not wanted:
            raise EngineFileError(f"the state dict has the format {data.get('format')}, this torch2edge reads {FORMAT}")
        known = self._paths()
        if missing := [path for path in data["engines"] if path not in known]:
            raise EngineFileError(
                f"the state dict has engines for {', '.join(missing)}, but this model has no such submodules"
            )
        self._install({path: EdgeModule() for path in data["engines"]})
        self._refit = None
        self._report = PartitionReport.from_dict(data["report"]) if data["report"] else None

    @contextlib.contextmanager
    def _originals(self) -> Iterator[None]:
        """The copy as it was before engines were put in."""
        self._replace({id(part): part.edge_original for part in self._parts.values()})
        try:
            yield
        finally:
            self._replace({id(part.edge_original): part for part in self._parts.values()})

    def _paths(self) -> set[str]:
        """Paths of the copy's submodules, as they were before engines were put in."""
        with self._originals():
            return {path for path, _ in self.module.named_modules()}
