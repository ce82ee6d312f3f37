"""One cache for every choice of precisions, and for strongly and weakly typed networks."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from support.calibrations import Traced
from support.gpu import FAST, needs_gpu
from torch import nn

import torch2edge
from torch2edge import Calibration, ConfigError, InputError
from torch2edge._trt import capabilities
from torch2edge.lower import registry
from torch2edge.lower.quantize import every_float
from torch2edge.options import Options
from torch2edge.prepare import Call, Prepared, _ranges, typed

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
    pytest.mark.filterwarnings("ignore::torch2edge.build.calibration.CalibrationWarning"),
]
strong_only = pytest.mark.skipif(not capabilities().strongly_typed, reason="a strongly typed network is looked at")
SHAPE = (4, 3, 8, 8)


class Net(nn.Module):
    """Batch norms that fold, a block that runs twice, a residual addition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = (x + self.block(x)).relu()
        x = (self.block(x) + x).relu()
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """A block of a decoder: nothing sees what comes after it. The mask is a constant, or comes with the call."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if mask is None:
            later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later.to(x.device), -math.inf)
        else:
            scores = scores + mask
        return x + self.out(scores.softmax(-1) @ v)


def data(shape: tuple[int, ...] = SHAPE, count: int = 10) -> list[torch.Tensor]:
    return [torch.randn(shape) * (1 + i) for i in range(count)]


def made(kind: type[nn.Module] = Net) -> nn.Module:
    torch.manual_seed(0)
    model = kind().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    return model


class Conversion:
    """A model of one conversion, whose networks can be made in either way."""

    def __init__(self, model: nn.Module, args: list[Any], calibration: Calibration) -> None:
        self.graph = Traced(model, args).graph
        self.call = Call(model, args, {}, calibration)

    def strong(self, **precisions: str) -> Prepared:
        options = Options(int8=not precisions, precisions=precisions)
        return typed(self.graph, options, registry(), self.call)

    def weak(self) -> dict[int, float]:
        return _ranges(self.graph, Options(int8=True), self.call)


def scales(prepared: Prepared) -> list[float]:
    """Of the quantizers of activations, in the order of the ops."""
    return [op.args[1] for op in prepared.graph.ops if "per_tensor" in op.short_name]


def convert(path: Path, batches: Any, model: nn.Module | None = None, **settings: Any) -> Conversion:
    calibration = Calibration(batches, "minmax", cache=path, progress=False, **settings)
    return Conversion(model or made(), [torch.randn(SHAPE)], calibration)


def amax(path: Path) -> dict[str, float]:
    return dict(json.loads(path.read_text())["amax"])


def test_both_kinds_of_network_know_the_same_ranges_by_the_same_names(tmp_path: Path) -> None:
    batches = data()
    strong, weak = convert(tmp_path / "strong", batches), convert(tmp_path / "weak", batches)
    assert strong.strong().folded == ["stem.1", "block.1", "block.1"]
    assert weak.weak()
    some, every = amax(tmp_path / "strong"), amax(tmp_path / "weak")
    assert len(some) < len(every)
    assert some == {name: every[name] for name in some}  # to the last digit: both replay the graph as traced
    assert set(some) == {"args[0]", "stem.2/relu", "block.1/batch_norm", "/relu", "block.1/batch_norm#2", "/mean"}


def test_what_a_weak_network_wrote_a_strong_one_reads(tmp_path: Path) -> None:
    path = tmp_path / "calib.json"
    batches = data()
    convert(path, batches).weak()
    before = path.read_text()
    fresh = scales(convert(tmp_path / "fresh", batches).strong())
    for kinds in ({}, {"head": "int8"}, {"stem": "int8", "block": "int8"}):
        given = convert(path, None).strong(**kinds)
        assert [f"ranges are those of {path}; without calibration data" in note for note in given.notes] == [True]
        assert set(scales(given)) <= set(fresh)
        assert scales(given) == fresh or kinds
    assert path.read_text() == before


def test_what_a_strong_network_wrote_a_weak_one_reads_and_extends(tmp_path: Path) -> None:
    path = tmp_path / "calib.json"
    batches = data()
    convert(path, batches).strong()
    some = amax(path)
    doubled = {name: 2 * value for name, value in some.items()}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"amax": doubled}))
    with pytest.raises(ConfigError, match=r"lacks \d+ of the \d+ tensors .*no data to calibrate them from"):
        convert(path, None).weak()
    conversion = convert(path, batches)
    ranges = conversion.weak()
    plain = convert(tmp_path / "plain", batches)
    plain.weak()
    every = amax(tmp_path / "plain")
    assert amax(path) == every | doubled
    names = {value.index: name for name, value in every_float(conversion.graph).items()}
    assert {names[index]: largest for index, largest in ranges.items()} == every | doubled
    assert [n for n in conversion.call.notes if f"lacked {len(every) - len(some)} of {len(every)} tensors" in n]
    assert convert(path, None).weak() == ranges


def test_choices_of_precisions_extend_one_file(tmp_path: Path) -> None:
    path, batches = tmp_path / "calib.json", data()
    first = convert(path, batches)
    assert first.strong(head="int8").notes == []
    assert list(amax(path)) == ["/mean"]
    second = convert(path, batches).strong(stem="int8")
    assert [f"{path} lacked 1 of 1 tensors" in note for note in second.notes] == [True]
    assert list(amax(path)) == ["/mean", "args[0]"]
    third = first.strong()  # another network of the first conversion
    assert len(third.notes) == 1
    assert scales(third) == scales(convert(path, None).strong())
    assert scales(third) == scales(convert(tmp_path / "own.json", batches).strong())


def test_another_forward_is_refused(tmp_path: Path) -> None:
    class Clipped(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.clamp(-1, 1))

    path = tmp_path / "calib.json"
    convert(path, data(), made(Clipped)).weak()
    with pytest.raises(ConfigError, match=r"its model ran other ops .*force=True"):
        convert(path, data()).strong()
    assert scales(convert(path, None, force=True).strong())


@pytest.mark.parametrize("mask", ["constant", "input"])
def test_a_causal_mask_gets_no_range_in_a_weak_network(tmp_path: Path, mask: str) -> None:
    model, shape, path = made(Attention), (4, 6, 16), tmp_path / "calib.json"
    masks = [torch.full((6, 6), -math.inf).triu(1)] if mask == "input" else []
    batches = [[x, *masks] for x in data(shape)]
    conversion = Conversion(model, [torch.randn(shape), *masks], Calibration(batches, "minmax", cache=path, progress=False))
    ranges = conversion.weak()
    without = [name for name, value in amax(path).items() if value is None]
    assert without == (["/where"] if mask == "constant" else ["args[1]", "/add"])
    assert conversion.call.notes == [f"note: not INT8, for they hold infinities in the calibration: {', '.join(without)}"]
    assert len(ranges) == len(amax(path)) - len(without)
    assert all(map(math.isfinite, ranges.values()))
    again = Conversion(model, conversion.call.args, Calibration(None, "minmax", cache=path))  # type: ignore[arg-type]
    assert again.weak() == ranges
    assert again.call.notes[1:] == conversion.call.notes
    for later in (conversion, again):  # quantizers stand before products, and masked scores are never one's input
        assert len(scales(later.strong())) == 6
        assert later.weak() == ranges


def test_infinities_before_a_product_stop_a_strong_network_after_a_weak_one(tmp_path: Path) -> None:
    class Open(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(x.masked_fill(x > 2, math.inf))

    path = tmp_path / "calib.json"
    batches = [torch.rand(4, 3) + 1.5 for _ in range(9)]
    model = made(Open)
    with pytest.raises(InputError, match="batch 0 makes an infinity in /where"):
        Conversion(model, batches[:1], Calibration(batches, "minmax", progress=False)).strong()
    with pytest.raises(InputError, match="NaN in last/linear"):  # some of inf - inf
        Conversion(model, batches[:1], Calibration(batches, "minmax", cache=path, progress=False)).weak()
    assert not path.exists()
    nn.init.constant_(model.last.weight, 1.0)  # type: ignore[arg-type, union-attr]
    conversion = Conversion(model, batches[:1], Calibration(batches, "minmax", cache=path, progress=False))
    ranges = conversion.weak()
    assert list(ranges) == [conversion.graph.inputs[0].index]
    with pytest.raises(InputError, match="/where holds infinities, says the cache"):
        conversion.strong()
    conversion.call.calibration = Calibration(batches, "minmax", progress=False)
    with pytest.raises(InputError, match="batch 0 makes an infinity in /where"):
        conversion.strong()


# ---- whole conversions ---------------------------------------------------------------------------------------------------


@strong_only
def test_a_conversion_without_data(tmp_path: Path) -> None:
    model, path = made(), tmp_path / "calib.json"
    x = torch.randn(SHAPE)
    with pytest.raises(ConfigError, match="no data to calibrate from"):
        torch2edge.convert(model, [x], int8=True, calibration=Calibration(cache=path), **FAST)
    calibration = Calibration([torch.randn(SHAPE) for _ in range(10)], cache=path, progress=False)
    first = torch2edge.convert(model, [x], int8=True, calibration=calibration, **FAST)
    again = torch2edge.convert(model, [x], int8=True, calibration=Calibration(cache=path), **FAST)
    assert first.report.check[0].trial.startswith("calibration batch")
    assert not again.report.check[0].trial.startswith("calibration batch")
    assert any("without calibration data the check is on random inputs" in note for note in again.report.notes)
    fresh = torch.randn(SHAPE)
    assert torch.equal(first(fresh), again(fresh))
    with torch.no_grad():
        assert (again(fresh) - model(fresh)).norm() > 1e-4 * model(fresh).norm()  # it is INT8
    kept = torch2edge.convert(model, [x], keep_network=True, **FAST)
    with pytest.raises(ConfigError, match="data: there is no data, only a cache"):
        torch2edge.compare(model, kept, Calibration(cache=path))


@strong_only
def test_what_was_added_is_in_the_report(tmp_path: Path) -> None:
    model, path = made(), tmp_path / "calib.json"
    options = {"calibration": Calibration(data(), cache=path, progress=False), **FAST}
    torch2edge.convert(model, [torch.randn(SHAPE)], precisions={"head": "int8"}, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = torch2edge.convert(model, [torch.randn(SHAPE)], int8=True, **options).report
    assert [note for note in report.notes if f"{path} lacked 5 of 6 tensors; they were calibrated and added to it" in note]


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("mask", ["constant", "input"])
def test_causal_attention_in_int8_on_the_gpu(tmp_path: Path, mask: str) -> None:
    model, shape, path = made(Attention).cuda(), (4, 6, 16), tmp_path / "calib.json"
    masks = [torch.full((6, 6), -math.inf, device="cuda").triu(1)] if mask == "input" else []
    batches = [[torch.randn(shape), *masks] for _ in range(10)]
    x = torch.randn(shape, device="cuda")
    for given in (batches, None):
        calibration = Calibration(given, "minmax", cache=path, progress=False)
        module = torch2edge.convert(model, [x, *masks], int8=True, calibration=calibration, verify=given is not None, **FAST)
        fresh = torch.randn(shape, device="cuda")
        with torch.no_grad():
            error = (module(fresh, *masks) - model(fresh, *masks)).norm() / model(fresh, *masks).norm()
        assert float(error) < 0.05
        if not capabilities().strongly_typed:
            assert [note for note in module.report.notes if "not INT8, for they hold infinities" in note]
