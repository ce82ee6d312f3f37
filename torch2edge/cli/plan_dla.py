"""``torch2edge plan-dla``"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from ..dla import TARGETS
from ..dla_planning import plan_dla
from ..errors import ConfigError, InputError
from .convert import add_model, check_outputs, declared, module_of, placement, with_list_hint, write_json
from .shape import example_inputs

__all__ = ["add_plan_dla"]

DESCRIPTION = """\
Say which layers of a model the DLA of a Jetson would run, which fall back to the GPU and why, and what the subgraphs are.
It needs no board and no GPU, and builds nothing. Exit status 0: all layers stay on the DLA; 1: some fall back.

  torch2edge plan-dla --model torchvision:resnet18 --shape 1x3x224x224 --int8 --fp16
  torch2edge plan-dla --onnx classifier.onnx --target orin --tensorrt 8.4 --int8 --json

An .onnx file goes to TensorRT's parser as it is, so the layers have the names that they have in TensorRT's own logs.
"""


def add_plan_dla(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "plan-dla", parents=[common], help="which layers a Jetson's DLA takes, and why not the others; builds nothing",
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.set_defaults(run=_run)
    add_model(command, required=False)
    command.add_argument("--onnx", metavar="FILE.onnx", help="an ONNX file, in place of --model")
    board = command.add_argument_group("the board")
    board.add_argument("--target", choices=TARGETS, default="orin", help="the chip (default orin)")
    board.add_argument("--tensorrt", default="8.6", metavar="8.6", help="the version of TensorRT on it (default 8.6)")
    board.add_argument("--fp16", action="store_true", help="the builder may use FP16 (the default unless --int8)")
    board.add_argument("--int8", action="store_true", help="the builder may use INT8")
    board.add_argument("--device-type", action="append", default=[], type=placement, metavar="PATH=DLA",
                       help="GPU or DLA for the submodule (or layer) PATH and what is inside; repeatable")  # fmt: skip
    board.add_argument("--default-device-type", choices=["GPU", "DLA"],
                       help="for all other layers; GPU where a --device-type says DLA, else DLA")  # fmt: skip
    board.add_argument("--dla-rewrites", action="store_true", help="plan what convert --dla-rewrites makes of the model")
    command.add_argument("--json", nargs="?", const="-", metavar="FILE",
                         help="write the plan as JSON: to FILE, or to stdout in place of the text")  # fmt: skip


def _run(arguments: argparse.Namespace) -> int:
    model, inputs = _given(arguments)
    check_outputs((arguments.json,), ())
    try:
        made = plan_dla(
            model, inputs, device_types=dict(arguments.device_type) or None,
            default_device_type=arguments.default_device_type, target=arguments.target, tensorrt=arguments.tensorrt,
            fp16=arguments.fp16 or None, int8=arguments.int8,
            dla_rewrites=arguments.dla_rewrites,
        )  # fmt: skip
    except InputError as error:
        raise with_list_hint(arguments, error) from error
    write_json(arguments.json, made)
    if arguments.json != "-":
        print(made)
    return 0 if made.all_on_dla else 1


def _given(arguments: argparse.Namespace) -> tuple[Any, list[Any]]:
    """The model, or the path of a file, and example inputs."""
    if (arguments.model is None) == (arguments.onnx is None):
        raise ConfigError("plan-dla: give either --model or --onnx")
    file = arguments.onnx or (arguments.model if arguments.model.endswith(".onnx") else None)
    for option in ("weights", "half", "dtype", "list") if file else ():
        if getattr(arguments, option):
            raise ConfigError(f"--{option}: {file} has its weights, dtypes and inputs in it")
    if file and not arguments.shape:
        return file, []
    shapes, dtypes = declared(arguments)
    torch.manual_seed(0)
    inputs, axes, _ = example_inputs(shapes, dtypes)
    if axes:
        raise ConfigError("plan-dla: --shape takes fixed sizes here, for the DLA takes no others")
    if file:
        return file, inputs
    return module_of(arguments), [inputs] if arguments.list else inputs
