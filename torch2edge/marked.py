"""An engine that gives values from inside of the network too. Part of api.py, knows the stages too."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from ._trt import from_trt_dtype
from .account import precision
from .check.figures import Compute
from .roads import Kept, Road, configure, network
from .run import EdgeModule
from .run.runner import Runner

__all__ = ["engine_with"]


def engine_with(wanted: Collection[int], kept: Kept, module: EdgeModule) -> Compute:
    """From inputs of the graph to the values by the names of ``kept``'s tensors, computed by TensorRT.

    The network is lowered once more, because marking outputs would change the one that is kept. The outputs are those of
    ``module``.

    Args:
        wanted: indices of values.

    Raises:
        BuildError: TensorRT builds no engine that gives them all.
    """
    road = network(kept.call, None, kept.road.graph, kept.options, kept.converting, kept.names)
    configure(road, precision(road.network_graph, kept.options))
    names = {road.lowered.tensor_names[index]: index for index in wanted}
    marked = _marked(road, names)
    inputs = [(name, value.dtype) for name, value in zip(road.lowered.input_names, road.graph.inputs)]
    runner = Runner(road.session.build(), inputs, marked, kept.options.dla_core)

    def compute(tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        profile = module._sizes.profile(list(tensors)) if module._sizes else None
        results = runner([t.cuda() for t in tensors], profile)
        held = {kept.road.lowered.tensor_names[names[n]]: r for (n, _, _), r in zip(marked, results) if n in names}
        return held | dict(zip(kept.road.lowered.output_names, module._run(list(tensors))))

    return compute


def _marked(road: Road, names: Mapping[str, int]) -> list[tuple[str, torch.dtype, tuple[Any, ...]]]:
    """Every output of the network, after marking the tensors of these names: name, dtype, shape."""
    raw, outputs = road.session.network, set(road.lowered.output_names)
    for layer in road.lowered.network.layers:
        for i in range(layer.raw.num_outputs):
            tensor = layer.raw.get_output(i)
            if tensor.name in names and tensor.name not in outputs:
                raw.mark_output(tensor)
    found = [raw.get_output(i) for i in range(raw.num_outputs)]
    return [(t.name, from_trt_dtype(t.dtype), tuple(t.shape)) for t in found]
