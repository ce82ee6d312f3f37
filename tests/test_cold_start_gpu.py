"""cache_dir= where engines execute: a hit needs no builder; the timing cache; another GPU's entry."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu import FAST, needs_gpu
from test_cold_start import Net, Parts, command, engines, env, said, scaled
from torch import nn

import torch2edge
from torch2edge import BuildError, CacheWarning, EdgeModule, caching, environment
from torch2edge._trt import capabilities
from torch2edge.build import timing_cache as timing
from torch2edge.build.session import BuildSession
from torch2edge.options import Options
from torch2edge.run.engine_file import read, write

pytestmark = [pytest.mark.gpu, needs_gpu]

aten = torch.ops.aten
timed = pytest.mark.skipif(not capabilities().timing_cache, reason="TensorRT-RTX measures nothing")
# From level 1 on TensorRT measures kernels and uses the timing cache.
MEASURED = {**FAST, "optimization_level": 3}


def net(seed: int = 0) -> nn.Module:
    return Net(seed).eval().cuda()


def x(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 8, 8, device="cuda")


def convert(folder: Path, model: nn.Module | None = None, **options: Any) -> EdgeModule:
    model = net() if model is None else model
    made = torch2edge.convert(model, [x()], cache_dir=folder, **{**FAST, **options})
    assert isinstance(made, EdgeModule)
    return made


def same(module: nn.Module, model: nn.Module, tolerance: float = 1e-4, batch: int = 2) -> None:
    given = x(batch)
    with torch.no_grad():
        torch.testing.assert_close(module(given), model(given), rtol=tolerance, atol=tolerance)


@pytest.fixture
def no_builder(monkeypatch: pytest.MonkeyPatch) -> Any:
    """From its call on, making a builder fails the test."""

    def refuse(self: Any, *args: Any) -> None:
        raise AssertionError("a builder is made")

    return lambda: monkeypatch.setattr(BuildSession, "__init__", refuse)


def test_a_hit_needs_no_builder_and_computes(tmp_path: Path, no_builder: Any) -> None:
    first = convert(tmp_path)
    assert said(first).startswith("miss")
    no_builder()
    second = convert(tmp_path)
    assert said(second).startswith("hit")
    assert said(second).endswith("the check is the one made then")
    assert second.report is not None
    assert set(second.report.timings) == {"trace", "prepare", "cache"}
    assert second.report.checked_by.endswith(torch.cuda.get_device_name())
    same(second, net())
    same(first, net())


def test_the_gpu_and_its_driver_are_known() -> None:
    here = environment.gpu()
    assert here["name"] == torch.cuda.get_device_name()
    assert here["compute_capability"] == ".".join(map(str, torch.cuda.get_device_capability()))
    assert any(c.isdigit() for c in here["driver"]), here


@pytest.mark.parametrize("other", [{"name": "NVIDIA Other"}, {"driver": "1"}, {"multiprocessors": 16}])
def test_another_gpu_never_finds_it(tmp_path: Path, other: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    convert(tmp_path)
    here = environment.gpu()
    monkeypatch.setattr(caching, "gpu", lambda: {**here, **other})
    assert "has other GPU; kept as" in said(convert(tmp_path))


def test_an_entry_that_was_built_for_another_gpu_is_not_run(tmp_path: Path) -> None:
    convert(tmp_path)
    (path,) = engines(tmp_path)
    metadata, plan = read(path)
    write(path, {**metadata, "compute_capabilities": ["7.5"]}, plan)
    with pytest.warns(CacheWarning, match=r"set aside .*compute capability 7\.5.* but here is"):
        module = convert(tmp_path)
    assert said(module).startswith("miss")
    same(module, net())


def test_an_unchecked_entry_is_checked_on_this_gpu(tmp_path: Path) -> None:
    convert(tmp_path, verify=False)
    checked = convert(tmp_path)
    assert said(checked).endswith("and checked now")
    assert checked.report is not None
    assert checked.report.checked_by.endswith(torch.cuda.get_device_name())
    same(checked, net())


def test_dynamic_shapes(tmp_path: Path, no_builder: Any) -> None:
    options = {"dynamic": {0: {0: (1, 2, 4)}}}
    convert(tmp_path, **options)
    no_builder()
    hit = convert(tmp_path, **options)
    assert said(hit).startswith("hit")
    for batch in (1, 3):
        same(hit, net(), batch=batch)


def test_half(tmp_path: Path, no_builder: Any) -> None:
    convert(tmp_path, fp16=True)
    assert said(convert(tmp_path)).startswith("miss")
    no_builder()
    hit = convert(tmp_path, fp16=True)
    assert said(hit).startswith("hit")
    same(hit, net(), tolerance=2e-2)


@pytest.mark.filterwarnings("ignore::torch2edge.CalibrationWarning")
def test_int8_by_its_ranges(tmp_path: Path, no_builder: Any) -> None:
    def made(scale: float) -> EdgeModule:
        generator = torch.Generator().manual_seed(5)
        data = [torch.randn(2, 3, 8, 8, generator=generator).cuda() * scale for _ in range(16)]
        calibration = torch2edge.Calibration(data, progress=False)
        return convert(tmp_path, int8=True, calibration=calibration, tolerance=10.0)

    assert said(made(1.0)).startswith("miss")
    assert said(made(3.0)).startswith("miss")
    no_builder()
    assert said(made(3.0)).startswith("hit")
    same(made(1.0), net(), tolerance=1.0)


def test_a_converter_of_the_users(tmp_path: Path) -> None:
    """Its network is hashed, with this TensorRT's own API."""
    assert said(convert(tmp_path, converters={aten.relu.default: scaled(1.0)})).startswith("miss")
    assert "has other network; kept as" in said(convert(tmp_path, converters={aten.relu.default: scaled(1.0 + 2e-6)}))
    hit = convert(tmp_path, converters={aten.relu.default: scaled(1.0)})
    assert said(hit).startswith("hit")
    same(hit, net())


