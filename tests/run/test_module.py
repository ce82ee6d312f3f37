"""EdgeModule as a drop-in: its inputs, its outputs, and what nn.Module promises. The reference executor computes."""

from __future__ import annotations

import copy
import io
import pickle
import threading
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import torch2edge
from torch2edge import EdgeModule, EngineFileError, ExecutionError, InputError, ReferenceWarning, structure
from torch2edge._trt import why_not_executable

pytestmark = [
    pytest.mark.skipif(not why_not_executable(), reason="here TensorRT executes: tests/run/test_gpu.py has its tests"),
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
]

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Found:
    boxes: torch.Tensor
    scores: list[torch.Tensor]
    name: str = "found"


class Attributes(dict[str, Any]):
    """A dict whose keys are attributes too; many configurations and outputs are one."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Fn(nn.Module):
    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)


class Net(nn.Module):
    """Two tensors, a keyword and defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor, scale: float = 1.0, extra: torch.Tensor | None = None) -> Any:
        z = self.fc(x + y)
        return {"z": z if extra is None else z + extra, "scale": scale}


def drop_in(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> EdgeModule:
    """Convert ``fn``; it must give for ``args`` what ``fn`` gives: structure, dtypes, values."""
    module = torch2edge.convert(Fn(fn).eval(), args, kwargs)
    same(module(*args, **kwargs), fn(*args, **kwargs))
    return module


def same(given: Any, expected: Any) -> None:
    assert type(given) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert (given.shape, given.dtype, given.device) == (expected.shape, expected.dtype, expected.device)
        torch.testing.assert_close(given, expected)
    elif isinstance(expected, dict):
        assert list(given) == list(expected)
        for key in expected:
            same(given[key], expected[key])
    elif isinstance(expected, (tuple, list)):
        assert len(given) == len(expected)
        for a, b in zip(given, expected):
            same(a, b)
    elif hasattr(expected, "__dict__"):
        same(vars(given), vars(expected))
    else:
        assert given == expected


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def engine(net: Net) -> EdgeModule:
    return torch2edge.convert(net, [torch.randn(2, 4), torch.randn(2, 4)])


X, Y = torch.randn(2, 4), torch.randn(2, 4)


@pytest.mark.parametrize(
    ("args", "kwargs", "parts"),
    [
        ((X,), {}, ["converted for 2 tensors, module(tensor, tensor)", "called with 1 tensor, module(tensor)"]),
        ((), {}, ["called with 0 tensors, module()"]),
        ((X, Y, X), {}, ["called with 3 tensors"]),
        ((X, Y, 1.0, None, 3), {}, ["module(tensor, tensor, 1.0, None, 3)"]),
        ((X, [Y]), {}, ["module(tensor, [tensor])"]),
        ((X, Y), {"mask": Y}, ["mask=tensor"]),
        ((X, Y), {"extra": Y}, ["extra=tensor"]),
        ((X, Y), {"scale": 2.0}, ["scale=2.0"]),
        ((X, Y), {"x": Y}, ["x=tensor"]),
        ((X, "y"), {}, ["module(tensor, 'y')"]),
        ((X, object()), {}, ["object"]),
        ((X[:1], Y), {}, ["args[0] is torch.float32 (1, 4)", "built for torch.float32 (2, 4)", "Convert the model"]),
        ((X, Y[..., None]), {}, ["args[1] is torch.float32 (2, 4, 1)"]),
        ((X.half(), Y), {}, ["args[0] is torch.float16 (2, 4)"]),
        ((X, Y.long()), {}, ["args[1] is torch.int64"]),
        ((X.to("meta"), Y), {}, ["args[0]", "meta", "CUDA or CPU"]),
        ((X, Y.to_sparse()), {}, ["args[1]", "sparse", "dense"]),
    ],
)
def test_wrong_inputs(engine: EdgeModule, args: tuple[Any, ...], kwargs: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        engine(*args, **kwargs)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_arguments_by_position_or_by_name(net: Net, engine: EdgeModule) -> None:
    expected = net(X, Y)
    for args, kwargs in [
        ((X, Y), {}), ((X,), {"y": Y}), ((), {"y": Y, "x": X}), ((X, Y, 1.0), {}), ((X, Y, 1.0, None), {}),
        ((X, Y), {"scale": 1.0, "extra": None}),
    ]:  # fmt: skip
        torch.testing.assert_close(engine(*args, **kwargs)["z"], expected["z"])
    by_name = torch2edge.convert(net, [X], {"extra": torch.randn(2, 3), "y": Y, "scale": 2.0})
    extra = torch.randn(2, 3)
    expected = net(X, Y, 2.0, extra)
    for args, kwargs in [
        ((X, Y, 2.0, extra), {}), ((), {"scale": 2.0, "extra": extra, "x": X, "y": Y}),
        ((X, Y), {"scale": 2.0, "extra": extra}),
    ]:  # fmt: skip
        given = by_name(*args, **kwargs)
        torch.testing.assert_close(given["z"], expected["z"])
        assert given["scale"] == 2.0
    with pytest.raises(InputError, match=r"scale=1\.0"):
        by_name(X, Y, extra=extra)
    with pytest.raises(InputError, match="called with"):
        by_name(X, Y, 2.0, None)


def test_dicts_in_any_order() -> None:
    module = drop_in(lambda d: d["a"] + d["b"][0]["c"], {"a": X, "b": [{"c": Y, "d": X}]})
    same(module({"b": [{"d": X, "c": Y}], "a": X}), X + Y)


def test_dicts_of_their_own_class() -> None:
    module = drop_in(lambda d: Attributes(z=d.x + d.y), Attributes(x=X, y=Y))
    assert module(Attributes(x=X, y=Y)).z.shape == (2, 4)


def test_plain_arguments_are_fixed_with_their_type() -> None:
    module = drop_in(lambda x, n: x + n, X, 1)
    for other in (True, 1.0, 2, None):
        with pytest.raises(InputError, match="called with"):
            module(X, other)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: (x + 1, [torch.relu(x)]),
        lambda x: {"a": x + 1, 3: {"b": torch.relu(x), "n": None, "s": "text", "f": 1.5}},
        lambda x: OrderedDict(b=x + 1, a=torch.relu(x)),
        lambda x: Pair(x + 1, Pair(torch.relu(x), 4)),
        lambda x: Found(x + 1, [torch.relu(x)]),
        lambda x: Attributes(y=x + 1),
        lambda x: x,
        lambda x: [x, x, x + 1],
        lambda x: (torch.arange(3), torch.ones(2, 2), x + 1),
        lambda x: torch.arange(5),
        lambda x: [y := x + 1, y, y],
        lambda x: torch.relu(x).T,
        lambda x: (torch.relu(x), torch.relu(x).shape[0]),
    ],
)
def test_outputs_in_the_original_structure(fn: Callable[..., Any]) -> None:
    drop_in(fn, X)


