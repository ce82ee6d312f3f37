"""In-place ops come out functional: replay on fresh inputs gives what the module gives. Views: test_functional_views.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.functional import Cases, Of, assert_same, traced
from torch import nn

from torch2edge.errors import DataDependentError, InplaceError

Tensor = torch.Tensor
case = Cases()


# ---- assignments ----------------------------------------------------------------------------------------------------


@case((3, 4), (3,))
def assign_column(x: Tensor, y: Tensor) -> Tensor:
    x = x * 2
    x[:, 0] = y
    return x


@case((3, 4))
def assign_number(x: Tensor) -> Tensor:
    x = x.clone()
    x[1] = 5.0
    x[-1, ::2] = -1
    return x


@case((3, 4))
def assign_through_flat_view(x: Tensor) -> Tensor:
    x = x + 1
    x.view(-1)[3:5] = 7
    return x


@case((3, 4), (2, 2))
def assign_block(x: Tensor, y: Tensor) -> Tensor:
    x = x.clone()
    x[1:, 1:3] = y
    return x


@case((3, 4), (4,))
def assign_broadcasts(x: Tensor, y: Tensor) -> Tensor:
    x = x.clone()
    x[:2] = y
    x[..., None][2] = 3
    return x


@case((3, 4))
def assign_by_index_tensor(x: Tensor) -> Tensor:
    x = x.clone()
    x[torch.tensor([0, 2])] = 0
    x[:, torch.tensor([1, -1])] = x[:, :2] + 1
    return x


@case((3, 4))
def assign_by_traced_mask(x: Tensor) -> Tensor:
    y = x.clone()
    y[x < 0] = 0.5
    return y


@case((3, 4), ())
def assign_by_traced_row_mask(x: Tensor, value: Tensor) -> Tensor:
    y = x.clone()
    y[x[:, 0] > 0] = value
    y[:, x[0] > 0] = 2
    return y


@case((3, 4))
def assign_by_constant_mask(x: Tensor) -> Tensor:
    y = x.clone()
    y[torch.eye(3, 4).bool()] = x[0, :3]
    return y


@case((4, 4))
def overlapping_self_copy(x: Tensor) -> Tensor:
    y = x * 1
    y[1:] = y[:-1].clone()
    y[:, 0] = y[:, 1]
    return y


# ---- in-place ops ---------------------------------------------------------------------------------------------------


@case((3, 4), (3, 4))
def pointwise(x: Tensor, y: Tensor) -> Tensor:
    x = x.clone()
    x.add_(y, alpha=2).mul_(0.5).sub_(1).div_(2).clamp_(-1, 1).sigmoid_().tanh_()
    x += y
    x *= 2
    x -= 1
    x /= 3
    return x.addcmul_(y, y, value=0.5).lerp_(y, 0.25).pow_(2)


@case((3, 4))
def relu_chain(x: Tensor) -> Tensor:
    x = x + 0
    F.relu(x, inplace=True)
    x.sub_(0.5).relu_()
    F.leaky_relu_(x)
    F.hardtanh_(x)
    return F.silu(F.elu_(x), inplace=True)


@case((3, 4))
def masked_fill(x: Tensor) -> Tensor:
    scores = x * 1
    scores.masked_fill_(torch.ones(3, 4).tril() == 0, -1e9)
    scores[1:].masked_fill_(scores[1:] > 0, 2)
    return scores


@case((3, 4), (2, 4))
def index_writes(x: Tensor, y: Tensor) -> Tensor:
    x = x * 1
    x.index_put_((torch.tensor([0, 2]),), y)
    x.index_copy_(0, torch.tensor([1]), y[:1])
    x.index_fill_(1, torch.tensor([3]), -1)
    x.scatter_(1, torch.tensor([[0], [1]]), 6)
    return x.index_add_(0, torch.tensor([0]), y[1:])


@case((3, 4))
def fill_and_zero(x: Tensor) -> tuple[Tensor, Tensor]:
    a, b = x * 1, x * 1
    a[0].zero_()
    b[1:].fill_(x[0, 0])
    return a, b


@case((3, 4))
def written_whole_with_a_constant(x: Tensor) -> Tensor:
    y = x * 1
    y.fill_(3)
    y[0] += x[0]
    return y


@case((2, 3))
def dtype_of_the_target_stays(x: Tensor) -> tuple[Tensor, Tensor]:
    numbers = torch.zeros(2, 3, dtype=torch.int64)
    numbers[:] = (x * 10).round()
    half = torch.zeros(2, 3, dtype=torch.float16)
    half.copy_(x).add_(x)
    return numbers, half


@case((3, 4), (3, 4))
def out_variants(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out = torch.empty(3, 4)
    torch.add(x, y, out=out)
    torch.mul(out, 2, out=out)
    joined = torch.zeros(6, 4)
    torch.cat([x, y], out=joined)
    base = torch.zeros(2, 3, 4)
    torch.sub(x, y, out=base[1])
    return out, joined, base


# ---- real memory that gets a traced write ---------------------------------------------------------------------------


@case((2, 3), (2, 2))
def buffer_made_in_forward(x: Tensor, y: Tensor) -> Tensor:
    out = torch.zeros(2, 5)
    out[:, :3] = x
    out[:, 3:].copy_(y)
    return out


@case((2, 3))
def view_taken_before_the_write(x: Tensor) -> tuple[Tensor, Tensor]:
    out = torch.ones(4, 3)
    tail, column = out[2:], out.t()[1]
    out[:2] = x
    tail += 1
    column *= 2
    return out, column


@case((2, 3))
def loop_over_rows(x: Tensor) -> Tensor:
    out = x.new_zeros(3, 2)
    for i in range(3):
        out[i] = x[:, i] + (out[i - 1] if i else 0)
    return out


@case((2, 3))
def empty_like_filled(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[0], out[1] = x[1], x[0]
    return out


@case((3,))
def strided_memory(x: Tensor) -> Tensor:
    out = torch.zeros(4, 3).t()
    out[:, 1] = x
    out[1:, ::2] += x[1:, None]
    return out


@case((3,))
def constant_mutated_after_use(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    c = torch.ones(3)
    first = x * c
    c.add_(1)
    second = x * c
    c[0] = 5
    return first, second, c + x


@case((3,))
def constant_mutated_through_its_view(x: Tensor) -> tuple[Tensor, Tensor]:
    c = torch.arange(6.0).view(2, 3)
    row = c[0]
    first = x + row
    c.zero_()
    return first, x + row


# ---- what PyTorch itself writes in place ----------------------------------------------------------------------------


@case((1, 2, 4, 5))
def padding(x: Tensor) -> tuple[Tensor, ...]:
    modes = [F.pad(x, (1, 2, 0, 1), mode=mode) for mode in ("constant", "reflect", "replicate", "circular")]
    return *modes, F.pad(x, (-1, 2)), F.pad(x, (1, 0, 0, 2), value=3)


@pytest.mark.parametrize("name", case)
def test_replay_equals_eager(name: str) -> None:
    case.check(name)


def test_circular_convolution() -> None:
    torch.manual_seed(0)
    assert_same(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (1, 2, 5, 6))


def test_inplace_modules() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Hardswish(inplace=True), nn.Dropout(inplace=True)
    )
    assert_same(block, (3, 4))


# ---- refused --------------------------------------------------------------------------------------------------------


class Inner(nn.Module):
    """Writes where it must not."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("count", torch.zeros(4))
        self.cache = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "the input args[0]":
            x[:, 0] = 1
        elif self.what == "the parameter inner.weight":
            self.weight.data.mul_(2)
        elif self.what == "the buffer inner.count":
            self.count += 1
        elif self.what == "the buffer inner.count, traced":
            self.count.copy_(x[0])
        else:
            self.cache[1:].add_(x[0, 1:])
        return x + self.count


