"""Rows of converters/recurrent.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.rows import BF16, F16, Row, Spec, check_row, convert_row, rows
from torch import nn

from torch2edge.errors import TraceError

aten = torch.ops.aten
SHORT, LONG = (5, 2, 4), (40, 2, 4)
UNBATCHED = (5, 8)  # TensorRT-RTX 1.7 takes a minute to build one step after the other of fewer than 8 elements in all


class WithStates(nn.Module):
    """A recurrent module whose initial states are inputs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, *states: torch.Tensor) -> Any:
        return self.inner(x, states if len(states) > 1 else states[0])


class Stateful(nn.Module):
    """A cell stepped in Python."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        state, seen = None, []
        for part in x:
            state = self.cell(part, state)
            seen.append(state[0] if isinstance(state, tuple) else state)
        return seen


ROWS = [
    *rows(aten.lstm.input, [
        (nn.LSTM(4, 6), SHORT), (nn.LSTM(4, 6), LONG), (nn.LSTM(4, 8), (1, 1, 4)), (nn.LSTM(8, 8), UNBATCHED),
        (nn.LSTM(4, 6, 2, bidirectional=True, batch_first=True), SHORT), (nn.LSTM(4, 6, 2, bidirectional=True), LONG),
        (nn.LSTM(4, 6, bias=False), SHORT), (nn.LSTM(4, 6, 2, proj_size=3, bias=False), SHORT),
        (nn.LSTM(4, 6, 2, proj_size=3, bidirectional=True), LONG), (nn.LSTM(4, 6, 3, dropout=0.5), SHORT),
        (WithStates(nn.LSTM(4, 6, 2)), SHORT, (2, 2, 6), (2, 2, 6)),
        (WithStates(nn.LSTM(4, 6, proj_size=3, bidirectional=True)), LONG, (2, 2, 3), (2, 2, 6)),
        (WithStates(nn.LSTM(8, 8)), UNBATCHED, (1, 8), (1, 8)),
        (nn.LSTM(4, 6, batch_first=True, bidirectional=True), (2, 40, 4)),
    ]),
    *rows(aten.lstm.input, [(nn.LSTM(4, 6), SHORT), (nn.LSTM(4, 6), LONG)], (F16, BF16)),
    *rows(aten.gru.input, [
        (nn.GRU(4, 6), SHORT), (nn.GRU(4, 6), LONG), (nn.GRU(8, 8), UNBATCHED), (nn.GRU(4, 6, bias=False), SHORT),
        (nn.GRU(4, 6, 2, bidirectional=True, batch_first=True), SHORT), (nn.GRU(4, 6, 2, bidirectional=True), LONG),
        (WithStates(nn.GRU(4, 6, 2)), SHORT, (2, 2, 6)), (WithStates(nn.GRU(4, 6)), LONG, (1, 2, 6)),
    ]),
    *rows(aten.gru.input, [(nn.GRU(4, 6), SHORT)], (F16, BF16)),
    *rows(aten.rnn_tanh.input, [
        (nn.RNN(4, 6), SHORT), (nn.RNN(4, 6, 2, bidirectional=True), LONG), (nn.RNN(8, 8, bias=False), UNBATCHED),
        (WithStates(nn.RNN(4, 6, batch_first=True)), (2, 5, 4), (1, 2, 6)),
    ]),
    *rows(aten.rnn_tanh.input, [(nn.RNN(4, 6), SHORT)], (F16,)),
    *rows(aten.rnn_relu.input, [
        (nn.RNN(4, 6, nonlinearity="relu"), SHORT), (nn.RNN(4, 6, 2, nonlinearity="relu"), LONG),
    ]),
    *rows(aten.lstm_cell.default, [
        (nn.LSTMCell(4, 6), (2, 4)), (nn.LSTMCell(4, 6), (4,)), (Stateful(nn.LSTMCell(4, 6, bias=False)), SHORT),
        (WithStates(nn.LSTMCell(4, 6)), (2, 4), (2, 6), (2, 6)),
    ]),
    *rows(aten.lstm_cell.default, [(nn.LSTMCell(4, 6), (2, 4))], (F16,)),
    *rows(aten.gru_cell.default, [(nn.GRUCell(4, 6), (2, 4)), (nn.GRUCell(4, 6), (4,)),
                                  (Stateful(nn.GRUCell(4, 6, bias=False)), SHORT)]),
    *rows(aten.rnn_tanh_cell.default, [(nn.RNNCell(4, 6), (2, 4)), (Stateful(nn.RNNCell(4, 6, bias=False)), SHORT)]),
    *rows(aten.rnn_relu_cell.default, [(Stateful(nn.RNNCell(4, 6, nonlinearity="relu")), SHORT)]),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # PyTorch's own, once per process
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row(row: Row) -> None:
    check_row(row)


def layer_types(steps: int) -> list[str]:
    """Of an LSTM over so many steps."""
    _, _, lowered, _ = convert_row(Row(aten.lstm.input, nn.LSTM(4, 6), ((steps, 2, 4),)))
    return [layer.raw.type.name for layer in lowered.network.layers]


def test_few_steps_are_unrolled_and_many_are_a_loop():
    few, many, more = layer_types(16), layer_types(17), layer_types(200)
    assert "RECURRENCE" not in few
    assert "RECURRENCE" in many
    assert many == more


def test_a_network_has_so_many_unrolled_steps():
    _, _, lowered, _ = convert_row(Row(aten.lstm.input, nn.LSTM(4, 6, num_layers=10), ((16, 2, 4),)))
    types = [layer.raw.type.name for layer in lowered.network.layers]
    assert types.count("RECURRENCE") == 2 * 2  # hidden and cell state of the layers after the eighth


@pytest.mark.parametrize("steps", [6, 40])
def test_the_inputs_part_of_all_steps_is_one_product(steps):
    _, _, lowered, _ = convert_row(Row(aten.lstm.input, nn.LSTM(4, 6), ((steps, 2, 4),)))
    products = [layer.raw for layer in lowered.network.layers if layer.raw.type.name == "MATRIX_MULTIPLY"]
    assert tuple(products[0].get_output(0).shape) == (steps * 2, 24)
    assert len(products) == (7 if steps == 6 else 2)


def test_parameters_keep_their_names():
    model = nn.LSTM(4, 6, 2).eval()
    from torch2edge.build import BuildSession
    from torch2edge.lower import lower, registry
    from torch2edge.options import Options
    from torch2edge.trace import trace

    graph = trace(model, [torch.randn(SHORT)], is_leaf=registry().is_leaf)
    names = {id(t): n for n, t in model.named_parameters()}
    lowered = lower(graph, BuildSession(Options()).network, registry(), names=names)
    assert set(lowered.network.weights_by_name) == {n for n, _ in model.named_parameters()}


class Packed(nn.Module):
    """A packed sequence inside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(4, 6)

    def forward(self, x: torch.Tensor, lengths: Any = (5, 3)) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.as_tensor(lengths))
        return nn.utils.rnn.pad_packed_sequence(self.inner(packed)[0])[0]


def test_packed_sequences_are_refused():
    with pytest.raises(TraceError, match=r"in the model itself.*: a packed sequence.*Pad the sequences"):
        convert_row(Row(aten.lstm.input, Packed(), (SHORT,)))


def test_traced_lengths_are_refused():
    with pytest.raises(TraceError, match="packed sequence"):
        convert_row(Row(aten.lstm.input, Packed(), (SHORT, Spec((2,), torch.int64, 3, 6))))
