"""The command ``torch2edge``: a few lines a command over the API.

Exit status: 0 done; 1 the engine's outputs are not the model's, or (``plan-dla``) a layer falls back to the GPU; 2 wrong
usage, or an error of torch2edge's own tree; 3 a bug. Nothing prints a stack trace unless ``--traceback`` is given.
"""

from .main import entry, main

__all__ = ["entry", "main"]
