"""PartitionedModule: a drop-in module, its state dict, its parts."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from support.gpu import needs_gpu
from torch import nn

import torch2edge
from torch2edge.errors import EngineFileError, InputError
from torch2edge.run.partition import PartitionReport

pytestmark = pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.head = nn.Linear(4, 2)
        self.threshold = 1e9

    def forward(self, x):
        x = self.body(x)
        if x.mean() > self.threshold:
            return x
        return self.head(x.mean((2, 3)))

    def describe(self) -> str:
        return f"{len(self.body)} layers"


X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


@pytest.fixture
def module(model):
    return torch2edge.convert(model, [X], fallback="torch")


def test_attributes_are_the_copys(model, module):
    assert module.threshold == 1e9
    assert module.describe() == "3 layers"
    assert module.head is module.module.head
    assert module.head is not model.head
    assert [type(m) for m in module.body] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert isinstance(module.body[0], nn.Conv2d)
    assert module.body.edge_original[0].weight is module.body[0].weight
    assert "engines: body" in repr(module)
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.nothing
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.body.nothing


def test_the_state_dict_restores_it(model, module):
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    other = Model()
    restored = torch2edge.PartitionedModule(other)
    assert restored.report is None
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.report.plan == module.report.plan
    assert torch.equal(restored.module.head.weight, model.head.weight)
    assert restored.body.edge_engine.report.to_dict() == module.body.edge_engine.report.to_dict()
    restored.load_state_dict(module.state_dict())  # over engines that are there
    assert list(restored.report.engines) == ["body"]
    x = torch.randn(1, 3, 9, 9)
    with pytest.warns(torch2edge.PartitionWarning):
        torch.testing.assert_close(restored(x), model(x))


@needs_gpu
def test_a_restored_one_runs(model, module):
    restored = torch2edge.PartitionedModule(Model())
    restored.load_state_dict(module.state_dict())
    torch.testing.assert_close(restored.cuda()(X.cuda()).cpu(), model(X), rtol=1e-3, atol=1e-3)
    assert restored.report.calls == {"body": (1, 0)}


def test_save_writes_the_state_dict(module, tmp_path):
    module.save(tmp_path / "parts.pth")
    restored = torch2edge.PartitionedModule(Model())
    restored.load_state_dict(torch.load(tmp_path / "parts.pth", weights_only=True))
    assert restored.report.to_dict() == module.report.to_dict() | {"calls": {"body": [0, 0]}}


def test_foreign_state_dicts_are_refused(module):
    state = module.state_dict()
    with pytest.raises(EngineFileError, match="has engines for body, but this model has no such submodules"):
        torch2edge.PartitionedModule(nn.Linear(1, 1)).load_state_dict(state)
    for bad, message in (
        (torch.zeros(3, dtype=torch.uint8), "none of a PartitionedModule"), (None, "none of a PartitionedModule"),
        (torch.tensor(list(b'{"format": 9}'), dtype=torch.uint8), "the format 9"),
        (torch.tensor(list(b"[1]"), dtype=torch.uint8), "none of a PartitionedModule"),
    ):  # fmt: skip
        with pytest.raises(EngineFileError, match=message):
            torch2edge.PartitionedModule(Model()).load_state_dict({**state, "_extra_state": bad})


def test_it_can_be_copied_pickled_and_nested(model, module):
    copied = copy.deepcopy(module)
    assert copied.body is not module.body
    with torch.no_grad():
        torch.testing.assert_close(copied(X), model(X), rtol=1e-5, atol=1e-5)
        around = nn.Sequential(module, nn.ReLU())
        torch.testing.assert_close(around(X), model(X).relu(), rtol=1e-5, atol=1e-5)
    assert copied.report.calls["body"] == (1, 0)
    assert pickle.loads(pickle.dumps(module)).report.plan == module.report.plan
    fresh = nn.Sequential(torch2edge.PartitionedModule(Model()), nn.ReLU())
    fresh.load_state_dict(around.state_dict())
    assert fresh[0].report.plan.engines == ["body"]


def test_the_report_is_json_and_back(module):
    report = module.report
    assert PartitionReport.from_dict(report.to_dict()).to_dict() == report.to_dict()
    assert "1 engine: " in str(report)
    assert "check against PyTorch" in str(report)


def test_a_model_that_cannot_be_copied_is_told():
    class Sticky(Model):
        def __deepcopy__(self, memo):
            raise TypeError("it holds a socket")

    with pytest.raises(InputError, match=r"cannot be copied .*socket"):
        torch2edge.convert(Sticky().eval(), [X], fallback="torch")
