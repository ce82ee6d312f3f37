"""What converts and what does not, told for all ops before the first layer is added."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import UnsupportedOpError
from .registry import Registry

__all__ = ["bind", "check", "unsupported"]


def bind(op: Any) -> dict[str, Any]:
    """The op's arguments by the names of its schema, defaults filled in."""
    return op.arguments()  # type: ignore[no-any-return]


def unsupported(ops: Iterable[Any], registry: Registry) -> list[dict[str, str]]:
    """A row per op that cannot convert: op, module, source, reason."""
    rows = []
    for op in ops:
        entry = registry.get(op.target)
        reason = ""
        if entry is None:
            reason = ": ".join(filter(None, ["no converter", registry.why_not(op.target)]))
        elif entry.supports is not None:
            whole = op.nesting is not None
            first = () if op.instance is None else (op.instance,)
            reason = entry.supports(*first, *op.args, **op.kwargs) if whole else entry.supports(**bind(op))
        if reason:
            rows.append({"op": op.name, "module": op.module, "source": op.source, "reason": reason})
    return rows


def check(ops: Iterable[Any], registry: Registry) -> None:
    """Refuse a graph with ops that cannot convert.

    Raises:
        UnsupportedOpError: with every one of them, its module path and source line.
    """
    rows = unsupported(ops, registry)
    if not rows:
        return
    lines = [f"  {r['op']}  in {r['module'] or 'the model itself'}, {r['source']}: {r['reason']}" for r in rows]
    folder = Path(__file__).parent.parent.parent / "converters"
    folder = folder if folder.exists() else Path(__file__).parent.parent / "converters"
    raise UnsupportedOpError(
        f"{len(rows)} op{'s' if len(rows) > 1 else ''} cannot be converted:\n" + "\n".join(lines) + "\n"
        "The ways out: fallback='onnx' (torch.onnx.export and TensorRT's own parser); fallback='torch' (what converts becomes "
        "engines, the rest stays PyTorch); write the model without the op; or add a converter, for this call with "
        "convert(..., converters={torch.ops.aten.NAME.OVERLOAD: function}), for good in the file of "
        f"{folder} that is named after the op's heading on PyTorch's torch.nn or torch page (CONTRIBUTING.md has the steps).",
        rows,
    )
