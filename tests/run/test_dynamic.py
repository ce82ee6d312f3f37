"""Which shapes an engine takes, and running it with them."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from support.gpu import FAST, needs_gpu
from torch import nn

import torch2edge
from torch2edge import Input
from torch2edge.errors import InputError
from torch2edge.run.sizes import Sizes


def sizes(**fields: Any) -> Sizes:
    metadata = {
        "dims": {"b": [[1, 2, 4], [8, 8, 16]], "t": [[4, 8, 64], [4, 4, 8]]},
        "constraints": [{"condition": ["Equality", ["Mod", ["dim", "t"], 2], 0], "source": "in block, model.py:3"}],
        "inputs": [
            {"name": "x", "shape": [["dim", "b"], ["dim", "t"], 3]},
            {"name": "mask", "shape": [["dim", "b"], 1, ["dim", "t"]]},
        ],
    }
    return Sizes({**metadata, **fields})


def call(b: int, t: int) -> list[torch.Tensor]:
    return [torch.zeros(b, t, 3), torch.zeros(b, 1, t)]


@pytest.mark.parametrize(("b", "t", "profile"), [(1, 4, 0), (4, 64, 0), (8, 4, 1), (16, 8, 1), (10, 6, 1)])
def test_the_first_profile_that_fits(b, t, profile):
    assert sizes().profile(call(b, t)) == profile


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (call(5, 8), r"axis 0 of x is 5; the engine was built for 1 to 4 or 8 to 16 there"),
        (call(2, 66), r"axis 1 of x is 66; the engine was built for 4 to 64 or 4 to 8 there"),
        (call(16, 64), r"no optimization profile .* takes b = 16, t = 64: there is b from 1 to 4, t from 4 to 64 or b from 8"),
        (call(2, 7), r"the inputs have b = 2, t = 7, but the model demands t % 2 == 0 \(in block, model\.py:3\)"),
        ([torch.zeros(2, 8, 4), torch.zeros(2, 1, 8)], "axis 2 of x is 4; the engine was built for 3 there"),
        ([torch.zeros(2, 8), torch.zeros(2, 1, 8)], "x has 2 dimensions; the engine was built for 3"),
        ([torch.zeros(2, 8, 3), torch.zeros(3, 1, 8)], "axis 0 of mask is 3, but axis 0 of x is 2: both are the dim b"),
    ],
)
def test_what_does_not_fit_is_named(inputs, message):
    with pytest.raises(InputError, match=message):
        sizes().profile(inputs)


class Net(nn.Module):
    """Two inputs that share their batch, an output that hangs on the height."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        features = torch.relu(self.conv(x)) * scale
        return {"logits": self.fc(features.mean((2, 3))), "rows": features.flatten(2).transpose(1, 2)}


IMAGE = Input(("n", 3, "h", 16), dims={"n": [(1, 1, 1), (2, 4, 8)], "h": (8, 16, 40)})
SCALE = Input(("n", 1, 1, 1))


def test_copies_and_pickles_take_the_same_shapes():
    module = torch2edge.convert(Net().eval(), [IMAGE, SCALE], **FAST)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        with pytest.raises(InputError, match=r"axis 2 of args\[0\] is 41; the engine was built for 8 to 40 there"):
            other(torch.zeros(2, 3, 41, 16), torch.zeros(2, 1, 1, 1))


@pytest.mark.gpu
@needs_gpu
class TestOnAGpu:
    """With a TensorRT that executes."""

    @pytest.fixture(scope="class")
    def net(self) -> Net:
        return Net().eval().cuda()

    @pytest.fixture(scope="class")
    def engine(self, net: Net) -> torch2edge.EdgeModule:
        return torch2edge.convert(net, [IMAGE, SCALE], **FAST)

    @staticmethod
    def compare(engine: Any, net: Net, n: int, h: int, device: str = "cuda") -> None:
        x, scale = torch.randn(n, 3, h, 16, device=device), torch.randn(n, 1, 1, 1, device=device)
        given = engine(x, scale)
        with torch.no_grad():
            wanted = net(x.cuda(), scale.cuda())
        for key, value in wanted.items():
            assert given[key].device.type == device
            torch.testing.assert_close(given[key].cuda(), value, rtol=1e-4, atol=1e-5)

    def test_the_check_ran_here(self, engine: torch2edge.EdgeModule) -> None:
        assert engine.report is not None
        assert engine.report.checked_by.endswith(torch.cuda.get_device_name())
        assert all(row.passed for row in engine.report.check)

    def test_shapes_and_profiles_in_turns(self, net: Net, engine: torch2edge.EdgeModule) -> None:
        for n, h in ((1, 16), (4, 16), (8, 40), (1, 8), (2, 9), (2, 9), (3, 31), (1, 40), (4, 16)):
            self.compare(engine, net, n, h)

    def test_cpu_inputs(self, net: Net, engine: torch2edge.EdgeModule) -> None:
        self.compare(engine, net, 3, 17, "cpu")

    def test_streams(self, net: Net, engine: torch2edge.EdgeModule) -> None:
        for h in (8, 40, 23):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.compare(engine, net, 4, h)

    def test_threads(self, net: Net, engine: torch2edge.EdgeModule) -> None:
        failures: list[BaseException] = []

        def work(n: int) -> None:
            try:
                for h in (8, 16, 40, 11):
                    self.compare(engine, net, n, h)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3, 8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures

    def test_a_loaded_engine(self, net: Net, engine: torch2edge.EdgeModule, tmp_path: Any) -> None:
        engine.save(tmp_path / "m.engine")
        loaded = torch2edge.load(tmp_path / "m.engine")
        self.compare(loaded, net, 5, 21)
        with pytest.raises(InputError, match="axis 0"):
            self.compare(loaded, net, 9, 21)
