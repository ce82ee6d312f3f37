"""What torch versions differ in stands in one file, and is what converters say of themselves."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import torch
from support.torch_features import LACKING
from torch import nn

import torch2edge
from torch2edge.lower import registry
from torch2edge.lower.registry import Newer, newer
from torch2edge.trace import checks, torch_versions
from torch2edge.trace.torch_versions import GONE, LATER, lacks, right_ranges, shape_rule

aten = torch.ops.aten
ROOT = Path(__file__).parent.parent.parent
NEWEST_SEEN = tuple(int(n) for n in torch.__version__.split(".")[:2]) >= (2, 11)


def test_converters_of_later_ops_are_those_of_the_list() -> None:
    """An op that this torch lacks is registered by name; a parameter that some torch lacks has a default, and no other."""
    entries = {str(target): e for target, e in registry().all().items() if isinstance(target, (Newer, torch._ops.OpOverload))}
    assert {name for name, e in entries.items() if isinstance(e.target, Newer)} == LACKING
    for name, entry in entries.items():
        given = {p.name for p in inspect.signature(entry.function).parameters.values() if p.default is not p.empty}
        assert given == set(LATER.get(name, ())), f"{entry.where}: a default is for what an older torch lacks, see LATER"
    assert set(LATER) <= set(entries)


@pytest.mark.skipif(not NEWEST_SEEN, reason="an op may be new to this torch, or not be an op at all")
def test_every_later_op_is_one() -> None:
    for op, parameters in LATER.items():
        assert not lacks(op), f"{op} is no op of torch {torch.__version__}"
        assert not any(lacks(op, p) for p in parameters)


def test_what_is_lacking() -> None:
    assert not lacks("aten.relu.default")
    assert not lacks("aten.relu.default", "self")
    assert lacks("aten.relu.default", "alpha")
    assert lacks("aten.t2e_nothing.default")
    assert newer("relu.default") is aten.relu.default
    assert newer("t2e_nothing.default") == Newer("aten.t2e_nothing.default")


def test_an_op_that_is_gone_was_one() -> None:
    assert not {name for name in GONE if not hasattr(torch, name) and not hasattr(aten, name)}


def test_nothing_else_asks_which_torch_this_is() -> None:
    """No comparison of torch.__version__, and no hasattr(torch..., "name") or getattr(torch..., "name", default)."""
    asking = []
    for path in (*(ROOT / "torch2edge").rglob("*.py"), *(ROOT / "converters").glob("*.py")):
        if path.name == "torch_versions.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and "torch.__version__" in ast.unparse(node):
                asking.append(f"{path}:{node.lineno}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("hasattr", "getattr"):
                fixed = len(node.args) != 2 or ast.unparse(node.func) == "hasattr"
                if fixed and ast.unparse(node.args[0]).split(".")[0] == "torch" and isinstance(node.args[1], ast.Constant):
                    asking.append(f"{path}:{node.lineno}")
    assert not asking, "ask in torch2edge/trace/torch_versions.py"


def test_negative_sizes_leave_pythons_remainder() -> None:
    import sympy
    from torch.utils._sympy.functions import PythonMod
    from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

    n = sympy.Symbol("n", positive=True, integer=True)
    with right_ranges():
        for divisor in (8, -8):
            bounds = bound_sympy(PythonMod(-n, divisor), {n: ValueRanges(2, 64)})
            assert all(-size % divisor in bounds for size in range(2, 65))


@pytest.mark.parametrize("op", [aten.add.Scalar, aten.sub.Scalar])
def test_shape_rules_of_scalars_take_alpha(op: torch._ops.OpOverload) -> None:
    assert shape_rule(op)(torch.empty(2, 3, device="meta"), 2, 3).shape == (2, 3)


def test_a_compiled_submodule_is_refused_where_it_cannot_be_run_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "runs_uncompiled", lambda: False)
    model = nn.Sequential(torch.compile(nn.ReLU(), backend="eager")).eval()
    with pytest.raises(torch2edge.TraceError, match=r"submodule 0 is compiled, .* put its _orig_mod in its place"):
        torch2edge.convert(model, [torch.ones(2)])


def test_an_exporter_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_versions, "exports_dynamo", lambda: False)
    with pytest.raises(torch2edge.ConfigError, match=r"onnx_exporter='dynamo': .* Use onnx_exporter='torchscript'"):
        torch2edge.convert(nn.ReLU().eval(), [torch.ones(2)], fallback="onnx", onnx_exporter="dynamo")
