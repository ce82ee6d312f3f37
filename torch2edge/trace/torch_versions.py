"""What differs between the versions of torch that are supported, 2.4 and newer: found by feature, never by number.

Nothing else in the package asks which torch this is. Each entry goes with the last torch that needs it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ..sizes import has_symbolic

__all__ = [
    "GONE", "LATER", "compiling_flags", "decompositions", "exports_dynamo", "lacks", "right_ranges", "runs_uncompiled",
    "shape_rule", "uncompiled",
]  # fmt: skip

aten = torch.ops.aten

# Ops with a converter that torch 2.4 lacks, and parameters that their schemas there lack. A converter names such an op by
# ``registry.newer``, and gives such a parameter a default: what the op does without it.
LATER: dict[str, tuple[str, ...]] = {
    "aten._safe_softmax.default": (),  # attention's softmax: before it, a row that sees nothing was NaN
    "aten._scaled_dot_product_cudnn_attention.default": ("attn_bias", "compute_log_sumexp"),
    "aten.scaled_dot_product_attention.default": ("enable_gqa",),
}
# Ops that are refused with a reason, where torch has them: torch 2.15 does not.
GONE = ("cholesky",)


def lacks(op: str, parameter: str = "") -> bool:
    """Whether the installed torch has no such overload, or has it without ``parameter``."""
    namespace, name, overload = op.split(".")
    packet = getattr(getattr(torch.ops, namespace), name, None)
    found = getattr(packet, overload, None)
    return found is None or (parameter != "" and parameter not in {a.name for a in found._schema.arguments})


# ---- torch.compile, torch.onnx --------------------------------------------------------------------------------------------


def runs_uncompiled() -> bool:
    """Whether a module that ``torch.compile`` gave can be run as plain Python; not before torch 2.6."""
    return hasattr(torch.compiler, "set_stance")


def uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Run compiled modules and functions as plain Python; where torch has no such switch they compile."""
    return torch.compiler.set_stance("force_eager") if runs_uncompiled() else contextlib.nullcontext()


def compiling_flags() -> list[str]:
    """What torch.compiler's is_compiling() and is_exporting() read; the second came after torch 2.4."""
    return [name for name in ("_is_compiling_flag", "_is_exporting_flag") if hasattr(torch.compiler, name)]


def exports_dynamo() -> bool:
    """Whether ``torch.onnx.export(dynamo=True)`` is the exporter of today; the one of torch 2.4 had the name only."""
    return "external_data" in inspect.signature(torch.onnx.export).parameters


# ---- decompositions -------------------------------------------------------------------------------------------------------

# In 2.4 they are not among the core decompositions, but in the table of all.
_NOT_CORE = [f"{name}{n}d" for name in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)]


def decompositions() -> dict[Any, Callable[..., Any]]:
    """PyTorch's decompositions into core ATen ops; what torch 2.4 has not among them is added."""
    from torch._decomp import core_aten_decompositions, decomposition_table

    table: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
    for name in _NOT_CORE:
        op = getattr(aten, name).default
        table.setdefault(op, decomposition_table[op])
    table.setdefault(aten.diagonal_copy.default, lambda *args, **kwargs: torch.diagonal(*args, **kwargs).clone())
    table.setdefault(aten._unsafe_index_put.default, aten.index_put.default)
    table.setdefault(aten.argsort.stable, _argsort)
    for unpool in (aten.max_unpool2d.default, aten.max_unpool3d.default):
        table.setdefault(unpool, _max_unpool)
    return table


def _argsort(self: torch.Tensor, *, stable: bool, dim: int = -1, descending: bool = False) -> torch.Tensor:
    return torch.sort(self, stable=stable, dim=dim, descending=descending)[1]


def _max_unpool(self: torch.Tensor, indices: torch.Tensor, output_size: list[int], *_: Any) -> torch.Tensor:
    """Each element goes where the pooling took it from; the last arguments of the volume's form change nothing."""
    dims, leading = len(output_size), self.shape[: self.dim() - len(output_size)]
    flat = self.new_zeros([*leading, functools.reduce(lambda a, b: a * b, output_size)])
    return flat.scatter(-1, indices.flatten(-dims), self.flatten(-dims)).reshape([*leading, *output_size])


# ---- symbolic sizes -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def right_ranges() -> Iterator[None]:
    """While it is active PyTorch bounds ``-n % 8`` as Python computes it.

    torch 2.4 takes C's remainder, so that it knows ``-n % 8 > 0`` to be false, and F.pad to do nothing.
    """
    from torch.utils._sympy import functions, interp, value_ranges

    if interp.handlers().get(functions.PythonMod) != "mod":
        yield
        return
    analysis: Any = value_ranges.SymPyValueRangeAnalysis
    before = analysis.__dict__["mod"]

    def mod(cls: Any, x: Any, y: Any) -> Any:
        x, y = (value_ranges.ValueRanges.wrap(v) for v in (x, y))
        if x.lower >= 0 and y.lower >= 0:
            return before.__func__(cls, x, y)
        return value_ranges.ValueRanges(y.lower + 1 if y.lower < 0 else 0, y.upper - 1 if y.upper > 0 else 0)

    analysis.mod = classmethod(mod)
    try:
        yield
    finally:
        analysis.mod = before


# ---- shape rules ----------------------------------------------------------------------------------------------------------


def shape_rule(func: Any) -> Callable[..., Any]:
    """What gives the shapes of ``func`` on the meta device: the op itself, or another one where its rule is missing."""
    rule: Callable[..., Any] = _own_rules().get(func, func)
    return rule


@functools.cache
def _own_rules() -> dict[Any, Callable[..., Any]]:
    from torch.fx.experimental import symbolic_shapes  # takes long to import

    rules: dict[Any, Callable[..., Any]] = {}
    if not torch._C._dispatch_has_kernel_for_dispatch_key("aten::kthvalue", "Meta"):
        rules[aten.kthvalue.default] = lambda self, k, dim=-1, keepdim=False: aten.min.dim(self, dim, keepdim)
    for op in (aten.add.Scalar, aten.sub.Scalar):
        try:
            op(torch.empty(1, device="meta"), 2, 3)
        except TypeError:  # it does not take alpha, which changes no shape
            rules[op] = functools.partial(lambda op, self, other, alpha=1: op(self, other), op)
    if lacks("aten._fused_rms_norm.default"):  # with it came a rule that leaves symbolic sizes alone
        rules[aten.rms_norm.default] = lambda input, *_, **__: aten.empty_like.default(input)
    if not hasattr(symbolic_shapes, "guard_or_false"):  # what newer rules ask with, and leave open
        rules[aten.pad.default] = _pad
    return rules


def _pad(self: torch.Tensor, pad: Sequence[Any], *rest: Any, **named: Any) -> torch.Tensor:
    """The shape of F.pad, without the question whether a symbolic padding is 0."""
    if not has_symbolic((self.shape, tuple(pad))):
        return aten.pad.default(self, pad, *rest, **named)  # type: ignore[no-any-return]
    shape = list(self.shape)
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2])):
        shape[-1 - axis] = shape[-1 - axis] + before + after
    return self.new_empty(shape)
