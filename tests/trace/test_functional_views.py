"""Writes through views come out functional: replay on fresh inputs gives what the module gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.functional import Cases

Tensor = torch.Tensor
case = Cases()


@case((2, 3, 4))
def write_select(x: Tensor) -> Tensor:
    x = x + 0
    x.select(1, -1).mul_(3)
    return x


@case((2, 6))
def write_chunk(x: Tensor) -> Tensor:
    x = x + 0
    a, b = x.chunk(2, dim=1)
    a.mul_(2)
    b.add_(a)
    return x


@case((3, 5))
def write_uneven_chunk_and_split(x: Tensor) -> Tensor:
    x = x + 0
    x.chunk(2, dim=-1)[1].zero_()
    x.split(2, dim=0)[1].add_(1)
    x.split([1, 4], dim=1)[0].neg_()
    return x


@case((2, 3, 4))
def write_unbind(x: Tensor) -> Tensor:
    x = x + 0
    for i, part in enumerate(x.unbind(1)):
        part.mul_(i)
    return x


@case((2, 3, 4))
def write_transpose(x: Tensor) -> Tensor:
    x = x + 0
    x.transpose(0, 2)[1].mul_(2)
    x.permute(2, 0, 1)[0, 1] = 9
    x[0].t()[2].fill_(-1)
    return x


@case((3, 3))
def write_diagonal(x: Tensor) -> Tensor:
    x = x + 0
    x.diagonal().fill_(1)
    torch.diagonal(x, 1).mul_(2)
    return x


@case((2, 6))
def write_narrow(x: Tensor) -> Tensor:
    x = x + 0
    x.narrow(1, 1, 3).mul_(2)
    x.narrow(-1, -2, 2).sub_(1)
    return x


@case((2, 1, 3))
def write_shape_views(x: Tensor) -> Tensor:
    x = x + 0
    x.squeeze(1)[0].mul_(2)
    x.unsqueeze(0).add_(1)
    x.flatten()[1] = 4
    x.unflatten(2, (3, 1))[1].exp_()
    x.view(3, 2)[0].neg_()
    x.squeeze()[1, 1] = 0
    return x


@case((2, 8))
def view_of_view(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x * 1
    half = x[:, 2:6]
    inner = half.view(-1)[:2] if half.is_contiguous() else half[:, 1:3]
    inner += 10
    half *= 2
    return x, inner


@case((2, 6))
def interleaved_views(x: Tensor) -> tuple[Tensor, ...]:
    x = x * 1
    a, b = x[:, :4], x[:, 2:]
    a.add_(1)
    b.mul_(2)
    before = a.clone()
    a.sub_(b)
    return x, a, b, before


@case((3, 4))
def base_changes_under_a_view(x: Tensor) -> Tensor:
    x = x * 1
    row = x[1]
    x.mul_(2)
    x[1, 0] = 8
    return row + 1


@case((2, 3))
def write_into_itself(x: Tensor) -> Tensor:
    y = x * 1
    y[0] = y[1]
    y.t().copy_(y.t() + 1)
    return y


@case((2, 3))
def alias_or_copy(x: Tensor) -> tuple[Tensor, ...]:
    x = x * 1
    x.contiguous().add_(1)
    x.detach().mul_(2)
    x.to(torch.float32).sub_(3)
    x.reshape(3, 2)[0] = 4
    x.expand(1, 2, 3).mul_(2)
    F.dropout(x, training=False).add_(1)
    copies = x.t().contiguous(), x.t().reshape(-1), x.clone()
    for copy in copies:
        copy.zero_()
    return x, *copies


@case((2, 3))
def alias_of_a_memory_that_was_promoted(x: Tensor) -> tuple[Tensor, Tensor]:
    out = torch.zeros(2, 3)
    kept = out.clone()
    out.copy_(x)
    flat = out.view(-1)
    flat[1:3] += 1
    out.mul_(kept + 2)
    return out, flat[::2]


@case((2, 3))
def turned_in_place(x: Tensor) -> tuple[Tensor, ...]:
    """The object becomes another view of its memory: a write through it reaches what it was made of."""
    x = x * 1
    a, b, c = x.clone(), x[0], x.clone()
    a.unsqueeze_(0).mul_(2)
    b.unsqueeze_(1).t_()
    b.add_(1)
    c.transpose_(0, 1).swapaxes_(0, 1)
    d = c.unsqueeze(0)
    d.squeeze_().mul_(3)
    d.transpose_(0, 1)[0] = 7
    return x, a, b, c, d.squeeze_(0)


@pytest.mark.parametrize("fn", [lambda x: x.unsqueeze_(0), lambda x: (x * 1).resize_(3, 2), lambda x: x[:].resize_(4)])
def test_an_input_is_not_turned_and_no_memory_resized(fn: Any) -> None:
    from support.rows import Function

    from torch2edge.errors import InplaceError
    from torch2edge.trace import trace

    with pytest.raises(InplaceError, match="changes the shape"):
        trace(Function(fn).eval(), [torch.randn(2, 3)], is_leaf=lambda op: True)


@pytest.mark.parametrize("name", case)
def test_replay_equals_eager(name: str) -> None:
    case.check(name)
