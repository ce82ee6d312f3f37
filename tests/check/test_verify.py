"""The check after a build: its figures by hand, and that it finds what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import torch2edge
from torch2edge import VerificationError
from torch2edge.check.verify import TRIALS, compare, draw, verify
from torch2edge.report import CheckRow, Report

aten = torch.ops.aten
NAN, INF = math.nan, math.inf


def row(given: Any, reference: Any, tolerance: float = 1e-3, dtype: torch.dtype = torch.float32) -> CheckRow:
    return compare(torch.tensor(given, dtype=dtype), torch.tensor(reference, dtype=dtype), "out", "trial", tolerance)


def test_figures_by_hand() -> None:
    r = row([3.0, 4.0, 1.0], [3.0, 4.0, 0.0])
    assert r.max_abs == 1
    assert r.ref_max == 4
    assert r.rel_l2 == pytest.approx(1 / 5)
    assert r.cosine == pytest.approx(25 / (5 * math.sqrt(26)))
    assert not r.passed
    assert (r.output, r.trial, r.finite) == ("out", "trial", 3)
    assert row([0.0, -2.0], [0.0, 2.0]).cosine == -1


@pytest.mark.parametrize(
    ("given", "reference", "passed"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0005, 2.0], [1.0, 2.0], True),
        ([1.005, 2.0], [1.0, 2.0], False),
        ([0.0, 0.0], [0.0, 0.0], True),
        ([0.0, 0.01], [0.0, 0.0], False),
        ([0.0, 0.0], [1.0, 2.0], False),
        ([NAN, 1.0], [NAN, 1.0], True),
        ([0.5, 1.0], [NAN, 1.0], False),
        ([0.0, 1.0], [NAN, 1.0], False),
        ([1.0, NAN], [1.0, 1.0], False),
        ([NAN, NAN], [NAN, NAN], True),
        ([INF, -INF, 1.0], [INF, -INF, 1.0], True),
        ([INF, INF, 1.0], [INF, -INF, 1.0], False),
        ([3.4e38, 1.0], [INF, 1.0], False),
        ([1.0, INF], [1.0, 2.0], False),
        ([INF], [NAN], False),
    ],
)
def test_floats(given: list[float], reference: list[float], passed: bool) -> None:
    assert row(given, reference).passed is passed


def test_one_element_far_off_among_many() -> None:
    """The L2 error of 1e6 elements hides one that is wrong; the largest element's error does not."""
    reference = torch.ones(1_000_000)
    given = reference.clone()
    given[7] = 1.5
    r = compare(given, reference, "out", "", 1e-3)
    assert r.rel_l2 < 1e-3
    assert not r.passed


def test_integers_and_bools() -> None:
    assert row([1, 2, 3, 4], [1, 2, 3, 4], dtype=torch.int64).passed
    r = row([1, 2, 3, 9], [1, 2, 3, 4], dtype=torch.int64)
    assert (r.rel_l2, r.max_abs, r.passed) == (0.25, 5, False)
    assert row([1, 2, 3, 9], [1, 2, 3, 4], dtype=torch.int64, tolerance=0.3).passed
    assert not row([True, False], [True, True], dtype=torch.bool).passed


def test_shape_and_dtype_come_first() -> None:
    for given in (torch.ones(2, 1), torch.ones(2).half(), torch.ones(2).int()):
        r = compare(given, torch.ones(2), "out", "", 1e9)
        assert not r.passed
        assert str(given.dtype) in r.trial


def test_draws_are_fresh_and_repeatable() -> None:
    example = [torch.full((400,), 5.0), torch.randint(2, 9, (400,)), torch.ones(400, dtype=torch.bool), torch.ones(3).half()]
    for trial in TRIALS:
        drawn, again = draw(example, trial), draw(example, trial)
        assert all(torch.equal(a, b) for a, b in zip(drawn, again))
        assert [(d.shape, d.dtype) for d in drawn] == [(e.shape, e.dtype) for e in example]
        assert 2 <= drawn[1].min() <= drawn[1].max() <= 8
    floats = [draw(example, t)[0] for t in TRIALS]
    assert floats[0].mean().abs() < 0.2
    assert floats[1].std() > 2.5
    assert floats[2].mean() > 0.8
    assert torch.equal(floats[3], example[0])
    assert not torch.equal(draw(example, TRIALS[3])[1], example[1])
    assert torch.equal(draw(example, TRIALS[3])[1].sort().values, example[1].sort().values)


def test_draws_of_extreme_integers() -> None:
    for dtype in (torch.int64, torch.int32, torch.uint8):
        limits = torch.iinfo(dtype)
        drawn = draw([torch.tensor([limits.min, limits.max], dtype=dtype)], TRIALS[0])[0]
        assert drawn.dtype == dtype


