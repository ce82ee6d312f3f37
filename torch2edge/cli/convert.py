"""``torch2edge convert``"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import _trt
from .._trt import capabilities
from ..api import convert
from ..bench import time_cuda
from ..build.calibration import ALGORITHMS, Calibration
from ..check.tf32 import tf32 as tf32_switched
from ..errors import ConfigError, InputError, VerificationError
from ..files import check_target
from ..lower import OnnxFile
from ..options import CALIBRATORS, FALLBACKS, ONNX_EXPORTERS, PRECISIONS
from ..run import EdgeModule, PartitionedModule
from .builder import add_builder, builder_options
from .model import load_model, load_weights
from .shape import example_inputs, shape

__all__ = ["add_convert", "add_model", "check_outputs", "declared", "module_of", "placement", "with_list_hint", "write_json"]

DTYPES = {str(d).removeprefix("torch."): d for d in
          (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.uint8, torch.bool)}  # fmt: skip
DESCRIPTION = """\
Convert a model, check the engine on fresh random inputs, print a report, save an engine file.

  torch2edge convert --model torchvision:resnet18 --shape 1x3x224x224 -o resnet18.engine
  torch2edge convert --model detector.py:make --weights detector.pth --shape 1x3x640x640 --half -o detector.engine
  torch2edge convert --model classifier.onnx -o classifier.engine

A size that varies is written MIN:OPT:MAX, with NAME= before it where several axes are one size (letters, no x); NAME alone
stands for it again:

  torch2edge convert --model torchvision:resnet18 --shape 1:8:16x3x224x224 -o resnet18.engine
  torch2edge convert --model pair.py:make --shape batch=1:8:16x3x64x64 --shape batchx10 -o pair.engine