def test_parts(tmp_path: Path) -> None:
    model = Parts().eval().cuda()
    for wanted in ("miss", "hit"):
        module = torch2edge.convert(model, [x()], fallback="torch", min_ops=1, cache_dir=tmp_path, **FAST)
        assert isinstance(module, torch2edge.PartitionedModule)
        assert {report.cache.partition(":")[0] for report in module.report.engines.values()} == {wanted}
        same(module, model)


def test_two_processes(tmp_path: Path) -> None:
    code = f"""
        import test_cold_start_gpu as gpu
        module = gpu.convert(Path({str(tmp_path)!r}))
        gpu.same(module, gpu.net())
        print(said(module))
    """
    both = [subprocess.Popen(command(code), stdout=-1, stderr=-1, text=True, env=env()) for _ in range(2)]
    told = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert sorted(out.partition(":")[0] for out, _ in told) == ["hit", "miss"]
    assert len(engines(tmp_path)) == 1


def test_a_version_compatible_engine_without_code(tmp_path: Path) -> None:
    for told in ("miss", "hit"):
        module = convert(tmp_path, version_compatible=True, exclude_lean_runtime=True)
        assert said(module).startswith(told)
        assert module.engine_host_code_allowed == (told == "miss")
        same(module, net())


def test_an_engine_with_code_in_it_is_built_each_time(tmp_path: Path) -> None:
    try:
        same(convert(tmp_path, version_compatible=True), net())
    except BuildError as error:
        pytest.skip(f"no lean runtime here: {error}")
    for options in ({}, {"refittable": True}, {"cuda_graph": True}):  # a check, a list of weights, graphs: all would run it
        module = convert(tmp_path, version_compatible=True, **options)
        assert said(module).startswith("not used: a version-compatible engine holds code for the host")
        assert module.engine_host_code_allowed
        same(module, net())
    assert engines(tmp_path) == []
    model, options = Parts().eval().cuda(), {"fallback": "torch", "min_ops": 1, "version_compatible": True}
    for _ in range(2):  # the check of the whole runs the parts
        same(torch2edge.convert(model, [x()], cache_dir=tmp_path, **options, **FAST), model)


