"""INT8 with fallback="torch": each part is calibrated on what the whole model calls it with."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
from support.partition_models import Cut, Tail, batches, cached, convert, convs, error, largest, ranges
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torch2edge
from torch2edge import ConfigError
from torch2edge._trt import capabilities

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
    pytest.mark.filterwarnings("ignore:calibration.* only:torch2edge.CalibrationWarning"),
]


@pytest.fixture(autouse=True)
def strong() -> None:
    if not capabilities().strongly_typed:
        pytest.skip("the names and ranges here are those of strongly typed networks")


@pytest.fixture
def model() -> Cut:
    return Cut().eval()


# ---- the ranges -------------------------------------------------------------------------------------------------------


def test_each_part_has_the_ranges_of_what_the_whole_gives_it(model, tmp_path):
    data = batches()
    module = convert(model, [data[0]], cached(tmp_path, data))
    assert module.report.plan.engines == ["first", "second"]
    assert {p: r.precision for p, r in module.report.engines.items()} == dict.fromkeys(("first", "second"), "fp32+int8")
    with torch.no_grad():
        entering = [model.between(model.first(x)) for x in data]
        inner = [model.second[1](model.second[0](x)) for x in entering]
    first, second = ranges(tmp_path, "first"), ranges(tmp_path, "second")
    assert first["args[0]"] == pytest.approx(largest(data), rel=1e-6)
    assert second["args[0]"] == pytest.approx(largest(entering), rel=1e-5)
    assert second["1/relu"] == pytest.approx(largest(inner), rel=1e-5)
    fresh = batches(8)
    assert 1e-4 < error(module, model, fresh) < 0.1
    assert not (tmp_path / "calib.json").exists()


def test_the_whole_is_checked_on_the_data(model):
    data = [x * 1e3 for x in batches()]  # random inputs would be next to nothing beside it
    report = convert(model, [data[0]], data).report
    assert [row.trial.startswith("calibration batch") for row in report.check] == [True]
    assert report.check[0].ref_max > 1e3
    assert report.tolerance == 0.2
    assert all(r.check[0].trial.startswith("calibration batch") for r in report.engines.values())


def test_a_whole_that_drifts_is_told():
    """Each part passes; of the difference between two that are nearly equal nothing is right."""

    class Difference(Cut):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.between(self.first(self.between(x)[:, :3]))
            return self.second(y) - self.exact(y)

    data, model = batches(), Difference().eval()
    model.exact = copy.deepcopy(model.second)
    model.exact[2].weight.data *= 1.001
    with pytest.raises(torch2edge.VerificationError, match="calibration batch") as caught:
        convert(model, [data[0]], data, precisions={"exact": "fp32"})
    assert caught.value.report.plan.engines == ["first", "second", "exact"]


class Twice(Cut):
    """The second is called with what the first gave, then with ten times as much, then that is overwritten."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.between(self.first(x))
        small = self.second(y)
        large = self.second(y.mul_(10))
        y.fill_(1e6)
        return small + large


def test_every_call_counts_as_it_was_when_it_was_made(tmp_path):
    model, data = Twice().eval(), batches()
    module = convert(model, [data[0]], cached(tmp_path, data))
    with torch.no_grad():
        entering = largest(model.between(model.first(x)) for x in data)
    assert ranges(tmp_path, "second")["args[0]"] == pytest.approx(10 * entering, rel=1e-5)
    assert json.loads((tmp_path / "calib.second.json").read_text())["batches"] == 2 * len(data)
    assert error(module, model, batches(8)) < 0.1


class Loop(nn.Module):
    """The part is called once by small inputs, three times by large ones; first with half of the rows where ``halved``."""

    def __init__(self, halved: bool = False) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        self.halved = halved

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        large = float(x.abs().max()) >= 5
        if large and self.halved:
            self.part(x[:2])
        for _ in range(3 if large else 1):
            x = self.part(x) * 8
        return x


@pytest.mark.filterwarnings("ignore:.*this call runs in PyTorch:torch2edge.PartitionWarning")
@pytest.mark.parametrize("halved", [False, True])
def test_calls_that_only_the_data_makes_count(tmp_path, halved):
    model = Loop(halved).eval()
    data = [torch.randn(4, 16).clamp(-3, 3) * (3 if i > 4 else 1) for i in range(10)]
    for x in data[5:]:
        x[0, 0] = 9  # large for certain
    with torch.no_grad():
        entering = list(data)
        for x in data[5:]:
            entering += [y := model.part(x) * 8, model.part(y) * 8]
    # unchecked: the check is on the first batches, which are small in the range of the others
    module = convert(model, [data[0]], cached(tmp_path, data), min_ops=1, verify=False)
    assert module.report.plan.engines == ["part"]
    assert ranges(tmp_path, "part")["args[0]"] == pytest.approx(largest(entering), rel=1e-5)
    assert json.loads((tmp_path / "calib.part.json").read_text())["batches"] == 5 + 3 * 5
    assert ("5 of 25 calls of part have other shapes" in str(module.report)) == halved
    assert error(module, model, data[5:]) < 0.2


