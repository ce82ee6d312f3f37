"""What a build log of trtexec or TensorRT says of the DLA."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import InputError
from ..report import table
from .plan import Row

__all__ = ["DlaLog", "parts_of", "read_log"]

# In front of a message: [03/31/2022-14:34:54] [I] [TRT], or WARNING: [TRT]:, or [TensorRT] INFO:, in any order and number.
_PREFIX = re.compile(r"^\s*#?\s*(?:\[[\d/:\- ]+\]\s*|\[(?:[IWEVF]|TRT|TensorRT)\]:?\s*|(?:INFO|WARNING|ERROR|VERBOSE):\s*)*")
_HEADING = re.compile(r"^-{4,}\s*Layers running on (DLA|GPU)\b", re.IGNORECASE)
_DLA_LAYER = re.compile(r"^\[DlaLayer\]\s+(?P<name>.+?),?\s*$")
_GPU_LAYER = re.compile(r"^\[GpuLayer\]\s+(?:(?P<type>[A-Z][A-Z0-9_]*): )?(?P<name>.+?),?\s*$")
_OLD_GROUP = re.compile(r"\{([^{}]*)\}")  # up to TensorRT 8.0: {conv1,relu1}, {conv2},
_UNSUPPORTED = re.compile(
    r"^Layer '(?P<name>.*)' \((?P<type>\w+)\): Unsupported on DLA\. Switching this layer's device type to GPU"
)
_OFFLOADED = re.compile(r"^Number of DLA node candidates offloaded : (\d+) out of (\d+)")
_POOLS = re.compile(r"DLA Memory Pool Sizes: (.*)$")
_MARK = re.compile(r"[()]| \+ | \|\| |, ")  # between the layers that one of the engine is made of
#: Messages that name a layer, and what follows of it is the reason.
_NAMED = (
    re.compile(r"^Validation failed for DLA layer: (?P<name>.*?)\. Switching to GPU fallback"),
    re.compile(r"^DLA only supports FP16 and Int8 precision type\. Switching (?P<name>.*) device type to GPU"),
    re.compile(r"^DLA supports only \d+ subgraphs per DLA core\. Switching to GPU for layer (?P<name>.*?)\s*$"),
    re.compile(r"^DLA Layer (?P<name>.*) does not support dynamic shapes in any dimension"),
    re.compile(r"^Default DLA is enabled but layer (?P<name>.*) is not (?:supported|running) on DLA"),
    re.compile(r"^Splitting DLA subgraph at: (?P<name>.*) because DLA validation failed for this layer"),
)
#: Messages that begin with a layer's name and say what of it the DLA does not take.
_SPECIFIC = re.compile(
    r"^(?P<name>.+?): (?=DLA (?:only supports|does not|cores do not|requires)|Concatenation on DLA|"
    r"MatMul is unsupported on DLA|ActivationLayer \(|CBUF validation|batch size)"
)
#: Messages without a name: they are about the layer that the next message names.
_AHEAD = re.compile(r"^This version of DLA does not support ")
#: Messages about the whole network.
_ABOUT_ALL = re.compile(
    r"All dla layers are falling back|no layer in the network can run on DLA|DLA does not support Explicit"
)


@dataclass
class DlaLog:
    """Where the layers of a built engine run, by its log.

    Attributes:
        source: the name of the log.
        layers: a row per layer of the engine, then one per layer that a message alone names. TensorRT has joined layers by
            then: a row may be several, with `` + `` between.
        loadables: the DLA's subgraphs, as the log names them.
        offloaded: how many of how many candidates became subgraphs, where the log says.
        pools: the sizes of DLA memory, where the log says.
        notes: messages about the whole network, and on splits.
    """

    source: str
    layers: list[Row] = field(default_factory=list)
    loadables: list[str] = field(default_factory=list)
    offloaded: list[int] = field(default_factory=list)
    pools: str = ""
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The log as plain dicts, lists, strings and numbers."""
        return asdict(self)

    def __str__(self) -> str:
        """A table, and what else there is."""
        on = sum(1 for row in self.layers if row.device == "DLA")
        head = f"{self.source}: {on} subgraph{'s' * (on != 1)} on the DLA, {len(self.layers) - on} layers on the GPU"
        rows = [
            [row.name, row.type, row.device, "" if row.loadable is None else f"#{row.loadable}", row.reason]
            for row in self.layers
        ]
        more = [f"{self.offloaded[0]} of {self.offloaded[1]} candidates were offloaded"] if self.offloaded else []
        more += [f"memory pools: {self.pools}"] if self.pools else []
        return "\n\n".join([head, table(["layer", "type", "device", "loadable", "reason"], rows), *more, *self.notes])


