"""Arguments, errors, exit status."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from .. import __version__
from .._trt import logger_name
from ..errors import Torch2EdgeError, VerificationError
from .bench import add_bench
from .convert import add_convert
from .dla_log import add_dla_log
from .doctor import add_doctor
from .export import add_export
from .inspect import add_inspect
from .ops import add_ops
from .plan import add_plan
from .plan_dla import add_plan_dla

__all__ = ["entry", "main", "parser"]


def entry() -> None:
    """The console script."""
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = parser().parse_args(argv)
    if arguments.verbose:
        logging.basicConfig(format="%(name)s: %(message)s", stream=sys.stderr)
        logging.getLogger(logger_name).setLevel(logging.INFO)
    try:
        return int(arguments.run(arguments) or 0)
    except Torch2EdgeError as error:
        if arguments.traceback:
            raise
        print(f"torch2edge: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, VerificationError) else 2
    except KeyboardInterrupt:
        print("torch2edge: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # | head
        sys.stderr.close()
        return 0
    except Exception as error:
        if arguments.traceback:
            raise
        print(
            f"torch2edge: internal error: {type(error).__name__}: {error}\nThis is a bug of torch2edge. --traceback shows "
            "where; please report it with the command.",
            file=sys.stderr,
        )
        return 3


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("when something is wrong")
    group.add_argument("--traceback", action="store_true", help="show the stack trace of an error")
    group.add_argument("-v", "--verbose", action="store_true", help="show TensorRT's own messages on stderr")
    top = argparse.ArgumentParser(
        prog="torch2edge",
        description="Turn a PyTorch module into a TensorRT engine, and say how exact it is.",
        epilog="torch2edge COMMAND --help tells more of each.",
    )
    top.add_argument("--version", action="version", version=f"torch2edge {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        add_convert, add_plan, add_plan_dla, add_dla_log, add_inspect, add_export, add_bench, add_ops, add_doctor,
    ):  # fmt: skip
        add(commands, common)
    return top
