"""Dataset classes and Flattener, held against what torch2trt's do."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from torch2edge import InputError
from torch2edge.integrations.torch2trt import Dataset, Flattener, FolderDataset, ListDataset, TensorBatchDataset, torch2trt
from torch2edge.integrations.torch2trt.flattener import schema_of, structure_of
from torch2edge.structure import flatten


class Sum(nn.Module):
    def forward(self, x, y):
        return x.sum() + y.sum()


def three_items():
    return ListDataset([(torch.zeros(1, 3, size, size), torch.zeros(1, size // 8)) for size in (32, 64, 48)])


def test_shapes():
    dataset = three_items()
    assert dataset.shapes()[0] == [(1, 3, 32, 32), (1, 3, 64, 64), (1, 3, 48, 48)]
    assert dataset.shapes(flat=True)[1] == [(1, 4), (1, 8), (1, 6)]
    assert dataset.min_shapes() == ((1, 3, 32, 32), (1, 4))
    assert dataset.max_shapes(flat=True) == [(1, 3, 64, 64), (1, 8)]
    assert dataset.median_numel_shapes() == ((1, 3, 48, 48), (1, 6))
    assert dataset.shapes_for_index(1) == ((1, 3, 64, 64), (1, 8))
    assert dataset.infer_dynamic_axes() == ([2, 3], [1])
    assert (dataset.num_inputs(), dataset.item_numel(0)) == (2, 3 * 32 * 32 + 4)
    assert isinstance(dataset.min_shapes(flat=True)[0], torch.Size)


def test_nested_items():
    dataset = ListDataset([{"b": torch.zeros(2), "a": [torch.zeros(3)]}])
    assert dataset.min_shapes() == {"a": [(3,)], "b": (2,)}
    assert [t.shape for t in dataset.getitem_flat(0)] == [(3,), (2,)]


@pytest.mark.parametrize("kind", [ListDataset, TensorBatchDataset, FolderDataset])
def test_record(kind, tmp_path):
    dataset = kind(tmp_path / "new") if kind is FolderDataset else kind()
    module, inputs = Sum(), [torch.randn(1, 3), torch.randn(1, 2)]
    with dataset.record(module):
        for _ in range(11):
            module(*inputs)
    module(*inputs)
    assert len(dataset) == 11
    assert [torch.equal(a, b) for a, b in zip(dataset[10], inputs)] == [True, True]
    assert len(dataset[0]) == 2


def test_record_of_a_submodule_feeds_its_conversion():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    dataset = ListDataset()
    with dataset.record(model[1]):
        model(torch.randn(1, 3, 5, 5))
    module_trt = torch2trt(model[1], dataset, verify=False)
    assert module_trt.metadata["inputs"][0]["shape"] == [1, 4, 3, 3]


def test_record_refuses_what_it_would_lose():
    dataset, module = ListDataset(), Sum()
    with dataset.record(module) as recorder, pytest.raises(RuntimeError, match="active already"), recorder:
        pass
    with dataset.record(module), pytest.raises(InputError, match="called with y as keywords"):
        module(torch.zeros(1), y=torch.zeros(1))
    module(torch.zeros(1), y=torch.zeros(1))  # no hook is left


def test_a_batch_gives_items_of_one():
    dataset = TensorBatchDataset((torch.arange(6.0).view(3, 2), {"m": torch.arange(3.0)}))
    dataset.insert((torch.full((2, 2), 9.0), {"m": torch.full((2,), 9.0)}))
    assert len(dataset) == 5
    assert torch.equal(dataset[1][0], torch.tensor([[2.0, 3.0]]))
    assert torch.equal(dataset[-1][1]["m"], torch.tensor([9.0]))
    assert len(list(dataset)) == 5
    with pytest.raises(IndexError):
        dataset[5]
    with pytest.raises(ValueError, match="a tuple or list of 2 was expected"):
        dataset.insert((torch.zeros(1, 2),))
    with pytest.raises(ValueError, match="one batch size"):
        dataset.insert((torch.zeros(1, 2), {"m": torch.zeros(2)}))


def test_empty_and_unfinished_datasets():
    with pytest.raises(IndexError):
        TensorBatchDataset()[0]
    with pytest.raises(InputError, match="the Dataset is empty"):
        ListDataset().min_shapes()
    with pytest.raises(NotImplementedError, match="Dataset has no __len__"):
        len(Dataset())
    with pytest.raises(InputError, match="different ranks"):
        ListDataset([[torch.zeros(2)], [torch.zeros(2, 2)]]).max_shapes()


def test_a_folder_keeps_its_order(tmp_path):
    dataset = FolderDataset(tmp_path)
    for i in range(12):
        dataset.insert([torch.tensor([float(i)])])
    assert [int(item[0]) for item in FolderDataset(tmp_path)][:12] == list(range(12))


VALUES = [
    torch.ones(3),
    (torch.ones(1), torch.ones(2)),
    [torch.ones(1), [torch.ones(2), (torch.ones(3),)]],
    {"b": torch.ones(1), "a": {"d": torch.ones(2), "c": torch.ones(3)}},
    {"x": (torch.ones(1), {"y": torch.ones(2)}), "w": [torch.ones(3), None, 4, "text"]},
    [torch.ones(2, dtype=d) for d in (torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.uint8, torch.float64)],
]


@pytest.mark.parametrize("value", VALUES)
def test_flatten_and_back(value):
    flattener = Flattener.from_dict(Flattener.from_value(value).dict())
    flat = flattener.flatten(value)
    assert len(flattener) == flattener.size == len(flat)
    back = flattener.flatten(flattener.unflatten(flat))
    assert all(a is b for a, b in zip(flat, back))
    assert type(flattener.unflatten(flat)) is type(value)


def test_schemas():
    assert Flattener.from_value((torch.ones(1), [torch.ones(1), 3])).schema == (0, [1, None])
    assert Flattener.from_value({"b": torch.ones(1), "a": torch.ones(1)}).schema == {"a": 0, "b": 1}
    assert Flattener.from_value((1, 2), lambda v: isinstance(v, int)).flatten((5, 6)) == [5, 6]
    assert Flattener.from_value([torch.ones(1), 3]).unflatten([7]) == [7, None]


def test_what_a_flattener_does_not_fit():
    flattener = Flattener.from_value({"a": [torch.ones(1)]})
    with pytest.raises(ValueError, match=r"keys \['a'\] was expected, but not one with \['b'\]"):
        flattener.flatten({"b": 1})
    with pytest.raises(ValueError, match="a tuple or list of 1 was expected, but not one of 2"):
        flattener.flatten({"a": [1, 2]})
    with pytest.raises(TypeError, match="not the dataclass Point"):
        Flattener.from_value([Point(torch.ones(1))])


@dataclass
class Point:
    x: torch.Tensor


@pytest.mark.parametrize("value", VALUES)
def test_schemas_of_structures(value):
    tensors, structure = flatten(value)
    schema, order = schema_of(structure)
    mine = Flattener.from_value(value)
    assert schema == mine.schema
    assert all(tensors[p] is t for p, t in zip(order, mine.flatten(value)))
    back, numbers = structure_of(schema)
    assert schema_of(back)[0] == schema
    assert numbers == list(range(len(tensors)))
    assert schema_of({"kind": "dataclass", "keys": ["x"], "items": [{"kind": "tensor"}], "type": "m:P"})[0] == (0,)