def test_outputs_do_not_share_memory_with_inputs_or_each_other() -> None:
    module = drop_in(lambda x: [x, x, torch.ones(2, 4)], X)
    x = X.clone()
    first, second, constant = module(x)
    first.add_(1)
    constant.add_(1)
    assert torch.equal(x, X)
    assert torch.equal(second, X)
    assert torch.equal(module(x)[2], torch.ones(2, 4))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_integers(dtype: torch.dtype) -> None:
    ids = torch.tensor([[3, 1, 2]], dtype=dtype)
    table = torch.randn(5, 4)
    drop_in(lambda i: (table[i], i), ids)


def test_bools() -> None:
    keep = torch.tensor([[True, False, True, False]])
    drop_in(lambda x, k: (torch.where(k, x, x + 1), k), X, keep)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half(dtype: torch.dtype) -> None:
    module = torch2edge.convert(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval().to(dtype), [X.to(dtype)])
    assert module(X.to(dtype)).dtype == dtype
    report = module.report
    assert report is not None
    assert report.precision == {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]


def test_ignored_input_is_checked_and_told() -> None:
    module = drop_in(lambda x, y: torch.relu(x), X, Y)
    assert module.report is not None
    assert any("args[1]" in note and "no output depends" in note for note in module.report.notes)
    with pytest.raises(InputError, match=r"args\[1\]"):
        module(X, Y[:1])