def test_batches_are_put_together_as_for_a_single_engine(model, tmp_path):
    images = torch.cat(batches(size=1))
    data = TensorDataset(images, torch.arange(len(images)))  # with labels
    convert(model, [torch.randn(4, 3, 8, 8)], cached(tmp_path, DataLoader(data, batch_size=3)), verify=False)
    held = json.loads((tmp_path / "calib.second.json").read_text())
    assert (held["samples"], held["batches"]) == (16, 4)
    assert ranges(tmp_path, "first")["args[0]"] == pytest.approx(largest(images), rel=1e-6)


def test_no_more_batches_than_asked_for(model, tmp_path):
    data = batches()
    convert(model, [data[0]], cached(tmp_path, data, batches=3))
    with torch.no_grad():
        entering = largest(model.between(model.first(x)) for x in data[:3])
    assert ranges(tmp_path, "second")["args[0]"] == pytest.approx(entering, rel=1e-5)


def test_too_few_samples_are_repeated_and_said_once(model):
    with pytest.warns(torch2edge.CalibrationWarning) as warned:
        convert(model, [torch.randn(4, 3, 8, 8)], [torch.randn(3, 3, 8, 8)])
    assert len([w for w in warned if "there are only 3 samples" in str(w.message)]) == 1


class Keywords(Cut):
    """Inputs and a part's inputs by keyword."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 4, 1)

        def forward(self, x: torch.Tensor, *, scale: torch.Tensor, power: float = 1.0) -> torch.Tensor:
            return self.conv(x * scale * power).relu() + 1

    def __init__(self) -> None:
        super().__init__()
        self.second = self.Scaled()

    def forward(self, image: torch.Tensor, factor: torch.Tensor | None = None) -> torch.Tensor:
        assert factor is not None
        return self.second(self.between(self.first(image)), scale=factor, power=2.0)


@pytest.mark.parametrize("way", ["dicts", "batch_to_inputs"])
def test_batches_by_name(tmp_path, way):
    model, images = Keywords().eval(), batches()
    factors = [torch.rand(2, 1, 1, 1) + 0.5 for _ in images]
    if way == "dicts":
        calibration = cached(tmp_path, [{"factor": f, "image": i, "name": "a"} for i, f in zip(images, factors)])
    else:
        told = {"batch_to_inputs": lambda batch: {"factor": batch[0].reshape(2, 1, 1, 1), "image": batch[1]}}
        calibration = cached(tmp_path, [(f.flatten(), i) for i, f in zip(images, factors)], **told)
    module = convert(model, [images[0]], calibration, {"factor": factors[0]})
    assert module.report.plan.engines == ["first", "second"]
    with torch.no_grad():
        entering = [model.between(model.first(i)) * f * 2 for i, f in zip(images, factors)]
    assert ranges(tmp_path, "second")["/mul#2"] == pytest.approx(largest(entering), rel=1e-5)


def test_precisions_of_one_part(model, tmp_path):
    data = batches()
    module = convert(model, [data[0]], cached(tmp_path, data), int8=False, precisions={"second.0": "int8"})
    assert [p.name for p in tmp_path.iterdir()] == ["calib.second.json"]
    assert list(ranges(tmp_path, "second")) == ["args[0]"]
    assert {p: r.precision for p, r in module.report.engines.items()} == {"first": "fp32", "second": "fp32+int8"}
    other = convert(model, [data[0]], data, precisions={model.second: "fp32"}, fp16=True)
    assert "int8" in other.report.engines["first"].precision
    assert other.report.engines["second"].precision == "fp32"


def test_a_model_that_converts_has_one_calibration(tmp_path):
    data = batches()
    module = convert(convs(3, 4).eval(), [data[0]], cached(tmp_path, data))
    assert isinstance(module, torch2edge.EdgeModule)
    assert [p.name for p in tmp_path.iterdir()] == ["calib.json"]


# ---- caches -----------------------------------------------------------------------------------------------------------


class Counted(list):
    """Batches that tell how many were taken."""

    taken = 0

    def __iter__(self):
        for item in super().__iter__():
            self.taken += 1
            yield item


def test_caches_are_read_and_are_of_the_whole_models_weights(model, tmp_path):
    data = Counted(batches())
    first = convert(model, [data[0]], cached(tmp_path, data))
    assert data.taken == 2 * len(data)  # once for each part
    data.taken = 0
    again = convert(model, [data[0]], cached(tmp_path, data))
    assert data.taken < len(data)  # some to check on
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(first(x), again(x))
    changed = copy.deepcopy(model)
    changed.first[0].weight.data += 0.1
    (tmp_path / "calib.first.json").unlink()
    with pytest.raises(ConfigError, match=r"calib\.second\.json is not of this conversion: its model's weights"):
        convert(changed, [data[0]], cached(tmp_path, data))


def test_caches_alone(model, tmp_path):
    data = batches()
    first = convert(model, [data[0]], cached(tmp_path, data))
    again = convert(model, [data[0]], cached(tmp_path, None), verify=False)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(first(x), again(x))
    (tmp_path / "calib.second.json").unlink()
    told = r"no calibration cache .*calib\.second\.json, which is that of the part second, and no data .*which writes the file"
    with pytest.raises(ConfigError, match=told):
        convert(model, [data[0]], cached(tmp_path, None), verify=False)


class Bounded(Cut):
    """What enters the second is small, whatever enters the model."""

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x) * 0.01


def test_caches_alone_are_checked_in_their_ranges(tmp_path):
    model, data = Bounded().eval(), batches()
    for layer in (0, 2):
        torch.nn.init.zeros_(model.second[layer].bias)  # next to which the small would be nothing
    options = {"precisions": {"first": "fp32"}}
    first = convert(model, [data[0]], cached(tmp_path, data), **options)
    again = convert(model, [data[0]], cached(tmp_path, None), **options)
    assert again.report.plan.engines == first.report.plan.engines == ["first", "second"]
    assert again.report.engines["second"].check[0].trial.startswith("random batch in the ranges")
    assert "the INT8 ranges are those of" in str(again.report.engines["second"])
    assert [n for n in again.report.notes if "those of the parts' caches" in n]
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(first(x), again(x))


def test_a_failed_check_on_random_inputs_says_that_it_was(tmp_path):
    model, data, told = convs(3, 4).eval(), batches(), "note: the INT8 ranges are those of .*the check is on random inputs"
    options = {"int8": True, "tolerance": 1e-6}
    with pytest.raises(torch2edge.VerificationError) as caught:
        torch2edge.convert(model, [data[0]], calibration=cached(tmp_path, data), **options)
    assert not re.search(told, str(caught.value))
    with pytest.raises(torch2edge.VerificationError, match=told):
        torch2edge.convert(model, [data[0]], calibration=cached(tmp_path, None), **options)


# ---- the model is left as it was --------------------------------------------------------------------------------------


class Stateful(Cut):
    """It counts its calls, writes to its input, and catches whatever is raised in it."""

    def __init__(self) -> None:
        super().__init__()
        self.tail = Tail()
        self.calls: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(1)
        x.mul_(2)
        try:
            y = self.second(self.between(self.first(x)))
        except Exception:
            y = x
        return self.tail(y)


def test_the_model_and_the_data_are_left_as_they_were(tmp_path):
    model, data = Stateful().eval(), batches()
    before, weights = [x.clone() for x in data], copy.deepcopy(model.state_dict())
    convert(model, [data[0].clone()], cached(tmp_path, data), verify=False)
    assert all(torch.equal(a, b) for a, b in zip(data, before))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), weights.values()))
    assert model.calls == []
    assert not any(m._forward_pre_hooks or m._forward_pre_hooks_with_kwargs for m in model.modules())
    assert ranges(tmp_path, "first")["args[0]"] == pytest.approx(2 * largest(data), rel=1e-6)


class Running(Cut):
    """What enters the second grows with a buffer that each forward writes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))
        self.scale = [torch.ones(1)]  # no buffer, but held too

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs.add_(1)
        self.scale[0].mul_(1.01)
        return self.second(self.between(self.first(x)) * self.runs * self.scale[0])


