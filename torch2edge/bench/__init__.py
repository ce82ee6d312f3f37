"""How fast: timing on a GPU, the benchmark, the monitor."""

from .contender import Contender, Run, WarmUp
from .figures import Figure
from .layers import LayerProfile
from .result import Benchmark, Rival, figures_of
from .settings import Settings
from .subject import contender_of
from .timing import Timing, time_cuda
from .watching import Monitor, MonitorReport, monitor

__all__ = [
    "Benchmark", "Contender", "Figure", "LayerProfile", "Monitor", "MonitorReport", "Rival", "Run", "Settings", "Timing",
    "WarmUp", "contender_of", "figures_of", "monitor", "time_cuda",
]  # fmt: skip
