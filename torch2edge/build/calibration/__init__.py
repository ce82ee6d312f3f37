"""data -> scales: batches through the traced graph, observers on its tensors, and the largest magnitude of each."""

from .cache import read_tensorrt_cache, weights_hash, write_tensorrt_cache
from .calibrator import calibrator, raise_its_error
from .derived import Arguments, Derived, no_data
from .ops_hash import graph_hash
from .run import calibrate
from .settings import ALGORITHMS, Calibration, CalibrationWarning

__all__ = [
    "ALGORITHMS",
    "Arguments",
    "Calibration",
    "CalibrationWarning",
    "Derived",
    "calibrate",
    "calibrator",
    "graph_hash",
    "no_data",
    "raise_its_error",
    "read_tensorrt_cache",
    "weights_hash",
    "write_tensorrt_cache",
]
