"""observe(): what submodules are called with in a real run, and that nothing of the run stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torch2edge.errors import InputError
from torch2edge.trace.calls import observe, signature


def seen(model: nn.Module, *args, **kwargs):
    return observe(model.eval(), args, kwargs)


def test_calls_ops_and_flops():
    model = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.ReLU())
    found = seen(model, torch.randn(1, 2, 4, 4))
    assert {path: (len(s.calls), s.ops, s.flops) for path, s in found.items()} == {
        "": (1, 0, 0), "0": (1, 1, 2 * 2 * 3 * 16), "1": (1, 1, 0)
    }  # fmt: skip
    call = found["0"].calls[0]
    assert (call.inputs, call.outputs, call.shown) == ((1, 128), (1, 192), "1x2x4x4")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_signatures_tell_shapes_dtypes_and_plain_values():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            first = self.inner(x, 1), self.inner(x, scale=1), self.inner(x * 2, 1)
            return first, self.inner(x.double(), 1), self.inner(x, 2), self.inner(x[:1], 1)

    class Inner(nn.Module):
        def forward(self, x, scale):
            return x * scale

    calls = seen(Twice(), torch.randn(2, 2))["inner"].calls
    assert calls[0].signature == calls[2].signature
    assert len({c.signature for c in calls}) == 5


def test_objects_in_the_arguments_are_a_problem():
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            return self.inner(slice(0, 1), x)

    class Inner(nn.Module):
        def forward(self, where, x):
            return x[where]

    assert "args[0] is a builtins.slice" in seen(Outer(), torch.randn(2))["inner"].calls[0].problem


class Keeps(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.count, self.items, self.last = what, 0, [1], None
        self.register_buffer("state", torch.zeros(1))

    def forward(self, x):
        if self.what == "count":
            self.count += 1
        elif self.what == "items":
            self.items.append(2)
        elif self.what == "same":
            self.items, self.count = [1], 0
        elif self.what == "last":
            self.last = x
        elif self.what == "state":
            self.state.add_(0)
        return x


@pytest.mark.parametrize("what", ["count", "items", "last", "state"])
def test_attributes_that_change_are_told_and_put_back(what):
    model = Keeps(what).eval()
    assert seen(model, torch.randn(2))[""].changed == [what]
    assert (model.count, model.items, model.last) == (0, [1], None)


@pytest.mark.parametrize("what", ["same", "nothing"])
def test_an_equal_value_is_no_change(what):
    assert seen(Keeps(what), torch.randn(2))[""].changed == []


def test_writes_through_an_output():
    class Writes(nn.Module):
        def __init__(self, write: bool) -> None:
            super().__init__()
            self.view, self.write = nn.Flatten(), write

        def forward(self, x):
            x = x + 1
            y = self.view(x)
            return (y.add_(1) if self.write else y + 1), x

    assert seen(Writes(True), torch.randn(1, 2, 2))["view"].written_afterwards()
    assert not seen(Writes(False), torch.randn(1, 2, 2))["view"].written_afterwards()


def test_a_model_that_fails_says_so():
    with pytest.raises(InputError, match=r"the model does not run on these inputs: RuntimeError: .*mat1 and mat2"):
        seen(nn.Linear(2, 2), torch.randn(1, 3))


def test_the_signature_of_arguments_is_that_of_their_call():
    model, x = nn.Sequential(nn.Linear(3, 2)).eval(), torch.randn(4, 3)
    seen = observe(model, [x], {})["0"].calls[0]
    assert signature((torch.randn(4, 3),), {}) == seen.signature
    for other in ((x[:2],), (x.double(),), ([x],), (x, 1)):
        assert signature(other, {}) != seen.signature
    assert signature((x,), {"scale": 1}) != seen.signature
    assert signature((object(),), {}) == ""
