"""EdgeModule.refit(): other weights for an engine. Here the reference executor computes."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from support.refits import MODELS, gap, image_net, trained
from torch import nn

import torch2edge
from torch2edge import ConfigError
from torch2edge._trt import why_not_executable
from torch2edge.cli import main

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


# ---- what changes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("by_state", [False, True], ids=["model", "state dict"])
def test_new_weights(name: str, by_state: bool) -> None:
    make, shape = MODELS[name]
    model = make().eval()
    engine = torch2edge.convert(model, [torch.randn(*shape)], refittable=True)
    plan = engine._plan
    for _ in range(2):
        new = trained(model)
        assert gap(engine, new, *shape) > 1e-2
        engine.refit(new.state_dict() if by_state else new)
        assert gap(engine, new, *shape) < 1e-5
        assert engine.report.check
        assert all(row.passed and row.rel_l2 < 1e-5 for row in engine.report.check)
    assert engine._plan != plan
    assert [n for n in engine.report.notes if n.startswith("note: refitted")] == ["note: refitted: built anew"]


@pytest.mark.parametrize("options", [{"fp16": True}, {"bf16": True}, {"io_dtype": torch.float16}], ids=str)
def test_other_precisions(options: dict[str, Any]) -> None:
    model = image_net().eval()
    engine = torch2edge.convert(model, [torch.randn(2, 3, 8, 8)], refittable=True, **options)
    new = trained(model)
    engine.refit(new)
    dtype = options.get("io_dtype", torch.float32)
    x = torch.randn(2, 3, 8, 8).to(dtype)
    with torch.no_grad():
        expected, given = new(x.float()), engine(x)
    assert given.dtype == dtype
    assert float((given.float() - expected).norm() / expected.norm()) < (3e-2 if "bf16" in options else 5e-3)


def test_int8_keeps_the_ranges_of_activations_and_scales_the_new_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 6)).eval()
    data = [torch.randn(4, 3, 8, 8) for _ in range(8)]
    engine = torch2edge.convert(model, [torch.randn(4, 3, 8, 8)], int8=True, calibration=data, refittable=True)
    new = copy.deepcopy(model)
    with torch.no_grad():
        new[4].weight.mul_(3).add_(torch.randn_like(new[4].weight) * 0.1)  # with the old scales it would clip
    calibrated = copy.copy(data)
    data.clear()  # nobody reads it again
    engine.refit(new)
    anew = torch2edge.convert(new, [torch.randn(4, 3, 8, 8)], int8=True, calibration=calibrated, verify=False)
    x = calibrated[1]
    torch.testing.assert_close(engine(x), anew(x), rtol=1e-5, atol=1e-5)
    assert "note: refitted: built anew; the INT8 ranges of activations stay" in engine.report.notes


def test_dynamic_shapes(net: nn.Module) -> None:
    engine = torch2edge.convert(net, [torch.randn(2, 3, 8, 8)], dynamic={0: {0: (1, 2, 5)}}, refittable=True)
    new = trained(net)
    engine.refit(new)
    for batch in (1, 2, 5):
        assert gap(engine, new, batch, 3, 8, 8) < 1e-5


def test_the_file_holds_the_new_weights_and_says_so(net: nn.Module, engine: torch2edge.EdgeModule, tmp_path: Path) -> None:
    engine.refit(trained(net))
    engine.save(tmp_path / "net.engine")
    loaded = torch2edge.load(tmp_path / "net.engine")
    assert loaded._plan == engine._plan
    assert any(note.startswith("note: refitted") for note in loaded.report.notes)


def test_copies_are_refitted_on_their_own(net: nn.Module, engine: torch2edge.EdgeModule) -> None:
    other, new = copy.deepcopy(engine), trained(net)
    other.refit(new)
    assert gap(other, new, 2, 3, 8, 8) < 1e-5
    assert gap(engine, net, 2, 3, 8, 8) < 1e-5


def test_the_report_tells_of_the_refit_and_not_of_the_cache(tmp_path: Path) -> None:
    """What the check of the old engine noted, which was nothing but zeros, is not said of the new one."""
    zero = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    with torch.no_grad():
        zero[0].weight.zero_()
        zero[0].bias.fill_(-1)
    for told in ("miss", "hit"):
        engine = torch2edge.convert(zero, [torch.randn(2, 4)], refittable=True, cache_dir=tmp_path)
        assert engine.report.cache.startswith(told)
        assert any("is 0 everywhere in the check" in note for note in engine.report.notes)
        engine.refit(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval())
        assert engine.report.cache == ""
        assert not any("is 0 everywhere" in note for note in engine.report.notes)
        assert sum("cannot be refitted" in note for note in engine.report.notes) == 1


def test_a_state_dict_of_another_engine_takes_the_network_away(net: nn.Module) -> None:
    kept = torch2edge.convert(net, [torch.randn(2, 3, 8, 8)], keep_network=True)
    kept.load_state_dict(torch2edge.convert(trained(net), [torch.randn(2, 3, 8, 8)]).state_dict())
    assert kept.network is None
    assert kept._kept is None
    with pytest.raises(torch2edge.Torch2EdgeError, match="keep_network"):
        torch2edge.compare(net, kept, [torch.randn(2, 3, 8, 8)])


def test_compare_sees_the_new_network(net: nn.Module) -> None:
    engine = torch2edge.convert(net, [torch.randn(2, 3, 8, 8)], refittable=True, keep_network=True)
    new = trained(net)
    engine.refit(new)
    assert max(row.rel_l2 for row in torch2edge.compare(new, engine).outputs) < 1e-5


def test_what_differs_is_followed_where_it_can_be() -> None:
    """A weight beyond half's range keeps its layer in float32, also when the next weights would fit."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    big = copy.deepcopy(model)
    with torch.no_grad():
        big[0].weight.mul_(1e6)
        big[1].weight.mul_(1e-3)
    engine = torch2edge.convert(big, [torch.randn(2, 4)], fp16=True, refittable=True)
    new = trained(model)
    engine.refit(new)
    assert gap(engine, new, 2, 4) < 5e-3