All other sizes are fixed: those of --shape, or of the .onnx file. Where this machine has no NVIDIA GPU, the engine is built
and checked by the reference executor, but cannot be executed.
"""


def add_convert(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "convert", parents=[common], help="model -> engine file, with a report", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.set_defaults(run=_run)
    add_model(command)
    how = command.add_argument_group("the engine")
    low = how.add_mutually_exclusive_group()
    low.add_argument("--fp16", action="store_true", help="compute in half precision where the op allows it")
    low.add_argument("--bf16", action="store_true", help="the same in bfloat16 (from TensorRT 10 on)")
    how.add_argument("--io-dtype", choices=("fp32", "fp16", "bf16"), help="of the engine's float inputs and outputs")
    how.add_argument("--int8", action="store_true", help="quantize; needs --calibration, or a model that quantizes itself")
    how.add_argument("--calibration", metavar="FOLDER", help="a folder of images for a model with one input, RGB / 255")
    how.add_argument("--calibration-cache", metavar="FILE",
                     help="JSON file with the ranges: read if it exists, else written; one that has all needs no "
                          "--calibration")  # fmt: skip
    how.add_argument("--calibrator", choices=CALIBRATORS, default="pytorch", help="who finds the ranges (default pytorch)")
    how.add_argument("--algorithm", choices=ALGORITHMS, help="of the calibration (default entropy)")
    how.add_argument("--precision", action="append", default=[], metavar="MODULE=PRECISION", type=_precision,
                     help="of a submodule, or of all that match a pattern such as 'backbone.*': "
                          f"{', '.join(PRECISIONS)}; repeatable")  # fmt: skip
    how.add_argument("--best", action="store_true", help="weakly typed TensorRT: every precision, the fastest of each layer")
    how.add_argument("--sparse", action="store_true", help="allow kernels for weights in the 2:4 pattern")
    how.add_argument("--tf32", action="store_true", help="allow TF32 in float32 products")
    how.add_argument("--refittable", action="store_true", help="the engine takes other weights later: EdgeModule.refit")
    how.add_argument("--fallback", choices=FALLBACKS, default="error",
                     help="for a model that does not convert: error, onnx (torch.onnx.export, TensorRT's parser), or torch "
                          "(engines for what converts, PyTorch for the rest)")  # fmt: skip
    how.add_argument("--onnx-exporter", choices=ONNX_EXPORTERS, default="torchscript", help="which of torch.onnx.export's")
    how.add_argument("--onnx-opset", type=int, metavar="N", help="version of ONNX's operators for the export")
    add_builder(command)
    where = command.add_argument_group("GPU and DLA")
    where.add_argument("--device-type", action="append", default=[], type=placement, metavar="PATH=DLA",
                       help="GPU or DLA for the submodule PATH and what is inside; repeatable, innermost wins")  # fmt: skip
    where.add_argument("--default-device-type", choices=["GPU", "DLA"], help="for all other layers")
    where.add_argument("--dla-core", type=int, metavar="N", help="the DLA core to build for and run on")
    where.add_argument("--no-gpu-fallback", action="store_true", help="a layer that the DLA cannot take is an error")
    where.add_argument("--dla-rewrites", action="store_true", help="what the DLA does not take, in layers that it does")
    then = command.add_argument_group("the check and the results")
    then.add_argument("--no-verify", action="store_true", help="take the engine unchecked")
    then.add_argument("--tolerance", type=float, metavar="X", help="largest relative L2 error of an output")
    then.add_argument("--max-error", type=float, metavar="X",
                      help="move what low precision hurts most back until no output's error is larger")  # fmt: skip
    then.add_argument("--time", action="store_true", help="time the engine and PyTorch on this GPU; skipped without one")
    then.add_argument("--cache-dir", metavar="FOLDER",
                      help="keep the engine there, and take it from there when it was built before")  # fmt: skip
    then.add_argument("-o", "--output", metavar="FILE", help="save the engine here")
    then.add_argument("--json", metavar="FILE", help="write the report as JSON (- for stdout, in place of the text)")


def add_model(command: argparse.ArgumentParser, required: bool = True) -> None:
    """The options that name the model and its inputs."""
    what = command.add_argument_group("the model")
    what.add_argument("--model", required=required, metavar="MODEL",
                      help="torchvision:NAME (random weights), or path/to/file.py:FACTORY, a function or class that "
                           "returns the module when called without arguments, or a module (the file is executed), or "
                           "path/to/file.onnx")  # fmt: skip
    what.add_argument("--weights", metavar="FILE", help="a state dict saved by torch.save (loaded with weights_only=True)")
    what.add_argument("--shape", action="append", default=[], type=shape, metavar="1x3x224x224",
                      help="shape of an input; once per input, in order; 1:8:16x3x224x224 for a batch of 1 to 16; not "
                           "needed if an .onnx file fixes it")  # fmt: skip
    what.add_argument("--dtype", action="append", default=[], choices=list(DTYPES), metavar="DTYPE",
                      help=f"dtype of an input; once for all, or once per input: {', '.join(DTYPES)} (default float32). "
                           "Integers are drawn from 0 to 9.")  # fmt: skip
    what.add_argument("--half", action="store_true", help="take model.half(), with half inputs")
    what.add_argument(
        "--list", action="store_true", help="give the inputs as one list, as torchvision's detectors take images"
    )


def _precision(text: str) -> tuple[str, str]:
    """``backbone.*=fp16``"""
    path, equals, name = text.rpartition("=")
    if not equals or name not in PRECISIONS:
        raise argparse.ArgumentTypeError(f"{text!r}: write MODULE=PRECISION, with {', '.join(PRECISIONS)}")
    return path, name


def _calibration(arguments: argparse.Namespace) -> Calibration | None:
    if arguments.calibration is None and arguments.calibration_cache is None:
        if arguments.algorithm is not None:
            raise ConfigError(
                f"--algorithm {arguments.algorithm}: there is nothing to calibrate from; add --calibration, or "
                "--calibration-cache"
            )
        return None
    algorithm = "entropy" if arguments.algorithm is None else arguments.algorithm
    return Calibration(arguments.calibration, algorithm=algorithm, cache=arguments.calibration_cache)


def _run(arguments: argparse.Namespace) -> int:
    is_file = arguments.model.endswith(".onnx")
    shapes, dtypes = _in_file(arguments) if is_file else declared(arguments)
    check_outputs((arguments.output, arguments.json), (arguments.model, arguments.weights))
    device_types, default = _placements(arguments)
    calibration = _calibration(arguments)
    say = _Progress()
    with say:
        say("load the model")
        torch.manual_seed(0)
        model = arguments.model if is_file else module_of(arguments)
        drawn, axes, dims = example_inputs(shapes, dtypes)
        inputs: list[Any] = [drawn] if arguments.list else list(drawn)
        try:
            module = convert(
                model, inputs, dynamic=axes, dims=dims, fp16=arguments.fp16, bf16=arguments.bf16, int8=arguments.int8,
                calibration=calibration, calibrator=arguments.calibrator,
                io_dtype=PRECISIONS.get(arguments.io_dtype), precisions=dict(arguments.precision), best=arguments.best,
                sparse=arguments.sparse, tf32=arguments.tf32, refittable=arguments.refittable,
                device_types=device_types, default_device_type=default, dla_core=arguments.dla_core,
                gpu_fallback=not arguments.no_gpu_fallback, dla_rewrites=arguments.dla_rewrites,
                **builder_options(arguments), fallback=arguments.fallback,
                onnx_exporter=arguments.onnx_exporter, onnx_opset=arguments.onnx_opset,
                verify=not arguments.no_verify, tolerance=arguments.tolerance,
                max_error=arguments.max_error, progress=say, cache_dir=arguments.cache_dir,
            )  # fmt: skip
        except VerificationError as error:
            write_json(arguments.json, error.report)
            raise
        except InputError as error:
            raise with_list_hint(arguments, error) from error
    write_json(arguments.json, module.report)
    if arguments.json != "-":
        print(module.report)
        print()
        _tell(arguments, model, module, inputs)
    if arguments.output:
        module.save(arguments.output)
        if arguments.json != "-":
            print(f"saved {arguments.output} ({os.path.getsize(arguments.output) / 2**20:.1f} MiB)")
            if isinstance(module, PartitionedModule):
                print("it is a state dict: torch2edge.PartitionedModule(model).load_state_dict(torch.load(file)) takes it")
    elif arguments.json != "-":
        print("not saved; -o FILE saves the engine")
    return 0


def with_list_hint(arguments: argparse.Namespace, error: InputError) -> InputError:
    """The error, with a word on ``--list`` where the model speaks of a list and was given none."""
    if arguments.list or "list of" not in str(error):
        return error
    return InputError(f"{error}. --list gives the inputs as one list")


def module_of(arguments: argparse.Namespace) -> nn.Module:
    """The model in eval mode, with its weights."""
    model = load_model(arguments.model).eval()
    if arguments.weights:
        load_weights(model, arguments.weights)
    return model.half() if arguments.half else model


def _in_file(arguments: argparse.Namespace) -> tuple[list[tuple[int, ...]], list[torch.dtype]]:
    """Shapes and dtypes of an ONNX file's inputs; ``--shape`` says what the file leaves open."""
    for option, given in (("weights", arguments.weights), ("half", arguments.half), ("dtype", arguments.dtype)):
        if given:
            raise ConfigError(f"--{option}: {arguments.model} has its weights and dtypes in it")
    file = OnnxFile(arguments.model)
    if arguments.shape and len(arguments.shape) != len(file.inputs):
        names = ", ".join(i.name for i in file.inputs)
        raise ConfigError(f"--shape is given {len(arguments.shape)} times for {len(file.inputs)} inputs ({names})")
    shapes = arguments.shape or [_fixed(i.name, i.dims) for i in file.inputs]
    return shapes, [i.dtype for i in file.inputs]


