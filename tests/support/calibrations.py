"""Small models, traced, and the scales that a look at all their tensors at once gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from torch2edge.build.calibration import Calibration, calibrate
from torch2edge.graph import Graph, Value
from torch2edge.inputs import read_inputs
from torch2edge.lower import registry
from torch2edge.trace import trace

CPU = torch.device("cpu")


class Net(nn.Module):
    """Convolutions with a residual, and a tensor for every kind of range."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(image))
        x = F.relu(self.second(x) + x)
        return self.last(x.mean((2, 3)))


class Two(nn.Module):
    """Two inputs; one may be a keyword's."""

    def forward(self, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return left * scale + right


class Tokens(nn.Module):
    """Whole numbers in."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.table(ids)
        return x if mask is None else x * mask[..., None]


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net().eval()


class Traced:
    """A model's graph with all its floating point values as points, by names like ``op3``."""

    def __init__(self, model: nn.Module, args: Sequence[Any], kwargs: dict[str, Any] | None = None, **shapes: Any) -> None:
        known = registry()
        self.args, self.kwargs, _, dynamic = read_inputs(args, kwargs or {}, CPU, **shapes)
        self.graph: Graph = trace(
            model.eval(), self.args, self.kwargs, is_leaf=known.is_leaf, module_classes=known.module_classes(),
            functions=known.functions(), dynamic=dynamic,
        )  # fmt: skip
        self.points: dict[str, Value] = {f"input{i}": v for i, v in enumerate(self.graph.inputs) if v.dtype.is_floating_point}
        for i, op in enumerate(self.graph.ops):
            for value in op.outputs:
                if value is not None and value.dtype.is_floating_point:
                    self.points[f"op{i}"] = value

    def calibrate(self, data: Any, algorithm: str = "minmax", *, more: dict[str, Any] | None = None, **settings: Any) -> Any:
        """amax by name; ``settings`` are the Calibration's, ``more`` go to ``calibrate``."""
        calibration = Calibration(data, algorithm, **{"progress": False, **settings})
        return calibrate(
            self.graph, self.points, calibration, args=self.args, kwargs=self.kwargs, device=CPU, **(more or {})
        )  # fmt: skip

    def seen(self, *batches: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """All elements of every point over batches that the graph takes."""
        found: dict[str, list[torch.Tensor]] = {name: [] for name in self.points}
        for batch in batches:
            values = {id(v): t for v, t in zip(self.graph.inputs, batch)}

            def look(op: Any, results: list[Any], values: dict[int, Any] = values) -> None:
                values.update({id(v): r for v, r in zip(op.outputs, results) if v is not None})

            self.graph.replay(list(batch), look)
            for name, value in self.points.items():
                found[name].append(values[id(value)].flatten())
        return {name: torch.cat(parts) for name, parts in found.items()}

    def largest(self, *batches: Sequence[torch.Tensor]) -> dict[str, float]:
        return {name: float(t.abs().max()) for name, t in self.seen(*batches).items()}
