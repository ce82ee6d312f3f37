"""Everything that Torch-TensorRT and torch2trt convert, that real models use, and more: it converts, or says why not.

Each call is traced, lowered and built, and the reference executor's results over the network are held against PyTorch's on
fresh inputs. The tables are in tests/support/coverage_*.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support import coverage_aten, coverage_models, coverage_more, coverage_torch2trt
from support.rows import RTOL, Function, Spec, assert_close
from support.torch_features import LACKING, META_ATTENTION
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch2edge.converters.unsupported import UNSUPPORTED

from torch2edge._trt import trt
from torch2edge.build import BuildSession
from torch2edge.check.reference import ReferenceExecutor
from torch2edge.errors import DataDependentError, InplaceError, RandomOpError, Torch2EdgeError, UnsupportedOpError
from torch2edge.lower import lower, registry
from torch2edge.options import Options
from torch2edge.structure import flatten
from torch2edge.trace import trace
from torch2edge.trace.torch_versions import GONE

aten = torch.ops.aten
TORCHVISION = {"nms", "ps_roi_pool", "roi_pool"}

# Kernels that PyTorch has for GPUs only: what they compute, as the CPU does it.
GPU_ONLY = {
    f"_scaled_dot_product_{kind}_attention": lambda q, k: F.scaled_dot_product_attention(q, k, k, is_causal=True)
    for kind in ("cudnn", "efficient", "flash")
}

REFUSED: dict[str, tuple[type[Torch2EdgeError], Callable[..., Any]]] = {
    "bernoulli": (RandomOpError, lambda x: torch.bernoulli(x.sigmoid())),
    "rand": (RandomOpError, lambda x: x + torch.rand(4)),
    "randn": (RandomOpError, lambda x: x + torch.randn(4)),
    "randn_like": (RandomOpError, torch.randn_like),
    "randint": (RandomOpError, lambda x: x + torch.randint(0, 3, (4,))),
    "randperm": (RandomOpError, lambda x: x[:, torch.randperm(4)]),
    "normal": (RandomOpError, lambda x: torch.normal(x, 1.0)),
    "multinomial": (RandomOpError, lambda x: torch.multinomial(x.exp(), 1)),
    "nonzero": (DataDependentError, torch.nonzero),
    "masked_select": (DataDependentError, lambda x: torch.masked_select(x, x > 0)),
    "_unique2": (DataDependentError, torch.unique),
    "bincount": (DataDependentError, lambda x: torch.bincount(x.flatten().long())),
    "resize_": (InplaceError, lambda x: x.clone().resize_(4, 3)),
    "resize": (UnsupportedOpError, lambda x: x.clone().resize_(3, 4)),
    "_linalg_svd": (UnsupportedOpError, torch.linalg.svd),
    "_linalg_det": (UnsupportedOpError, lambda x: torch.linalg.det(x[:, :3])),
    "_linalg_eigh": (UnsupportedOpError, lambda x: torch.linalg.eigh(x[:, :3])),
    "_linalg_solve_ex": (UnsupportedOpError, lambda x: torch.linalg.solve(x[:, :3], x)),
    "linalg_inv_ex": (UnsupportedOpError, lambda x: torch.linalg.inv(x[:, :3])),
    "linalg_qr": (UnsupportedOpError, torch.linalg.qr),
    "linalg_cholesky_ex": (UnsupportedOpError, lambda x: torch.linalg.cholesky(x @ x.T)),
    "lgamma": (UnsupportedOpError, torch.lgamma),
    "digamma": (UnsupportedOpError, torch.digamma),
    "i0": (UnsupportedOpError, torch.i0),
    "nextafter": (UnsupportedOpError, lambda x: torch.nextafter(x, x + 1)),
    "gcd": (UnsupportedOpError, lambda x: torch.gcd(x.int(), x.int() + 4)),
}


class Called(TorchDispatchMode):
    """Names of the ops that a call makes, those that PyTorch takes apart and their parts."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        self.names |= {name, f"{name}.{func._schema.overload_name or 'default'}"}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def draw(name: str, inputs: tuple[Any, ...], seed: int) -> list[torch.Tensor]:
    """Inputs of a call; another seed gives others."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
    return [(s if isinstance(s, Spec) else Spec(tuple(s))).draw(generator, torch.float32) for s in inputs]


def network(model: nn.Module, inputs: list[torch.Tensor]) -> tuple[Any, BuildSession]:
    """The model traced and lowered."""
    graph = trace(model, inputs, is_leaf=registry().is_leaf, module_classes=registry().module_classes())
    session = BuildSession(Options())
    return lower(graph, session.network, registry()), session


def check(name: str, fn: Callable[..., Any], *specs: Any, like: Callable[..., Any] | None = None) -> None:
    """The call converts, and its network computes what PyTorch does."""
    lowered, session = network(Function(fn).eval(), draw(name, specs, 0))
    assert len(session.build()) > 0
    inputs = draw(name, specs, 1)
    with torch.no_grad():
        expected, _ = flatten((like or fn)(*[t.clone() for t in inputs]))
    assert len(expected) == len(lowered.output_names) > 0
    given = ReferenceExecutor(session.network, trt).run({n: t for n, t in zip(lowered.input_names, inputs) if n})
    for output, reference in zip(lowered.output_names, expected):
        assert_close(given[output], reference, RTOL[torch.float32])


def cases() -> Iterator[Any]:
    """Every call of every list."""
    lists = {"aten": coverage_aten, "torch2trt": coverage_torch2trt, "models": coverage_models, "more": coverage_more}
    for title, table in lists.items():
        for name, call in table.CALLS.items():
            marks = [META_ATTENTION] if name in GPU_ONLY else []
            yield pytest.param(name, call, id=f"{title}-{name}", marks=marks)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("name", "call"), list(cases()))
def test_call(name: str, call: tuple[Any, ...]) -> None:
    check(name, *call, like=GPU_ONLY.get(name))


def test_torch_tensorrt_s_list_is_whole() -> None:
    names = coverage_aten.NAMES
    assert len(names) == len(set(names)) == 178
    assert set(coverage_aten.CALLS).isdisjoint(UNSUPPORTED)
    assert set(coverage_aten.CALLS) | set(UNSUPPORTED) >= set(names) >= set(coverage_aten.CALLS)


def test_torch2trt_s_list_is_whole() -> None:
    spaces = {"torch": torch, "Tensor": torch.Tensor, "F": F}
    assert len(coverage_torch2trt.CALLS) == 211
    for name in coverage_torch2trt.CALLS:
        space, function = name.split(".")
        assert callable(getattr(spaces[space], function))


def test_the_list_of_models_is_whole() -> None:
    assert len(coverage_models.NAMES) == 107
    assert set(coverage_models.CALLS) == set(coverage_models.NAMES) - {op.removeprefix("aten.") for op in LACKING}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("table", [coverage_aten, coverage_models])
def test_each_call_is_of_its_op(table: Any) -> None:
    """Else a row would say nothing of the op in its name."""
    other = []
    for name, (fn, *specs) in table.CALLS.items():
        if name in GPU_ONLY or name.startswith("sym_"):  # no kernel here; sizes are no ops
            continue
        with torch.inference_mode(), Called() as called:
            fn(*draw(name, tuple(specs), 0))
        if name not in called.names:
            other.append(name)
    assert not other


@pytest.mark.parametrize("name", REFUSED)
def test_refused_ops_are_errors_of_ours(name: str) -> None:
    error, fn = REFUSED[name]
    with pytest.raises(error) as caught:
        network(Function(fn).eval(), [torch.randn(3, 4)])
    if error is UnsupportedOpError:
        assert f"no converter: {UNSUPPORTED[name]}" in str(caught.value)


def test_no_refused_op_has_a_converter() -> None:
    named = {target._schema.name.split("::")[1] for target in registry().all() if hasattr(target, "_schema")}
    assert named.isdisjoint(UNSUPPORTED)
    for name in UNSUPPORTED:
        assert hasattr(aten, name) or name in (*TORCHVISION, *GONE), name


def test_masks_that_depend_on_an_input_are_refused() -> None:
    with pytest.raises(DataDependentError, match=r"boolean mask.*torch\.where"):
        network(Function(lambda x: x[x > 0]).eval(), [torch.randn(3, 4)])
