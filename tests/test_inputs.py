"""What a user may write of inputs that vary, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torch2edge.errors import ConfigError, InputError
from torch2edge.inputs import read_inputs
from torch2edge.shapes import Input

CPU = torch.device("cpu")
X = torch.zeros(8, 3, 32, 32)


def read(args: list[Any], kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
    return read_inputs(args, kwargs or {}, CPU, **options)


def ranges(dynamic: Any) -> dict[str, Any]:
    return {name: list(dim.ranges) for name, dim in dynamic.dims.items()}


def test_static_inputs_stay_as_they_are():
    args, kwargs, names, dynamic = read([X, 3, None], {"mask": X})
    assert args[0] is X
    assert args[1:] == [3, None]
    assert kwargs["mask"] is X
    assert names == ["args[0]", "kwargs['mask']"]
    assert not dynamic


def test_an_input_by_three_shapes():
    [x], _, names, dynamic = read([Input(min=(1, 3, 64), opt=(8, 3, 64), max=(16, 3, 64), dtype=torch.float16, name="image")])
    assert x.shape == (8, 3, 64)
    assert x.dtype == torch.float16
    assert names == ["image"]
    assert ranges(dynamic) == {"image.shape[0]": [(1, 8, 16)]}
    assert dynamic.axes == {0: {0: "image.shape[0]"}}


def test_names_are_shared_between_inputs():
    args, kwargs, _, dynamic = read(
        [{"a": Input(("batch", "len"), dims={"batch": (1, 2, 4), "len": (4, 8, 16)}, dtype=torch.int64, low=5, high=7)}],
        {"mask": Input(("batch", 1, "len"), dtype=torch.bool)},
    )
    assert args[0]["a"].shape == (2, 8)
    assert set(args[0]["a"].unique().tolist()) == {5, 6}
    assert kwargs["mask"].shape == (2, 1, 8)
    assert ranges(dynamic) == {"batch": [(1, 2, 4)], "len": [(4, 8, 16)]}
    assert dynamic.axes == {0: {0: "batch", 1: "len"}, 1: {0: "batch", 2: "len"}}


def test_several_profiles():
    _, _, _, dynamic = read([Input(min=[(1, 4), (8, 4)], opt=[(1, 4), (16, 4)], max=[(1, 4), (32, 4)])])
    assert ranges(dynamic) == {"args[0].shape[0]": [(1, 1, 1), (8, 16, 32)]}
    assert dynamic.profile_count == 2
    _, _, _, dynamic = read([X], dynamic={0: {0: [(1, 2, 4), (5, 8, 16)], 2: (8, 32, 64)}})
    assert ranges(dynamic) == {"args[0].shape[0]": [(1, 2, 4), (5, 8, 16)], "args[0].shape[2]": [(8, 32, 64)] * 2}


@pytest.mark.parametrize("key", [1, -1, "kwargs['mask']", "mask"])
def test_the_short_form_names_an_input(key):
    _, _, _, dynamic = read([X], {"mask": X}, dynamic={key: {-1: (1, 32, 64)}})
    assert dynamic.axes == {1: {3: "kwargs['mask'].shape[3]"}}


def test_the_short_form_with_names():
    _, _, _, dynamic = read([X, X], dynamic={0: {0: "b"}, 1: {0: "b", 3: (2, 32, 64)}}, dims={"b": (1, 8, 16)})
    assert dynamic.axes == {0: {0: "b"}, 1: {0: "b", 3: "args[1].shape[3]"}}


@pytest.mark.parametrize("shapes", [((1, 3, 32, 32), (16, 3, 32, 32)), ([(1, 3, 32, 32)], [(16, 3, 32, 32)])])
def test_min_and_max_shapes(shapes):
    _, _, _, dynamic = read([X], min_shapes=shapes[0], max_shapes=shapes[1])
    assert ranges(dynamic) == {"args[0].shape[0]": [(1, 8, 16)]}


def test_nested_shapes_and_several_profiles_of_them():
    nested = [{"a": X, "n": 3}, X]
    low = [{"a": [(1, 3, 32, 32), (4, 3, 32, 32)]}, (8, 3, 32, 32)]
    high = [{"a": [(2, 3, 32, 32), (8, 3, 32, 32)]}, (8, 3, 32, 32)]
    opt = [{"a": [(2, 3, 32, 32), (8, 3, 32, 32)]}, (8, 3, 32, 32)]
    _, _, _, dynamic = read(nested, min_shapes=low, max_shapes=high, opt_shapes=opt)
    assert ranges(dynamic) == {"args[0]['a'].shape[0]": [(1, 2, 2), (4, 8, 8)]}


REFUSED = [
    (lambda: Input(), "give either a shape"),
    (lambda: Input((1, 2), min=(1, 2)), "give either a shape"),
    (lambda: Input(min=(1, 2), max=(3, 2)), "opt is missing"),
    (lambda: Input(min=(1, 2)), "opt and max are missing"),
    (lambda: Input(min=(4, 2), opt=(4, 2), max=(3, 2)), "axis 0 of an Input: min 4 is larger than max 3"),
    (lambda: read([Input(min=(1, 2), opt=(9, 2), max=(3, 2), name="x")]), "Input 'x': opt 9 is not between min 1 and max 3"),
    (lambda: Input(min=(1, 2), opt=(1, 2, 3), max=(3, 2)), "shapes of 2 and 3 dimensions"),
    (lambda: Input(min=(0, 2), opt=(1, 2), max=(3, 2)), "smallest size is 0"),
    (lambda: Input(min=[(1, 2)], opt=[(1, 2), (2, 2)], max=[(3, 2)]), "1 for min, 2 for opt, 1 for max"),
    (lambda: Input(min="a", opt=(1,), max=(2,)), "neither a shape .* nor a list of shapes"),
    (lambda: Input((0, 2)), "holds 0"),
    (lambda: Input((1.5, 2)), r"holds 1\.5"),
    (lambda: Input(("b", 2), dims={"b": (3, 2, 1)}), "min 3 is larger than max 1"),
    (lambda: Input(("b", 2), dims={"b": (1, 2)}), r"dims\['b'\] is \(1, 2\); it must be \(min, opt, max\)"),
    (lambda: Input(("b", 2), dims={"b": 7}), "is 7; it must be"),
    (lambda: read([Input(("b", 2))]), "the dim 'b' has no range"),
    (lambda: read([Input(("b", 2), dims={"b": (1, 2, 3), "c": (1, 2, 3)})]), "dims names 'c', but no axis"),
    (lambda: read([Input(("b",), dims={"b": (1, 2, 3)}), Input(("b",), dims={"b": (1, 2, 4)})]), "it was given .* before"),
    (lambda: read([X], dynamic={1: {0: (1, 8, 16)}}), r"the input 1, but the tensors of the call are args\[0\]"),
    (lambda: read([X], dynamic={"y": {0: (1, 8, 16)}}), "the input 'y'"),
    (lambda: read([X], dynamic={0: {4: (1, 8, 16)}}), "has 4 dimensions, and no axis 4"),
    (lambda: read([X], dynamic={0: (1, 8, 16)}), r"write \{axis: \(min, opt, max\)\}"),
    (lambda: read([X], dynamic={0: {0: (8, 4, 16)}}), "opt 4 is not between min 8 and max 16"),
    (lambda: read([X], dynamic={0: {0: [(1, 8, 16), (1, 8, 8)], 2: [(1, 32, 32)] * 3}}), "has 2 ranges, but another"),
    (lambda: read([X], dynamic={0: {0: "b", 2: "b"}}, dims={"b": (1, 8, 64)}), r"axis 2 of args\[0\] is 32 .* axis 0 .* is 8"),
    (lambda: read([X], dynamic={0: {0: (1, 2, 4)}}), r"is 8 in the example, outside of its range: .* of 1 to 4"),
    (lambda: read([X], min_shapes=[(1, 3, 32, 32)]), "max_shapes is missing"),
    (lambda: read([X], min_shapes=[(1, 3, 32)], max_shapes=[(8, 3, 32)], opt_shapes=[(8, 3, 32)]), "has 4 dimensions"),
    (lambda: read([X], min_shapes=[(1, 3, 32, 32)] * 2, max_shapes=[(8, 3, 32, 32)]), "min_shapes has 2 items for 1"),
    (lambda: read([X, X], min_shapes=[(1, 3, 32, 32)], max_shapes=[(8, 3, 32, 32)] * 2), "min_shapes has no 1"),
    (lambda: read([X], min_shapes=[(1, 4, 32, 32)], max_shapes=[(8, 4, 32, 32)], opt_shapes=[(8, 4, 32, 32)]), " is 3 in"),
    (lambda: read([Input((1, 2))], min_shapes=[(1, 2)], max_shapes=[(1, 2)]), "an Input has its own"),
    (lambda: read([X], dynamic={0: {0: (1, 8, 16)}}, min_shapes=[(1, 3, 32, 32)], max_shapes=[(9, 3, 32, 32)]), "twice"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises((ConfigError, InputError), match=message):
        call()
