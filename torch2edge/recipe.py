"""How an engine's network came about: what a refit needs to come to it again. Part of api.py; engine files hold it as text."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ._trt import trt
from .build.calibration import Calibration
from .errors import ConfigError
from .fingerprint import Fingerprint
from .lower import Registry
from .options import Options
from .prepare import Call
from .shapes import Dim, Dynamic
from .skeleton import Skeleton
from .structure import Structure

__all__ = ["Recipe", "from_text", "to_text"]

# The options that shape the network; the others are the builder's.
OPTIONS = ("fp16", "bf16", "int8", "precisions", "strongly_typed", "calibrator", "sparse", "tolerance", "refittable")


@dataclass
class Recipe:
    """How a network is made from a model, and what it must be."""

    options: Options
    converting: Registry
    names: Mapping[str, Sequence[str] | None]
    declared: Dynamic
    example: list[torch.Tensor]  # copies; none where it came out of a file
    structure: Structure  # of the call
    call: Call  # without a model and an example
    input_names: list[str]
    output_structure: Structure
    constraints: list[str]
    floats: dict[str, int]  # float values by name -> index, where INT8 ranges are kept by index
    folded: list[str]
    network: Fingerprint  # without the weights themselves
    digests: dict[tuple[str, str], str]  # of the weights
    sparse: list[str]  # modules that have the 2:4 pattern
    fits_half: bool  # of a weakly typed network of a half model: half kernels were allowed
    skeleton: Skeleton | None  # none where it came out of a file
    dtypes: dict[str, str]  # of the model's state dict
    notes: list[str] = field(default_factory=list)  # of the report, before its check


def to_text(recipe: Recipe) -> str:
    """A recipe but for the example and the model, compressed, in ASCII."""
    options, call = recipe.options, recipe.call
    data = {
        "options": {name: getattr(options, name) for name in OPTIONS} | {"precisions": dict(options.precisions)},
        "io_dtype": None if options.io_dtype is None else str(options.io_dtype).removeprefix("torch."),
        "names": {k: None if v is None else list(v) for k, v in recipe.names.items()},
        "axes": [[i, axis, name] for i, axes in recipe.declared.axes.items() for axis, name in axes.items()],
        "dims": {name: [list(r) for r in dim.ranges] for name, dim in recipe.declared.dims.items()},
        "structure": recipe.structure, "output_structure": recipe.output_structure, "input_names": recipe.input_names,
        "calibrated": call.calibration is not None, "ranges": list(call.ranges.items()), "wide": sorted(call.wide or ()),
        "constraints": recipe.constraints, "floats": recipe.floats, "folded": recipe.folded, "layers": recipe.network.layers,
        "empty": [[*key, kind.name] for key, kind in recipe.network.empty.items()],
        "digests": [[*key, held] for key, held in recipe.digests.items()],
        "sparse": recipe.sparse, "fits_half": recipe.fits_half, "notes": recipe.notes,
        "dtypes": recipe.dtypes,
    }  # fmt: skip
    return base64.b85encode(zlib.compress(json.dumps(data).encode(), 9)).decode()


def from_text(text: str, converting: Registry) -> Recipe:
    """The inverse of ``to_text``.

    Raises:
        ConfigError: it was written by another torch2edge.
    """
    try:
        data = json.loads(zlib.decompress(base64.b85decode(text)))
        io_dtype = None if data["io_dtype"] is None else getattr(torch, data["io_dtype"])
        axes: dict[int, dict[int, str]] = {}
        for i, axis, name in data["axes"]:
            axes.setdefault(i, {})[axis] = name
        dims = {name: Dim(name, tuple(tuple(r) for r in ranges)) for name, ranges in data["dims"].items()}
        call = Call(
            nn.Module(), (), {}, Calibration(data=()) if data["calibrated"] else None, ranges=dict(data["ranges"]),
            wide=frozenset(data["wide"]), may_fold=frozenset(data["folded"]),
        )  # fmt: skip
        empty = {(layer, role): getattr(trt.DataType, kind) for layer, role, kind in data["empty"]}
        return Recipe(
            Options(**data["options"], io_dtype=io_dtype), converting, data["names"], Dynamic(axes, dims), [],
            data["structure"], call, data["input_names"], data["output_structure"], data["constraints"], data["floats"],
            data["folded"], Fingerprint(data["layers"], {}, empty),
            {(layer, role): held for layer, role, held in data["digests"]}, data["sparse"], data["fits_half"], None,
            data["dtypes"], data["notes"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise ConfigError(
            f"refit: what the engine says of its network cannot be read ({type(error).__name__}: {error}). Was it written by "
            "another torch2edge? Convert the model again"
        ) from error