def _fixed(name: str, dims: tuple[int | str, ...] | None) -> tuple[int, ...]:
    fixed = tuple(size for size in dims or () if isinstance(size, int))
    if dims is None or len(fixed) < len(dims):
        shown = "any shape" if dims is None else "x".join(map(str, dims))
        raise ConfigError(f"the file leaves sizes of the input {name} open ({shown}): give --shape, once per input")
    return fixed


def _tell(
    arguments: argparse.Namespace, model: nn.Module | str, module: EdgeModule | PartitionedModule, inputs: list[Any]
) -> None:  # fmt: skip
    """Whether it can run here, and how fast."""
    reason = _trt.why_not_executable()
    if reason:
        checked = "" if arguments.no_verify else " and checks"
        print(f"This machine builds{checked}, but cannot execute the engine: {reason}.")
        if not arguments.no_verify:
            print("The figures above are the reference executor's: the same network, computed layer by layer with PyTorch.")
    elif arguments.time:
        for line in _times(model, module, inputs, arguments.tf32):
            print(line)


def _times(model: nn.Module | str, module: EdgeModule | PartitionedModule, inputs: list[Any], tf32: bool) -> list[str]:
    here = [[t.cuda() for t in i] if isinstance(i, list) else i.cuda() for i in inputs]
    partitioned = isinstance(module, PartitionedModule)
    if partitioned:
        module = module.cuda()
    engine = f"  {capabilities().title}{', partitioned' if partitioned else ''}: "
    if isinstance(model, str):
        engine += str(time_cuda(lambda: module(*here)))
        return [f"on {_trt.gpu_name()}, CUDA events, after 20 calls of warm-up:", engine]
    model = model.cuda()
    with torch.no_grad(), tf32_switched(tf32):
        eager = time_cuda(lambda: model(*here))
        engine += str(time_cuda(lambda: module(*here)))
    return [
        f"on {_trt.gpu_name()}, TF32 {'on' if tf32 else 'off'} for both, CUDA events, after 20 calls of warm-up:",
        f"  PyTorch {torch.__version__}, eager: {eager}",
        engine,
    ]