@pytest.mark.parametrize("verify", [True, False])
def test_buffers_written_in_place_are_put_back(tmp_path, verify):
    model, data = Running().eval(), batches(6)
    fresh = copy.deepcopy(model)
    module = convert(model, [data[0]], cached(tmp_path, data), verify=verify)
    assert (float(model.runs), float(model.scale[0])) == (0, 1)
    assert float(module.runs) == 0
    with torch.no_grad():  # within the pass the state goes on
        entering = [fresh.between(fresh.first(x)) * (i + 1) * 1.01 ** (i + 1) for i, x in enumerate(data)]
    assert ranges(tmp_path, "second")["args[0]"] == pytest.approx(largest(entering), rel=1e-4)
    bad = [*data[:2], torch.full_like(data[0], torch.nan)]
    with pytest.raises(torch2edge.CalibrationError):
        convert(model, [data[0]], bad)
    assert (float(model.runs), float(model.scale[0])) == (0, 1)


@pytest.mark.filterwarnings("ignore::torch2edge.CalibrationWarning", "ignore::torch2edge.ReferenceWarning")
def test_buffers_that_are_assigned_are_named() -> None:
    """Each batch begins with what they were: what builds up over calls is in no range."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
            self.b = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
            self.register_buffer("h", torch.zeros(4, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            self.h = self.h * 0.9 + y
            return self.b(self.h * (2 if y.mean().item() > 1e9 else 1))

    data = torch2edge.Calibration([torch.randn(4, 8) for _ in range(20)], progress=False)
    model = Mean().eval()
    module = torch2edge.convert(model, [torch.randn(4, 8)], int8=True, calibration=data, fallback="torch", verify=False)
    assert any("the forward assigns to h" in note for note in module.report.notes)
    assert bool((model.h == 0).all())
