"""A module -> an ONNX model, by either exporter of torch.onnx, with the module path of each node."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..attention import plain_attention
from ..errors import ConfigError
from ..structure import Structure, flatten, unflatten
from .onnx_names import metadata_path, named_paths

__all__ = ["INPUT", "OUTPUT", "export", "need"]

INPUT, OUTPUT = "input_{}", "output_{}"  # names of the bindings, as on the direct road
_TOKEN = re.compile(r"torch2edge(\d+)(?=/)")
_CHATTY = ("torch.onnx", "onnxscript", "onnx_ir", "onnxslim", "torch.export")


def need(*packages: str, why: str) -> None:
    """Refuse to go on without ``packages``.

    Raises:
        ConfigError: with what to install.
    """
    missing = []
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            missing.append(f"{package} ({error})")
    if missing:
        raise ConfigError(
            f"{why} needs what cannot be imported here: {', '.join(missing)}. Install it with\n"
            "    pip install 'torch2edge[onnx]'          or pip install onnx onnxslim onnxscript"
        )


def export(
    model: nn.Module, structure: Structure, tensors: Sequence[torch.Tensor], outputs: int, file: Path, *, exporter: str,
    opset: int,
) -> tuple[Any, dict[str, str]]:  # fmt: skip
    """``model`` as an ONNX model whose inputs and outputs are flat: ``input_0``, ..., ``output_0``, ...

    Args:
        structure: that of a call, see ``structure.flatten_call``.
        tensors: the tensors of the example call.
        outputs: how many tensors the model returns.
        file: where to write; weights of large models go into files beside it.
        exporter: "torchscript" (dynamo=False) or "dynamo".
        opset: the version of ONNX's operators.

    Returns:
        The ModelProto, weights included, and the module path by name of each node and of each tensor that a node makes.

    Raises:
        Exception: whatever torch.onnx.export says.
    """
    import onnx

    flat = _Flat(model, structure)
    options: dict[str, Any] = {
        "input_names": [INPUT.format(i) for i in range(len(tensors))],
        "output_names": [OUTPUT.format(i) for i in range(outputs)],
        "opset_version": opset, "dynamo": exporter == "dynamo", "verbose": False,
    }  # fmt: skip
    with _quiet(), plain_attention(), _scopes(model if exporter == "torchscript" else None) as paths:
        torch.onnx.export(flat, tuple(t.clone() for t in tensors), str(file), **options)
    proto = onnx.load(str(file))
    _name_outputs(proto, options["output_names"])
    if proto.functions:
        from onnx import inliner

        proto = inliner.inline_local_functions(proto)
    canonical = _canonical(flat)

    def path_of(node: Any) -> str:
        tokens = _TOKEN.findall(node.name)
        return paths[int(tokens[-1])] if tokens else canonical.get(metadata_path(node) or "", "")

    weights = {name: canonical[name.rpartition(".")[0]] for name in dict(flat.named_parameters(remove_duplicate=False))}
    return proto, named_paths(proto, path_of, weights)


def _name_outputs(proto: Any, names: Sequence[str]) -> None:
    """The wanted names, in order: TorchScript's exporter forgets that of an output that it folds to a constant."""
    from onnx import helper

    for output, name in zip(proto.graph.output, names):
        if output.name != name:
            proto.graph.node.append(helper.make_node("Identity", [output.name], [name], name=f"Identity_{name}"))
            output.name = name


class _Flat(nn.Module):
    """A module that takes and gives a flat list of tensors: exporters name each."""

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        super().__init__()
        self.training = False
        self.model = model
        self._structure = structure

    def train(self, mode: bool = True) -> _Flat:
        """Exporters switch to inference, which the model is in; and a module of torch.export refuses to switch."""
        return self

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The model's tensors, in order; copies, so that none of them is an input, a weight or another one."""
        call = unflatten(self._structure, tensors)
        result = self.model(*call["args"], **call["kwargs"])
        return tuple(t.clone() for t in flatten(result, "output")[0])


def _canonical(flat: _Flat) -> dict[str, str]:
    """Every path of every submodule of the wrapper -> the path that ``named_modules()`` of the model gives."""
    first = {id(m): path for path, m in flat.model.named_modules()}
    paths = {path: first[id(m)] for path, m in flat.named_modules(remove_duplicate=False) if id(m) in first}
    return {"": "", **paths}


@contextlib.contextmanager
def _scopes(model: nn.Module | None) -> Iterator[list[str]]:
    """While TorchScript's tracer runs, every submodule opens a scope that says which it is; gives the paths by number.

    The exporter's own scopes say no more than a module's last name, and nodes are named after the scopes around them.
    """
    paths: list[str] = []
    handles: list[Any] = []
    new_name = torch._C._jit_onnx_create_full_scope_name

    def enter(scope: str) -> Any:
        def hook(*_: Any) -> None:
            if state := torch._C._get_tracing_state():
                state.push_scope(scope)

        return hook

    def leave(*_: Any) -> None:
        if state := torch._C._get_tracing_state():
            state.pop_scope()

    try:
        for number, (path, module) in enumerate(model.named_modules() if model is not None else ()):
            paths.append(path)
            handles.append(module.register_forward_pre_hook(enter(new_name("torch2edge.Scope", f"torch2edge{number}"))))
            handles.append(module.register_forward_hook(leave, always_call=True))
        yield paths
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters warn of themselves (deprecations) and of traced branches, which tracing has ruled out; they print.

    What TorchScript's prints where it fails is the whole graph, and no option of it stops that.
    """
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    listing = torch._C._jit_onnx_log
    try:
        torch._C._jit_onnx_log = lambda *_: None
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._C._jit_onnx_log = listing
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
