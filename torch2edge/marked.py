"""An engine that gives values from inside of the network too. Part of api.py, knows the stages too."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ._trt import from_trt_dtype
from .account import precision
from .check.figures import Compute
from .roads import Kept, Road, configure, network
from .run import EdgeModule
from .run.runner import Runner

__all__ = ["Marked", "engine_with", "marked_engine"]


@dataclass
class Marked:
    """A serialized engine, and what it gives: name, dtype and shape per output, the model's among them."""

    road: Road
    plan: bytes
    outputs: list[tuple[str, torch.dtype, tuple[Any, ...]]]
    indices: dict[str, int]  # name of an output -> index of the value


def marked_engine(wanted: Collection[int], kept: Kept) -> Marked:
    """An engine with these values (their indices) as outputs too.

    The network is lowered once more, because marking outputs would change the one that is kept.

    Raises:
        BuildError: TensorRT builds no engine that gives them all.
    """
    road = network(kept.call, None, kept.road.graph, kept.options, kept.converting, kept.names)
    configure(road, precision(road.network_graph, kept.options))
    indices = {road.lowered.tensor_names[index]: index for index in wanted}
    raw, outputs = road.session.network, set(road.lowered.output_names)
    for layer in road.lowered.network.layers:
        for i in range(layer.raw.num_outputs):
            tensor = layer.raw.get_output(i)
            if tensor.name in indices and tensor.name not in outputs:
                raw.mark_output(tensor)
    found = [raw.get_output(i) for i in range(raw.num_outputs)]
    told = [(t.name, from_trt_dtype(t.dtype), tuple(t.shape)) for t in found]
    return Marked(road, road.session.build(), told, indices)


def engine_with(wanted: Collection[int], kept: Kept, module: EdgeModule) -> Compute:
    """From inputs of the graph to the values by the names of ``kept``'s tensors, computed by TensorRT.

    The outputs are those of ``module``.

    Raises:
        BuildError: see ``marked_engine``.
    """
    marked = marked_engine(wanted, kept)
    lowered, indices = marked.road.lowered, marked.indices
    inputs = [(name, value.dtype) for name, value in zip(lowered.input_names, marked.road.network_graph.inputs)]
    allowed = kept.options.version_compatible  # it was built here
    runner = Runner(marked.plan, inputs, marked.outputs, kept.options.dla_core, host_code=allowed)
    names = kept.road.lowered.tensor_names

    def compute(tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        profile = module._sizes.profile(list(tensors)) if module._sizes else None
        given = [t.to(dtype) for t, (_, dtype) in zip(tensors, inputs)]
        results = runner([t.cuda() for t in given], profile)
        held = {names[indices[n]]: r for (n, _, _), r in zip(marked.outputs, results) if n in indices}
        return held | dict(zip(kept.road.lowered.output_names, module._run(given)))

    return compute
