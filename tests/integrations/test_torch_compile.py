"""torch.compile(backend="torch2edge"): graphs become engines or stay eager, and the report counts both."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from support.torch_features import INLINING
from torch import nn
from torch._dynamo.backends.common import aot_autograd

import torch2edge
from torch2edge.errors import ConfigError
from torch2edge.integrations import torch_compile
from torch2edge.integrations.torch_compile import EagerWarning

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Dynamo's own
]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.norm.running_mean.normal_()

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


class Half(nn.Module):
    """The second graph, behind a break, has an op without a converter."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = self.fc(x).relu()
        torch._dynamo.graph_break()
        return torch.special.bessel_j0(x)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    torch_compile.reset()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def calls() -> list[tuple[int, int, int]]:
    return [(g.engines, g.by_engine, g.by_eager) for g in torch_compile.report().graphs]


def close(given, expected) -> None:
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inline", INLINING, ids=lambda inline: f"parameters are {'inputs' if inline else 'attributes'}")
def test_a_model_is_one_engine(x, inline):
    model = Small().eval()
    other = torch._dynamo.config.patch(inline_inbuilt_nn_modules=inline) if len(INLINING) > 1 else contextlib.nullcontext()
    with torch.no_grad(), other:
        compiled = torch.compile(model, backend="torch2edge")
        for seed in range(3):
            fresh_x = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
            close(compiled(fresh_x), model(fresh_x))
    assert calls() == [(1, 3, 0)]
    engine = torch_compile.report().engines["0/0"]
    assert isinstance(engine, torch2edge.Report)
    assert engine.check[0].passed
    assert sum(m.layers for m in engine.modules) <= 16  # the parameters are constants: no input for each


def test_graphs_of_aot_autograd(x):
    model = Small().eval()
    with torch.no_grad():
        compiled = torch.compile(model, backend=aot_autograd(fw_compiler=torch_compile.backend))
        close(compiled(x), model(x))
        close(compiled(x * 2), model(x * 2))
    assert calls() == [(1, 2, 0)]


def test_what_does_not_convert_is_eager():
    model, x = Half().eval(), torch.randn(2, 4)
    compiled = torch.compile(model, backend="torch2edge")
    with torch.no_grad(), pytest.warns(EagerWarning, match=r"graph 1 runs eagerly: UnsupportedOpError.*\n.*special_bessel_j0"):
        close(compiled(x), model(x))
    assert calls() == [(1, 1, 0), (0, 0, 1)]
    text = str(torch_compile.report())
    assert text.startswith("1 of 2 graphs have an engine")
    assert "special_bessel_j0" in text
    data = torch_compile.report().to_dict()
    assert (data["converted"], data["graphs"][1]["by_eager"], list(data["engines"])) == (1, 1, ["0/0"])


def test_gradients_are_eager(x):
    model = Small().eval()
    compiled = torch.compile(model, backend="torch2edge")
    with pytest.warns(EagerWarning, match="where gradients are recorded"):
        compiled(x).sum().backward()
    assert model.fc.weight.grad is not None
    assert calls() == [(0, 0, 1)]


def test_changed_weights_are_seen(x):
    model = Small().eval()
    compiled = torch.compile(model, backend="torch2edge")
    with torch.no_grad():
        before = compiled(x)
        model.fc.weight.mul_(2)
        with pytest.warns(EagerWarning, match="a parameter or buffer was written to"):
            after = compiled(x)
        close(after, model(x))
        assert not torch.allclose(before, after)
        model.fc.weight = nn.Parameter(model.fc.weight * 3)
        close(compiled(x), model(x))


def test_other_shapes_get_their_own_engine(x):
    model = Small().eval()
    compiled = torch.compile(model, backend="torch2edge", dynamic=True)
    with torch.no_grad():
        for batch in (2, 3, 4, 3):
            close(compiled(x[:1].repeat(batch, 1, 1, 1)), model(x[:1].repeat(batch, 1, 1, 1)))
        assert calls() == [(3, 4, 0)]
        compiled(x[:1].repeat(5, 1, 1, 1))
        with pytest.warns(EagerWarning, match="more than 4 combinations of input shapes"):
            close(compiled(x[:1].repeat(6, 1, 1, 1)), model(x[:1].repeat(6, 1, 1, 1)))
    assert calls() == [(4, 5, 1)]


def test_buffers_that_the_forward_writes_to_are_eager():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x):
            self.count += 1
            return x * self.count

    model, x = Counts().eval(), torch.ones(3)
    compiled = torch.compile(model, backend="torch2edge")
    with torch.no_grad(), pytest.warns(EagerWarning, match="InplaceError"):
        assert [compiled(x)[0].item() for _ in range(3)] == [1, 2, 3]


def test_options_are_converts(x):
    model = Small().eval()
    with torch.no_grad():
        torch.compile(model, backend="torch2edge", options={"verify": False, "optimization_level": 0})(x)
    assert torch_compile.report().engines["0/0"].checked_by == ""
    graph = torch.fx.symbolic_trace(nn.ReLU())
    for options in ({"precision": "int8"}, {"fallback": "torch"}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))} unknown; known are fp16"):
            torch_compile.backend(graph, [x], options=options)


def test_it_is_found_by_its_entry_point():
    text = (Path(__file__).parent.parent.parent / "pyproject.toml").read_text()
    entry = 'torch2edge = "torch2edge.integrations.torch_compile:backend"'
    assert f"[project.entry-points.torch_dynamo_backends]\n{entry}\n" in text
    assert "torch2edge" in torch._dynamo.list_backends()
