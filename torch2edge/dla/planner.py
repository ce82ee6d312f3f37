"""From a network to a plan: the rules layer by layer, then what TensorRT joins, cuts and counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .borders import crossings, inside_bytes, pools
from .fusion import Fused, fuse
from .layer import Layer, Setting
from .loadables import MOST_BYTES_INSIDE, REASON, form, keep, limit_of
from .plan import DlaPlan, Row
from .reading import read
from .rule import broken
from .rules import RULES, TYPES, UNSUPPORTED

__all__ = ["ASKED", "plan_layers", "plan_network"]

NEWEST = (11, 4)  # the newest TensorRT that rules were read of
FIRST_OF_ORIN = (8, 4)  # JetPack 5.0
ASKED = "it was asked to be on the GPU"
"""Why a layer is there that was given to it."""
BORDER = "Validation failed for DLA layer: {name}. Switching to GPU fallback."
RESHAPED = (
    "TensorRT adds it: a matrix product on the DLA is a convolution, whose result a shuffle on the GPU makes a matrix again"
)
ALL_FORMATS = (
    "note: without GPU fallback a network that is all on the DLA builds only if the formats of its inputs and outputs are the "
    "DLA's own (kCHW16 in FP16, kCHW32 in INT8, kDLA_LINEAR): else TensorRT adds reformats, which run on the GPU"
)


@dataclass
class _Verdict:
    """Why a layer is on the GPU; nothing of it for one on the DLA."""

    rule: str = ""
    reason: str = ""
    source: str = ""
    confidence: str = ""


@dataclass
class _State:
    """The work at hand."""

    layers: list[Layer]  # those of the engine
    fused: Fused
    verdicts: dict[int, _Verdict] = field(default_factory=dict)
    groups: list[list[Layer]] = field(default_factory=list)

    def on_dla(self) -> list[Layer]:
        return [layer for layer in self.layers if not self.verdicts[layer.index].rule]


def plan_network(
    network: Any, at: Setting, *, wants_dla: Callable[[Layer], bool] = lambda layer: True,
    module_of: Callable[[str], str] = lambda name: "", why_gpu: Callable[[Layer], str] = lambda layer: ASKED,
) -> DlaPlan:  # fmt: skip
    """Plan TensorRT's INetworkDefinition ``network``.

    Args:
        at: the chip, the TensorRT on it, the precisions.
        wants_dla: whether a layer is asked to be on the DLA.
        module_of: name of a layer -> path of its module.
        why_gpu: why a layer is not asked to be on the DLA.
    """
    return plan_layers(read(network, module_of), at, wants_dla, why_gpu)


def plan_layers(
    layers: Sequence[Layer], at: Setting, wants_dla: Callable[[Layer], bool] = lambda layer: True,
    why_gpu: Callable[[Layer], str] = lambda layer: ASKED,
) -> DlaPlan:  # fmt: skip
    """Plan layers that were read from a network."""
    engine = [layer for layer in layers if not layer.folded]
    state = _State(engine, fuse(engine))
    for layer in engine:
        state.verdicts[layer.index] = _verdict(layer, at) if wants_dla(layer) else _Verdict("device-types", why_gpu(layer))
    _follow(state)
    _cut_borders(state)
    _count(state, at)
    return _told(state, at, [layer.name for layer in layers if layer.folded])


def _verdict(layer: Layer, at: Setting) -> _Verdict:
    if layer.type not in TYPES:
        reason = UNSUPPORTED.format(name=layer.name, type=layer.type)
        return _Verdict("unsupported-type", reason, "S3 G84 DLASW: no support is named", "documented")
    found = broken(layer, RULES, at)
    if found is None:
        return _Verdict()
    rule, reason = found
    return _Verdict(rule.name, reason, rule.source, rule.confidence)


def _follow(state: _State) -> None:
    """A bias that becomes part of a matrix product is where that is, unless it was asked elsewhere."""
    for index, main in state.fused.joined.items():
        if state.verdicts[index].rule != "device-types":
            state.verdicts[index] = state.verdicts[main.index]


def _cut_borders(state: _State) -> None:
    """Shuffles with no neighbour on the DLA before or behind them run on the GPU, as in GH ultralytics/ultralytics#18012."""
    while True:
        on_dla = {layer.index for layer in state.on_dla()}
        cut = [layer for layer in state.on_dla() if layer.type == "SHUFFLE" and not _between(layer, on_dla)]
        for layer in cut:
            reason = BORDER.format(name=layer.name)
            state.verdicts[layer.index] = _Verdict("shuffle-border", reason, "GH ultralytics/ultralytics#18012; INF", "log")
        if not cut:
            return