# ---- the timing cache -----------------------------------------------------------------------------------------------


def timing_file(folder: Path) -> timing.TimingCache:
    made = timing.timing_cache(folder)
    assert made is not None
    return made


@timed
def test_what_one_build_measured_the_next_need_not(tmp_path: Path) -> None:
    first = convert(tmp_path, **MEASURED)
    file = timing_file(tmp_path)
    held = file.read()
    session = BuildSession(Options())
    empty = session.config.create_timing_cache(b"")
    assert len(held) > len(bytes(empty.serialize()))
    (path,) = engines(tmp_path)
    path.unlink()
    second = convert(tmp_path, **MEASURED)
    assert said(second).startswith("miss")
    assert first.report is not None
    assert second.report is not None
    assert second.report.timings["build"] < first.report.timings["build"]
    same(second, net())
    assert len(file.read()) >= len(held)


@timed
def test_measurements_of_two_builds_are_joined(tmp_path: Path) -> None:
    """The second began before the first had written: what it writes holds both, or the larger where TensorRT joins none.

    8.6.0 on an H200 without cuBLAS refuses: "Myelin error from unknown graph".
    """
    convert(tmp_path / "one", nn.Sequential(nn.Conv2d(3, 16, 5), nn.ReLU()).eval().cuda(), **MEASURED)
    convert(tmp_path / "two", nn.Sequential(nn.ConvTranspose2d(3, 8, 4, 2), nn.Sigmoid()).eval().cuda(), **MEASURED)
    one, two = timing_file(tmp_path / "one"), timing_file(tmp_path / "two")
    first, second = one.read(), two.read()
    session = BuildSession(Options())
    joins = session.config.create_timing_cache(first).combine(session.config.create_timing_cache(second), False)
    held = one.give(session.config)
    one.path.write_bytes(two.path.read_bytes())  # what a process wrote meanwhile
    one.take(session.config)
    assert held is not None
    assert len(one.read()) >= max(len(first), len(second)) + joins


@timed
def test_a_build_that_measured_nothing_leaves_what_others_wrote(tmp_path: Path) -> None:
    file = timing_file(tmp_path)
    convert(tmp_path / "other", nn.Sequential(nn.Conv2d(3, 16, 5), nn.ReLU()).eval().cuda(), **MEASURED)
    session = BuildSession(Options())
    held = file.give(session.config)  # of nothing yet
    file.path.write_bytes(timing_file(tmp_path / "other").path.read_bytes())
    file.take(session.config)
    assert held is not None
    assert len(file.read()) >= len(timing_file(tmp_path / "other").read())


@timed
def test_a_damaged_timing_cache_is_set_aside(tmp_path: Path) -> None:
    convert(tmp_path)
    file = timing_file(tmp_path)
    whole = file.path.read_bytes()
    file.path.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(CacheWarning, match=r"the timing cache .* is set aside as .*\.damaged, and the build measures anew"):
        module = convert(tmp_path, net(1))
    same(module, net(1))
    assert file.read()


@timed
def test_bytes_that_are_no_timing_cache_behind_a_right_checksum(tmp_path: Path) -> None:
    """In a process of its own, for what TensorRT does with them is not ours to say."""
    file = timing_file(tmp_path)
    body = timing.MAGIC + b"\x07" * 500
    file.path.write_bytes(body + hashlib.sha256(body).digest())
    code = f"""
        import warnings, test_cold_start_gpu as gpu
        warnings.simplefilter("ignore")
        module = gpu.convert(Path({str(tmp_path)!r}))
        gpu.same(module, gpu.net())
        print(said(module))
    """
    done = subprocess.run(command(code), capture_output=True, text=True, timeout=300, check=False, env=env())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("miss")
