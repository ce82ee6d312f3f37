"""``torch2edge export``"""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import ConfigError
from ..serving import export

__all__ = ["add_export"]

DESCRIPTION = """\
Write an engine for other programs: TensorRT's plan without any header, or a model of NVIDIA's Triton Inference Server.

  torch2edge export resnet18.engine --plain resnet18.plan       for trtexec, DeepStream, C++
  torch2edge export resnet18.engine --triton models             models/resnet18/config.pbtxt and models/resnet18/1/model.plan
  torch2edge export yolo11n.engine --plain yolo11n.plan         without Ultralytics' header

Neither TensorRT nor a GPU is needed, but for a Triton model of an engine that torch2edge did not build.
"""
_SERVING = (
    "name",
    "model_version",
    "instances",
    "gpus",
    "profiles",
    "max_batch_size",
    "preferred_batch_sizes",
    "max_queue_delay",
)


def add_export(commands: Any, common: argparse.ArgumentParser) -> None:
    """The command and its options."""
    command = commands.add_parser(
        "export", parents=[common], help="an engine file -> a bare plan, or a model for NVIDIA Triton",
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.add_argument("file", metavar="FILE.engine", help="saved by torch2edge, or by any program that load() knows")
    command.add_argument("--plain", metavar="FILE", help="write the plan alone here")
    command.add_argument("--triton", metavar="FOLDER", help="write a model into this model repository")
    serving = command.add_argument_group("the model for Triton")
    serving.add_argument("--name", help="its name; by default that of the file")
    serving.add_argument("--model-version", type=int, metavar="N", help="the number of its version (default 1)")
    serving.add_argument("--instances", type=int, metavar="N", help="copies of the engine on each GPU (default 1)")
    serving.add_argument("--gpus", type=_numbers, metavar="0,1", help="on which GPUs; by default all")
    serving.add_argument("--profiles", type=_numbers, metavar="0,1", help="optimization profiles to use; by default all")
    serving.add_argument("--max-batch-size", type=int, metavar="N",
                         help="the largest batch that Triton makes of requests; 0: none; by default the engine's")  # fmt: skip
    serving.add_argument("--preferred-batch-sizes", type=_numbers, metavar="4,8", help="batches that need not wait for more")
    serving.add_argument("--max-queue-delay", type=int, metavar="US", help="microseconds that a request waits for others")
    command.set_defaults(run=_run)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are no whole numbers with commas between them") from None


def _run(arguments: argparse.Namespace) -> int:
    given = {key: getattr(arguments, key) for key in _SERVING if getattr(arguments, key) is not None}
    if given and arguments.triton is None:
        flags = ", ".join("--" + key.replace("_", "-") for key in given)
        raise ConfigError(f"{flags}: for a Triton model only, which --triton FOLDER writes")
    if arguments.plain is None and arguments.triton is None:
        raise ConfigError("nothing to write: give --plain FILE or --triton FOLDER, or both")
    renamed = {"model_version": "version", "max_queue_delay": "max_queue_delay_us"}
    options = {renamed.get(key, key): value for key, value in given.items()}
    print(export(arguments.file, plain=arguments.plain, triton=arguments.triton, **options))
    return 0