def _between(layer: Layer, on_dla: set[int]) -> bool:
    before = any(maker.index in on_dla for maker in layer.makers)
    return before and any(reader.index in on_dla for reader in layer.readers)


def _count(state: _State, at: Setting) -> None:
    """Form the loadables, and send to the GPU what a core does not take."""
    formed = form(state.layers, state.on_dla(), state.fused.gone)
    limit = limit_of(at)
    state.groups = keep(formed, state.fused.joined, limit.count)
    kept = {layer.index for group in state.groups for layer in group}
    for group in formed:
        for layer in group:
            if layer.index not in kept:
                reason = REASON.format(count=limit.count, name=layer.name)
                state.verdicts[layer.index] = _Verdict("loadables-per-core", reason, limit.source, limit.confidence)


# ---- what is told -------------------------------------------------------------------------------------------------------


def _told(state: _State, at: Setting, folded: list[str]) -> DlaPlan:
    precision = "+".join(at.precisions) or "fp32"
    made = DlaPlan(at.target, at.tensorrt, precision, limit_of(at).count, folded=folded)
    home = {layer.index: number for number, group in enumerate(state.groups) for layer in group}
    for layer in state.layers:
        verdict = state.verdicts[layer.index]
        made.layers.append(
            Row(layer.name, layer.type, layer.module, "GPU" if verdict.rule else "DLA", verdict.rule, verdict.reason,
                verdict.source, verdict.confidence, home.get(layer.index))
        )  # fmt: skip
        made.layers += _added(layer, state, home)
    made.loadables = [[layer.name for layer in group] for group in state.groups]
    made.crossings = crossings(state.groups, state.fused.gone, at)
    made.pools = pools(state.groups, at)
    made.notes = _notes(made, state, at)
    return made


def _added(layer: Layer, state: _State, home: Mapping[int, int]) -> list[Row]:
    """The shuffle behind a matrix product on the DLA: after its bias, where it has one."""
    main = state.fused.joined.get(layer.index)
    if main is None and layer in state.fused.products and layer not in state.fused.joined.values():
        main = layer
    if main is None or layer.index not in home:
        return []
    name = f"reshape_after_{main.name}"
    return [Row(name, "SHUFFLE", main.module, "GPU", "matmul-reshape", RESHAPED, "TUT", "log")]


def _notes(made: DlaPlan, state: _State, at: Setting) -> list[str]:
    notes = []
    if made.all_on_dla:
        notes.append(ALL_FORMATS)
    if at.version[:2] > NEWEST:
        shown = ".".join(map(str, NEWEST))
        notes.append(f"note: nothing is known of TensorRT {at.tensorrt}: it is planned by the rules of {shown}")
    if at.target == "orin" and at.version < FIRST_OF_ORIN:
        notes.append(f"note: TensorRT 8.4 is the first for Orin; with {at.tensorrt} the plan is of rules alone, for no board")
    if at.strongly_typed and at.int8:
        notes.append("note: INT8 on a strongly typed DLA was read about nowhere; what the plan says of it is concluded")
    for number, group in enumerate(state.groups):
        inside = inside_bytes(group, at)
        if inside >= MOST_BYTES_INSIDE:
            notes.append(
                f"note: the tensors inside loadable #{number} take up to {inside} bytes; TensorRT allows less than "
                f"{MOST_BYTES_INSIDE}, and may leave the whole loadable to the GPU"
            )
    if any(row.rule == "explicit-quantization" for row in made.layers):
        notes.append(
            f"note: the network has quantize layers, which DLA of TensorRT {at.tensorrt} refuses: calibrate instead, or turn "
            "their scales into ranges (NVIDIA's qdq-translator does)"
        )
    return notes
