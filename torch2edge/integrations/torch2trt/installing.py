"""install(): ``import torch2trt`` finds this package."""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ...errors import ConfigError

__all__ = ["install", "uninstall"]

_HERE = __name__.rpartition(".")[0]
# torch2trt's modules, and where their names are here; "" is this package
_MODULES = {
    "torch2trt": "",
    "torch2trt.dataset": "dataset",
    "torch2trt.flattener": "flattener",
    "torch2trt.misc_utils": "helpers",
    "torch2trt.torch2trt": "",
    "torch2trt.trt_module": "module",
    "torch2trt.version_utils": "version_utils",
}


class _Door(ModuleType):
    """Has the names of another module."""

    def __init__(self, name: str, behind: ModuleType) -> None:
        super().__init__(name, behind.__doc__)
        self.__dict__["_behind"] = behind
        is_package = name == "torch2trt"
        self.__spec__ = ModuleSpec(name, None, origin=_HERE, is_package=is_package)  # what asks find_spec() needs one
        if is_package:
            self.__path__: list[str] = []  # none of its modules are files

    def __getattr__(self, name: str) -> Any:
        behind = self.__dict__["_behind"]
        if name == "__all__" or (not name.startswith("__") and hasattr(behind, name)):
            return getattr(behind, name)
        names = ", ".join(sorted(getattr(behind, "__all__", [])))
        raise AttributeError(f"torch2edge answers to {self.__name__}, and has no {name} there; it has {names}")

    def __dir__(self) -> list[str]:
        return sorted(self.__dict__["_behind"].__all__)


def install() -> None:
    """Make ``import torch2trt`` and its modules answer with torch2edge's, in this process; once more does nothing.

    Raises:
        ConfigError: the real torch2trt is imported already.
    """
    taken = sys.modules.get("torch2trt")
    if isinstance(taken, _Door):
        return
    if taken is not None or any(name.startswith("torch2trt.") for name in sys.modules):
        raise ConfigError(
            "torch2trt is imported already, from "
            f"{getattr(taken, '__file__', 'an unknown place')}: call install() before anything imports it"
        )
    doors = {n: _Door(n, importlib.import_module(f"{_HERE}.{b}" if b else _HERE)) for n, b in _MODULES.items()}
    for name, door in doors.items():
        _, dot, short = name.partition(".")
        if dot and short != "torch2trt":  # torch2trt.torch2trt is the function, as in torch2trt
            setattr(doors["torch2trt"], short, door)
    sys.modules.update(doors)


def uninstall() -> None:
    """Take back what ``install`` did; what has been imported meanwhile stays as it is."""
    for name in [n for n, module in sys.modules.items() if isinstance(module, _Door)]:
        del sys.modules[name]