def test_a_batch_norm_that_could_fold_now_does_not() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    small = copy.deepcopy(model)
    with torch.no_grad():
        small[1].weight[0] = 1e-6  # half would lose its digits
    engine = torch2edge.convert(small, [torch.randn(1, 3, 8, 8)], fp16=True, refittable=True)
    assert not any("batch norm" in note for note in engine.report.notes)
    new = trained(model)
    engine.refit(new)
    assert gap(engine, new, 1, 3, 8, 8) < 5e-3


def test_calls_of_other_threads_get_old_or_new_weights(net: nn.Module, engine: torch2edge.EdgeModule) -> None:
    new, x, stop = trained(net), torch.randn(2, 3, 8, 8), threading.Event()
    with torch.no_grad():
        allowed = [net(x), new(x)]
    seen: list[torch.Tensor] = []

    def call() -> None:
        while not stop.is_set():
            seen.append(engine(x))

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    engine.refit(new)
    stop.set()
    for thread in threads:
        thread.join()
    seen.append(engine(x))
    assert all(any(torch.allclose(given, one, rtol=1e-4, atol=1e-5) for one in allowed) for given in seen)
    assert torch.allclose(seen[-1], allowed[1], rtol=1e-4, atol=1e-5)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.py"
    file.write_text("import torch\n\ndef make():\n    return torch.nn.Linear(4, 3)\n")
    arguments = ["--model", f"{file}:make", "--shape", "2x4", "--refittable", "-o", str(tmp_path / "small.engine")]
    assert main(["convert", *arguments]) == 0
    assert "the engine itself cannot be refitted" in capsys.readouterr().out
    assert torch2edge.load(tmp_path / "small.engine").metadata["refittable"] is False


# ---- the model may be gone ----------------------------------------------------------------------------------------------


def test_nothing_holds_the_model_or_its_weights() -> None:
    model = image_net().eval()
    state = trained(model).state_dict()
    engine = torch2edge.convert(model, [torch.randn(2, 3, 8, 8)], refittable=True, verify=False)
    engine._fallback = None  # as where TensorRT executes; it holds the network
    assert all(t.is_meta for t in engine._refit.args[0].skeleton._model.state_dict().values())
    gone = [weakref.ref(model), *(weakref.ref(p) for p in model.parameters())]
    del model
    gc.collect()
    assert [ref() for ref in gone] == [None] * len(gone)
    engine.refit(state)
    same = image_net().eval()
    same.load_state_dict(state)
    assert gap(engine, same, 2, 3, 8, 8) < 1e-5


def test_buffers_in_no_state_dict_stay() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.register_buffer("grid", torch.randn(4), persistent=False)
            self.plain = torch.randn(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x) * self.grid + self.plain

    model = Net().eval()
    engine = torch2edge.convert(model, [torch.randn(2, 4)], refittable=True)
    engine.refit({"fc.weight": torch.eye(4), "fc.bias": torch.zeros(4)})
    x = torch.randn(2, 4)
    torch.testing.assert_close(engine(x), x * model.grid + model.plain)


def test_a_model_that_cannot_be_copied() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lock = nn.Linear(4, 4), threading.Lock()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x)

    engine = torch2edge.convert(Net().eval(), [torch.randn(2, 4)], refittable=True)
    new = Net().eval()
    with pytest.raises(ConfigError, match=r"the model cannot be copied \(TypeError.*lock.*\).*refit\(model\)"):
        engine.refit(new.state_dict())
    engine.refit(new)
    assert gap(engine, new, 2, 4) < 1e-5
