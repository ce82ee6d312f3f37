"""``torch2edge plan``"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from ..api import plan
from ..errors import ConfigError, InputError
from ..partition import MIN_OPS
from .convert import add_model, check_outputs, declared, module_of, with_list_hint, write_json
from .shape import example_inputs

__all__ = ["add_plan"]

DESCRIPTION = """\
Say which submodules of a model would become engines with --fallback torch, which would stay PyTorch, why, and how much
would cross between them. Nothing is built.

  torch2edge plan --model torchvision:retinanet_resnet50_fpn --shape 3x320x320 --list
"""


def add_plan(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "plan", parents=[common], help="what of a model converts, what would stay PyTorch, and why; builds nothing",
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.set_defaults(run=_run)
    add_model(command)
    command.add_argument("--min-ops", type=int, default=MIN_OPS, metavar="N", help=f"ops of the smallest engine ({MIN_OPS})")
    command.add_argument("--json", metavar="FILE", help="write the plan as JSON (- for stdout, in place of the text)")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.model.endswith(".onnx"):
        raise ConfigError("plan: an ONNX file has no submodules that could stay in PyTorch; torch2edge convert takes it whole")
    shapes, dtypes = declared(arguments)
    check_outputs((arguments.json,), ())
    torch.manual_seed(0)
    inputs, axes, _ = example_inputs(shapes, dtypes)
    if axes:
        raise ConfigError("plan: --shape takes fixed sizes here; the parts of a partitioned model have fixed shapes")
    try:
        made = plan(module_of(arguments), [inputs] if arguments.list else inputs, min_ops=arguments.min_ops)
    except InputError as error:
        raise with_list_hint(arguments, error) from error
    write_json(arguments.json, made)
    if arguments.json != "-":
        print(made)
    return 0
