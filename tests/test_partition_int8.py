"""INT8 with fallback="torch": each part is calibrated on what the whole model calls it with."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ranks
from support.partition_models import Cut, convs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torch2edge
from torch2edge import Calibration, CalibrationError, ConfigError
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


def batches(count: int = 16, size: int = 2) -> list[torch.Tensor]:
    """Each of another magnitude, the largest somewhere in the middle."""
    return [torch.randn(size, 3, 8, 8) * (1 + (5 * i) % count / 4) for i in range(count)]


def convert(model: nn.Module, inputs: list[Any], calibration: Any, kwargs: Any = None, **options: Any) -> Any:
    if not isinstance(calibration, Calibration):
        calibration = Calibration(calibration, "minmax", progress=False)
    options = {"int8": True, **options}
    return torch2edge.convert(model, inputs, kwargs, calibration=calibration, fallback="torch", **options)


def ranges(folder: Path, path: str) -> dict[str, float]:
    """amax by point, of a part's cache ``calib.json`` in ``folder``."""
    return dict(json.loads((folder / f"calib.{path}.json").read_text())["amax"])


def cached(folder: Path, data: Any, **settings: Any) -> Calibration:
    return Calibration(data, "minmax", cache=folder / "calib.json", progress=False, **settings)


def largest(tensors: Any) -> float:
    return max(float(t.abs().max()) for t in tensors)


def error(module: nn.Module, model: nn.Module, inputs: list[torch.Tensor]) -> float:
    with torch.no_grad():
        pairs = [(module(x), model(x)) for x in inputs]
    return float(sum((a - b).norm() for a, b in pairs) / sum(b.norm() for _, b in pairs))


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
    with pytest.raises(torch2edge.Torch2EdgeError, match=r"no data.*calib\.second\.json|calib\.second\.json.*no data"):
        convert(model, [data[0]], cached(tmp_path, None), verify=False)


# ---- the model is left as it was --------------------------------------------------------------------------------------


class Tail(nn.Module):
    runs = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Tail.runs += 1
        return x + 1 if x.sum() < 1e9 else x


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
    Tail.runs = 0
    convert(model, [data[0].clone()], cached(tmp_path, data), verify=False)
    assert Tail.runs < len(data)  # the forward is broken off behind the part, the example's runs are not
    assert all(torch.equal(a, b) for a, b in zip(data, before))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), weights.values()))
    assert model.calls == []
    assert not any(m._forward_pre_hooks or m._forward_pre_hooks_with_kwargs for m in model.modules())
    assert ranges(tmp_path, "first")["args[0]"] == pytest.approx(2 * largest(data), rel=1e-6)


# ---- data that does not do --------------------------------------------------------------------------------------------


def test_an_error_of_the_loader_stops_it(model):
    def reads(index: int) -> torch.Tensor:
        if index == 5:
            raise OSError("disk gone")
        return torch.randn(2, 3, 8, 8)

    class Broken:
        def __iter__(self):
            return (reads(i) for i in range(9))

    with pytest.raises(CalibrationError, match=r"^calibration: the Broken failed at batch 5: OSError: disk gone$") as caught:
        convert(model, [reads(0)], Broken())
    assert isinstance(caught.value.__cause__, OSError)
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], "^calibration: the list gave no batch; it is empty$"),
        ([torch.randn(2, 3, 8, 9)], r"batch 0: args\[0\] is torch.float32 \(2, 3, 8, 9\), but the model takes"),
        ([torch.randn(2, 3, 8, 8), torch.full((2, 3, 8, 8), torch.nan)], r"batch 1: args\[0\] holds NaN"),
        ([{"a": torch.randn(2), "b": torch.randn(2)}], "the positional inputs .x. are not found by name"),
    ],
)
def test_data_that_does_not_fit_stops_it(model, data, told):
    with pytest.raises(CalibrationError, match=told):
        convert(model, [torch.randn(2, 3, 8, 8)], data)


