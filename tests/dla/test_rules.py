"""Every row of the DLA's table from both sides, with real networks: the last value inside, the first outside."""

from __future__ import annotations

from typing import Any

import pytest
import support.dla_cases_more  # noqa: F401  (it registers cases)
from support.dla_cases import CASES, Case
from support.dla_networks import Net

from torch2edge._trt import trt
from torch2edge.dla import Setting
from torch2edge.dla.layer import TARGETS
from torch2edge.dla.planner import plan_layers
from torch2edge.dla.reading import read
from torch2edge.dla.rule import Holds, Nothing, OneOf, Range, Rule
from torch2edge.dla.rules import RULES, TYPES

VERSIONS = ("8.6", "10.3", "8.4", "8.2", "7.1", "11.4.1")  # in the order of preference
BY_NAME = {rule.name: rule for rule in RULES}


def setting(rule: Rule, case: Case, value: Any) -> dict[str, Any]:
    """Where the rule holds."""
    asked = {"fp16": True, "int8": True, **case.at(value)}
    kind = rule.types[0] if rule.types else "ACTIVATION"
    for target in TARGETS:
        for version in VERSIONS:
            if target == "xavier" and version == "11.4.1":
                continue
            at = {**asked, "target": target, "tensorrt": version}
            if rule.applies(kind, Setting(**at)):
                return at
    raise AssertionError(f"{rule.name} holds nowhere")


def beyond(rule: Rule, at: dict[str, Any]) -> dict[str, Any]:
    """Where a rule that lets nothing through does not hold any more."""
    if rule.until:
        newer = {"8.5": "8.6", "8.6.12": "10.3"}.get(rule.until, rule.until)
        return {**at, "tensorrt": newer}
    assert rule.targets == ("xavier",)
    return {**at, "target": "orin"}


def sides(rule: Rule, case: Case) -> tuple[list[Any], list[Any]]:
    """The values to try: what the case says, else what the limit says."""
    limit = rule.limit
    if case.inside and case.outside:
        return case.inside, case.outside
    if isinstance(limit, Range):
        inside = [limit.low, limit.high] if case.high else [limit.low]
        return inside, [limit.low - 1] * case.low + [limit.high + 1] * case.high
    assert isinstance(limit, OneOf), f"{rule.name}: say what is inside and outside"
    return case.inside or list(limit.names), case.outside


def rows(inner: bool) -> list[Any]:
    found = []
    for rule in RULES:
        case = CASES[rule.name]
        found += [pytest.param(rule, case, v, id=f"{rule.name}-{v}") for v in sides(rule, case)[0 if inner else 1]]
    return found


def planned(case: Case, value: Any, at: dict[str, Any]) -> Any:
    net = Net()
    case.build(net, value)
    layers = read(net.raw)
    if case.edit is not None:
        case.edit(layers, value)
    return next(row for row in plan_layers(layers, Setting(**at)).layers if row.name == "tested")


@pytest.mark.parametrize(("rule", "case", "value"), rows(inner=True))
def test_the_last_value_inside_is_on_the_dla(rule, case, value):
    at = setting(rule, case, value)
    row = planned(case, value, beyond(rule, at) if isinstance(rule.limit, Nothing) else at)
    assert (row.device, row.rule, row.reason) == ("DLA", "", "")


@pytest.mark.parametrize(("rule", "case", "value"), rows(inner=False))
def test_the_first_value_outside_is_on_the_gpu_by_this_rule(rule, case, value):
    row = planned(case, value, setting(rule, case, value))
    assert (row.device, row.rule) == ("GPU", rule.name), row.reason
    assert row.source == rule.source
    assert row.confidence == rule.confidence
    assert "tested" in row.reason
    assert "{" not in row.reason


@pytest.mark.parametrize("rule", [r for r in RULES if r.until], ids=lambda r: r.name)
def test_a_rule_ends_with_its_version(rule):
    for value in sides(rule, CASES[rule.name])[1]:
        at = setting(rule, CASES[rule.name], value)
        if rule.until != "11":  # there is no DLA between 10.7 and 11.4.1
            assert planned(CASES[rule.name], value, {**at, "tensorrt": rule.until}).rule != rule.name
        assert not rule.applies(rule.types[0] if rule.types else "SLICE", Setting(tensorrt="11.4.1"))


@pytest.mark.parametrize("rule", [r for r in RULES if r.since], ids=lambda r: r.name)
def test_a_rule_begins_with_its_version(rule):
    for value in sides(rule, CASES[rule.name])[1]:
        at = setting(rule, CASES[rule.name], value)
        before = {"8": "7.2", "8.4": "8.2", "8.5": "8.4", "8.6.12": "8.6.11", "11": "10.7", "11.4.1": "10.7"}[rule.since]
        assert planned(CASES[rule.name], value, {**at, "tensorrt": before}).rule != rule.name


@pytest.mark.parametrize("rule", [r for r in RULES if len(r.targets) < len(TARGETS)], ids=lambda r: r.name)
def test_a_rule_is_about_its_targets_only(rule):
    for value in sides(rule, CASES[rule.name])[1]:
        at = setting(rule, CASES[rule.name], value)
        for target in set(TARGETS) - set(rule.targets):
            assert planned(CASES[rule.name], value, {**at, "target": target}).rule != rule.name


@pytest.mark.parametrize("rule", [r for r in RULES if "fp16" not in r.precisions], ids=lambda r: r.name)
def test_a_rule_of_int8_is_none_of_fp16(rule):
    for value in sides(rule, CASES[rule.name])[1]:
        at = setting(rule, CASES[rule.name], value)
        assert planned(CASES[rule.name], value, {**at, "int8": False, "fp16": True}).rule != rule.name


def test_every_rule_has_its_case_and_every_case_its_rule():
    assert set(CASES) == set(BY_NAME)
    assert len(BY_NAME) == len(RULES), "two rules have one name"
    for rule in RULES:
        inside, outside = sides(rule, CASES[rule.name])
        assert inside
        assert outside


def test_every_rule_says_where_it_is_from_and_how_sure_it_is():
    for rule in RULES:
        assert rule.confidence in ("documented", "log", "remembered")
        assert rule.source
        assert rule.what
        assert ("RECALL" in rule.source and rule.source.startswith("RECALL")) <= (rule.confidence != "documented")
        if isinstance(rule.limit, Holds):
            assert "{value}" not in rule.reason


@pytest.mark.parametrize("version", ["8.4", "8.6", "10.3"])
def test_a_type_without_a_row_is_unsupported(version):
    net = Net()
    net.test(net.raw.add_topk(net.input(1, 2, 3, 8), trt.TopKOperation.MAX, 2, 8))
    row = net.row(tensorrt=version)
    assert row.rule == "unsupported-type"
    assert row.reason == "Layer 'tested' (TOPK): Unsupported on DLA. Switching this layer's device type to GPU."
    assert "TOPK" not in TYPES
