"""What an engine file says of its network, so that an engine that was loaded can be refitted."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.refits import image_net, trained
from torch import nn

import torch2edge
from torch2edge import ConfigError, InputError
from torch2edge._trt import why_not_executable
from torch2edge.lower import registry
from torch2edge.recipe import Recipe, from_text, to_text

pytestmark = [
    pytest.mark.skipif(not why_not_executable(), reason="here TensorRT executes: tests/run/test_refit_gpu.py has its tests"),
    pytest.mark.filterwarnings("ignore::torch2edge.ReferenceWarning"),
]


@pytest.fixture
def net() -> nn.Module:
    return image_net().eval()


@pytest.fixture
def engine(net: nn.Module) -> torch2edge.EdgeModule:
    return torch2edge.convert(net, [torch.randn(2, 3, 8, 8)], refittable=True)


def recipe_of(engine: torch2edge.EdgeModule) -> Recipe:
    return engine._refit.args[0]


def read_again(engine: torch2edge.EdgeModule) -> Recipe:
    """The recipe out of a text; with the model of the conversion, for without a GPU only what knows it can be refitted."""
    return replace(from_text(to_text(recipe_of(engine)), registry()), skeleton=recipe_of(engine).skeleton)


@pytest.mark.parametrize(
    "options",
    [{}, {"fp16": True, "precisions": {"0": "fp32"}}, {"io_dtype": torch.float16}, {"dynamic": {0: {0: (1, 2, 4)}}}],
    ids=str,
)
def test_it_leads_to_the_same_network(net: nn.Module, options: dict[str, Any]) -> None:
    x = torch.randn(2, 3, 8, 8)
    engine = torch2edge.convert(net, [x], refittable=True, **options)
    read = read_again(engine)
    assert read.example == []
    assert (read.network, read.digests) == (recipe_of(engine).network, recipe_of(engine).digests)
    engine._refit = functools.partial(engine._refit.func, read)
    new = trained(net)
    with pytest.raises(InputError, match=r"has no example any more: give inputs=\[x\]"):
        engine.refit(new)
    with pytest.raises(InputError, match=r"has the shape \[2, 3, 8, 9\], but the engine takes"):
        engine.refit(new, [torch.randn(2, 3, 8, 9)])
    with pytest.raises(InputError, match=r"the inputs are .*but the module was converted for"):
        engine.refit(new, [x, x])
    engine.refit(new, torch.randn(2, 3, 8, 8))
    dtype = options.get("io_dtype", torch.float32)
    with torch.no_grad():
        expected, given = new(x), engine(x.to(dtype)).float()
    assert float((given - expected).norm() / expected.norm()) < (1e-5 if options.keys() <= {"dynamic"} else 5e-3)


def test_int8_ranges() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 6)).eval()
    x = torch.randn(4, 3, 8, 8)
    engine = torch2edge.convert(model, [x], int8=True, calibration=[torch.randn_like(x) for _ in range(8)], refittable=True)
    other, new = copy.deepcopy(engine), trained(model, 0.02)
    other._refit = functools.partial(engine._refit.func, read_again(engine))
    other.refit(new, [x])
    assert "random batch in the ranges" in other.report.check[0].trial
    engine.refit(new)
    assert torch.equal(engine(x), other(x))


def test_a_text_that_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match=r"cannot be read.*Convert the model again"):
        from_text("no recipe", registry())


def test_a_loaded_engine_needs_a_gpu(net: nn.Module, engine: torch2edge.EdgeModule, tmp_path: Path) -> None:
    engine.metadata["recipe"] = to_text(recipe_of(engine))  # as where TensorRT executes
    engine.save(tmp_path / "net.engine")
    loaded = torch2edge.load(tmp_path / "net.engine")
    with pytest.raises(torch2edge.ExecutionError, match="refitted where it can run, but no NVIDIA GPU"):
        loaded.refit(net, [torch.randn(2, 3, 8, 8)])
    with pytest.raises(ConfigError, match="has no model to load a state dict into"):
        loaded.refit(net.state_dict())
    fresh = torch2edge.EdgeModule()
    fresh.load_state_dict(engine.state_dict())
    with pytest.raises(ConfigError, match="not the model that the engine was built from"):
        fresh.refit(nn.Sequential(*net[:-1]).eval(), [torch.randn(2, 3, 8, 8)])


def test_a_module_that_takes_another_engine_forgets_its_own(net: nn.Module, engine: torch2edge.EdgeModule) -> None:
    plain = torch2edge.convert(nn.Linear(4, 4).eval(), [torch.randn(2, 4)])
    engine.load_state_dict(plain.state_dict())
    with pytest.raises(ConfigError, match="cannot be refitted"):
        engine.refit(net)
