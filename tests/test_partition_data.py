"""INT8 with fallback="torch": data that fails or does not fit, and data that several processes share."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from support import ranks
from support.partition_models import Cut, Tail, batches, cached, convert, convs, error, largest, ranges
from torch import nn

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
verify = torch2edge.making.verify_module
def fails_on_one_rank(module, *more):
    if rank == 1 and module is model.second:
        raise torch2edge.VerificationError("not equal here")
    return verify(module, *more)
torch2edge.making.verify_module = fails_on_one_rank
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
