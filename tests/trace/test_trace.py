"""trace(): what one run of a model gives."""

from __future__ import annotations

import copy
import gc
import inspect
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from torch2edge.graph import Constant, Graph, Value
from torch2edge.structure import flatten, unflatten
from torch2edge.trace import trace

aten = torch.ops.aten
HERE = __file__
LEAVES = {  # recorded whole; all else is taken apart by PyTorch
    aten.conv2d.default, aten.batch_norm.default, aten.linear.default, aten.relu.default, aten.add.Tensor,
    aten.dropout.default, aten.embedding.default, aten.where.self, aten.max.dim,
}  # fmt: skip
Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Boxes:
    """A dataclass output, one field of which is no tensor."""

    scores: torch.Tensor
    labels: torch.Tensor | None = None
    names: tuple[str, ...] = ("cat", "dog")


class ModelOutput(OrderedDict[str, Any]):
    """What Hugging Face's ModelOutput is: an OrderedDict whose subclasses are dataclasses."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                self[name] = value


@dataclass
class Logits(ModelOutput):
    logits: torch.Tensor | None = None
    hidden: tuple[torch.Tensor, ...] | None = None
    loss: torch.Tensor | None = None


class Fn(nn.Module):
    """A function as a model."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)


def line_of(function: Callable[..., Any], text: str) -> str:
    """``file:line`` of the line of ``function`` that holds ``text``."""
    lines, start = inspect.getsourcelines(function)
    return f"{HERE}:{start + next(i for i, line in enumerate(lines) if text in line)}"


def run(model: nn.Module, *args: Any, **kwargs: Any) -> Graph:
    """The graph of a model; replayed on fresh inputs it must give what the model gives."""
    graph = trace(model, args, kwargs, is_leaf=LEAVES.__contains__)
    tensors, structure = flatten({"args": list(args), "kwargs": kwargs})
    for _ in range(2):
        fresh = [torch.randn_like(t) * 2 if t.is_floating_point() else t.flip(0) if t.dim() else t for t in tensors]
        call = unflatten(structure, fresh)
        with torch.no_grad():
            expected, expected_structure = flatten(model(*call["args"], **call["kwargs"]))
        assert graph.output_structure == expected_structure
        for given, wanted in zip(graph.replay(fresh), expected, strict=True):
            assert given.shape == wanted.shape
            torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-6)
    return graph


def image(batch: int = 1, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, 16, 16)


