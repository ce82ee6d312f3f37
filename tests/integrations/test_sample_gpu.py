"""Ten models over the roads beside the direct one (tests/support/samples.py): here by the reference executor, with
``-m gpu`` by engines that execute."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.gpu import needs_gpu
from support.samples import SAMPLES, Sample, run
from support.torch_features import DYNAMO

from torch2edge.integrations import torch_compile

pytestmark = [
    pytest.mark.usefixtures("_registry"),
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Dynamo's and the exporters' own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*meshgrid"),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    torch._dynamo.reset()
    torch_compile.reset()


def test_the_sample_is_what_issue_3_asks_for() -> None:
    roads = [sample.road for sample in SAMPLES]
    assert {road: roads.count(road) for road in roads} == {"onnx": 3, "torch": 3, "torch2trt": 3, "compile": 1}


def marks(sample: Sample) -> list[pytest.MarkDecorator]:
    """What keeps a sample from the ordinary run here."""
    return [pytest.mark.slow] * sample.slow + [DYNAMO] * (sample.options.get("onnx_exporter") == "dynamo")


@pytest.mark.parametrize("sample", [pytest.param(s, marks=marks(s)) for s in SAMPLES], ids=str)
def test_by_the_reference_executor(sample: Sample) -> None:
    run(sample, "cpu")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_on_the_gpu(sample: Sample) -> None:
    run(sample, "cuda")
