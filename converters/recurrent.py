"""Recurrent layers: PyTorch's torch.nn, "Recurrent Layers". nn.LSTM, nn.GRU, nn.RNN and their cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from torch2edge.lower.network import Network, Tensor
from torch2edge.lower.registry import converter

aten = torch.ops.aten
Value = Tensor | torch.Tensor
States = list[Tensor]


class Weights:
    """The parameters of one cell (one layer, one direction), in PyTorch's order."""

    def __init__(self, params: list[Value], biases: bool) -> None:
        self.w_ih, self.w_hh = params[0], params[1]
        self.b_ih: Value | None = params[2] if biases else None
        self.b_hh: Value | None = params[3] if biases else None
        self.projection = params[-1] if len(params) in (3, 5) else None


Cell = Callable[[Network, Weights, Tensor, States], States]
"""From the input's part of the gates and the states to the next states; the first of them is the output."""


def affine(net: Network, x: Tensor, weight: Value, bias: Value | None) -> Tensor:
    """``x @ weight.T + bias``."""
    product = net.matmul(x, weight, transpose_b=True)
    return product if bias is None else net.add(product, bias)


def gates(net: Network, x: Tensor, count: int) -> list[Tensor]:
    """The last axis in ``count`` equal parts."""
    width = x.shape[-1] // count
    return [net.slice(x, -1, i * width, width) for i in range(count)]


def lstm_step(net: Network, w: Weights, x: Tensor, states: States) -> States:
    """The LSTM's step; with a projection the output is a product of it."""
    hidden, cell = states
    parts = gates(net, net.add(x, affine(net, hidden, w.w_hh, w.b_hh)), 4)
    keep, new, out = (net.activation(parts[i], "SIGMOID") for i in (1, 0, 3))
    cell = net.add(net.mul(keep, cell), net.mul(new, net.activation(parts[2], "TANH")))
    hidden = net.mul(out, net.activation(cell, "TANH"))
    return [hidden if w.projection is None else net.matmul(hidden, w.projection, transpose_b=True), cell]


def gru_step(net: Network, w: Weights, x: Tensor, states: States) -> States:
    """The GRU's step; the reset gate scales the hidden state's part after its bias."""
    (hidden,) = states
    inner, outer = gates(net, x, 3), gates(net, affine(net, hidden, w.w_hh, w.b_hh), 3)
    reset = net.activation(net.add(inner[0], outer[0]), "SIGMOID")
    keep = net.activation(net.add(inner[1], outer[1]), "SIGMOID")
    new = net.activation(net.add(inner[2], net.mul(reset, outer[2])), "TANH")
    return [net.add(new, net.mul(keep, net.sub(hidden, new)))]


def rnn_step(kind: str) -> Cell:
    """The step of the plain network with the activation ``kind``."""

    def step(net: Network, w: Weights, x: Tensor, states: States) -> States:
        return [net.activation(net.add(x, affine(net, states[0], w.w_hh, w.b_hh)), kind)]

    return step


def run_layer(net: Network, cell: Cell, w: Weights, x: Tensor, states: list[Value], reverse: bool) -> tuple[Tensor, States]:
    """One layer in one direction over (steps, batch, width): the inputs' part of all steps is one product before the loop."""
    whole = affine(net, x, w.w_ih, w.b_ih)

    def step(part: Tensor, now: States) -> tuple[Tensor, States]:
        after = cell(net, w, part, now)
        return after[0], after

    return net.scan(step, whole, states, reverse)


def of_layer(net: Network, state: Value, index: int) -> Value:
    """Entry ``index`` of the axis of layers and directions."""
    if isinstance(state, torch.Tensor):
        return state[index]
    return net.reshape(net.slice(state, 0, index, 1), state.shape[1:])


