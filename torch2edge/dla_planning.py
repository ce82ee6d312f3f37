"""plan_dla(): what a board's DLA would take of a model. Part of api.py, knows the stages too."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ._trt import capabilities, clear_errors, last_errors, load_plugins, logger, trt
from .build import BuildSession
from .dla import DlaPlan, Setting, plan_network
from .dla.layer import Layer
from .dla.planner import ASKED
from .errors import ConfigError, ConversionError, InputError
from .fitting import check_fixed
from .inputs import device_of, positional, read_inputs
from .lower import registry
from .lower.onnx_names import scoped_path
from .lower.quantize import has_quantizers
from .modules import by_path, check_reached, nearest
from .options import Options
from .prepare import Call, for_dla
from .roads import graph_of, network, opened
from .shapes import Input

__all__ = ["plan_dla"]

HALF_ENDS = (
    "note: a strongly typed DLA computes in the network's dtypes, so float inputs and outputs are planned in half, as "
    "convert(fp16=True, io_dtype=torch.float16) has them: in float32 a cast at each end runs on the GPU"
)


def plan_dla(
    model: Any,
    inputs: Sequence[Any] | torch.Tensor = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    device_types: Mapping[nn.Module | str, Any] | None = None,
    default_device_type: Any = None,
    target: str = "orin",
    tensorrt: str = "8.6",
    fp16: bool | None = None,
    int8: bool = False,
    dla_rewrites: bool = False,
    converters: Mapping[Any, Callable[..., Any]] | None = None,
) -> DlaPlan:
    """Say which layers of a model would run on the DLA of a board, which fall back to the GPU, and by which rule.

    It needs neither a board nor a GPU, and builds nothing: the model is traced and becomes the network of the TensorRT that is
    installed here, whose layers are held against the rules of the DLA (``torch2edge/dla/rules.py``).

    Args:
        model: a module in eval mode; an ``ExportedProgram``; the path of an .onnx file, which TensorRT's parser takes as it
            is, so that layers are named as in TensorRT's own logs; or a filled ``INetworkDefinition``.
        inputs: the positional inputs of the module, with the shapes that are planned for; of those of an .onnx file only the
            shapes are used, and none are needed if it fixes them. A network takes none.
        kwargs: the keyword inputs of a module; neither a file nor a network takes any.
        device_types: submodule, its path, or a pattern of paths -> ``trt.DeviceType``, "dla" or "gpu"; it holds for what is
            inside too, the innermost wins. For a file or a network also the name of a layer.
        default_device_type: of all other layers; by default the GPU where ``device_types`` names the DLA, else the DLA.
        target: "orin" or "xavier".
        tensorrt: the version on the board, e.g. "8.6".
        fp16: the builder may use FP16; by default True unless ``int8``.
        int8: the builder may use INT8. Both together is what boards are mostly built with. For TensorRT 11, which is strongly
            typed, of a model that quantizes by itself only.
        dla_rewrites: plan what ``convert(dla_rewrites=True)`` makes of a module; the notes say what became what.
        converters: ATen overload or module class -> converter, as for ``convert``; for a module.

    Returns:
        The plan; ``print`` shows it, ``plan.all_on_dla`` says whether no layer falls back.

    Raises:
        ConfigError: no such target, or a version without DLA on it; device types of nothing; open sizes; INT8
            where the model has none for a strongly typed board; rewrites, converters or kwargs for a network that is there
            already.
        InputError: it is no model; a file that is empty, or does not take these inputs.
        Torch2EdgeError: the model cannot be traced or converted, see ``torch2edge.errors``.
    """
    at = Setting(target, tensorrt, (not int8) if fp16 is None else fp16, int8)
    default = None if default_device_type is None else _device(default_device_type, "default_device_type")
    is_file = isinstance(model, (str, os.PathLike))
    if is_file or isinstance(model, trt.INetworkDefinition):
        _check_layers_given(is_file, inputs, kwargs, dla_rewrites, converters)
    if is_file:
        session, parser = _parsed(Path(model), _shapes(inputs))
        return _plan_raw(session.network, at, device_types, default, keep=parser)
    if isinstance(model, trt.INetworkDefinition):
        return _plan_raw(model, at, device_types, default)
    return _plan_module(model, inputs, kwargs or {}, at, device_types, default, converters, dla_rewrites)


def _device_at(path: str, given: Any) -> str:
    return _device(given, f"device_types[{path!r}]")


class _Placed:
    """Which device each layer is asked for.

    Args:
        placed: path of a module (or name of a layer) -> "DLA" or "GPU".
        default: of what is not in there; None where none was given: the GPU if ``placed`` names the DLA, else the DLA.
        by_name: whether there are names of layers among the paths.
    """

    def __init__(self, placed: Mapping[str, str], default: str | None, *, by_name: bool = False) -> None:
        self._placed, self._told, self._by_name = placed, default is not None, by_name
        self._default = default or ("GPU" if "DLA" in placed.values() else "DLA")

    def on_dla(self, path: str) -> bool:
        """Whether what runs in the module ``path`` is to be on the DLA."""
        return (nearest(self._placed, path) or self._default) == "DLA"

    def wants(self, layer: Layer) -> bool:
        """Whether the layer is to be on the DLA."""
        return (self._entry(layer) or self._default) == "DLA"

    def why(self, layer: Layer) -> str:
        """Why it is not."""
        named = self._entry(layer) is not None
        return ASKED if named or self._told else "no entry of device_types names it, and some name the DLA"

    def _entry(self, layer: Layer) -> str | None:
        own = self._placed.get(layer.name) if self._by_name else None
        return own or nearest(self._placed, layer.module)


def _check_layers_given(is_file: bool, inputs: Any, kwargs: Any, dla_rewrites: bool, converters: Any) -> None:
    """Refuse what makes layers of a model, for a file or a network, which have theirs."""
    if dla_rewrites:
        raise ConfigError(
            "dla_rewrites changes a model's ops before they become layers, and this network has its layers: give the module"
        )
    if converters:
        raise ConfigError(
            "converters make layers of a module's ops, and this network has its layers: leave them out, or give the module"
        )
    what = (
        "an .onnx file: give its inputs in the list, in the file's order" if is_file else "a network: its inputs have shapes"
    )
    if kwargs:
        raise ConfigError(f"kwargs are of a module's call, and this is {what}")
    if not is_file and len(_listed(inputs)):
        raise ConfigError(f"inputs are given, but the model is {what}; leave them out")


def _check_int8(at: Setting, quantizes: bool) -> None:
    """Refuse INT8 on a strongly typed TensorRT for a network that has no quantize layers: it would be a plan without INT8."""
    if at.int8 and at.strongly_typed and not quantizes:
        raise ConfigError(
            f"int8=True with tensorrt={at.tensorrt!r}: INT8 on a strongly typed DLA is that of quantize layers, which this "
            "model has none of, and where a calibration would put them is not planned yet. Plan it with fp16=True, give a "
            "model that quantizes by itself, or name the weakly typed version that is on the board (up to 10.7)"
        )


def _device(given: Any, option: str) -> str:
    """ "DLA" or "GPU" of what was given as a device."""
    name = given.upper() if isinstance(given, str) else getattr(given, "name", "")
    if name not in ("DLA", "GPU"):
        raise ConfigError(f"{option} is {given!r}; it must be trt.DeviceType.GPU or .DLA, or 'gpu' or 'dla'")
    return str(name)


def _plan_module(
    model: Any, inputs: Any, kwargs: Mapping[str, Any], at: Setting, device_types: Any, default: str | None, converters: Any,
    dla_rewrites: bool,
) -> DlaPlan:  # fmt: skip
    module, file = opened(model)
    assert file is None
    placed = by_path(module, device_types, "device_types", "{submodule: 'dla'}", patterns=True).map(_device_at)
    # The board's weakly typed TensorRT chooses precisions itself; only a strongly typed one is told them by casts.
    typed = at.strongly_typed and at.fp16
    options = Options(fp16=typed)
    if typed and options.strong:
        options = replace(options, io_dtype=torch.float16)
    converting = registry().extended(converters)
    args, kwargs, names, varying = read_inputs(positional(inputs), kwargs, device_of(module))
    check_fixed(varying)
    graph = graph_of(module, args, kwargs, converting)
    graph.input_names = names
    _check_int8(at, has_quantizers(graph))
    if at.strongly_typed and not options.strong:
        raise ConfigError(
            f"tensorrt={at.tensorrt!r} is strongly typed, and {capabilities().title}, which makes the network here, is not: "
            "the dtypes by which such a DLA goes would be missing. Plan with TensorRT 10 or newer, or TensorRT-RTX"
        )
    check_reached(placed, [op.module for op in graph.ops], "device_types")
    devices = _Placed(placed, default)
    notes = [HALF_ENDS] if options.io_dtype is not None else []
    if dla_rewrites:
        graph, became = for_dla(graph, options, converting, on_dla=devices.on_dla, int8=at.int8)
        notes += became
    road = network(Call(module, args, kwargs, None), None, graph, options, converting, {})
    homes = {str(layer.raw.name): layer.module for layer in road.lowered.network.layers}
    plan = plan_network(
        road.session.network, at, wants_dla=devices.wants, why_gpu=devices.why, module_of=lambda name: homes.get(name, "")
    )
    plan.notes += notes
    plan.rewritten = dla_rewrites
    return plan


# ---- networks, ONNX files -----------------------------------------------------------------------------------------------


def _plan_raw(raw: Any, at: Setting, device_types: Any, default: str | None, keep: Any = None) -> DlaPlan:
    """Plan a network whose layers have nothing but their names.

    Args:
        keep: what owns the weights of the network.
    """
    raw_layers = [raw.get_layer(i) for i in range(raw.num_layers)]
    _check_int8(at, any(trt.ILayer.type.__get__(layer).name == "QUANTIZE" for layer in raw_layers))
    names = [str(layer.name) for layer in raw_layers]
    known = dict.fromkeys(["", *names, *(path for name in names for path in _around(_module_of(name)))])
    placed = by_path(
        nn.Module(), device_types, "device_types", "{name: 'dla'}", known=known, patterns=True
    ).map(_device_at)  # fmt: skip
    devices = _Placed(placed, default, by_name=True)
    made = plan_network(raw, at, wants_dla=devices.wants, why_gpu=devices.why, module_of=_module_of)
    del keep
    return made


def _around(path: str) -> list[str]:
    """A module path and those of the modules around it."""
    parts = path.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _module_of(name: str) -> str:
    """The module path in a layer's name: torch2edge's own ``layer1.0.conv1/convolution``, or that of torch.onnx.export."""
    if name.startswith("/"):
        return scoped_path(SimpleNamespace(name=name))
    return name.rpartition("/")[0]


def _listed(inputs: Any) -> list[Any]:
    """The inputs, of which there may be none."""
    return [] if inputs is None else positional(inputs)


def _shapes(inputs: Any) -> list[tuple[int, ...]]:
    """The shapes of the inputs of a file.

    Raises:
        InputError: one is no tensor.
        ConfigError: its sizes vary.
    """
    given = _listed(inputs)
    for number, one in enumerate(given):
        if not isinstance(one, (torch.Tensor, Input)):
            raise InputError(
                f"inputs[{number}] is a {type(one).__name__}; those of an .onnx file are tensors or torch2edge.Input, in order"
            )
    args, _, _, varying = read_inputs(given, {}, torch.device("cpu"))
    check_fixed(varying)
    return [tuple(tensor.shape) for tensor in args]


def _parsed(path: Path, shapes: Sequence[tuple[int, ...]]) -> tuple[BuildSession, Any]:
    """The network that TensorRT's parser makes of a file, and the parser, which owns the weights.

    Raises:
        InputError: there is no such file, nothing is in it, or it takes other inputs.
        ConversionError: the parser refuses it.
        ConfigError: sizes are open.
    """
    if path.suffix != ".onnx" or not path.is_file():
        raise InputError(f"{path}: there is no such file" if path.suffix == ".onnx" else f"{path}: it must be an .onnx file")
    session = BuildSession(Options())
    load_plugins()
    clear_errors()
    parser = trt.OnnxParser(session.network, logger())
    if not parser.parse_from_file(str(path)):
        told = [parser.get_error(i).desc() for i in range(parser.num_errors)] or last_errors() or ["(it said nothing)"]
        lines = "\n".join(f"  {line}" for line in told)
        raise ConversionError(f"the ONNX parser of {capabilities().title} refuses {path}:\n{lines}")
    raw = session.network
    if not (raw.num_inputs and raw.num_outputs and raw.num_layers):
        counts = f"{raw.num_inputs} inputs, {raw.num_outputs} outputs and {raw.num_layers} layers"
        raise InputError(f"{path}: the file has {counts}: it is empty or damaged. Export the model again")
    _fix_shapes(path, raw, shapes)
    return session, parser


def _fix_shapes(path: Path, raw: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """Give the inputs the shapes that are planned for."""
    declared = [raw.get_input(i) for i in range(raw.num_inputs)]
    if shapes and len(shapes) != len(declared):
        names = ", ".join(t.name for t in declared)
        raise InputError(f"{path} takes {len(declared)} inputs ({names}), but {len(shapes)} are given")
    for tensor, shape in zip(declared, shapes):
        wanted = tuple(tensor.shape)
        if len(wanted) != len(shape) or any(a not in (-1, b) for a, b in zip(wanted, shape)) or 0 in shape:
            shown = "x".join("?" if size < 0 else str(size) for size in wanted) or "a scalar"
            raise InputError(
                f"the input {tensor.name} of {path} is declared as {shown}, but given is {shape}: a size that the file fixes "
                "is as it says, and none is 0"
            )
        tensor.shape = shape
    for tensor in declared:
        if any(size < 0 for size in tensor.shape):
            raise ConfigError(
                f"{path} leaves sizes of the input {tensor.name} open ({tuple(tensor.shape)}), and the DLA takes none that "
                "vary: give an example of each input (plan-dla: --shape)"
            )
    _check_inferred(path, raw, [tuple(t.shape) for t in declared])


def _check_inferred(path: Path, raw: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse shapes with which a layer cannot be computed: TensorRT says so when it is asked for the layer's own.

    Sizes that depend on the data are open too, with no error; the plan has a rule for those.
    """
    clear_errors()
    for i in range(raw.num_layers):
        layer = raw.get_layer(i)
        for k in range(layer.num_outputs):
            with suppress(RuntimeError, ValueError):  # the reason is among the errors
                tuple(layer.get_output(k).shape)
    if told := last_errors():
        given = ", ".join("x".join(map(str, shape)) for shape in shapes)
        lines = "\n".join(f"  {line}" for line in told)
        raise InputError(f"{path} cannot be computed for inputs of {given}; {capabilities().title} says:\n{lines}")
