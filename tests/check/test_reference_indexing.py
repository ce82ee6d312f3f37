"""Layers that move, pick and sort elements: expectations by numpy indexing or loops."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from torch2edge.check.reference import ReferenceExecutor
from torch2edge.errors import ReferenceExecutionError

trt = pytest.importorskip("tensorrt_rtx")


def f32(values: Any) -> Any:
    """A float32 array."""
    return np.array(values, dtype=np.float32)


def test_shape_of_a_dynamic_input(bench: Any) -> None:
    layer = bench.network.add_shape(bench.input(torch.randn(2, 5, 3), (-1, -1, 3)))
    result = bench.one(layer)
    assert result.tolist() == [2, 5, 3]
    assert result.dtype == np.int64


def test_shuffle_transposes_and_reshapes(bench: Any) -> None:
    x = torch.randn(2, 3, 4)
    layer = bench.network.add_shuffle(bench.input(x))
    layer.first_transpose, layer.reshape_dims, layer.second_transpose = (1, 2, 0), (0, 2, -1), (2, 0, 1)
    expected = np.transpose(np.transpose(x.numpy(), (1, 2, 0)).reshape(3, 2, 4), (2, 0, 1))
    np.testing.assert_array_equal(bench.one(layer), expected)


def test_shuffle_by_tensor_and_to_a_scalar(bench: Any) -> None:
    x = torch.randn(1, 6, 1)
    layer = bench.network.add_shuffle(bench.input(x, (1, -1, 1)))
    layer.set_input(1, bench.constant([-1, 3], np.int64))
    scalar = bench.network.add_shuffle(bench.input(torch.tensor([7.0])))
    scalar.reshape_dims = ()
    shaped, single = bench.run(layer.get_output(0), scalar.get_output(0))
    np.testing.assert_array_equal(shaped.numpy(), x.numpy().reshape(2, 3))
    assert single.shape == ()


def test_shuffle_zero_is_a_length(bench: Any) -> None:
    layer = bench.network.add_shuffle(bench.input(torch.zeros(0, 3)))
    layer.zero_is_placeholder, layer.reshape_dims = False, (5, 0)
    assert bench.one(layer).shape == (5, 0)


def test_squeeze_and_unsqueeze(bench: Any) -> None:
    x = bench.input(torch.randn(1, 3, 1, 2))
    some = bench.network.add_squeeze(x, bench.constant([-2], np.int64))
    every = bench.network.add_squeeze(x, None)
    more = bench.network.add_unsqueeze(x, bench.constant([0, -1], np.int64))
    shapes = [tuple(r.shape) for r in bench.run(*(layer.get_output(0) for layer in (some, every, more)))]
    assert shapes == [(1, 3, 2), (3, 2), (1, 1, 3, 1, 2, 1)]


def test_concatenation(bench: Any) -> None:
    a, b = torch.randn(2, 3), torch.randn(2, 1)
    layer = bench.network.add_concatenation([bench.input(a), bench.input(b)])
    layer.axis = 1
    np.testing.assert_array_equal(bench.one(layer), np.concatenate((a.numpy(), b.numpy()), axis=1))


def read(mode: str, row: list[float], index: int) -> float:
    """One element, wherever the index lies (NvInfer.h, SampleMode)."""
    size = len(row)
    if mode == "WRAP":
        return row[index % size]
    if mode == "CLAMP":
        return row[min(max(index, 0), size - 1)]
    if mode == "FILL":
        return row[index] if 0 <= index < size else 9.5
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return row[index]


@pytest.mark.parametrize("mode", ["WRAP", "CLAMP", "FILL", "REFLECT"])
@pytest.mark.parametrize(("start", "size", "stride"), [(-7, 20, 1), (6, 5, -3), (2, 3, 0), (1, 0, 1)])
def test_slice_modes(bench: Any, mode: str, start: int, size: int, stride: int) -> None:
    x = torch.randn(2, 5)
    layer = bench.network.add_slice(bench.input(x), (0, start), (2, size), (1, stride))
    layer.mode = getattr(trt.SampleMode, mode)
    if mode == "FILL":
        layer.set_input(4, bench.constant(9.5))
    expected = [[read(mode, row, start + i * stride) for i in range(size)] for row in x.tolist()]
    np.testing.assert_allclose(bench.one(layer), f32(expected).reshape(2, size))


def test_slice_strict_bounds(bench: Any) -> None:
    x = torch.randn(4, 6)
    layer = bench.network.add_slice(bench.input(x), (3, 1), (2, 3), (-2, 2))
    np.testing.assert_array_equal(bench.one(layer), x.numpy()[3::-2, 1::2])


def test_slice_out_of_strict_bounds(bench: Any) -> None:
    layer = bench.network.add_slice(bench.input(torch.randn(4), (-1,)), (2,), (3,), (1,))
    with pytest.raises(ReferenceExecutionError, match="of type SLICE: reads index 4 of an axis of length 4"):
        bench.one(layer)


def test_slice_by_tensors_and_axes(bench: Any) -> None:
    x = torch.randn(2, 3, 5)
    layer = bench.network.add_slice(bench.input(x, (-1, 3, -1)), (0, 0), (1, 1), (2, 1))
    layer.set_input(1, bench.constant([1, 0], np.int64))
    layer.set_input(2, bench.constant([2, 1], np.int64))
    layer.set_input(5, bench.constant([-1, 0], np.int64))
    np.testing.assert_array_equal(bench.one(layer), x.numpy()[0:1, :, 1:5:2])


def test_gather_default(bench: Any) -> None:
    x, index = torch.randn(3, 4, 2), torch.tensor([[0, -1, 2], [3, 1, 7]], dtype=torch.int32)
    layer = bench.network.add_gather(bench.input(x), bench.input(index), 1)
    expected = np.zeros((3, 2, 3, 2), np.float32)  # index 7 is out of bounds: zero
    for i, j in itertools.product(range(2), range(3)):
        if int(index[i, j]) < 4:
            expected[:, i, j] = x.numpy()[:, int(index[i, j])]
    np.testing.assert_array_equal(bench.one(layer), expected)


def test_gather_with_an_elementwise_dimension(bench: Any) -> None:
    x, index = torch.randn(3, 4, 2), torch.tensor([[0, 3], [1, 1], [2, 0]])
    layer = bench.network.add_gather_v2(bench.input(x), bench.input(index), trt.GatherMode.DEFAULT)
    layer.axis, layer.num_elementwise_dims = 1, 1
    expected = np.stack([x.numpy()[b][index.numpy()[b]] for b in range(3)])
    np.testing.assert_array_equal(bench.one(layer), expected)


def test_gather_scalar_index(bench: Any) -> None:
    x = torch.randn(3, 4)
    layer = bench.network.add_gather(bench.input(x), bench.constant(2, np.int32), 1)
    np.testing.assert_array_equal(bench.one(layer), x.numpy()[:, 2])


def test_gather_negative_index_on_a_dynamic_axis(bench: Any) -> None:
    layer = bench.network.add_gather(bench.input(torch.randn(3), (-1,)), bench.constant([-1], np.int32), 0)
    with pytest.raises(ReferenceExecutionError, match="undefined"):
        bench.one(layer)


def test_gather_element(bench: Any) -> None:
    x, index = torch.randn(3, 4), torch.tensor([[0, 2, 1, -1], [1, 1, 0, 5]])
    layer = bench.network.add_gather_v2(bench.input(x), bench.input(index), trt.GatherMode.ELEMENT)
    layer.axis = 0
    expected = np.zeros((2, 4), np.float32)
    for i, j in itertools.product(range(2), range(4)):
        place = int(index[i, j])
        expected[i, j] = x.numpy()[place, j] if place < 3 else 0
    np.testing.assert_array_equal(bench.one(layer), expected)


@pytest.mark.parametrize("batch", [0, 1])
def test_gather_nd(bench: Any, batch: int) -> None:
    x, index = torch.randn(2, 3, 4, 5), torch.tensor([[[0, 1], [1, 2], [1, -1]], [[1, 1], [0, 0], [0, 9]]])
    layer = bench.network.add_gather_v2(bench.input(x), bench.input(index), trt.GatherMode.ND)
    layer.num_elementwise_dims = batch
    expected = np.zeros((2, 3, *x.shape[2 + batch :]), np.float32)
    for i, j in itertools.product(range(2), range(3)):
        p, q = index[i, j].tolist()
        if q < 9:
            expected[i, j] = x.numpy()[i, p, q] if batch else x.numpy()[p, q]
    np.testing.assert_array_equal(bench.one(layer), expected)


def test_scatter_elements(bench: Any) -> None:
    x, index, updates = torch.randn(3, 4), torch.tensor([[2, 0, -1, 1]], dtype=torch.int32), torch.randn(1, 4)
    layer = bench.network.add_scatter(*map(bench.input, (x, index, updates)), trt.ScatterMode.ELEMENT)
    layer.axis = 0
    expected = x.numpy().copy()
    for j in range(4):
        expected[int(index[0, j]), j] = updates[0, j]
    np.testing.assert_array_equal(bench.one(layer), expected)


def test_scatter_nd(bench: Any) -> None:
    x, index, updates = torch.randn(3, 4, 2), torch.tensor([[0, 1], [2, 3]]), torch.randn(2, 2)
    layer = bench.network.add_scatter(*map(bench.input, (x, index, updates)), trt.ScatterMode.ND)
    expected = x.numpy().copy()
    expected[0, 1], expected[2, 3] = updates.numpy()
    np.testing.assert_array_equal(bench.one(layer), expected)


def test_scatter_of_different_values_to_one_place(bench: Any) -> None:
    x, index, updates = torch.randn(3), torch.tensor([[1], [1]]), torch.tensor([1.0, 2.0])
    layer = bench.network.add_scatter(*map(bench.input, (x, index, updates)), trt.ScatterMode.ND)
    with pytest.raises(ReferenceExecutionError, match="undefined"):
        bench.one(layer)


@pytest.mark.parametrize("kind", ["MAX", "MIN"])
def test_topk(bench: Any, kind: str) -> None:
    x = torch.tensor([[3.0, 1.0, 3.0, 2.0], [0.0, 5.0, -1.0, 5.0]])
    layer = bench.network.add_topk(bench.input(x), getattr(trt.TopKOperation, kind), 3, 1 << 1)
    values, places = bench.run(layer.get_output(0), layer.get_output(1))
    sign = -1 if kind == "MAX" else 1
    for row, got, where in zip(x.tolist(), values.tolist(), places.tolist(), strict=True):
        order = sorted(range(4), key=lambda i: (sign * row[i], i))[:3]
        assert where == order
        assert got == [row[i] for i in order]
    assert places.dtype == torch.int32


def test_topk_with_k_as_input(bench: Any) -> None:
    layer = bench.network.add_topk(bench.input(torch.tensor([4.0, 9.0, 6.0])), trt.TopKOperation.MAX, 1, 1)
    layer.set_input(1, bench.constant(2, np.int32))
    assert bench.one(layer).tolist() == [9.0, 6.0]


def test_non_zero(bench: Any) -> None:
    x = torch.tensor([[0, 3, 0], [1, 0, 2]], dtype=torch.int32)
    assert bench.one(bench.network.add_non_zero(bench.input(x))).tolist() == [[0, 1, 1], [1, 0, 2]]


def test_reverse_sequence(bench: Any) -> None:
    x, lengths = torch.randn(4, 3, 2), torch.tensor([0, 2, 4], dtype=torch.int32)
    layer = bench.network.add_reverse_sequence(bench.input(x), bench.input(lengths))
    layer.batch_axis, layer.sequence_axis = 1, 0
    expected = x.numpy().copy()
    for i, length in enumerate(lengths.tolist()):
        expected[:length, i] = expected[:length, i][::-1].copy()
    np.testing.assert_array_equal(bench.one(layer), expected)


def test_nms(bench: Any) -> None:
    boxes = torch.tensor([[[0, 0, 2, 2], [2, 2, 0.1, 0], [5, 5, 6, 6]]], dtype=torch.float32)
    scores = torch.tensor([[[0.9, 0.1], [0.8, 0.95], [0.7, 0.2]]])
    limit = bench.constant(2, np.int32)
    layer = bench.network.add_nms(bench.input(boxes), bench.input(scores), limit)
    layer.set_input(3, bench.constant(0.5))
    layer.set_input(4, bench.constant(0.15))
    bench.network.mark_output(layer.get_output(0))
    bench.network.mark_output(layer.get_output(1))
    rows, count = ReferenceExecutor(bench.network, trt).run(bench.values).values()
    # Box 1 overlaps box 0 by 0.95 and loses in class 0; class 1 has its own list. (batch, class, box)
    assert rows.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 2], [0, 1, 2]]
    assert int(count) == 4
