"""build_loadable(): formats, and what reaches TensorRT's config; no DLA is here to build one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import torch2edge
from torch2edge import ConfigError
from torch2edge._trt import capabilities, trt
from torch2edge.build import BuildSession
from torch2edge.dla.formats import FORMATS, Format, parse_format
from torch2edge.dla_loadable import _filled, _write
from torch2edge.options import Options
from torch2edge.prepare import Call

IMAGE = (1, 3, 8, 8)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("output", [False, True])
def test_formats_by_precision_and_side(name: str, precision: str, output: bool) -> None:
    layout, precisions, for_outputs = FORMATS[name]
    if precision in precisions and (for_outputs or not output):
        assert parse_format(f"{precision}:{name}", "f", output=output, shapes=[IMAGE]) == Format(precision, layout)
        assert hasattr(trt.TensorFormat, layout)
        return
    with pytest.raises(ConfigError, match=r"holds (fp16|int8)$|for inputs only"):
        parse_format(f"{precision}:{name}", "f", output=output, shapes=[IMAGE])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_channels_of_hwc4(channels: int) -> None:
    if channels in (1, 3, 4):
        parse_format("int8:dla_hwc4", "f", shapes=[(1, channels, 8, 8)])
        return
    with pytest.raises(ConfigError, match=f"images of 1, 3 or 4 channels, not \\(1, {channels}, 8, 8\\)"):
        parse_format("int8:dla_hwc4", "f", shapes=[(1, channels, 8, 8)])


@pytest.mark.parametrize("text", ["chw16", "fp16", "fp16:chw8", "fp32:chw16", "fp16:", 16])
def test_what_is_no_format(text: str) -> None:
    with pytest.raises(ConfigError, match="it must be a precision and a format"):
        parse_format(text, "input_format")


def test_what_reaches_tensorrt() -> None:
    session = BuildSession(Options(fp16=True, default_device_type=trt.DeviceType.DLA))
    x = session.network.add_input("x", trt.DataType.HALF, (1, 16, 8, 8))
    relu = session.network.add_activation(x, trt.ActivationType.RELU)
    session.network.mark_output(relu.get_output(0))
    session.stand_alone(Format("fp16", "DLA_LINEAR"), Format("fp16", "CHW16"))
    assert session.config.engine_capability == trt.EngineCapability.DLA_STANDALONE
    assert session.config.get_flag(trt.BuilderFlag.DIRECT_IO)
    assert not session.config.get_flag(trt.BuilderFlag.GPU_FALLBACK)
    assert x.allowed_formats == 1 << int(trt.TensorFormat.DLA_LINEAR)
    assert relu.get_output(0).allowed_formats == 1 << int(trt.TensorFormat.CHW16)
    assert x.dtype == trt.DataType.HALF


def test_without_a_dla_it_is_refused(tmp_path: object) -> None:
    why = "finds no DLA core" if capabilities().dla else "has no DLA support; plan_dla tells"
    with pytest.raises(ConfigError, match=why):
        torch2edge.build_loadable(nn.Conv2d(3, 8, 3).eval(), [torch.randn(IMAGE)], f"{tmp_path}/net.loadable")


@pytest.mark.parametrize(("name", "why"), [("no/net.loadable", "there is no folder"), ("", "is a folder; name a file")])
def test_a_file_that_cannot_be_written_is_refused_before_the_build(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        torch2edge.build_loadable(nn.Conv2d(3, 8, 3).eval(), [torch.randn(IMAGE)], tmp_path / name, dla_rewrites=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_whole(tmp_path: Path) -> None:
    _write(tmp_path / "net.loadable", b"first")
    _write(tmp_path / "net.loadable", b"second")
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("net.loadable", b"second")]
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        _write(tmp_path / "gone" / "net.loadable", b"third")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"folder cannot be written"):
        _write(tmp_path / "folder", b"third")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["folder", "net.loadable"]


@pytest.mark.parametrize("on", [True, False])
def test_a_loadable_is_of_the_rewritten_graph(on: bool) -> None:
    options = Options(fp16=True, default_device_type=trt.DeviceType.DLA, dla_rewrites=on)
    model = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 8, 3)).eval()
    road = _filled(Call(model, [torch.randn(IMAGE)], {}, None), options, None)
    assert any("became the convolution's own" in note for note in road.notes) is on
