"""The ONNX road: what the converters lack, by way of torch.onnx.export and TensorRT's own parser."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._trt import capabilities, clear_errors, last_errors, load_plugins, logger, to_trt_dtype, trt
from ..errors import ConfigError, ConversionError, Torch2EdgeError, UnsupportedOpError
from ..graph import Graph
from .network import Network
from .onnx_export import INPUT, OUTPUT, export, need
from .onnx_fold import fold, light
from .onnx_names import adopt_layers, nodes, rename
from .onnx_opset import version_of, write_as_17
from .walk import Lowered, binding_names

__all__ = ["hold", "lower_by_onnx", "name_tensors", "parse"]

EXTERNAL_FROM = 2**30  # bytes of weights from which they go into a file of their own; protobuf ends at 2 GiB
_COLOURS = re.compile(r"\x1b\[\d*m")
# Ends of first lines that lead to what is not shown: their next steps, their stack trace.
_LEADS_ON = re.compile(r"( This is step \d/\d of exporting the model to ONNX\.)?( Next steps:| See the stack trace.*)$")
EXPORTERS = {"torchscript": "dynamo=False", "dynamo": "dynamo=True"}


def lower_by_onnx(
    model: nn.Module, tensors: Sequence[torch.Tensor], graph: Graph, raw: Any, refused: Torch2EdgeError, *,
    exporter: str = "torchscript", opset: int | None = None, device_of: Callable[[str], Any] = lambda path: None,
    input_names: Sequence[str] | None = None, output_names: Sequence[str] | None = None,
) -> tuple[Lowered, str]:  # fmt: skip
    """Fill the empty INetworkDefinition ``raw`` by way of ONNX.

    Args:
        model: what ``graph`` was traced from.
        tensors: the tensors of the example call.
        refused: why the converters do not do.
        exporter: "torchscript" or "dynamo", the two of torch.onnx.export.
        opset: version of ONNX's operators; by default the newest that TensorRT's parser is sure to know.
        device_of: module path -> TensorRT's DeviceType, or None for the default.
        input_names: of the network's inputs, one per input of the graph; by default input_0, input_1, ...
        output_names: the same for its outputs.

    Returns:
        The network, and a note for the report: that this road was taken, and why.

    Raises:
        ConfigError: onnx or onnxslim cannot be imported.
        UnsupportedOpError, ConversionError: the export failed, or TensorRT's parser did; it has both reasons.
    """
    wanted_names = binding_names(graph, input_names, output_names)
    packages = ("onnx", "onnxslim", "onnxscript") if exporter == "dynamo" else ("onnx", "onnxslim")
    need(*packages, why=f"{_short(refused)}\nfallback='onnx'")
    wanted = opset or capabilities().onnx_opset
    call = f"torch.onnx.export({EXPORTERS[exporter]}, opset_version={wanted})"
    with tempfile.TemporaryDirectory(prefix="torch2edge-onnx-") as folder:
        try:
            proto, paths = export(
                model, graph.input_structure, tensors, len(graph.outputs), Path(folder, "exported.onnx"), exporter=exporter,
                opset=wanted,
            )  # fmt: skip
        except Exception as error:
            raise _both(refused, f"{call} fails: {_words(error)}", exporter) from error
    try:
        if wanted == 17 < version_of(proto):
            write_as_17(proto)
        given = version_of(proto)
        if opset and given != opset:
            raise ConfigError(f"onnx_opset={opset}: {call} gives opset {given} all the same; leave onnx_opset out")
        net, how = parse(proto, paths, raw, device_of)
        inputs, outputs = _bindings(graph, net)
        name_tensors(net, dict(zip((*inputs, *outputs), (*wanted_names[0], *wanted_names[1]))))
    except ConversionError as error:
        raise _both(refused, f"{call} gives a model, but {error}", exporter) from error
    note = f"note: taken by way of ONNX ({call.replace(str(wanted), str(given))}, {how}), because {_because(refused)}"
    inputs = [wanted if given else "" for given, wanted in zip(inputs, wanted_names[0])]
    return Lowered(net, [v.dtype for v in graph.outputs], inputs, wanted_names[1], {}), note


def parse(
    proto: Any, paths: dict[str, str], raw: Any, device_of: Callable[[str], Any] = lambda path: None
) -> tuple[Network, str]:  # fmt: skip
    """Fill ``raw`` with an ONNX model: simplified, checked, parsed, its layers named after their modules.

    Args:
        proto: the ModelProto; it is used up.
        paths: name of each node and tensor -> module path.

    Returns:
        The network, and in a few words what was done to the model.

    Raises:
        ConversionError: onnx.checker or TensorRT's parser refuses it; with all their errors.
    """
    import onnx

    proto, how = _simplified(proto)
    by_node = rename(proto, paths)
    _drop_unused_inputs(proto)
    net = Network(raw, {}, device_of)
    net.weight_bytes = _weight_bytes(proto)
    with tempfile.TemporaryDirectory(prefix="torch2edge-onnx-") as folder:
        file = str(Path(folder, "model.onnx"))
        try:
            onnx.checker.check_model(light(proto))
        except Exception as error:
            raise ConversionError(f"onnx.checker refuses it: {_words(error)}") from error
        _save(proto, file)
        _parse(net, proto, file)
    adopt_layers(net, proto, by_node)
    return net, how


def _simplified(proto: Any) -> tuple[Any, str]:
    """The model folded and as onnxslim leaves it, and what to say of that; without onnxslim where that fails.

    Its shape inference is not asked: it guesses values wrongly, and they would be folded in (onnx_fold.py).
    """
    import onnx
    import onnxslim

    before = sum(1 for _ in nodes(proto.graph))
    names = [o.name for o in proto.graph.output]
    fold(proto)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    try:
        slim = onnxslim.slim(copy, no_shape_infer=True)
        if [o.name for o in slim.graph.output] != names:
            raise ValueError("it lost an output")
    except Exception as error:
        return proto, f"not simplified: onnxslim {onnxslim.__version__} failed with {_words(error)}"
    return slim, f"onnxslim {onnxslim.__version__}: {before} nodes to {sum(1 for _ in nodes(slim.graph))}"


def _drop_unused_inputs(proto: Any) -> None:
    """Inputs that no node reads: TensorRT would keep them in the network, but not in the engine."""
    used = {name for node in nodes(proto.graph) for name in node.input} | {o.name for o in proto.graph.output}
    kept = [value for value in proto.graph.input if value.name in used]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)


def _save(proto: Any, file: str) -> None:
    import onnx

    external = _weight_bytes(proto) >= EXTERNAL_FROM
    onnx.save_model(proto, file, save_as_external_data=external, all_tensors_to_one_file=True, location="weights.bin")
    if external:
        onnx.load_external_data_for_model(proto, str(Path(file).parent))


def _weight_bytes(proto: Any) -> int:
    return sum(len(t.raw_data) or t.ByteSize() for t in proto.graph.initializer)


def _parse(net: Network, proto: Any, file: str) -> None:
    """Run TensorRT's parser.

    Raises:
        ConversionError: with every error that it has, and every operator that it does not know.
    """
    load_plugins()
    clear_errors()
    parser = trt.OnnxParser(net.raw, logger())
    net.keep(parser)  # it owns weights that the network reads
    if parser.parse_from_file(file):
        return
    lines = [_error(parser.get_error(i), proto) for i in range(parser.num_errors)]
    unknown = sorted({node.op_type for node in nodes(proto.graph) if not parser.supports_operator(node.op_type)})
    if unknown:
        lines.append(f"operators that it does not know: {', '.join(unknown)}")
    told = "\n".join(f"  {line}" for line in lines or last_errors() or ["(it said nothing)"])
    raise ConversionError(f"the ONNX parser of {capabilities().title} refuses it:\n{told}")


def _error(error: Any, proto: Any) -> str:
    """One error of the parser, with the node in it: by name, before TensorRT 9 by number, or by the importer that failed."""
    number, function = error.node(), error.func()
    name = getattr(error, "node_name", str)()
    if not name and 0 <= number < len(proto.graph.node):
        name = proto.graph.node[number].name
    if not name and function.startswith("import"):
        alike = [node.name for node in nodes(proto.graph) if node.op_type == function.removeprefix("import")]
        name = " or ".join(alike[:3]) + (f" or {len(alike) - 3} more" if len(alike) > 3 else "")
    return f"{name or 'the model'}: {error.code().name}: {error.desc()}"


def _bindings(graph: Graph, net: Network) -> tuple[list[str], list[str]]:
    """Names of inputs ("" for one that is not in the network) and outputs, held against what PyTorch says."""
    inputs = {t.name: t for t in map(net.raw.get_input, range(net.raw.num_inputs))}
    outputs = {t.name: t for t in map(net.raw.get_output, range(net.raw.num_outputs))}
    taken = []
    for i, value in enumerate(graph.inputs):
        name = INPUT.format(i)
        taken.append(name if name in inputs else "")
        if name in inputs:
            hold(inputs.pop(name), value, graph.input_names[i])
    if inputs:
        raise ConversionError(f"the network has inputs that the model has not: {', '.join(inputs)}")
    given = [OUTPUT.format(i) for i in range(len(graph.outputs))]
    if sorted(given) != sorted(outputs):
        raise ConversionError(f"the network's outputs are {', '.join(outputs)}, not {', '.join(given)}")
    for name, result, shown in zip(given, graph.outputs, graph.output_names):
        hold(outputs[name], result, shown, output=True)
    return taken, given


def name_tensors(net: Network, wanted: dict[str, str]) -> None:
    """Rename tensors; one that has such a name already goes by another."""
    layers = [net.raw.get_layer(i) for i in range(net.raw.num_layers)]
    tensors = [t for layer in layers for t in (layer.get_output(i) for i in range(layer.num_outputs))]
    tensors += [net.raw.get_input(i) for i in range(net.raw.num_inputs)]
    names = {t.name for t in tensors} | set(wanted.values())
    new = set(wanted.values())
    for tensor in tensors:
        name = wanted.get(tensor.name, tensor.name)
        while tensor.name not in wanted and name in (new if name == tensor.name else names):
            name += "_"
        if name != tensor.name:
            tensor.name = name
            names.add(name)


def hold(raw: Any, value: Any, name: str, output: bool = False) -> None:
    """Compare an input or output of the network with what it must be.

    Raises:
        ConversionError: it has another shape or type; the parser makes FLOAT of double.
    """
    try:
        dtype = to_trt_dtype(value.dtype)
    except ConfigError as error:
        raise ConversionError(f"{name} is {value.dtype}: {error}") from error
    if output and not capabilities().strongly_typed:
        raw.dtype = dtype
    if tuple(raw.shape) != value.shape or raw.dtype != dtype:
        raise ConversionError(
            f"the parsed network's {name} is {raw.dtype.name} {list(raw.shape)}, the model's {dtype.name} {list(value.shape)}"
        )


def _words(error: Exception) -> str:
    """An error of somebody else and its causes, the first line of each; the rest are listings and stack traces."""
    told: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        line = (_COLOURS.sub("", str(cause)).strip().splitlines() or ["no message"])[0]
        line = _LEADS_ON.sub("", line) or line
        told.append(f"{type(cause).__name__}: {line}")
        cause = cause.__cause__
    return "\n    because of ".join(dict.fromkeys(told))


def _because(refused: Torch2EdgeError) -> str:
    if isinstance(refused, UnsupportedOpError):
        rows = [f"{r['op']} in {r['module'] or 'the model itself'}, {r['source']}: {r['reason']}" for r in refused.rows]
        more = f"; and {len(rows) - 3} more" if len(rows) > 3 else ""
        return f"{len(rows)} op{'s' if len(rows) > 1 else ''} cannot be converted: " + "; ".join(rows[:3]) + more
    return str(refused).splitlines()[0]


def _short(refused: Torch2EdgeError) -> str:
    """Why the converters do not do, without the ways out: this is one of them."""
    return str(refused).partition("\nThe ways out")[0]


def _both(refused: Torch2EdgeError, theirs: str, exporter: str) -> Torch2EdgeError:
    other = next(name for name in EXPORTERS if name != exporter)
    text = (
        f"{_short(refused)}\nfallback='onnx' does not do either: {theirs}\n"
        f"The ways out: onnx_exporter='{other}', the other one; fallback='torch' (what converts becomes engines, the rest "
        "stays PyTorch); write the model without the op; or add a converter (CONTRIBUTING.md has the steps)."
    )
    if isinstance(refused, UnsupportedOpError):
        return UnsupportedOpError(text, refused.rows)
    return ConversionError(text)