def test_inputs_of_any_strides(net: Net, engine: EdgeModule) -> None:
    wide = torch.randn(2, 8)
    for x, y in [(X.T.contiguous().T, Y), (X[:1].expand(2, 4), Y), (wide[:, ::2], Y), (X, wide[:, 1:5])]:
        torch.testing.assert_close(engine(x, y)["z"], net(x, y)["z"].detach())
    image = torch.randn(2, 3, 8, 8)
    conv = nn.Conv2d(3, 4, 3).eval()
    for example in (image, image.to(memory_format=torch.channels_last)):
        module = torch2edge.convert(conv, [example])
        for x in (image, image.to(memory_format=torch.channels_last)):
            torch.testing.assert_close(module(x), conv(x).detach(), rtol=1e-4, atol=1e-5)


def test_warns_once_per_module(net: Net) -> None:
    for _ in range(2):
        module = torch2edge.convert(net, [X, Y])
        with pytest.warns(ReferenceWarning, match="no NVIDIA GPU.*reference executor.*built with TensorRT") as seen:
            module(X, Y)
        assert seen[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            module(X, Y)


def test_empty() -> None:
    module = EdgeModule()
    with pytest.raises(ExecutionError, match="empty: load a state dict"):
        module(X)
    with pytest.raises(EngineFileError, match="nothing to save"):
        module.save("never.engine")
    assert module.report is None
    assert "empty" in repr(module)
    again = EdgeModule()
    again.load_state_dict(module.state_dict())
    assert again.report is None


def equal(a: EdgeModule, b: EdgeModule) -> None:
    assert a._plan == b._plan
    assert a.metadata == b.metadata
    assert str(a.report) == str(b.report)
    assert "built with TensorRT" in repr(b)


@pytest.mark.parametrize("nested", [False, True])
def test_state_dict(engine: EdgeModule, nested: bool, tmp_path: Path) -> None:
    source = nn.Sequential(nn.Linear(4, 4), nn.Sequential(engine)) if nested else engine
    target = nn.Sequential(nn.Linear(4, 4), nn.Sequential(EdgeModule())) if nested else EdgeModule()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    state = torch.load(tmp_path / "weights.pth", weights_only=True)
    assert ("1.0._extra_state" if nested else "_extra_state") in state
    assert target.load_state_dict(state, strict=True).missing_keys == []
    loaded = target[1][0] if nested else target  # type: ignore[index]
    equal(engine, loaded)
    assert source.state_dict(prefix="p.").keys() == {f"p.{k}" for k in state}


@pytest.mark.parametrize(
    ("state", "what"),
    [
        (torch.zeros(40, dtype=torch.uint8), "not saved by torch2edge"),
        (torch.zeros(0, dtype=torch.uint8), "not saved by torch2edge"),
        (torch.zeros(40), r"torch\.float32 where the bytes"),
        ({"a": 1}, "dict where the bytes"),
    ],
)
def test_foreign_state(state: Any, what: str) -> None:
    with pytest.raises(EngineFileError, match=what):
        EdgeModule().load_state_dict({"_extra_state": state})


def test_loading_over_a_module_replaces_it(net: Net, engine: EdgeModule) -> None:
    module = torch2edge.convert(nn.ReLU().eval(), [torch.ones(3)])
    module.load_state_dict(engine.state_dict())
    equal(engine, module)
    with pytest.raises(ExecutionError, match="cannot run here: no NVIDIA GPU"):
        module(X, Y)


def test_copies_and_pickles(net: Net, engine: EdgeModule) -> None:
    copied = copy.deepcopy(nn.Sequential(engine))[0]
    equal(engine, copied)
    assert copied.metadata is not engine.metadata
    torch.testing.assert_close(copied(X, Y)["z"], net(X, Y)["z"].detach())
    buffer = io.BytesIO()
    torch.save(nn.Sequential(engine), buffer)
    buffer.seek(0)
    equal(engine, torch.load(buffer, weights_only=False)[0])
    equal(engine, pickle.loads(pickle.dumps(engine)))


def test_a_pickle_for_another_tensorrt_is_refused(engine: EdgeModule) -> None:
    other = EdgeModule(engine._plan, {**engine.metadata, "version": "1.0.0", "title": "TensorRT-RTX 1.0.0"})
    with pytest.raises(EngineFileError, match=r"pickled EdgeModule was built with TensorRT-RTX 1\.0\.0"):
        pickle.loads(pickle.dumps(other))


def test_what_can_be_done_to_a_module(net: Net) -> None:
    module = torch2edge.convert(net, [X, Y])
    expected = net(X, Y)["z"].detach()
    changes: list[Callable[[], Any]] = [
        module.eval, module.train, lambda: module.to("cpu"), module.half, module.float, lambda: module.requires_grad_(False),
        module.cpu, module.zero_grad, lambda: module.apply(lambda m: None), lambda: module.to(torch.bfloat16),
    ]  # fmt: skip
    for change in changes:
        change()
        torch.testing.assert_close(module(X, Y)["z"], expected)
    assert list(module.parameters()) == []
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            torch.testing.assert_close(module(X, Y)["z"], expected)
    x = X.clone().requires_grad_()
    assert not module(x, Y)["z"].requires_grad


def test_inside_a_bigger_module(net: Net) -> None:
    inner = torch2edge.convert(nn.Linear(4, 4).eval(), [X])
    outer = nn.Sequential(nn.ReLU(), inner, nn.ReLU())
    assert outer(X).shape == (2, 4)
    calls: list[int] = []
    inner.register_forward_hook(lambda m, args, out: calls.append(1))
    outer(X)
    assert calls == [1]


def test_several_threads(net: Net, engine: EdgeModule) -> None:
    module, failures, warned = torch2edge.convert(net, [X, Y]), [], []

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(5):
            x, y = torch.randn(2, 4, generator=generator), torch.randn(2, 4, generator=generator)
            if not torch.allclose(module(x, y)["z"], net(x, y)["z"], atol=1e-5):
                failures.append(seed)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(60)
        warned = [w for w in caught if w.category is ReferenceWarning]
    assert failures == []
    assert len(warned) == 1


def test_structures_are_the_same_whatever_the_order_of_their_own_keys() -> None:
    """A header may come from elsewhere; the order of a dict's keys still counts."""
    _, described = structure.flatten({"a": torch.zeros(1), "b": (None, 1)})
    assert structure.same(described, dict(reversed(list(described.items()))))
    assert not structure.same(described, structure.flatten({"b": (None, 1), "a": torch.zeros(1)})[1])
    assert not structure.same(structure.flatten((1,))[1], structure.flatten((1.0,))[1])


@pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning")
@pytest.mark.parametrize("options", [{}, {"refittable": True}, {"keep_network": True}, {"cache": True}], ids=str)
def test_the_model_may_be_written_to(options: dict[str, Any], tmp_path: Path) -> None:
    """Its weights in the engine do not change, nor in the network that computes or is compared in its place."""
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Conv1d(3, 3, 1)).eval(), torch.randn(2, 3, 4)
    options, weights = {"cache_dir": tmp_path} if "cache" in options else options, copy.deepcopy(model.state_dict())
    for _ in range(2):  # with a cache the second is a hit
        module = torch2edge.convert(model, [x], **options)
        assert isinstance(module, torch2edge.EdgeModule)
        modules = [module, *([module.refitted(model)] if "refittable" in options else [])]
        before = [m(x).clone() for m in modules]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2).add_(1)
        for m, was in zip(modules, before):
            torch.testing.assert_close(m(x), was, rtol=0, atol=0)
        if module.network is not None:
            given = torch2edge.compare(model, module, [x])
            assert "nothing is at fault" not in given.verdict
        model.load_state_dict(weights)