class Outer(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.inner = Inner(what)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize(
    ("what", "op"),
    [
        ("the input args[0]", "aten.fill_"),
        ("the parameter inner.weight", "aten.mul_"),
        ("the buffer inner.count", "aten.add_"),
        ("the buffer inner.count, traced", "aten.copy_"),
        ("the attribute inner.cache", "aten.add_"),
    ],
)
def test_write_to_what_outlives_the_call_is_refused(what: str, op: str) -> None:
    model = Outer(what)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(InplaceError) as error:
        traced(model, (3, 4))
    message = str(error.value)
    assert what.removesuffix(", traced") in message
    assert op in message
    assert "in inner, " in message
    assert f"{__file__}:" in message
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_write_through_an_expanded_view_is_refused() -> None:
    def fn(x: Tensor) -> Tensor:
        x = x * 1
        x.expand(3, 4).add_(1)
        return x

    with pytest.raises(InplaceError, match=r"aten\.add_.*expand.*"):
        traced(Of(fn), (1, 4))


def test_writing_values_at_a_traced_mask_is_refused() -> None:
    def fn(x: Tensor) -> Tensor:
        y = x * 1
        y[x > 0] = x[x > 0]
        return y

    with pytest.raises(DataDependentError, match="boolean mask"):
        traced(Of(fn), (3, 4))
