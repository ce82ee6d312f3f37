"""What differs between the versions of torch that are supported, 2.4 and newer: found by feature, never by number.

Nothing else in the package asks which torch this is.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch

__all__ = ["LATER", "lacks", "runs_uncompiled", "uncompiled"]

# Ops with a converter that torch 2.4 lacks, and parameters that their schemas there lack. A converter names such an op by
# ``registry.newer``, and gives such a parameter a default: what the op does without it.
LATER: dict[str, tuple[str, ...]] = {
    "aten._safe_softmax.default": (),  # attention's softmax: before it, a row that sees nothing was NaN on the CPU
    "aten._scaled_dot_product_cudnn_attention.default": ("attn_bias", "compute_log_sumexp"),
    "aten.scaled_dot_product_attention.default": ("enable_gqa",),
}


def lacks(op: str, parameter: str = "") -> bool:
    """Whether the installed torch has no such overload, or has it without ``parameter``."""
    namespace, name, overload = op.split(".")
    packet = getattr(getattr(torch.ops, namespace), name, None)
    found = getattr(packet, overload, None)
    return found is None or (parameter != "" and parameter not in {a.name for a in found._schema.arguments})


def runs_uncompiled() -> bool:
    """Whether a module that ``torch.compile`` gave can be run as plain Python; not before torch 2.6."""
    return hasattr(torch.compiler, "set_stance")


def uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Run compiled modules and functions as plain Python; where torch has no such switch they compile."""
    return torch.compiler.set_stance("force_eager") if runs_uncompiled() else contextlib.nullcontext()
