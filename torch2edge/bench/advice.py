"""What the figures of a benchmark warn of: trtexec's warnings under trtexec's conditions, and when the run was not steady."""

from __future__ import annotations

from collections.abc import Mapping

from .contender import WarmUp
from .figures import Figure
from .settings import Settings

__all__ = ["warnings_of"]

ENQUEUE_SHARE = 0.8  # of the compute time; trtexec's
UNSTABLE = 2.5  # percent; trtexec's
LOOP_SHARE = 1.25  # of the longest stage


def warnings_of(figures: Mapping[str, Figure], settings: Settings, warmup: WarmUp, milliseconds: float) -> list[str]:
    """A sentence for each thing that stands between the figures and what the device could do.

    Args:
        figures: by name: latency, and where events measured it enqueue, h2d, compute, d2h.
        milliseconds: of the host, by call: the inverse of the throughput.
    """
    told = []
    if warmup.stable is False:
        told.append(
            f"The warm-up was given up after {warmup.seconds:.1f} s: the medians of three windows in a row never came within "
            "2 % of each other. Other work on this machine, or clocks that change, are in the figures."
        )
    if "compute" in figures:
        return told + _bounds(figures, settings, milliseconds) + _of_device(figures["compute"], settings)
    steady = figures["latency"].cv <= UNSTABLE
    return (
        told if steady else [*told, f"The latency is unstable: its coefficient of variation is {figures['latency'].cv:.1f} %."]
    )


def _bounds(figures: Mapping[str, Figure], settings: Settings, milliseconds: float) -> list[str]:
    """What bounds the throughput in the place of the GPU's compute time."""
    told, compute = [], figures["compute"].median
    if figures["enqueue"].median > ENQUEUE_SHARE * compute:
        graph = "" if settings.cuda_graph else " A CUDA graph (cuda_graph=True, --cuda-graph) may raise the throughput."
        told.append(f"The throughput may be bound by the enqueue time, not by the GPU, which may be idle in between.{graph}")
    for name, way in (("h2d", "host-to-device transfers of the inputs"), ("d2h", "device-to-host transfers of the outputs")):
        if name in figures and figures[name].median >= compute:
            told.append(
                f"The throughput may be bound by the {way}, not by the GPU's compute time. data_transfers=False "
                "(--no-data-transfers) leaves them out."
            )
    longest = max(figure.median for name, figure in figures.items() if name != "latency")
    if settings.streams == 1 and milliseconds > LOOP_SHARE * longest and not told:
        told.append(
            f"The throughput is bound by the benchmark's own loop, which takes {milliseconds:.3f} ms a call where the longest "
            f"stage takes {longest:.3f} ms: trust the latency, not the throughput."
        )
    return told


def _of_device(compute: Figure, settings: Settings) -> list[str]:
    told = []
    if compute.cv > UNSTABLE:
        told.append(
            f"The GPU compute time is unstable: its coefficient of variation is {compute.cv:.1f} %. Locked GPU clocks "
            "(nvidia-smi -lgc, jetson_clocks) may make it steadier; monitor=True (--monitor) shows the clocks."
        )
    if settings.streams > 1:
        told.append(
            f"{settings.streams} streams: calls run beside each other, so the latencies may be too long; take the throughput."
        )
    return told
