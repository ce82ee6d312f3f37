"""torch2edge: a PyTorch module becomes a TensorRT engine, and stays a module.

    model_trt = torch2edge.convert(model, [x])

Importing this package imports no TensorRT; the first conversion does.
"""

from pathlib import Path as _Path

_root = _Path(__file__).resolve().parent.parent
if (_root / "converters" / "__init__.py").exists() and not (_root / "torch2edge" / "converters").exists():
    __path__.append(str(_root))  # a checkout has converters/ beside this package, a wheel inside of it

from . import errors  # noqa: E402
from ._trt import trt  # noqa: E402
from .api import convert, load, plan  # noqa: E402
from .bench import Benchmark, monitor  # noqa: E402
from .benchmarking import benchmark, profile  # noqa: E402
from .build.calibration import Calibration, CalibrationWarning  # noqa: E402
from .build.memory import BuildMemoryWarning  # noqa: E402
from .build.timing_cache import CacheWarning  # noqa: E402
from .comparison import Comparison, compare  # noqa: E402
from .cut import Plan  # noqa: E402
from .dla.plan import DlaPlan  # noqa: E402
from .dla_loadable import build_loadable  # noqa: E402
from .dla_planning import plan_dla  # noqa: E402
from .errors import *  # noqa: E402, F403
from .lower.registry import converter  # noqa: E402
from .options import DLAWarning  # noqa: E402
from .report import Report  # noqa: E402
from .run.graphs import GraphWarning  # noqa: E402
from .run.module import EdgeModule, ReferenceWarning  # noqa: E402
from .run.partition import PartitionedModule, PartitionReport, PartitionWarning  # noqa: E402
from .serving import Exported, export  # noqa: E402
from .shapes import Input  # noqa: E402
from .sparsity import sparsify_2to4  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "Benchmark", "BuildMemoryWarning", "CacheWarning", "Calibration", "CalibrationWarning", "Comparison", "DLAWarning",
    "DlaPlan", "EdgeModule", "Exported", "GraphWarning", "Input", "PartitionReport", "PartitionWarning", "PartitionedModule",
    "Plan", "ReferenceWarning", "Report", "benchmark", "build_loadable", "compare", "convert", "converter", "export", "load",
    "monitor", "plan", "plan_dla", "profile", "sparsify_2to4", "trt", *errors.__all__,
]  # fmt: skip
