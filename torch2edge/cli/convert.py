"""``torch2edge convert``"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import _trt
from ..api import convert
from ..bench import time_cuda
from ..errors import ConfigError, VerificationError
from ..run import EdgeModule
from .model import load_model, load_weights
from .shape import example_inputs, shape

__all__ = ["add_convert"]

DTYPES = {str(d).removeprefix("torch."): d for d in
          (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.uint8, torch.bool)}  # fmt: skip
DESCRIPTION = """\
Convert a model, check the engine on fresh random inputs, print a report, save an engine file.

  torch2edge convert --model torchvision:resnet18 --shape 1x3x224x224 -o resnet18.engine
  torch2edge convert --model detector.py:make --weights detector.pth --shape 1x3x640x640 --half -o detector.engine

The engine's input shapes are fixed: those of --shape. A size that varies is written MIN:OPT:MAX, with NAME= before it where
several axes are one size (letters, no x); NAME alone stands for it again:

  torch2edge convert --model torchvision:resnet18 --shape 1:8:16x3x224x224 -o resnet18.engine
  torch2edge convert --model pair.py:make --shape batch=1:8:16x3x64x64 --shape batchx10 -o pair.engine

Where this machine has no NVIDIA GPU, the engine is built and
checked by the reference executor, but cannot be executed.
"""


def add_convert(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "convert", parents=[common], help="model -> engine file, with a report", description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.set_defaults(run=_run)
    what = command.add_argument_group("the model")
    what.add_argument("--model", required=True, metavar="MODEL",
                      help="torchvision:NAME (random weights), or path/to/file.py:FACTORY, a function or class that "
                           "returns the module when called without arguments, or a module. The file is executed.")  # fmt: skip
    what.add_argument("--weights", metavar="FILE", help="a state dict saved by torch.save (loaded with weights_only=True)")
    what.add_argument("--shape", required=True, action="append", type=shape, metavar="1x3x224x224",
                      help="shape of an input; once per input, in order; 1:8:16x3x224x224 for a batch of 1 to 16")  # fmt: skip
    what.add_argument("--dtype", action="append", default=[], choices=list(DTYPES), metavar="DTYPE",
                      help=f"dtype of an input; once for all, or once per input: {', '.join(DTYPES)} (default float32). "
                           "Integers are drawn from 0 to 9.")  # fmt: skip
    how = command.add_argument_group("the engine")
    how.add_argument("--half", action="store_true", help="convert model.half(), with half inputs")
    how.add_argument("--fp16", action="store_true",
                     help="let TensorRT choose half precision layer by layer (8.6 and 10 only)")  # fmt: skip
    how.add_argument("--tf32", action="store_true", help="allow TF32 in float32 products")
    how.add_argument("--optimization-level", type=int, choices=range(6), help="0: fast build, 5: fast engine")
    how.add_argument("--workspace", type=int, metavar="MIB", help="most memory for the builder's tactics")
    how.add_argument("--tactic-sources", type=int, metavar="MASK",
                     help="bits of trt.TacticSource; 0 leaves cuBLAS, cuBLASLt and cuDNN out")  # fmt: skip
    how.add_argument("--compute-capability", action="append", default=[], metavar="8.6",
                     help="TensorRT-RTX: a GPU to build for; repeatable")  # fmt: skip
    where = command.add_argument_group("GPU and DLA")
    where.add_argument("--device-type", action="append", default=[], type=_placement, metavar="PATH=DLA",
                       help="GPU or DLA for the submodule PATH and what is inside; repeatable, innermost wins")  # fmt: skip
    where.add_argument("--default-device-type", choices=["GPU", "DLA"], help="for all other layers")
    where.add_argument("--dla-core", type=int, metavar="N", help="the DLA core to build for and run on")
    where.add_argument("--no-gpu-fallback", action="store_true", help="a layer that the DLA cannot take is an error")
    then = command.add_argument_group("the check and the results")
    then.add_argument("--no-verify", action="store_true", help="take the engine unchecked")
    then.add_argument("--tolerance", type=float, metavar="X", help="largest relative L2 error of an output")
    then.add_argument("--time", action="store_true", help="time the engine and PyTorch on this GPU; skipped without one")
    then.add_argument("-o", "--output", metavar="FILE", help="save the engine here")
    then.add_argument("--json", metavar="FILE", help="write the report as JSON (- for stdout, in place of the text)")


def _run(arguments: argparse.Namespace) -> int:
    dtypes = _dtypes(arguments)
    for path in (arguments.output, arguments.json):
        _check_writable(path)
    device_types, default = _placements(arguments)
    say = _Progress()
    with say:
        say("load the model")
        torch.manual_seed(0)
        model = load_model(arguments.model).eval()
        if arguments.weights:
            load_weights(model, arguments.weights)
        if arguments.half:
            model = model.half()
        inputs, axes, dims = example_inputs(arguments.shape, dtypes)
        try:
            module = convert(
                model, inputs, dynamic=axes, dims=dims, fp16=arguments.fp16, tf32=arguments.tf32, device_types=device_types,
                default_device_type=default, dla_core=arguments.dla_core, gpu_fallback=not arguments.no_gpu_fallback,
                optimization_level=arguments.optimization_level,
                workspace=None if arguments.workspace is None else arguments.workspace * 2**20,
                tactic_sources=arguments.tactic_sources, compute_capabilities=arguments.compute_capability,
                verify=not arguments.no_verify, tolerance=arguments.tolerance, progress=say,
            )  # fmt: skip
        except VerificationError as error:
            _write_json(arguments.json, error.report)
            raise
    _write_json(arguments.json, module.report)
    if arguments.json != "-":
        print(module.report)
        print()
        _tell(arguments, model, module, inputs)
    if arguments.output:
        module.save(arguments.output)
        if arguments.json != "-":
            print(f"saved {arguments.output} ({os.path.getsize(arguments.output) / 2**20:.1f} MiB)")
    elif arguments.json != "-":
        print("not saved; -o FILE saves the engine")
    return 0


def _tell(arguments: argparse.Namespace, model: nn.Module, module: EdgeModule, inputs: list[torch.Tensor]) -> None:
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


def _times(model: nn.Module, module: EdgeModule, inputs: list[torch.Tensor], tf32: bool) -> list[str]:
    here = [t.cuda() for t in inputs]
    model = model.cuda()
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=tf32):
            eager = time_cuda(lambda: model(*here))
            engine = time_cuda(lambda: module(*here))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
    return [
        f"on {_trt.gpu_name()}, TF32 {'on' if tf32 else 'off'} for both, CUDA events, after 20 calls of warm-up:",
        f"  PyTorch {torch.__version__}, eager: {eager}",
        f"  {module.metadata['title']}: {engine}",
    ]


def _placement(text: str) -> tuple[str, str]:
    path, found, device = text.rpartition("=")
    if not found or device not in ("GPU", "DLA"):
        raise argparse.ArgumentTypeError(f"{text!r}; write SUBMODULE=DLA or SUBMODULE=GPU, e.g. layer1.0=DLA")
    return path, device


def _placements(arguments: argparse.Namespace) -> tuple[dict[nn.Module | str, Any], Any]:
    """TensorRT's DeviceTypes; TensorRT is not asked for where no option names one."""
    chosen: dict[nn.Module | str, Any] = {path: getattr(_trt.trt.DeviceType, name) for path, name in arguments.device_type}
    default = arguments.default_device_type
    return chosen, getattr(_trt.trt.DeviceType, default) if default else None


def _dtypes(arguments: argparse.Namespace) -> list[torch.dtype]:
    count = len(arguments.shape)
    names = arguments.dtype or ["float32"]
    if len(names) not in (1, count):
        raise ConfigError(f"--dtype is given {len(names)} times for {count} inputs; give it once, or once per --shape")
    dtypes = [DTYPES[name] for name in (names * count if len(names) == 1 else names)]
    return [torch.float16 if arguments.half and d == torch.float32 else d for d in dtypes]


def _check_writable(path: str | None) -> None:
    """Said before the work, not after it."""
    if path is None or path == "-":
        return
    folder = Path(path).parent
    if not folder.is_dir():
        raise ConfigError(f"cannot write {path}: there is no folder {folder}")
    if Path(path).is_dir():
        raise ConfigError(f"cannot write {path}: it is a folder")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write {path}: no permission to write in {folder}")


def _write_json(path: str | None, report: Any) -> None:
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
