"""The options of TensorRT's builder on the command line, named and read as trtexec's."""

from __future__ import annotations

import argparse
from typing import Any

from ..builder_options import BUILDER_FLAGS

__all__ = ["add_builder", "builder_options"]


def add_builder(command: argparse.ArgumentParser) -> None:
    """The options, as a group of their own."""
    how = command.add_argument_group("TensorRT's builder; docs/options.md tells more")
    how.add_argument("--optimization-level", type=int, choices=range(6), help="0: fast build, 5: fast engine")
    how.add_argument("--workspace", type=_size, metavar="SIZE",
                     help="most scratch memory for any one layer: MiB, or 512M, 2G; by default all of the GPU")  # fmt: skip
    how.add_argument("--memory-pool", action="append", default=[], type=_pool, metavar="NAME=SIZE",
                     help="limit of another trt.MemoryPoolType: TACTIC_DRAM, TACTIC_SHARED_MEMORY; repeatable")  # fmt: skip
    how.add_argument("--avg-timing-iterations", type=int, metavar="N", help="how often each tactic is timed")
    how.add_argument("--max-num-tactics", type=int, metavar="N", help="most tactics timed per layer (from 10.4 on)")
    how.add_argument("--tactic-sources", type=_sources, metavar="+CUBLAS,-CUDNN",
                     help="libraries to add to TensorRT's own choice, and to take away (--tactic-sources=-CUDNN where it "
                          "begins with a minus); or a mask of trt.TacticSource: 0 leaves all out")  # fmt: skip
    how.add_argument("--max-aux-streams", type=int, metavar="N", help="most streams besides yours in the engine; 0: none")
    how.add_argument("--tiling-optimization-level", metavar="LEVEL", help="none, fast, moderate or full (from 10.8 on)")
    how.add_argument("--l2-limit-for-tiling", type=_size, metavar="SIZE", help="most L2 cache for it: MiB, or 512K, 16M")
    how.add_argument("--hardware-compatibility", metavar="LEVEL", help="ampere+: for all GPUs from Ampere on; none; "
                     "same_compute_capability (from 10.9 on)")  # fmt: skip
    how.add_argument("--version-compatible", action="store_true", help="for other TensorRTs of this major version too")
    how.add_argument("--exclude-lean-runtime", action="store_true", help="leave the lean runtime out of such an engine")
    how.add_argument("--profiling-verbosity", metavar="LEVEL", help="layer_names_only, detailed or none")
    how.add_argument("--preview-features", metavar="+A,-B", help="of trt.PreviewFeature, to switch on and off")
    how.add_argument("--builder-flag", action="append", default=[], metavar="NAME",
                     help=f"set this trt.BuilderFlag: {', '.join(BUILDER_FLAGS)}; repeatable")  # fmt: skip
    how.add_argument("--offload", action="store_true", help="keep the model in host memory, not on the GPU, during the build")
    how.add_argument("--compute-capability", action="append", default=[], metavar="8.6",
                     help="TensorRT-RTX: a GPU to build for; repeatable")  # fmt: skip


def builder_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``convert()`` takes for them."""
    return {
        "optimization_level": arguments.optimization_level, "workspace": arguments.workspace,
        "memory_pools": dict(arguments.memory_pool), "avg_timing_iterations": arguments.avg_timing_iterations,
        "max_num_tactics": arguments.max_num_tactics, "tactic_sources": arguments.tactic_sources,
        "max_aux_streams": arguments.max_aux_streams, "tiling_optimization_level": arguments.tiling_optimization_level,
        "l2_limit_for_tiling": arguments.l2_limit_for_tiling, "hardware_compatibility": arguments.hardware_compatibility,
        "version_compatible": arguments.version_compatible, "exclude_lean_runtime": arguments.exclude_lean_runtime,
        "profiling_verbosity": arguments.profiling_verbosity, "preview_features": arguments.preview_features or (),
        "builder_flags": arguments.builder_flag, "offload": arguments.offload,
        "compute_capabilities": arguments.compute_capability,
    }  # fmt: skip


def _size(text: str) -> int | str:
    """A number alone is MiB, as for trtexec."""
    return int(text) * 2**20 if text.isdecimal() else text


def _pool(text: str) -> tuple[str, int | str]:
    """``TACTIC_DRAM=4G``"""
    name, equals, size = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}; write NAME=SIZE, e.g. TACTIC_DRAM=4G")
    return name, _size(size)


def _sources(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
