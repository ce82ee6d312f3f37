"""What NVIDIA's Deep Learning Accelerator (DLA) of Jetson boards takes, planned without one, and read from build logs.

Graphs are rewritten for it in ``rewrites/``.
"""

from .layer import TARGETS, Setting
from .plan import DlaPlan
from .planner import plan_network

__all__ = ["TARGETS", "DlaPlan", "Setting", "plan_network"]