def test_worst_trial_is_kept() -> None:
    def run(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        x = tensors[0]
        return [x, torch.where(x > 3, x + 1, x)]  # the second is wrong only for large values

    rows, trial = verify(run, lambda t: [t[0], t[0]], [torch.randn(100)], ["a", "b"], 1e-4)
    assert [r.passed for r in rows] == [True, False]
    assert rows[1].trial == str(TRIALS[1])
    assert trial is TRIALS[1]


def test_a_trial_with_next_to_no_output_is_held_against_the_others() -> None:
    """Rounding is no failure where the output nearly vanishes; an error that shows beside the other trials is one."""

    def reference(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [tensors[0] * (0.01 if float(tensors[0].mean()) > 0.6 else 1.0)]

    def passed(error: float) -> bool:
        rows, _ = verify(lambda t: [x + error for x in reference(t)], reference, [torch.randn(64)], ["a"], 2e-2)
        return rows[0].passed

    assert passed(1e-3)
    assert not passed(0.05)


# ---- through convert() ----------------------------------------------------------------------------------------------


class Deep(nn.Module):
    """A relu deep inside, which a wrong converter can hit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"stem": self.stem(x), "out": self.body(self.stem(x))}


def leaky(net: Any, self: Any) -> Any:
    """Wrong for negative values alone."""
    layer = net.layer(net.raw.add_activation(self.raw, torch2edge.trt.ActivationType.LEAKY_RELU))
    layer.alpha = 0.1
    return net.result(layer, self.dtype)


def clipped(net: Any, self: Any) -> Any:
    """Wrong for large values alone."""
    layer = net.layer(net.raw.add_activation(self.raw, torch2edge.trt.ActivationType.CLIP))
    layer.alpha, layer.beta = 0.0, 1.0
    return net.result(layer, self.dtype)


@pytest.mark.parametrize("wrong", [leaky, clipped])
def test_a_wrong_converter_is_found_and_its_module_named(wrong: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = Deep().eval()
    with pytest.raises(VerificationError) as caught:
        torch2edge.convert(model, [torch.rand(4, 8) + 0.5], converters={aten.relu.default: wrong})
    message = str(caught.value)
    parts = "1 of 2 outputs", "first to drift is aten.relu.default in body.1", "test_verify.py", "output['out']", "FAILED"
    for part in (*parts, "verify=False"):
        assert part in message, message
    report = caught.value.report
    assert isinstance(report, Report)
    assert [r.passed for r in report.check] == [True, False]


def test_the_wrong_converter_of_one_call_does_not_leak() -> None:
    model = nn.Sequential(nn.ReLU()).eval()
    module = torch2edge.convert(model, [torch.randn(4)], converters={aten.relu.default: leaky}, verify=False)
    assert module.report is not None
    assert "not checked (verify=False)" in str(module.report)
    assert module.report.to_dict()["check"] == []
    assert module.report.to_dict()["checked_by"] == ""
    assert torch2edge.convert(model, [torch.randn(4)]).report.check[0].passed  # type: ignore[union-attr]


def test_tolerance() -> None:
    def near(net: Any, self: Any) -> Any:
        layer = net.layer(net.raw.add_activation(self.raw, torch2edge.trt.ActivationType.LEAKY_RELU))
        layer.alpha = 1e-3
        return net.result(layer, self.dtype)

    model = nn.ReLU().eval()
    with pytest.raises(VerificationError, match=r"tolerance 0\.0001"):
        torch2edge.convert(model, [torch.randn(64)], converters={aten.relu.default: near})
    report = torch2edge.convert(model, [torch.randn(64)], converters={aten.relu.default: near}, tolerance=0.01).report
    assert report is not None
    assert report.tolerance == 0.01


def test_an_output_that_is_never_finite_is_told() -> None:
    class Nowhere(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x + float("nan"), x + 1

    report = torch2edge.convert(Nowhere().eval(), [torch.randn(4)]).report
    assert report is not None
    assert [note for note in report.notes if "never a finite number" in note and "output[0]" in note]
    assert not [note for note in report.notes if "output[1]" in note]


def test_a_model_whose_output_changes_shape_or_count_is_refused() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = [0]

        def forward(self, x: torch.Tensor) -> Any:
            return (torch.relu(x), "even") if type(x) is torch.Tensor else (torch.relu(x), "odd")

    with pytest.raises(VerificationError, match=r"returned \(tensor, 'odd'\) when it was traced, but \(tensor, 'even'\)"):
        torch2edge.convert(Counts().eval(), [torch.randn(4)])


def test_report() -> None:
    torch.manual_seed(0)
    module = torch2edge.convert(Deep().eval(), [torch.randn(4, 8)])
    report = module.report
    assert report is not None
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert {"modules", "check", "timings", "tensorrt", "target", "precision", "tolerance", "notes"} <= data.keys()
    assert Report.from_dict(data).to_dict() == report.to_dict()
    assert [m["path"] for m in data["modules"]] == ["stem", "body.0", "body.1", "body.2"]
    assert all({"path", "kind", "ops", "layers", "device", "precision"} <= m.keys() for m in data["modules"])
    assert all(m["layers"] >= 1 and m["device"] == "GPU" and m["precision"] == "fp32" for m in data["modules"])
    assert [c["output"] for c in data["check"]] == ["output['stem']", "output['out']"]
    assert all({"max_abs", "rel_l2", "cosine", "ref_max"} <= c.keys() for c in data["check"])
    assert all(c["passed"] and c["rel_l2"] < 1e-5 and c["cosine"] > 0.99999 and c["ref_max"] > 0.1 for c in data["check"])
    assert list(data["timings"]) == ["trace", "lower", "build", "check"]
    text = str(report)
    for part in (report.tensorrt, "body.1", "ReLU", "output['out']", "cosine", "ok", "fp32", "the worst trial"):
        assert part in text, text


def test_precision_of_each_module() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8).half()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x).half())

    report = torch2edge.convert(Mixed().eval(), [torch.randn(2, 8)]).report
    assert report is not None
    assert {m.path: m.precision for m in report.modules if m.path} == {"a": "fp32", "b": "fp16"}
    assert report.precision == "fp16+fp32"
