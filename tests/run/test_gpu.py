"""EdgeModule over engines that really execute."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from support.gpu import FAST, needs_gpu
from torch import nn

import torch2edge
from torch2edge._trt import capabilities

pytestmark = [pytest.mark.gpu, needs_gpu]


class Net(nn.Module):
    """A small image network with a nested output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = torch.relu(self.norm(self.conv(x)))
        return {"logits": self.fc(nn.functional.adaptive_avg_pool2d(features, 1).flatten(1)), "features": features}


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval().cuda()


@pytest.fixture(scope="module")
def engine(net: Net) -> torch2edge.EdgeModule:
    return torch2edge.convert(net, [torch.randn(2, 3, 16, 16, device="cuda")], **FAST)


def same(given: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(given) == list(expected)
    for key in expected:
        assert given[key].shape == expected[key].shape
        assert given[key].device == expected[key].device
        torch.testing.assert_close(given[key], expected[key], rtol=1e-4, atol=1e-5)


def test_checked_by_the_gpu(engine: torch2edge.EdgeModule) -> None:
    report = engine.report
    assert report is not None
    assert report.checked_by.endswith(torch.cuda.get_device_name())
    assert all(row.passed and row.rel_l2 < 1e-5 for row in report.check)


def test_fresh_inputs(net: Net, engine: torch2edge.EdgeModule) -> None:
    for _ in range(3):
        x = torch.randn(2, 3, 16, 16, device="cuda")
        with torch.no_grad():
            same(engine(x), net(x))


def test_strided_and_misaligned_inputs(net: Net, engine: torch2edge.EdgeModule) -> None:
    strided = torch.randn(2, 16, 16, 3, device="cuda").permute(0, 3, 1, 2)
    misaligned = torch.randn(2 * 3 * 16 * 16 + 1, device="cuda")[1:].view(2, 3, 16, 16)
    assert misaligned.data_ptr() % 256
    with torch.no_grad():
        for x in (strided, misaligned):
            same(engine(x), net(x))


def test_cpu_inputs_come_back_on_the_cpu(net: Net, engine: torch2edge.EdgeModule) -> None:
    x = torch.randn(2, 3, 16, 16)
    given = engine(x)
    with torch.no_grad():
        same(given, {k: v.cpu() for k, v in net(x.cuda()).items()})


def test_side_streams(net: Net, engine: torch2edge.EdgeModule) -> None:
    """Work enqueued on two streams in turn, inputs dropped at once: each result is that of its own input."""
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    results = []
    for i in range(40):
        with torch.cuda.stream(streams[i % 2]), torch.no_grad():
            x = torch.randn(2, 3, 16, 16, device="cuda")
            results.append((engine(x), net(x)))
            del x
    torch.cuda.synchronize()
    for given, expected in results:
        same(given, expected)


def test_threads(net: Net, engine: torch2edge.EdgeModule) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            generator = torch.Generator("cuda").manual_seed(seed)
            with torch.cuda.stream(torch.cuda.Stream()), torch.no_grad():
                for _ in range(20):
                    x = torch.randn(2, 3, 16, 16, device="cuda", generator=generator)
                    given, expected = engine(x), net(x)
                    torch.cuda.current_stream().synchronize()
                    same(given, expected)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def test_round_trips_execute(net: Net, engine: torch2edge.EdgeModule, tmp_path: Path) -> None:
    engine.save(tmp_path / "net.engine")
    outer = nn.ModuleDict({"net": engine})
    torch.save(outer.state_dict(), tmp_path / "net.pth")
    fresh = nn.ModuleDict({"net": torch2edge.EdgeModule()})
    fresh.load_state_dict(torch.load(tmp_path / "net.pth"))
    x = torch.randn(2, 3, 16, 16, device="cuda")
    with torch.no_grad():
        expected = net(x)
    same(torch2edge.load(tmp_path / "net.engine")(x), expected)
    same(fresh["net"](x), expected)


def test_half_model() -> None:
    net = Net().eval().cuda().half()
    engine = torch2edge.convert(net, [torch.randn(2, 3, 16, 16, device="cuda").half()], **FAST)
    x = torch.randn(2, 3, 16, 16, device="cuda").half()
    with torch.no_grad():
        expected = net(x)
    given = engine(x)
    for key in expected:
        assert given[key].dtype == torch.float16
        torch.testing.assert_close(given[key], expected[key], rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(capabilities().strongly_typed, reason="fp16=True is for weakly typed TensorRT")
def test_fp16_option(net: Net) -> None:
    engine = torch2edge.convert(net, [torch.randn(2, 3, 16, 16, device="cuda")], fp16=True, **FAST)
    assert engine.report is not None
    assert "fp16" in engine.report.precision


class Ids(nn.Module):
    """int64 in, int64 out."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids + ids


def test_int64_comes_back_as_int64() -> None:
    engine = torch2edge.convert(Ids().eval(), [torch.arange(6).cuda()], **FAST)
    ids = torch.tensor([5, -7, 0, 2**29, 1, -1]).cuda()
    assert torch.equal(engine(ids), ids + ids)


@pytest.mark.skipif(capabilities().int64, reason="this TensorRT has INT64")
def test_int64_out_of_range_is_refused() -> None:
    engine = torch2edge.convert(Ids().eval(), [torch.arange(6).cuda()], **FAST)
    with pytest.raises(torch2edge.InputError, match="INT32"):
        engine(torch.tensor([0, 1, 2, 3, 4, 2**40]).cuda())


def test_mixed_devices_are_refused() -> None:
    class Add(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    engine = torch2edge.convert(Add().eval(), [torch.randn(4).cuda(), torch.randn(4).cuda()], **FAST)
    with pytest.raises(torch2edge.InputError, match=r"args\[1\] is on cpu"):
        engine(torch.randn(4).cuda(), torch.randn(4))


def test_a_wrong_converter_is_caught(net: Net) -> None:
    def wrong(net: object, self: object) -> object:
        return self

    with pytest.raises(torch2edge.VerificationError, match="relu"):
        torch2edge.convert(
            net, [torch.randn(2, 3, 16, 16, device="cuda")], converters={torch.ops.aten.relu.default: wrong}, **FAST
        )


def test_dla_falls_back_where_there_is_none(net: Net) -> None:
    trt = torch2edge.trt
    x, on_dla = torch.randn(2, 3, 16, 16, device="cuda"), {net.conv: trt.DeviceType.DLA}
    with pytest.warns(torch2edge.DLAWarning, match="conv is built for the GPU: TensorRT .* finds no DLA core"):
        engine = torch2edge.convert(net, [x], fp16=True, device_types=on_dla, dla_core=0, **FAST)
    assert engine.report is not None
    assert {row.path: row.device for row in engine.report.modules}["conv"] == "GPU"
    with pytest.warns(torch2edge.DLAWarning):
        whole = torch2edge.convert(net, [x], fp16=True, default_device_type="dla", **FAST)
    torch.testing.assert_close(whole(x), net(x), rtol=2e-2, atol=2e-2)
    with pytest.raises(torch2edge.ConfigError, match=r"DLA is asked for \(conv\), but .* With gpu_fallback=True"):
        torch2edge.convert(net, [x], fp16=True, device_types=on_dla, gpu_fallback=False, **FAST)


class Islands(nn.Module):
    """A half model with float32 islands, as softmax and norms often are."""

    def forward(self, half: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        doubled = half + half
        wide = torch.softmax(half.float(), -1)
        moved = torch.cat([x.t(), x.t() * 1e5])
        hidden = x.masked_fill(x > 0, float("-inf"))
        return doubled, wide, moved, hidden, x - x.mean(0), 1 + x


def test_float32_islands_keep_their_digits() -> None:
    net = Islands().eval().cuda()
    engine = torch2edge.convert(net, [torch.randn(3, 5).cuda().half(), torch.randn(3, 5).cuda()], verify=False, **FAST)
    half, x = torch.randn(3, 5).cuda().half(), torch.randn(3, 5).cuda()
    for given, expected in zip(engine(half, x), net(half, x)):
        assert given.dtype == expected.dtype
        rtol = 1e-5 if given.dtype == torch.float32 else 2e-3
        torch.testing.assert_close(given, expected, rtol=rtol, atol=rtol)


def test_a_copied_recurrent_model_has_its_weights_in_one_piece() -> None:
    """Else PyTorch warns in each call, and warnings are errors here."""
    model = torch.nn.GRU(4, 5, batch_first=True).eval().cuda()
    x = torch.randn(2, 6, 4, device="cuda")
    with torch.no_grad():
        torch.testing.assert_close(torch2edge.PartitionedModule(model)(x)[0], model(x)[0])
