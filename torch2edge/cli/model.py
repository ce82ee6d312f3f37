"""What ``--model`` and ``--weights`` name."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import pickle
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError

__all__ = ["load_model", "load_weights"]


def load_model(text: str) -> nn.Module:
    """The module that ``torchvision:NAME`` or ``file.py:FACTORY`` stands for.

    Raises:
        ConfigError: there is no such model, file or factory, or it failed; with the line where.
    """
    source, found, name = text.rpartition(":")
    if found and source == "torchvision":
        return _torchvision(name)
    if not found or not source.endswith(".py"):
        raise ConfigError(
            f"--model {text}: write torchvision:NAME, e.g. torchvision:resnet18, path/to/file.py:FACTORY, or path/to/file.onnx"
            + ("; which function of the file makes the model?" if text.endswith(".py") else "")
        )
    return _from_file(Path(source), name)


def load_weights(model: nn.Module, file: str) -> None:
    """Load a state dict from ``file``.

    Raises:
        ConfigError: it cannot be read, is no state dict, or is not this model's.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"--weights {file}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"--weights {file}: not a plain file of tensors; save torch.save(model.state_dict(), {file!r})"
        ) from error
    except Exception as error:  # of a text file whatever its letters mean to the unpickler: KeyError, IndexError, ...
        raise ConfigError(f"--weights {file}: torch.load cannot read it ({_first_line(error)})") from error
    if not isinstance(state, dict):
        raise ConfigError(f"--weights {file}: holds a {type(state).__name__}, not a state dict")
    if state and not any(isinstance(value, torch.Tensor) for value in state.values()):
        keys = ", ".join(map(str, list(state)[:6]))
        raise ConfigError(f"--weights {file}: holds no tensors, but {keys}; save the state dict alone")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"--weights {file}: {error}") from error


def _torchvision(name: str) -> nn.Module:
    try:
        from torchvision import models
    except ImportError as error:
        raise ConfigError(f"--model torchvision:{name}: torchvision is not installed (pip install torchvision)") from error
    known = models.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, 4, 0.5)
        raise ConfigError(
            f"--model torchvision:{name}: torchvision has no such model. "
            + (f"Near it: {', '.join(near)}" if near else f"It has {len(known)}: torchvision.models.list_models()")
        )
    options: dict[str, Any] = {"weights": None}  # nothing is downloaded
    taken = inspect.signature(models.get_model_builder(name)).parameters
    if "weights_backbone" in taken:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # theirs takes half a minute
    model: nn.Module = models.get_model(name, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # a last layer that starts at zero would make any check pass
                parameter.normal_(std=0.02)
    return model


def _from_file(path: Path, name: str) -> nn.Module:
    module = _execute(path)
    if not hasattr(module, name):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        near = difflib.get_close_matches(name, names, 3, 0.4) or names[:5]
        tip = f"; it has {', '.join(near)}" if near else ""
        raise ConfigError(f"--model {path}:{name}: the file defines no {name!r}{tip}")
    factory = getattr(module, name)
    model = factory
    if not isinstance(factory, nn.Module):
        if not callable(factory):
            kind = type(factory).__name__
            raise ConfigError(f"--model {path}:{name}: {name} is a {kind}, not a function that makes a module")
        try:
            model = factory()
        except Exception as error:
            raise ConfigError(f"--model {path}:{name}: {name}() failed at {_where(error, path)}: {_named(error)}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"--model {path}:{name}: {name}() returned {type(model).__name__}, not an nn.Module")
    return model


def _execute(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"--model {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(f"torch2edge_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--model {path}: Python cannot load it")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))  # as python file.py has it
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise ConfigError(f"--model {path}: {error.filename}:{error.lineno}: SyntaxError: {error.msg}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"--model {path}: failed at {_where(error, path)}: {_named(error)}") from error
    return module


def _where(error: BaseException, path: Path) -> str:
    """``file.py:12``: the innermost line of the user's file, else of any."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).resolve() == path.resolve()]
    last = (own or frames)[-1]
    return f"{last.filename}:{last.lineno}"


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