def test_objects_among_the_inputs_stop_it(model):
    calibration = Calibration(batches(), batch_to_inputs=lambda batch: (batch.numpy(),))
    with pytest.raises(CalibrationError, match=r"batch 0: args\[0\] is a numpy.ndarray"):
        convert(model, [torch.randn(2, 3, 8, 8)], calibration)


def test_a_model_that_fails_on_the_data_stops_it(model):
    model.between = lambda x: x[int(x.abs().max() > 1e4) * 5 :][0][None].expand(2, -1, -1, -1) * 1
    data = [*batches(4), torch.full((2, 3, 8, 8), 1e6)]
    with pytest.raises(CalibrationError, match="the model does not run on batch 4: IndexError"):
        convert(model, [data[0]], data)


@pytest.mark.parametrize(
    ("bad", "told"), [(torch.inf, "batch 4 makes an infinity in args"), (torch.nan, "batch 4: args.* NaN")]
)
def test_what_the_model_makes_of_the_data_stops_it(model, bad, told):
    model.between = lambda x: x if x.abs().max() < 1e4 else torch.full_like(x, bad)
    data = [*batches(4), torch.full((2, 3, 8, 8), 1e6)]
    with pytest.raises(CalibrationError, match=f"^in second: calibration: {told}"):
        convert(model, [data[0]], data)


def test_an_iterator_is_refused_for_parts(model):
    with pytest.raises(ConfigError, match=r"an iterator \(generator\).*Give a list or a DataLoader"):
        convert(model, [torch.randn(2, 3, 8, 8)], (x for x in batches()))


class Rewound:
    """An iterator that begins anew, as those of some data libraries do."""

    def __init__(self, data: list[torch.Tensor]) -> None:
        self.data, self.at = data, 0

    def __iter__(self):
        self.at = 0
        return self

    def __next__(self) -> torch.Tensor:
        self.at += 1
        if self.at > len(self.data):
            raise StopIteration
        return self.data[self.at - 1]


def test_an_iterator_that_begins_anew_is_taken(model, tmp_path):
    data = batches()
    convert(model, [data[0]], cached(tmp_path, Rewound(data)))
    assert json.loads((tmp_path / "calib.second.json").read_text())["batches"] == len(data)


