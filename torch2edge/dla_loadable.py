"""build_loadable(): a model as a DLA loadable, for cuDLA and no TensorRT at run time. Part of api.py, knows the stages too."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ._trt import capabilities, trt
from .account import precision as precision_of
from .dla import DlaPlan
from .dla.formats import Format, parse_format
from .errors import ConfigError
from .files import write_whole
from .fitting import check_fixed
from .inputs import device_of, positional, read_inputs
from .lower import registry
from .modules import by_path
from .options import Options
from .placement import prepare_dla
from .prepare import Call, calibration_of
from .roads import Road, configure, graph_of, network, opened
from .structure import flatten_call

__all__ = ["build_loadable"]


def build_loadable(
    model: nn.Module,
    inputs: Sequence[Any] | torch.Tensor,
    path: str | os.PathLike[str],
    kwargs: Mapping[str, Any] | None = None,
    *,
    input_format: str = "fp16:chw16",
    output_format: str = "fp16:chw16",
    fp16: bool = True,
    int8: bool = False,
    calibration: Any = None,
    precisions: Mapping[nn.Module | str, str] | None = None,
    sparse: bool = False,
    dla_rewrites: bool = False,
    dla_pools: Mapping[str, int | str] | None = None,
    converters: Mapping[Any, Callable[..., Any]] | None = None,
) -> DlaPlan:
    """Write a standalone DLA loadable (EngineCapability.DLA_STANDALONE), which cuDLA runs; TensorRT cannot.

    All layers must run on the DLA, and inputs and outputs are in the DLA's own formats: nothing of it is on the GPU. It is not
    checked against the model, for nothing here can run it. **Nobody here has built one: no DLA was at hand.**

    Args:
        model: in eval mode.
        inputs: the positional inputs; shapes are fixed.
        path: of the file.
        kwargs: the keyword inputs.
        input_format: of all inputs, as for trtexec: "fp16:chw16", "int8:chw32", "int8:dla_hwc4" (1, 3 or 4 channels, and the
            first layer a convolution), "fp16:dla_linear".
        output_format: of all outputs; not dla_hwc4.
        fp16: allow FP16.
        int8: allow INT8; needs ``calibration``.
        calibration: as for ``convert``.
        precisions: as for ``convert``.
        sparse: allow kernels for weights in the 2:4 pattern.
        dla_rewrites: as for ``convert``; the plan's notes say what became what.
        dla_pools: as for ``convert``.
        converters: as for ``convert``.

    Returns:
        The plan that it was built by.

    Raises:
        ConfigError: a format that cannot be; a layer that the DLA cannot take, with the rules; there is no DLA here; or
            the file cannot be written.
        BuildError: TensorRT built none.
    """
    _check_folder(Path(path))
    if not capabilities().dla:
        raise ConfigError(
            f"build_loadable: {capabilities().title} has no DLA support; plan_dla tells what a board's DLA would take"
        )
    model, _ = opened(model)
    chosen = by_path(model, precisions, "precisions", "{submodule: 'fp16'}", patterns=True)
    options = Options(
        fp16=fp16, int8=int8, precisions=chosen, sparse=sparse, default_device_type=trt.DeviceType.DLA, gpu_fallback=False,
        dla_rewrites=dla_rewrites, dla_pools=dict(dla_pools or {}),
        io_dtype=torch.float16 if capabilities().strongly_typed else None,
    )  # fmt: skip
    args, kwargs, _, varying = read_inputs(positional(inputs), kwargs or {}, device_of(model))
    check_fixed(varying)
    shapes = [tuple(t.shape) for t in flatten_call(args, kwargs)[0]]
    taken = _format(input_format, "input_format", options, shapes)
    given = _format(output_format, "output_format", options, output=True)
    road = _filled(Call(model, args, kwargs, calibration_of(calibration)), options, converters)
    plan = prepare_dla(road)
    assert plan is not None  # Options refused where there is no DLA
    plan.notes += road.notes
    plan.rewritten = dla_rewrites
    road.session.stand_alone(taken, given)
    _write(Path(path), road.session.build())
    return plan


def _filled(call: Call, options: Options, converters: Mapping[Any, Callable[..., Any]] | None) -> Road:
    """The network, and the builder told its devices and precisions."""
    converting = registry().extended(converters)
    graph = graph_of(call.model, list(call.args), dict(call.kwargs), converting)
    road = network(call, None, graph, options, converting, {})
    configure(road, precision_of(road.network_graph, options))
    return road


def _format(
    text: str, option: str, options: Options, shapes: Sequence[Sequence[int]] = (), *, output: bool = False
) -> Format:  # fmt: skip
    """A format, held against the precisions that are allowed."""
    found = parse_format(text, option, output=output, shapes=shapes)
    if not options.uses(found.precision):
        raise ConfigError(f"{option} is {text!r}, but {found.precision} is not allowed: add {found.precision}=True")
    if found.precision == "int8" and options.strong:
        raise ConfigError(f"{option} is {text!r}: INT8 inputs and outputs of a strongly typed network are not there yet")
    return found


def _check_folder(path: Path) -> None:
    """Refuse a file that cannot be written, before the time that a build takes."""
    if path.is_dir():
        raise ConfigError(f"build_loadable: {path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise ConfigError(f"build_loadable: {path}: there is no folder {path.parent}; make it first")


def _write(path: Path, data: bytes) -> None:
    try:
        write_whole(path, data)
    except OSError as error:
        raise ConfigError(f"build_loadable: {path} cannot be written: {error.strerror or error}") from error
