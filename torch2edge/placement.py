"""What a DLA that is here is to take, before and after a build. Part of api.py, knows the stages too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ._trt import capabilities, dla_cores
from .dla import DlaPlan, Setting, plan_network
from .dla.log import read_log
from .dla.truth import compared, surprises
from .errors import ConfigError, InputError
from .report import PlacementRow
from .roads import Road

__all__ = ["prepare_dla", "refuse_fallbacks", "truth"]

TARGETS = {(7, 2): "xavier", (8, 7): "orin"}  # compute capability of the GPU beside it
SHOWN = 8


def prepare_dla(road: Road) -> DlaPlan | None:
    """Plan a network that is to run on a DLA of this machine, and set the memory that it needs.

    Returns:
        None where nothing is to, or there is no DLA.

    Raises:
        ConfigError: a layer cannot be on it, and must not be on the GPU.
    """
    session, options = road.session, road.session.options
    if not options.wants_dla() or not dla_cores():
        return None
    homes = {str(layer.raw.name): layer.module for layer in road.lowered.network.layers}
    devices = {str(layer.raw.name): session.config.get_device_type(layer.raw).name for layer in road.lowered.network.layers}
    target = TARGETS.get(torch.cuda.get_device_capability(), "orin")
    at = Setting(target, _version(), options.uses("fp16"), options.uses("int8"))
    plan = plan_network(
        session.network, at, wants_dla=lambda layer: devices.get(layer.name) == "DLA",
        module_of=lambda name: homes.get(name, ""),
    )  # fmt: skip
    if not options.gpu_fallback:
        refuse_fallbacks(plan)
    asked = {name: int(size) for name, size in options.dla_pools.items()}
    session.set_pools(pools_for(plan, asked, session.pools()))
    return plan


def _version() -> str:
    return ".".join(part for part in capabilities().version.split(".")[:3] if part.isdigit())


def refuse_fallbacks(plan: DlaPlan) -> None:
    """Refuse a plan in which a layer that was asked to be on the DLA is not.

    Raises:
        ConfigError: with the layers and the rules.
    """
    away = [row for row in plan.fallbacks if row.rule != "device-types"]
    if not away:
        return
    told = "\n".join(f"  {row.name} ({row.type}), rule {row.rule}: {row.reason}" for row in away[:SHOWN])
    more = f"\n  and {len(away) - SHOWN} more" if len(away) > SHOWN else ""
    raise ConfigError(
        f"gpu_fallback=False, but {len(away)} layer{'s' * (len(away) > 1)} cannot run on the DLA of {plan.target} with "
        f"TensorRT {plan.tensorrt}:\n{told}{more}\nGive their modules to the GPU (device_types), change them, or allow "
        "gpu_fallback"
    )


def pools_for(plan: DlaPlan, given: Mapping[str, int], defaults: Mapping[str, int]) -> dict[str, int]:
    """The memory pools to set, by MemoryPoolType: those given, else TensorRT's own where they do, else the plan's.

    They are upper bounds, and too small a one fails the build, so none is made smaller than TensorRT's own.
    """
    needed = plan.pool_limits()
    return {name: given.get(name) or max(size, needed.get(name, 0)) for name, size in defaults.items()}


def truth(road: Road, plan: DlaPlan | None) -> tuple[list[PlacementRow], list[str]]:
    """Where the layers of a built engine run, and what to say where that is not as planned."""
    if plan is None:
        return [], []
    try:
        log: Any = read_log("\n".join(road.session.log), "the build log")
    except InputError:
        return [], ["note: the build log says nothing of the DLA, so the plan could not be held against it"]
    rows = compared(plan, log)
    return rows, surprises(rows)
