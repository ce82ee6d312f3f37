"""``torch2edge bench``"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn

from ..api import load
from ..benchmarking import benchmark
from ..errors import ConfigError, ExecutionError
from ..run import EdgeModule
from ..structure import unflatten
from .convert import add_model, check_outputs, declared, module_of, write_json
from .shape import example_inputs

__all__ = ["add_bench"]

DESCRIPTION = """\
Measure an engine file, or a PyTorch model: throughput, and latency, enqueue, transfer and GPU compute time of each call, with
the meanings that trtexec gives them.

  torch2edge bench resnet18.engine
  torch2edge bench resnet18.engine --no-data-transfers --cuda-graph --layers --monitor
  torch2edge bench resnet18.engine --compare --model torchvision:resnet18 --half
  torch2edge bench --model torchvision:resnet18 --shape 8x3x224x224 --compare

An engine's inputs are random, of its own shapes, or of its optimization profile's opt sizes; --shape, once per input, says
others.
A model runs on the GPU if there is one, and is timed by the host's clock on the CPU if not (--device).
"""


def add_bench(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "bench", parents=[common], help="how fast an engine file or a model is, by trtexec's figures", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.set_defaults(run=_run)
    command.add_argument("file", metavar="FILE.engine", nargs="?", help="an engine file that torch2edge saved")
    add_model(command, required=False)
    how = command.add_argument_group("the measuring")
    how.add_argument("--iterations", type=int, default=10, metavar="N", help="at least N calls on each stream (default 10)")
    how.add_argument("--duration", type=float, default=3.0, metavar="S", help="at least S seconds (default 3)")
    how.add_argument(
        "--warm-up", type=float, metavar="MS", help="calls for MS milliseconds that are not counted (default: until stable)"
    )
    how.add_argument("--streams", type=int, default=1, metavar="N", help="N batches in flight, each on its own stream")
    how.add_argument("--threads", action="store_true", help="a thread of the host for each stream")
    how.add_argument("--spin-wait", action="store_true", help="the host spins while it waits; steadier, takes a CPU core")
    how.add_argument("--no-data-transfers", action="store_true", help="leave the inputs on the GPU, and the outputs")
    how.add_argument("--cuda-graph", action="store_true", help="capture a call as a CUDA graph and replay it")
    how.add_argument("--device", choices=("cuda", "cpu"), help="for --model alone; an engine runs on the GPU")
    more = command.add_argument_group("what else to tell")
    more.add_argument("--layers", action="store_true", help="the times of the engine's layers, and their sums by module")
    more.add_argument("--compare", action="store_true",
                      help="measure --model beside it, eager, compiled and as a CUDA graph, in rounds")  # fmt: skip
    more.add_argument("--monitor", action="store_true", help="power, clocks, temperatures, memory, load; throttling is said")
    more.add_argument("--json", metavar="FILE", help="write the result as JSON (- for stdout, in place of the text)")
    more.add_argument("--export-times", metavar="FILE", help="write the result with the times of every call as JSON")


def _run(arguments: argparse.Namespace) -> int:
    check_outputs((arguments.json, arguments.export_times), (arguments.file, arguments.model, arguments.weights))
    _check(arguments)
    torch.manual_seed(0)
    module, args, kwargs = _engine(arguments) if arguments.file else _model(arguments)
    compare = None
    if arguments.compare:
        compare = module_of(arguments) if arguments.file else module
    result = benchmark(
        module, args, kwargs, iterations=arguments.iterations, duration=arguments.duration, warmup=arguments.warm_up,
        streams=arguments.streams, threads=arguments.threads, spin_wait=arguments.spin_wait,
        data_transfers=not arguments.no_data_transfers, cuda_graph=arguments.cuda_graph, layers=arguments.layers,
        compare=compare, monitor=arguments.monitor,
    )  # fmt: skip
    write_json(arguments.json, result)
    if arguments.json != "-":
        print(result)
    if arguments.export_times:
        result.save(arguments.export_times, times=True)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.file and not arguments.model:
        raise ConfigError("bench: what shall be measured? Give an engine file, or --model")
    if arguments.model and arguments.model.endswith(".onnx"):
        raise ConfigError(f"bench: --model {arguments.model}: an .onnx file is no module; convert it, and measure the engine")
    if arguments.file and arguments.model and not arguments.compare:
        raise ConfigError("bench: an engine file and --model: add --compare to measure both, or leave one out")
    if arguments.file and arguments.compare and not arguments.model:
        raise ConfigError("bench: --compare: with which model? Add --model")
    if arguments.file and arguments.device == "cpu":
        raise ConfigError("bench: --device cpu: an engine runs on a GPU")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ExecutionError("bench: --device cuda: no NVIDIA GPU is visible here (torch.cuda.is_available() is False)")


def _model(arguments: argparse.Namespace) -> tuple[nn.Module, list[Any], dict[str, Any]]:
    drawn, axes, _ = example_inputs(*declared(arguments))
    if axes:
        raise ConfigError("bench: --shape takes fixed sizes here")
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return module_of(arguments).to(device), [drawn] if arguments.list else list(drawn), {}


def _engine(arguments: argparse.Namespace) -> tuple[EdgeModule, list[Any], dict[str, Any]]:
    if arguments.dtype or arguments.list:
        raise ConfigError(f"bench: --dtype, --list: {arguments.file} has the dtypes and the structure of its inputs in it")
    module = load(arguments.file)
    rows = module.metadata["inputs"]
    shapes = arguments.shape or [_usual(row["shape"], module.metadata.get("dims") or {}) for row in rows]
    if len(shapes) != len(rows):
        names = ", ".join(row["name"] for row in rows)
        raise ConfigError(f"bench: --shape is given {len(shapes)} times for {len(rows)} inputs ({names})")
    tensors, axes, _ = example_inputs(shapes, module.input_dtypes)
    if axes:
        raise ConfigError("bench: --shape takes fixed sizes here")
    call = unflatten(module.metadata["input_structure"], tensors)
    return module, call["args"], call["kwargs"]


def _usual(sizes: list[Any], dims: dict[str, Any]) -> tuple[int, ...]:
    """A shape of the metadata with the opt size of the first profile for each dim."""
    return tuple(dims[size[1]][0][1] if isinstance(size, list) else size for size in sizes)
