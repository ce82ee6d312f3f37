"""Registering converters: what is checked, and which one is found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torch2edge.errors import ConfigError
from torch2edge.graph import Value
from torch2edge.lower import registry
from torch2edge.lower.check import bind
from torch2edge.lower.registry import Registry, newer

aten = torch.ops.aten


def relu(net: Any, self: Any) -> Any:
    return net.activation(self, "RELU")


def another_relu(net: Any, self: Any) -> Any:
    return net.activation(self, "RELU")


def test_a_converter_is_found_by_its_overload() -> None:
    own = Registry()
    own.add(aten.relu.default, relu)
    assert own.get(aten.relu.default).function is relu  # type: ignore[union-attr]
    assert own.is_leaf(aten.relu.default)
    assert own.get(aten.relu6.default) is None
    assert not own.is_leaf(aten.relu6.default)
    assert own.get(aten.relu.default).where.startswith(__file__)  # type: ignore[union-attr]


def test_an_op_of_another_library_is_found_by_its_name() -> None:
    own = Registry()
    own.add("t2e_missing_library.twice.default", relu)  # nothing has registered it
    with torch.library._scoped_library("t2e_test_library", "DEF") as library:
        library.define("twice(Tensor self) -> Tensor")
        own.add("t2e_test_library.twice.default", relu)
        op = torch.ops.t2e_test_library.twice.default
        assert own.get(op).function is relu  # type: ignore[union-attr]
        with pytest.raises(ConfigError, match="has two converters"):
            own.add(op, another_relu)
        with pytest.raises(ConfigError, match=r"must take \(net, self\)"):
            own.add("t2e_test_library.twice.default", lambda net, x: x, replace=True)


def test_parameters_must_be_the_schema() -> None:
    def elu(net: Any, x: Any, alpha: float) -> Any: ...

    with pytest.raises(ConfigError, match=r"must take \(net, self, alpha, scale, input_scale\).* but takes \(net, x, a"):
        Registry().add(aten.elu.default, elu)


def test_an_op_of_a_newer_torch_is_registered_by_name() -> None:
    own = Registry()
    own.add(newer("t2e_nothing.default"), relu)
    assert [str(target) for target in own.all()] == ["aten.t2e_nothing.default"]
    assert own.functions() == own.module_classes() == ()
    with pytest.raises(ConfigError, match="has two converters"):
        own.add(newer("t2e_nothing.default"), another_relu)
    with pytest.raises(ConfigError, match=r"must take \(net, self\)"):
        own.add(newer("relu.default"), lambda net, x: x)  # this torch has it: it is checked


def test_a_parameter_of_a_newer_torch_has_a_default() -> None:
    def some(net: Any, self: Any, *, later: bool = False) -> Any: ...

    def all_of_it(net: Any, self: Any, later: bool) -> Any: ...

    own = Registry()
    own.add(aten.relu.default, some)
    with pytest.raises(ConfigError, match=r"must take \(net, self\), the op's schema, but takes \(net, self, later\)"):
        own.add(aten.sigmoid.default, all_of_it)


def test_an_overload_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r"several overloads; name one: .*aten\.add\.Tensor"):
        Registry().add(aten.add, relu)


def test_an_op_that_writes_in_place_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"aten\.relu_\.default writes in place"):
        Registry().add(aten.relu_.default, relu)


@pytest.mark.parametrize("target", ["aten.relu.default", torch.relu, int])
def test_what_is_no_op_is_refused(target: Any) -> None:
    with pytest.raises(ConfigError, match=r"neither an ATen overload such as torch\.ops\.aten\.relu\.default"):
        Registry().add(target, relu)


def test_a_second_converter_is_refused_and_both_are_named() -> None:
    own = Registry()
    own.add(aten.relu.default, relu)
    first, second = (f"{__file__}:{f.__code__.co_firstlineno}" for f in (relu, another_relu))
    with pytest.raises(ConfigError, match=r"replace=True") as error:
        own.add(aten.relu.default, another_relu)
    assert first in str(error.value)
    assert second in str(error.value)
    assert own.get(aten.relu.default).function is relu  # type: ignore[union-attr]
    own.add(aten.relu.default, another_relu, replace=True)
    assert own.get(aten.relu.default).function is another_relu  # type: ignore[union-attr]


def test_a_module_class_needs_a_converter_that_takes_the_module() -> None:
    def nothing(net: Any) -> Any: ...

    def gru(net: Any, module: Any, input: Any, hx: Any = None) -> Any: ...

    own = Registry()
    with pytest.raises(ConfigError, match=r"of GRU must take \(net, module, \.\.\.\)"):
        own.add(nn.GRU, nothing)
    own.add(nn.GRU, gru)
    assert nn.GRU in own.module_classes()


def test_overrides_of_one_call_come_first_and_stay_there() -> None:
    before = registry().get(aten.relu.default)
    extended = registry().extended({aten.relu.default: relu})
    assert extended.get(aten.relu.default).function is relu  # type: ignore[union-attr]
    assert extended.get(aten.sigmoid.default) is registry().get(aten.sigmoid.default)
    assert extended.all().keys() == registry().all().keys()
    assert registry().get(aten.relu.default) is before
    assert registry().extended({}) is registry()


def test_overrides_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="the op's schema"):
        registry().extended({aten.sigmoid.default: lambda net, x: x})


def test_every_converter_says_the_schema_first() -> None:
    """The first line of each docstring is the schema of one of the function's targets, so that one can look it up."""
    for target, entry in registry().all().items():
        if isinstance(target, torch._ops.OpOverload):
            names = {t._schema.name.split("::")[1] for t, e in registry().all().items() if e.function is entry.function}
            first = (entry.function.__doc__ or "").split("(")[0].split(".")[0].strip()
            assert first in names, f"{entry.where}: the docstring begins with {first!r}, the targets are {names}"


def test_arguments_are_bound_by_name_with_defaults() -> None:
    from torch2edge.graph import Op

    x = Value(0, (2,), torch.float32)
    op = Op(aten.elu.default, (x, 2.0), {"input_scale": 3.0}, [x], "", "file.py:1")
    assert bind(op) == {"self": x, "alpha": 2.0, "scale": 1, "input_scale": 3.0}
