"""convert(max_error=) and convert(metric=, max_drop=): the modules that must not be low are found."""

from __future__ import annotations

import ast
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu import executes, fast_options
from support.precision_models import Deep
from torch import nn

import torch2edge
from torch2edge import ConfigError, VerificationError
from torch2edge._trt import capabilities
from torch2edge.modules import nearest
from torch2edge.search import BUILDS, _narrow, shortest

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
    pytest.mark.filterwarnings("ignore::torch2edge.build.calibration.CalibrationWarning"),
]
strong = pytest.mark.skipif(not capabilities().strongly_typed, reason="a weakly typed TensorRT chooses its precision itself")
aten = torch.ops.aten
DATA = [torch.randn(8, 16, generator=torch.Generator().manual_seed(i)) for i in range(9)]
RANGES = torch2edge.Calibration(DATA, algorithm="minmax")  # an outlier is not clipped, so all else is lost beside it


class Lifted(nn.Module):
    """A large number is added, and taken away again: half has no digits left."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up, self.down, self.last = (nn.Linear(16, 16) for _ in range(4))
        with torch.no_grad():
            self.up.weight.copy_(torch.eye(16))
            self.up.bias.fill_(2000)
            self.down.weight.copy_(torch.eye(16))
            self.down.bias.fill_(-2000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.down(self.up(self.first(x))))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def builds(model: nn.Module, **options: Any) -> tuple[Any, int]:
    """The module, and how many engines were built for it."""
    stages: list[str] = []
    example = DATA[0].to(next(model.parameters()).device)
    module = torch2edge.convert(model.eval(), [example], progress=stages.append, **{**fast_options(), **options})
    return module, stages.count("build")


def relative(module: Any, model: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((module(x) - model(x)).norm() / model(x).norm())


# ---- max_error ------------------------------------------------------------------------------------------------------------


@strong
@pytest.mark.parametrize(("low", "back"), [({}, "fp32"), ({"fp16": True}, "fp16"), ({"bf16": True}, "bf16")])
def test_int8_finds_the_one_module(low: dict[str, bool], back: str) -> None:
    model = Deep()
    bad = torch2edge.convert(model.eval(), [DATA[0]], int8=True, calibration=RANGES, verify=False, **low, **fast_options())
    assert relative(bad, model, DATA[0]) > 0.3
    module, count = builds(model, int8=True, calibration=RANGES, max_error=0.1, **low)
    report = module.report
    assert report.precisions == {"inner.1": back}
    assert count <= 3
    assert all(row.passed and row.rel_l2 <= 0.1 for row in report.check)
    assert report.tolerance == 0.1
    rows = {row.path: row.precision for row in report.modules}
    assert "int8" in rows["first"]
    assert "int8" not in rows["inner.1"]
    assert relative(module, model, DATA[0]) < 0.1


@strong
def test_half_finds_both_modules_that_round_the_same_value() -> None:
    """To keep only one of them in float32 changes nothing: the value between them is half, then."""
    model = Lifted()
    module, count = builds(model, fp16=True, max_error=2e-3)
    assert module.report.precisions == {"up": "fp32", "down": "fp32"}
    assert count <= 4
    assert {r.path: r.precision for r in module.report.modules} == {
        "first": "fp16", "up": "fp32", "down": "fp32", "last": "fp16",
    }  # fmt: skip


@strong
def test_what_is_reported_gives_the_same_engine() -> None:
    model = Deep()
    module, _ = builds(model, fp16=True, int8=True, calibration=RANGES, max_error=4e-3)
    note = module.report.notes[-1]
    copied = ast.literal_eval(note.partition("precisions=")[2])
    assert copied == module.report.precisions
    again, count = builds(model, fp16=True, int8=True, calibration=RANGES, precisions=copied, verify=True)
    assert count == 1
    assert again.report.precision == module.report.precision
    x = torch.randn(8, 16)
    torch.testing.assert_close(again(x), module(x), rtol=0, atol=0)
    saved = torch2edge.Report.from_dict(module.metadata["report"])
    assert saved.precisions == copied


@strong
def test_fewer_would_not_do() -> None:
    model = Deep()
    options = {"int8": True, "calibration": RANGES}
    module, _ = builds(model, max_error=4e-3, **options)
    chosen = module.report.precisions
    assert 1 < len(chosen) < 5
    for left_out in chosen:
        rest = {path: p for path, p in chosen.items() if path != left_out}
        worse = torch2edge.convert(model, [DATA[0]], precisions=rest, tolerance=10, **options, **fast_options())
        assert max(row.rel_l2 for row in worse.report.check) > max(row.rel_l2 for row in module.report.check)


def test_nothing_to_do_is_one_build() -> None:
    module, count = builds(Deep(1.0), fp16=True, max_error=0.02)
    assert (count, module.report.precisions) == (1, {})
    assert "after 1 build, with 0 of 0 steps" in module.report.notes[-1]


@strong
def test_precisions_that_were_given_are_where_it_begins() -> None:
    model = Lifted()
    module, _ = builds(model, precisions={"up": "fp16", "last": "bf16", "down": "fp16"}, max_error=2e-2)
    assert module.report.precisions == {"up": "fp32", "last": "bf16", "down": "fp32"}


@strong
def test_int8_of_one_module_that_goes_back() -> None:
    """Nothing is INT8 at last; nor is there anything to calibrate."""
    model = Deep()
    options = {"calibration": RANGES, "precisions": {"inner.1": "int8"}, "keep_network": True}
    module, _ = builds(model, max_error=1e-3, **options)
    assert module.report.precisions == {"inner.1": "fp32"}
    assert module.report.precision == "fp32"
    assert torch2edge.compare(model, module).fault == ""


def test_a_calibration_without_int8_stays_an_error() -> None:
    with pytest.raises(ConfigError, match="calibration is given, but nothing is to be INT8"):
        builds(Deep(1.0), fp16=True, calibration=RANGES, max_error=1e-6)


@strong
def test_the_module_that_is_given_back_can_be_compared() -> None:
    model = Deep()
    module, _ = builds(model, int8=True, fp16=True, calibration=RANGES, max_error=0.1, keep_network=True)
    result = torch2edge.compare(model, module, tolerance=1e-9)
    assert result.fault == "precision"
    assert result.precision == module.report.precision
    assert len(result.alone) == 5


@strong
def test_data_that_can_be_read_once_only() -> None:
    module, count = builds(Deep(), int8=True, calibration=torch2edge.Calibration(iter(DATA), "minmax"), max_error=0.1)
    assert (count > 1, module.report.precisions) == (True, {"inner.1": "fp32"})


@strong
def test_one_cache_serves_every_engine(tmp_path: Path) -> None:
    """That of the search, and that of the choice which is found."""
    model, calibration = Deep(), torch2edge.Calibration(DATA, "minmax", cache=tmp_path / "ranges.json")
    module, _ = builds(model, int8=True, calibration=calibration, max_error=0.1)
    again, _ = builds(model, int8=True, calibration=calibration, max_error=0.1)  # the ranges come from the cache
    assert again.report.check == module.report.check
    whole = torch2edge.Calibration(cache=tmp_path / "ranges.json", algorithm="minmax")
    other, _ = builds(model, int8=True, calibration=whole, precisions=module.report.precisions, verify=False)
    x = torch.randn(8, 16)
    torch.testing.assert_close(other(x), module(x), rtol=0, atol=0)


@strong
def test_sizes_that_vary() -> None:
    model = Lifted()
    module, _ = builds(model, fp16=True, dynamic={0: {0: (1, 8, 16)}}, max_error=2e-3)
    assert module.report.precisions == {"up": "fp32", "down": "fp32"}
    assert relative(module, model, torch.randn(3, 16)) < 2e-3


@strong
def test_quantizers_of_the_model_stay_and_floats_go_back() -> None:
    class Trained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lifted = Lifted()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lifted(torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127))

    module, _ = builds(Trained(), fp16=True, max_error=2e-2)
    assert module.report.precisions == {"lifted.up": "fp32", "lifted.down": "fp32"}
    assert "int8" in module.report.precision


def test_what_precision_cannot_help_is_told() -> None:
    def wrong(net: Any, self: Any) -> Any:
        """1.1 relu(x)"""
        return net.mul(net.activation(self, "RELU"), 1.1)

    stages: list[str] = []
    options = {"converters": {aten.relu.default: wrong}, "progress": stages.append, **fast_options()}
    with pytest.raises(VerificationError, match=r"no choice of precisions does: the best of \d builds") as caught:
        torch2edge.convert(Deep(1.0).eval(), [DATA[0]], fp16=True, max_error=1e-3, **options)
    assert stages.count("build") <= BUILDS
    assert "torch2edge.compare" in str(caught.value)
    assert "(max_error=0.001). With every module in float32 it does not hold either" in str(caught.value)
    report = caught.value.report
    assert isinstance(report, torch2edge.Report)
    assert not report.check[0].passed
    assert report.tolerance == 1e-3


# ---- metric ---------------------------------------------------------------------------------------------------------------


@strong
def test_a_metric() -> None:
    """Per cent of the outputs' norm that are right."""
    model = Deep().eval()
    x = torch.cat(DATA)
    with torch.no_grad():
        wanted = model(x)
    given: list[Any] = []

    def metric(module: Any) -> float:
        given.append(module)
        with torch.no_grad():
            outputs = torch.cat([module(part) for part in x.split(8)])
        return 100 * float(1 - (outputs - wanted).norm() / wanted.norm())

    options = {"int8": True, "calibration": RANGES}
    low = torch2edge.convert(model, [DATA[0]], verify=False, **options, **fast_options())
    assert metric(model) - metric(low) > 30
    given.clear()
    module, count = builds(model, metric=metric, max_drop=10, **options)
    assert given[0] is model
    assert 1 < len(given) <= 1 + count <= 1 + BUILDS
    assert 0 < 100 - metric(module) <= 10
    assert module.report.precisions == {"inner.1": "fp32"}
    assert "below the model's (max_drop=10)" in module.report.notes[-1]