def placement(text: str) -> tuple[str, str]:
    """``layer1.0=DLA``"""
    path, found, device = text.rpartition("=")
    if not found or device not in ("GPU", "DLA"):
        raise argparse.ArgumentTypeError(f"{text!r}; write SUBMODULE=DLA or SUBMODULE=GPU, e.g. layer1.0=DLA")
    return path, device


def _placements(arguments: argparse.Namespace) -> tuple[dict[nn.Module | str, Any], Any]:
    """TensorRT's DeviceTypes; TensorRT is not asked for where no option names one."""
    chosen: dict[nn.Module | str, Any] = {path: getattr(_trt.trt.DeviceType, name) for path, name in arguments.device_type}
    default = arguments.default_device_type
    return chosen, getattr(_trt.trt.DeviceType, default) if default else None


def declared(arguments: argparse.Namespace) -> tuple[list[tuple[int, ...]], list[torch.dtype]]:
    """Shapes and dtypes of the inputs, from ``--shape`` and ``--dtype``."""
    count = len(arguments.shape)
    if not count:
        raise ConfigError("--shape is needed, once per input")
    names = arguments.dtype or ["float32"]
    if len(names) not in (1, count):
        raise ConfigError(f"--dtype is given {len(names)} times for {count} inputs; give it once, or once per --shape")
    dtypes = [DTYPES[name] for name in (names * count if len(names) == 1 else names)]
    return arguments.shape, [torch.float16 if arguments.half and d == torch.float32 else d for d in dtypes]


def check_outputs(outputs: Sequence[str | None], inputs: Sequence[str | None]) -> None:
    """Said before the work, not after it; ``-`` is stdout.

    Raises:
        ConfigError: an output cannot be written, or is one of the inputs.
    """
    for path in outputs:
        if path is not None and path != "-":
            check_target(path, *inputs)


def write_json(path: str | None, report: Any) -> None:
    """The report as JSON in a file, or on stdout for ``-``."""
    if path is None or report is None:
        return
    text = json.dumps(report.to_dict(), indent=2)
    if path == "-":
        print(text)
    else:
        Path(path).write_text(text + "\n")


class _Progress:
    """Names a stage on stderr once it has taken a second, and its time when it is done."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._start = 0.0
        self._stage = ""

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self("")

    def __call__(self, stage: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            seconds = time.perf_counter() - self._start
            if seconds > 1:
                print(f"torch2edge: {self._stage}: {seconds:.1f} s", file=sys.stderr, flush=True)
        self._stage, self._start, self._timer = stage, time.perf_counter(), None
        if stage:
            self._timer = threading.Timer(1.0, print, (f"torch2edge: {stage} ...",), {"file": sys.stderr, "flush": True})
            self._timer.daemon = True
            self._timer.start()