def read_log(text: str, source: str = "the log") -> DlaLog:
    """Read a log.

    Raises:
        InputError: nothing in it is about a DLA.
    """
    found, reasons, kinds = DlaLog(source), _Reasons(), {}
    block: list[Row] = []
    where = ""
    for line in _messages(text):
        if heading := _HEADING.match(line):
            where = heading[1].upper()
            block = [] if where == "DLA" else block  # a log may have the list twice: the last is the engine's
            continue
        rows = list(_placed(line, where))
        if rows:
            block += rows
            continue
        where = "" if line else where
        if unsupported := _UNSUPPORTED.match(line):
            kinds[unsupported["name"]] = unsupported["type"]
        _about_all(line, found)
        reasons.take(line)
    if not block and not reasons.by_name and not found.notes:
        raise InputError(f"{source}: nothing in it is about a DLA. Build with --verbose, and with --useDLACore")
    _assemble(found, block, reasons.by_name, kinds)
    return found


class _Reasons:
    """Messages on layers, gathered by name."""

    def __init__(self) -> None:
        self.by_name: dict[str, list[str]] = {}
        self._ahead = ""

    def take(self, line: str) -> None:
        if _AHEAD.match(line):
            self._ahead = line
            return
        for pattern in (_UNSUPPORTED, *_NAMED, _SPECIFIC):
            if match := pattern.match(line):
                told = self.by_name.setdefault(match["name"], [])
                told += [said for said in (self._ahead, line) if said and said not in told]
                self._ahead = ""
                return


def _messages(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield _PREFIX.sub("", line, count=1).rstrip()


def _placed(line: str, where: str) -> Iterator[Row]:
    """The rows of a line that lists layers; ``where`` is the list that it stands in, if any."""
    if match := _DLA_LAYER.match(line):
        yield Row(match["name"], "", "", "DLA")
    elif match := _GPU_LAYER.match(line):
        yield Row(match["name"], match["type"] or "", "", "GPU")
    elif where == "DLA" and line.startswith("{"):
        yield from (Row("{" + group + "}", "", "", "DLA") for group in _OLD_GROUP.findall(line))
    elif where == "GPU" and line.endswith(",") and not line.startswith("["):
        yield from (Row(name, "", "", "GPU") for name in line.rstrip(",").split(", "))


def _about_all(line: str, found: DlaLog) -> None:
    if match := _OFFLOADED.match(line):
        found.offloaded = [int(match[1]), int(match[2])]
    if match := _POOLS.search(line):
        found.pools = match[1]
    if (line.startswith("Splitting DLA subgraph at:") or _ABOUT_ALL.search(line)) and line not in found.notes:
        found.notes.append(line)


def _assemble(found: DlaLog, block: list[Row], reasons: dict[str, list[str]], kinds: dict[str, str]) -> None:
    """Give each row its reason; layers that only messages name come after them."""
    told: set[str] = set()
    for row in block:
        if row.device == "DLA":
            row.loadable = len(found.loadables)
            found.loadables.append(row.name)
        else:
            own = parts_of(row.name)
            parts = [name for name in reasons if name in own]
            row.reason = " ".join(dict.fromkeys(said for name in parts for said in reasons[name]))
            told.update(parts)
        found.layers.append(row)
    for name, said in reasons.items():
        if name not in told:
            found.layers.append(Row(name, kinds.get(name, ""), "", "GPU", "", " ".join(said)))


def parts_of(name: str) -> list[str]:
    """The layers that one of the engine is made of, after its own name.

    They are joined as ``71 + (Unnamed Layer* 16) [Shuffle] + Mul_8``, ``a || b`` or ``a, b``, and in ``PWN(a, b)``, which may
    stand in another: ``PWN(PWN(Sigmoid), Mul)``. What stands in one is there as a whole too, for names may have such marks.
    """
    found, depth, start = [name], 0, 0
    pieces = []
    for mark in _MARK.finditer(name):
        if mark[0] in "()":
            depth += 1 if mark[0] == "(" else -1
        elif not depth:
            pieces.append(name[start : mark.start()])
            start = mark.end()
    for piece in (*pieces, name[start:]):
        found += parts_of(piece[4:-1]) if piece.startswith("PWN(") and piece.endswith(")") else [piece]
    return list(dict.fromkeys(found))