def recurrent(
    net: Network, cell: Cell, x: Value, states: list[Value], params: list[Value], biases: bool, layers: int,
    bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """All layers and directions: the output, then the last of each state."""
    directions = 2 if bidirectional else 1
    size = len(params) // (layers * directions)
    y = net.permute(x, (1, 0, 2)) if batch_first else net.tensor(x)
    last: list[States] = []
    for layer in range(layers):
        outputs = []
        for index in range(layer * directions, (layer + 1) * directions):
            weights = Weights(params[index * size : (index + 1) * size], biases)
            before = [of_layer(net, state, index) for state in states]
            output, after = run_layer(net, cell, weights, y, before, reverse=index % directions == 1)
            outputs.append(output)
            last.append(after)
        y = net.concat(outputs, -1)
    ends = [net.concat([net.unsqueeze(s, 0) for s in each], 0) for each in zip(*last)]
    return (net.permute(y, (1, 0, 2)) if batch_first else y, *ends)


@converter(aten.lstm.input)
def lstm(
    net: Network, input: Value, hx: list[Value], params: list[Value], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """lstm.input(Tensor input, Tensor[] hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train,
    bool bidirectional, bool batch_first) -> (Tensor, Tensor, Tensor)"""
    return recurrent(net, lstm_step, input, hx, params, has_biases, num_layers, bidirectional, batch_first)


@converter(aten.gru.input)
def gru(
    net: Network, input: Value, hx: Value, params: list[Value], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """gru.input(Tensor input, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train,
    bool bidirectional, bool batch_first) -> (Tensor, Tensor)"""
    return recurrent(net, gru_step, input, [hx], params, has_biases, num_layers, bidirectional, batch_first)


@converter(aten.rnn_tanh.input)
def rnn_tanh(
    net: Network, input: Value, hx: Value, params: list[Value], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """rnn_tanh.input(Tensor input, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train,
    bool bidirectional, bool batch_first) -> (Tensor, Tensor)"""
    return recurrent(net, rnn_step("TANH"), input, [hx], params, has_biases, num_layers, bidirectional, batch_first)


@converter(aten.rnn_relu.input)
def rnn_relu(
    net: Network, input: Value, hx: Value, params: list[Value], has_biases: bool, num_layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """rnn_relu.input(Tensor input, Tensor hx, Tensor[] params, bool has_biases, int num_layers, float dropout, bool train,
    bool bidirectional, bool batch_first) -> (Tensor, Tensor)"""
    return recurrent(net, rnn_step("RELU"), input, [hx], params, has_biases, num_layers, bidirectional, batch_first)


# ---- cells: PyTorch's decomposition writes in place, which costs them some fifty layers ----------------------------------


def one_step(net: Network, cell: Cell, x: Value, states: list[Value], params: list[Value | None]) -> States:
    """A cell by itself."""
    weights = Weights([p for p in params if p is not None], params[2] is not None)
    whole = affine(net, net.tensor(x), weights.w_ih, weights.b_ih)
    return cell(net, weights, whole, [net.tensor(s) for s in states])


@converter(aten.lstm_cell.default)
def lstm_cell(
    net: Network, input: Value, hx: list[Value], w_ih: Value, w_hh: Value, b_ih: Value | None, b_hh: Value | None
) -> tuple[Any, ...]:
    """lstm_cell(Tensor input, Tensor[] hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None)
    -> (Tensor, Tensor)"""
    return tuple(one_step(net, lstm_step, input, hx, [w_ih, w_hh, b_ih, b_hh]))


@converter(aten.gru_cell.default)
def gru_cell(
    net: Network, input: Value, hx: Value, w_ih: Value, w_hh: Value, b_ih: Value | None, b_hh: Value | None
) -> Tensor:
    """gru_cell(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None) -> Tensor"""
    return one_step(net, gru_step, input, [hx], [w_ih, w_hh, b_ih, b_hh])[0]


@converter(aten.rnn_tanh_cell.default)
def rnn_tanh_cell(
    net: Network, input: Value, hx: Value, w_ih: Value, w_hh: Value, b_ih: Value | None, b_hh: Value | None
) -> Tensor:
    """rnn_tanh_cell(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None) -> Tensor"""
    return one_step(net, rnn_step("TANH"), input, [hx], [w_ih, w_hh, b_ih, b_hh])[0]


@converter(aten.rnn_relu_cell.default)
def rnn_relu_cell(
    net: Network, input: Value, hx: Value, w_ih: Value, w_hh: Value, b_ih: Value | None, b_hh: Value | None
) -> Tensor:
    """rnn_relu_cell(Tensor input, Tensor hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None) -> Tensor"""
    return one_step(net, rnn_step("RELU"), input, [hx], [w_ih, w_hh, b_ih, b_hh])[0]