class Block(nn.Module):
    """Conv, norm, relu, and a method other than forward."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.norm.running_mean.uniform_(-1, 1)  # type: ignore[operator,union-attr]

    def extract(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.extract(x)


def test_ops_with_all_that_is_known_of_them() -> None:
    model = nn.Sequential(OrderedDict(stem=Block())).eval()
    graph = run(model, image(2))
    assert [(op.name, op.module) for op in graph.ops] == [
        ("aten.conv2d.default", "stem.conv"), ("aten.batch_norm.default", "stem.norm"), ("aten.relu.default", "stem"),
        ("aten.add.Tensor", "stem"),
    ]  # fmt: skip
    conv, norm, relu, add = graph.ops
    weight = conv.args[1]
    assert isinstance(weight, Constant)
    assert weight.name == "stem.conv.weight"
    assert weight.tensor is model.stem.conv.weight  # the very tensor: nothing is copied
    assert conv.source == norm.source == relu.source == line_of(Block.extract, "torch.relu")
    assert add.source == line_of(Block.forward, "x + self.extract")
    assert all(op.outputs[0] is not None and op.outputs[0].shape == (2, 3, 16, 16) for op in graph.ops)
    assert all(op.outputs[0] is not None and op.outputs[0].dtype == torch.float32 for op in graph.ops)
    assert add.args[0] is graph.inputs[0]
    assert graph.outputs == [add.outputs[0]]
    assert graph.modules == {"": "Sequential", "stem": "Block", "stem.conv": "Conv2d", "stem.norm": "BatchNorm2d"}
    assert graph.input_names == ["args[0]"]
    assert graph.output_names == ["output"]


def test_submodule_called_through_another_method() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Block()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net.extract(x)

    graph = run(Outer().eval(), image())
    assert [op.module for op in graph.ops][:2] == ["net.conv", "net.norm"]
    assert graph.ops[-1].source == line_of(Block.extract, "torch.relu")


def test_shared_submodule_called_twice() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = self.a

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x)))

    graph = run(Shared().eval(), torch.randn(2, 4))
    assert [op.module for op in graph.ops] == ["a", "", "a"]
    assert graph.ops[0].args[1].tensor is graph.ops[2].args[1].tensor


def test_containers_of_modules() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
            self.heads = nn.ModuleDict({"a": nn.Linear(4, 2), "b": nn.Sequential(nn.ReLU(), nn.Linear(4, 3))})

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            for block in self.blocks:
                x = block(x)
            return {name: head(x) for name, head in self.heads.items()}

    graph = run(Net().eval(), torch.randn(2, 4))
    assert [op.module for op in graph.ops] == ["blocks.0", "blocks.1", "heads.a", "heads.b.0", "heads.b.1"]
    assert graph.output_names == ["output['a']", "output['b']"]


@dataclass
class Batch:
    x: torch.Tensor
    scale: float = 2.0


@pytest.mark.parametrize(
    ("fn", "args", "kwargs", "names"),
    [
        (lambda p: (p[0] + p[1][0], [p[1][1]]), ((torch.ones(2), [torch.ones(2), torch.ones(3)]),), {},
         ["args[0][0]", "args[0][1][0]", "args[0][1][1]"]),
        (lambda d: {"out": d["a"] + d["b"]["c"], 7: d["a"]}, ({"a": torch.ones(2), "b": {"c": torch.ones(2)}},), {},
         ["args[0]['a']", "args[0]['b']['c']"]),
        (lambda p: Pair(p.right, p.left), (Pair(torch.ones(2), torch.ones(3)),), {}, ["args[0].left", "args[0].right"]),
        (lambda b: Boxes(b.x + b.scale, b.x), (Batch(torch.ones(2)),), {}, ["args[0].x"]),
        (lambda x: Logits(logits=x + 1, hidden=(x, torch.relu(x))), (torch.ones(2),), {}, ["args[0]"]),
        (lambda d: OrderedDict(b=d["a"], a=d["b"] + 1), (OrderedDict(a=torch.ones(2), b=torch.ones(2)),), {},
         ["args[0]['a']", "args[0]['b']"]),
        (lambda x, *, mask, mode: x + mask if mode == "add" else x, (torch.ones(2),), {"mask": torch.ones(2), "mode": "add"},
         ["args[0]", "kwargs['mask']"]),
        (lambda x, y=None, k=3, name="n": (x + k, y, name), (torch.ones(2), None), {"k": 5}, ["args[0]"]),
        (lambda x: torch.max(x, 1), (torch.ones(2, 3),), {}, ["args[0]"]),
    ],
)  # fmt: skip
def test_nested_inputs_and_outputs(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str]) -> None:
    graph = run(Fn(fn).eval(), *args, **kwargs)
    assert graph.input_names == names


def test_classes_of_a_function_come_back() -> None:
    @dataclass
    class Local:
        y: torch.Tensor

    result = trace(Fn(lambda x: Local(x)).eval(), [torch.ones(2)], is_leaf=LEAVES.__contains__)
    back = unflatten(result.output_structure, result.replay([torch.zeros(2)]))
    assert type(back) is Local


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_every_precision(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval().to(dtype)
    graph = trace(model, [image().to(dtype)], is_leaf=LEAVES.__contains__)
    assert {op.outputs[0].dtype for op in graph.ops if op.outputs[0] is not None} == {dtype}
    assert {c.dtype for op in graph.ops for c in op.args if isinstance(c, Constant)} == {dtype}


def test_integer_and_bool_inputs() -> None:
    table = nn.Embedding(10, 4).eval()
    model = Fn(lambda ids, keep: torch.where(keep, table(ids), torch.zeros(())))
    graph = run(model.eval(), torch.tensor([1, 5, 9]), torch.tensor([[True], [False], [True]]))
    assert [v.dtype for v in graph.inputs] == [torch.int64, torch.bool]


def test_what_depends_on_no_input_is_a_constant() -> None:
    def grid(x: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(x.shape[1], dtype=x.dtype)
        mask = torch.zeros(x.shape[1])
        mask[2:] = 1
        return x + steps * mask

    graph = run(Fn(grid).eval(), torch.randn(2, 5))
    assert [op.name for op in graph.ops] == ["aten.add.Tensor"]
    assert graph.ops[0].args[1].tensor.tolist() == [0, 0, 2, 3, 4]


def test_dead_ops_and_unused_inputs() -> None:
    def dead(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        (y * 3).sum()
        return torch.relu(x)

    graph = run(Fn(dead).eval(), torch.ones(2), torch.ones(3))
    assert [op.name for op in graph.ops] == ["aten.relu.default"]
    assert graph.unused_inputs() == [1]


def test_outputs_that_are_inputs_constants_or_the_same() -> None:
    graph = run(Fn(lambda x: (x, x, torch.ones(2), (y := x + 1), y)).eval(), torch.randn(2))
    assert graph.outputs[0] is graph.outputs[1] is graph.inputs[0]
    assert isinstance(graph.outputs[2], Constant)
    assert isinstance(graph.outputs[3], Value)
    assert graph.outputs[3] is graph.outputs[4]


def test_custom_autograd_function_is_traced_through_its_forward() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x + torch.relu(x)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return grads[0]

    graph = run(Fn(lambda x: Square.apply(x)).eval(), torch.randn(3))
    assert [op.name for op in graph.ops] == ["aten.relu.default", "aten.add.Tensor"]


def test_python_on_shapes_and_dtypes_is_fine() -> None:
    def shapes(x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] > 1 and x.dtype == torch.float32 and x.dim() == 2 and len(x) == x.size(0):
            x = x + x.numel()
        return copy.deepcopy(x) + 1

    run(Fn(shapes).eval(), torch.randn(2, 3))


def test_dropout_that_draws_nothing() -> None:
    run(nn.Sequential(nn.Dropout(0.5), nn.ReLU()).eval(), torch.randn(3))
    run(Fn(lambda x: F.dropout(x, 0.0) + 1).eval(), torch.randn(3))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_inside_any_grad_mode(mode: Any) -> None:
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        graph = trace(Block().eval(), [image()], is_leaf=LEAVES.__contains__)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    assert len(graph.ops) == 4


def test_weights_are_never_copied() -> None:
    """No op of the tracing gives a tensor of the size of the weights that has memory."""
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)).eval()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    allocated: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for t in [result] if isinstance(result, torch.Tensor) else []:
                real = t.device.type != "meta" and type(t) in (torch.Tensor, nn.Parameter)
                if real and t.numel() >= 512 * 512 and t.untyped_storage().data_ptr() not in weights:
                    allocated.append(str(func))
            return result

    with Watch():
        graph = trace(model, [torch.randn(1, 512)], is_leaf=LEAVES.__contains__)
    assert allocated == []
    held = {id(c.tensor) for op in graph.ops for c in op.args if isinstance(c, Constant)}
    assert held == {id(p) for p in model.parameters()}


def test_no_traced_tensor_survives() -> None:
    from torch2edge.trace.tensor import Traced

    graph = trace(Block().eval(), [image()], is_leaf=LEAVES.__contains__)
    gc.collect()
    assert not [o for o in gc.get_objects() if type(o) is Traced]
    assert graph.ops