@pytest.mark.parametrize(("given", "why"), [("best", "gave a str"), (float("nan"), "gives nan for the model itself")])
def test_a_metric_that_is_none(given: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=f"metric {why}"):
        builds(Deep(1.0), fp16=True, metric=lambda module: given, max_drop=1)


# ---- what cannot be -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"max_error": 0.1}, "max_error: nothing is low, so nothing can be moved back"),
        ({"max_error": -1, "fp16": True}, "max_error is -1; it must be a number from 0 on"),
        ({"max_error": float("nan"), "fp16": True}, "max_error is nan"),
        ({"max_error": True, "fp16": True}, "max_error is True"),
        ({"max_error": 0.1, "max_drop": 1, "fp16": True}, "two goals"),
        ({"metric": len, "fp16": True}, "max_drop None; give both"),
        ({"max_drop": 1, "fp16": True}, "metric is None and max_drop 1; give both"),
        ({"max_error": 0.1, "fp16": True, "tolerance": 0.1}, "both say what is good enough"),
        ({"max_error": 0.1, "fp16": True, "verify": False}, "leave verify at True"),
        ({"max_error": 0.1, "fp16": True, "fallback": "torch"}, "by way of fallback='torch'; leave it out"),
    ],
)
def test_wrong_goals(options: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        torch2edge.convert(Deep(1.0).eval(), [DATA[0]], **options)


# ---- the parts ------------------------------------------------------------------------------------------------------------


class Counted:
    """Holds from a number of steps on."""

    def __init__(self, total: int, enough: int) -> None:
        self.steps, self.enough, self.asked = list(range(total)), enough, {0}

    @property
    def left(self) -> int:
        return BUILDS - len(self.asked)

    def holds(self, count: int) -> bool:
        assert 0 < count <= len(self.steps)
        self.asked.add(count)
        return count >= self.enough


@pytest.mark.parametrize("total", [1, 2, 3, 7, 60, 400])
def test_the_smallest_number_is_found_within_the_builds(total: int) -> None:
    for enough in range(1, total + 2):  # the last: none holds
        for guess in {1, enough, max(1, enough - 3), min(total, enough + 9)}:
            tries = Counted(total, enough)
            _narrow(tries, min(guess, total))  # type: ignore[arg-type]
            assert len(tries.asked) <= BUILDS
            holding = [count for count in tries.asked if count >= enough]
            if enough > total:
                assert total in tries.asked
                assert not holding
            elif tries.left:
                assert min(holding) == enough
            else:
                assert holding


def test_the_shortest_entries_give_every_module_its_own() -> None:
    draw = random.Random(7)
    names = ["", "a", "a.b", "a.b.0", "a.b.1", "a.c", "d", "d.0", "d.1", "d.1.e", "f"]
    for _ in range(500):
        wanted = {path: draw.choice(["fp32", "fp16", "int8"]) for path in draw.sample(names, draw.randint(1, len(names)))}
        given = {path: draw.choice(["fp32", "int8"]) for path in draw.sample(names, draw.randint(0, 3))}
        found = shortest(wanted, given, "fp16")
        assert {path: nearest(found, path) or "fp16" for path in wanted} == wanted
        assert len(set(found) - set(given)) <= len(wanted)


def test_an_entry_stands_at_the_outermost_module() -> None:
    wanted = {"": "int8", "a.b": "fp32", "a.c.0": "fp32", "d.0": "fp32", "d.1": "int8"}
    assert shortest(wanted, {}, "int8") == {"a": "fp32", "d.0": "fp32"}


@pytest.mark.gpu
@pytest.mark.skipif(not executes(), reason="no TensorRT that executes")
@pytest.mark.parametrize("options", [{"int8": True, "calibration": RANGES}, {"fp16": True}], ids=["int8", "fp16"])
def test_on_the_gpu(options: Any) -> None:
    model = (Deep() if "int8" in options else Lifted()).cuda()
    module, count = builds(model, max_error=2e-3, **options)
    assert count <= BUILDS
    assert all(row.passed and row.rel_l2 <= 2e-3 for row in module.report.check)