def test_a_folder_of_images(model, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for i in range(6):
        pixels = torch.randint(0, 40 * (i + 1), (9, 8, 3), dtype=torch.uint8).numpy()
        image.fromarray(pixels).save(tmp_path / f"{i}.png")
    module = convert(model, [torch.rand(2, 3, 8, 8)], cached(tmp_path, tmp_path))
    assert json.loads((tmp_path / "calib.second.json").read_text())["samples"] == 6
    assert 0.1 < ranges(tmp_path, "first")["args[0]"] <= 1
    assert error(module, model, [torch.rand(2, 3, 8, 8) * 0.8]) < 0.1


class Branch(Cut):
    """The second runs on what is large."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.second(y) if x.abs().max() > 1 else y


def test_a_part_that_the_data_never_reaches(tmp_path):
    model, example = Branch().eval(), torch.randn(2, 3, 8, 8) * 3
    small = [x.clamp(-1, 1) for x in batches()]
    with pytest.raises(CalibrationError, match=r"never calls second .*precisions=\{'second': 'fp32'\}"):
        convert(model, [example], small)
    module = convert(model, [example], small, precisions={"second": "fp32"})
    assert module.report.engines["second"].precision == "fp32"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch2edge.CalibrationWarning)
        convert(model, [example], cached(tmp_path, [*small, example]))
    assert json.loads((tmp_path / "calib.second.json").read_text())["batches"] == 1  # batches that miss it are no error


class Rows(Cut):
    """The second gets fewer rows where the data says so."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.between(self.first(x))
        return self.second(y[..., : 8 if x.sum() > 0 else 4, :])


def test_calls_of_other_shapes_are_passed_over(tmp_path):
    model, data = Rows().eval(), [x + (3 if i % 4 else -3) for i, x in enumerate(batches())]
    module = convert(model, [data[1]], cached(tmp_path, data))
    assert "note: calibration: 4 of 16 calls of second have other shapes" in str(module.report)
    with torch.no_grad():
        entering = largest(model.between(model.first(x)) for i, x in enumerate(data) if i % 4)
    assert ranges(tmp_path, "second")["args[0]"] == pytest.approx(entering, rel=1e-5)
    with pytest.raises(CalibrationError, match=r"^calibration: all 4 calls of second with this data have other shapes"):
        convert(model, [data[1]], data[::4])


def test_what_has_no_effect_is_refused(model):
    x, data = torch.randn(2, 3, 8, 8), batches()
    with pytest.raises(ConfigError, match="nothing is to be INT8: add int8=True"):
        convert(model, [x], data, int8=False)
    with pytest.raises(ConfigError, match="int8 needs the range of every tensor"):
        torch2edge.convert(model, [x], int8=True, fallback="torch")
    named = nn.Sequential(convs(3, 6), Tail()).eval()
    with pytest.raises(ConfigError, match="no engine is to be INT8"):
        convert(named, [x], data, int8=False, precisions={"1": "int8"})
    with pytest.raises(ConfigError, match="by way of fallback='torch'"):
        convert(model, [x], data, max_error=0.1)


# ---- torch.distributed ------------------------------------------------------------------------------------------------

RANKS = """
import warnings
from pathlib import Path
from torch.utils.data import TensorDataset
import torch2edge
from support.partition_models import Cut
warnings.simplefilter("ignore")
model, images = Cut().eval(), torch.load(f"{folder}/images.pt", weights_only=True)
model.load_state_dict(torch.load(f"{folder}/model.pt", weights_only=True))
def attempt(name, data, **options):
    calibration = torch2edge.Calibration(data, "minmax", cache=f"{folder}/{name}.json", progress=False)
    options = {"int8": True, "calibration": calibration, "fallback": "torch", **options}
    try:
        module = torch2edge.convert(model, [torch.ones(4, 3, 8, 8)], **options)
        result[name] = [module.report.plan.engines, str(module.report.plan)]
    except Exception as error:
        result[name] = f"{type(error).__name__}: {error}"
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
def test_two_processes_calibrate_the_parts_together(model, tmp_path):
    images = torch.cat(batches(size=2))
    torch.save(images, tmp_path / "images.pt")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    code = """
attempt("both", TensorDataset(images))
attempt("few", TensorDataset(images[:4]))  # none for the second rank
images[17] = float("nan")
attempt("bad", TensorDataset(images))
verify = torch2edge.api.verify_module
def fails_on_one_rank(module, *more):
    if rank == 1 and module is model.second:
        raise torch2edge.VerificationError("not equal here")
    return verify(module, *more)
torch2edge.api.verify_module = fails_on_one_rank
attempt("differ", TensorDataset(images[:16]))
"""
    first, second = ranks.run(RANKS + code, tmp_path)
    assert first["both"] == second["both"]
    assert first["both"][0] == ["first", "second"]
    convert(model, [images[:4]], Calibration(list(images.split(4)), "minmax", cache=tmp_path / "one.json"))
    for path in ("first", "second"):
        one, both = (json.loads((tmp_path / f"{name}.{path}.json").read_text()) for name in ("one", "both"))
        assert both == one
    assert first["few"] == second["few"]
    assert json.loads((tmp_path / "few.second.json").read_text())["samples"] == 4
    assert first["bad"].startswith("CalibrationError: calibration: batch 2: args[0] holds NaN")  # its third: batch 4 of all
    assert "the calibration failed on rank 0 of 2: CalibrationError: calibration: batch 2" in second["bad"]
    assert first["differ"][0] == second["differ"][0] == ["first"]  # what is in the second is too small
    assert "did not convert on rank 1 of 2: VerificationError: not equal here" in first["differ"][1]
    assert "VerificationError: not equal here" in second["differ"][1]
