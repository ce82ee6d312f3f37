"""convert(cache_dir=): what is found again, what is not, and that it computes the same."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.onnx_models import take_away
from torch import nn

import torch2edge
from torch2edge import BuildError, CacheWarning, ConfigError, EdgeModule, caching, environment
from torch2edge._trt import why_not_executable
from torch2edge.build.session import BuildSession
from torch2edge.errors import VerificationError
from torch2edge.lower import registry
from torch2edge.options import Options
from torch2edge.run.engine_file import read, write

aten = torch.ops.aten
ROOT = Path(torch2edge.__file__).parent.parent


class Net(nn.Module):
    def __init__(self, seed: int = 0, stride: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(3, 4, 3, stride=stride), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = torch.relu(self.norm(self.conv(x)))
        return {"logits": self.head(features.mean((2, 3))), "features": features}


def inputs() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8)


def convert(folder: Path, model: nn.Module | None = None, x: Any = None, **options: Any) -> EdgeModule:
    model, x = Net() if model is None else model, [inputs()] if x is None else x
    made = torch2edge.convert(model.eval(), x, cache_dir=folder, **options)
    assert isinstance(made, EdgeModule)
    return made


def said(module: Any) -> str:
    assert module.report is not None
    return str(module.report.cache)


def outputs(module: Callable[..., Any], *x: Any) -> Any:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", torch2edge.ReferenceWarning)
        return module(*x)


def same(module: EdgeModule, model: nn.Module, *x: Any) -> None:
    given, wanted = outputs(module, *x), outputs(model, *x)
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)


def engines(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.engine"))


@pytest.fixture
def never_build(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, a build fails the test."""

    def refuse(self: Any, *args: Any) -> bytes:
        raise AssertionError("an engine is built")

    return lambda: monkeypatch.setattr(BuildSession, "build", refuse)


# ---- hit ------------------------------------------------------------------------------------------------------------


def test_the_second_conversion_builds_nothing(tmp_path: Path, never_build: Callable[[], None]) -> None:
    first = convert(tmp_path / "a" / "b")  # a folder is made
    assert said(first).startswith("miss: there is no engine of a Net yet; kept as ")
    (path,) = engines(tmp_path / "a" / "b")
    assert str(path) in said(first)
    never_build()
    model, x = Net().eval(), inputs()
    second = convert(tmp_path / "a" / "b", model)
    assert said(second).startswith(f"hit: {path}, built 20")
    assert said(second).endswith("the check is the one made then")
    assert second._plan == first._plan
    report, before = second.report, first.report
    assert report is not None
    assert before is not None
    assert "build" in before.timings
    assert not {"build", "check"} & set(report.timings)
    assert report.check == before.check
    assert report.checked_by == before.checked_by != ""
    assert report.modules == before.modules
    assert f"cache: hit: {path}" in str(report)
    assert {k: v for k, v in second.metadata.items() if k != "report"} == {
        k: v for k, v in first.metadata.items() if k != "report"
    }
    same(second, model, x)


def test_without_cache_dir_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = torch2edge.convert(Net().eval(), [inputs()])
    assert said(plain) == ""
    assert "cache:" not in str(plain.report)
    assert list(tmp_path.iterdir()) == []


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(tmp_path / "engines") in said(convert(Path("~/engines"), verify=False))
    assert len(engines(tmp_path / "engines")) == 1


def test_in_another_process(tmp_path: Path, never_build: Callable[[], None]) -> None:
    done = child(f"print(said(convert(Path({str(tmp_path)!r}))))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("miss")
    never_build()
    assert said(convert(tmp_path)).startswith("hit")


def child(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(code), capture_output=True, text=True, timeout=180, check=False, env=env(**environment))


def command(code: str) -> list[str]:
    return [sys.executable, "-c", f"from test_cold_start import *\n{textwrap.dedent(code)}"]


def env(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return {**os.environ, "PYTHONPATH": path, **more}


def test_a_saved_engine_from_the_cache_loads(tmp_path: Path) -> None:
    convert(tmp_path / "c")
    hit = convert(tmp_path / "c")
    hit.save(tmp_path / "net.engine")
    assert torch2edge.load(tmp_path / "net.engine").metadata == hit.metadata
    assert "cache" not in hit.metadata


def test_an_entry_is_an_engine_file(tmp_path: Path) -> None:
    first = convert(tmp_path)
    (path,) = engines(tmp_path)
    assert torch2edge.load(path)._plan == first._plan


def test_keep_network_on_a_hit(tmp_path: Path, never_build: Callable[[], None]) -> None:
    convert(tmp_path)
    never_build()
    hit = convert(tmp_path, keep_network=True)
    assert said(hit).startswith("hit")
    assert hit.network.num_layers > 0
    assert torch2edge.compare(Net().eval(), hit).rows


# ---- miss -----------------------------------------------------------------------------------------------------------


MISSES: dict[str, tuple[dict[str, Any], str]] = {
    "weights": ({"model": Net(seed=1)}, "weights"),
    "stride": ({"model": Net(stride=2)}, "ops"),
    "shape": ({"x": [torch.randn(1, 3, 8, 8)]}, "call, ops"),
    "fp16": ({"fp16": True}, "ops, options, weights"),
    "tf32": ({"tf32": True}, "options"),
    "level": ({"optimization_level": 1}, "options"),
    "workspace": ({"workspace": 2**28}, "options"),
    "names": ({"input_names": ["image"]}, "interface"),
    "io_dtype": ({"io_dtype": torch.float16}, "call, ops, options"),
    "dynamic": ({"dynamic": {0: {0: (1, 2, 4)}}}, "call, ops"),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    convert(folder, verify=False)
    return folder


@pytest.fixture
def mine(filled: Path, tmp_path: Path) -> Path:
    """A folder with the plain engine in it."""
    return Path(shutil.copytree(filled, tmp_path / "mine"))


@pytest.mark.parametrize("case", MISSES)
def test_anything_that_shapes_the_engine_is_another_entry(case: str, mine: Path) -> None:
    options, parts = MISSES[case]
    miss = convert(mine, verify=False, **options)
    assert said(miss).startswith(f"miss: the engine of a Net that is most alike has other {parts}; kept as ")
    assert said(convert(mine, verify=False, **options)).startswith("hit")
    assert said(convert(mine, verify=False)).startswith("hit")


def test_the_most_alike_is_named(mine: Path) -> None:
    convert(mine, Net(seed=1), verify=False, tf32=True)
    assert "most alike has other weights; kept" in said(convert(mine, Net(seed=2), verify=False, tf32=True))


def test_every_option_is_in_the_key() -> None:
    """Those that are added later too: all fields but the few that say how strictly to check."""
    told = caching._options(Options())
    assert set(told) == {f.name for f in dataclasses.fields(Options)} - caching.NOT_SHAPING | {"DLA cores"}
    assert {"tolerance", "offload"} == caching.NOT_SHAPING


@pytest.mark.parametrize(
    "patched",
    [
        ("gpu", lambda: {"name": "NVIDIA Other", "compute_capability": "8.6"}),
        ("gpu", lambda: {"name": "NVIDIA H200", "driver": "570"}),
        ("versions", lambda: {"tensorrt": "tensorrt 99.0"}),
        ("source", lambda: "0" * 64),
    ],
)
def test_another_machine_or_version_never_finds_it(
    patched: tuple[str, Any], mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(caching, *patched)
    part = {"gpu": "GPU", "versions": "versions", "source": "torch2edge"}[patched[0]]
    assert f"miss: the engine of a Net that is most alike has other {part}; kept" in said(convert(mine, verify=False))


def test_the_source_counts_and_must_not_change_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout the version says nothing: an edited converter is another torch2edge, and one that was edited after the
    import is not what runs."""
    package, beside = tmp_path / "torch2edge", tmp_path / "converters"
    package.mkdir(), beside.mkdir()
    (package / "api.py").write_text("a = 1\n")
    (beside / "relu.py").write_text("b = 1\n")
    monkeypatch.setattr(environment, "_PACKAGE", package)
    assert environment.source() == ""  # newer than the import
    later = os.stat(beside / "relu.py").st_ctime + 10
    monkeypatch.setattr(environment, "_IMPORTED", later)
    before = environment.source()
    assert len(before) == 64
    (beside / "relu.py").write_text("b = 2\n")
    environment._hash.cache_clear()
    assert environment.source() not in ("", before)
    monkeypatch.setattr(caching, "source", lambda: "")
    made = convert(tmp_path / "cache", verify=False)
    assert said(made) == "not used: a source file of torch2edge changed after it was imported; start Python anew"
    assert engines(tmp_path / "cache") == []


# ---- the check ------------------------------------------------------------------------------------------------------


CHECKED_NOW = (
    "checked now was the network that is lowered from the same, for no engine executes here"
    if why_not_executable()
    else ", and checked now"
)


def test_an_unchecked_entry_is_checked_when_that_is_asked(tmp_path: Path, never_build: Callable[[], None]) -> None:
    convert(tmp_path, verify=False)
    never_build()
    assert said(convert(tmp_path, verify=False)).startswith("hit")
    for _ in range(2 if why_not_executable() else 1):  # the network was checked, not the engine: its entry stays unchecked
        checked = convert(tmp_path)
        assert said(checked).endswith(CHECKED_NOW)
        assert checked.report is not None
        assert checked.report.checked_by
        assert checked.report.tolerance == 1e-4
        assert "check" in checked.report.timings
    (path,) = engines(tmp_path)
    assert bool(read(path)[0]["report"]["checked_by"]) == (not why_not_executable())
    if not why_not_executable():
        again = convert(tmp_path)
        assert said(again).endswith("the check is the one made then")
        assert again.report is not None
        assert again.report.check == checked.report.check


def test_a_stricter_tolerance_is_checked_anew(tmp_path: Path, never_build: Callable[[], None]) -> None:
    convert(tmp_path, tolerance=0.5)
    never_build()
    assert said(convert(tmp_path, tolerance=0.5)).endswith("made then")
    assert said(convert(tmp_path)).endswith(CHECKED_NOW)
    assert said(convert(tmp_path, tolerance=0.01)).endswith(CHECKED_NOW if why_not_executable() else "made then")
    with pytest.raises(VerificationError):
        convert(tmp_path, tolerance=1e-30)
    assert engines(tmp_path) == []  # what failed is not kept


def test_an_engine_that_fails_its_check_is_not_kept(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(VerificationError):
            convert(tmp_path, tolerance=1e-30)
        assert engines(tmp_path) == []


# ---- what a graph does not tell -------------------------------------------------------------------------------------


def scaled(by: float) -> Callable[..., Any]:
    def relu(net: Any, self: Any) -> Any:
        """A relu, and a tiny wrong: ``by`` stands in no graph."""
        return net.mul(net.activation(self, "RELU"), by)

    return relu


def test_a_converter_of_the_users_is_hashed_by_what_it_makes(tmp_path: Path, never_build: Callable[[], None]) -> None:
    converters = {aten.relu.default: scaled(1.0)}
    assert said(convert(tmp_path, converters=converters)).startswith("miss")
    other = convert(tmp_path, converters={aten.relu.default: scaled(1.0 + 2e-6)})
    assert "most alike has other network; kept" in said(other)
    own = convert(tmp_path)
    assert "most alike has other network; kept" in said(own)
    never_build()
    assert said(convert(tmp_path, converters={aten.relu.default: scaled(1.0)})).startswith("hit")
    assert said(convert(tmp_path)).startswith("hit")


def own(target: Any) -> Callable[..., Any]:
    found = registry().get(target)
    assert found is not None
    return found.function


@pytest.mark.parametrize("first", ["swapped", "plain"])
def test_a_converter_of_ours_for_another_op_is_the_users(tmp_path: Path, first: str) -> None:
    """Its code lies among ours, but the op in the graph is not the one that it converts."""
    swapped = {aten.relu.default: own(aten.sigmoid.default)}
    order: list[Any] = [swapped, None] if first == "swapped" else [None, swapped]
    one, other = (convert(tmp_path, converters=given, verify=False) for given in order)
    assert said(one).startswith("miss")
    assert said(other).startswith("miss")
    assert one._plan != other._plan
    for given, made in zip(order, (one, other)):
        hit = convert(tmp_path, converters=given, verify=False)
        assert said(hit).startswith("hit")
        assert hit._plan == made._plan


def test_a_converter_of_ours_registered_for_another_op_is_the_users(tmp_path: Path) -> None:
    plain = convert(tmp_path, verify=False)
    held = registry().get(aten.relu.default)
    assert held is not None
    torch2edge.converter(aten.relu.default, replace=True)(own(aten.tanh.default))
    try:
        other = convert(tmp_path, verify=False)
        assert said(other).startswith("miss")
        assert other._plan != plain._plan
    finally:
        registry().add(aten.relu.default, held.function, held.supports, replace=True)
    assert said(convert(tmp_path, verify=False)).startswith("hit")


def test_our_converter_in_its_own_place_is_ours() -> None:
    assert all(map(caching._is_ours, registry().all().values()))
    relu = registry().get(aten.relu.default)
    assert relu is not None
    assert not caching._is_ours(dataclasses.replace(relu, target=aten.tanh.default))


def test_an_engine_with_code_for_the_host_is_not_kept(tmp_path: Path) -> None:
    try:
        Options(version_compatible=True)
    except ConfigError as error:
        pytest.skip(str(error))
    try:
        for _ in range(2):
            module = convert(tmp_path, version_compatible=True)
            assert said(module).startswith("not used: a version-compatible engine holds code for the host")
    except BuildError as error:
        pytest.skip(f"no lean runtime here: {error}")
    assert engines(tmp_path) == []


def test_a_wrapped_converter_is_the_users(tmp_path: Path) -> None:
    import functools

    ours = registry().get(aten.relu.default)
    assert ours is not None

    @functools.wraps(ours.function)
    def relu(net: Any, self: Any) -> Any:
        return net.mul(ours.function(net, self), 1.0 + 3e-6)

    convert(tmp_path)
    assert said(convert(tmp_path, converters={aten.relu.default: relu})).startswith("miss")


class Gate(nn.Module):
    """Converted as a whole, with a weight that no op holds."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor([beta]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x * self.beta)


def gate(net: Any, module: Gate, x: Any) -> Any:
    return net.activation(net.mul(x, module.beta.detach()), "SIGMOID")


def test_weights_in_a_module_that_a_user_converts_as_a_whole(tmp_path: Path, never_build: Callable[[], None]) -> None:
    x = [torch.randn(4)]
    for beta in (2.0, 3.0):
        assert said(convert(tmp_path, nn.Sequential(Gate(beta)), x, converters={Gate: gate})).startswith("miss")
    never_build()
    model = nn.Sequential(Gate(3.0)).eval()
    hit = convert(tmp_path, model, x, converters={Gate: gate})
    assert said(hit).startswith("hit")
    same(hit, model, *x)


def test_by_way_of_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, never_build: Callable[[], None]) -> None:
    take_away(monkeypatch, aten.relu.default)
    for seed in (0, 1):
        assert said(convert(tmp_path, Net(seed), fallback="onnx")).startswith("miss")
    never_build()
    model = Net(1).eval()
    hit = convert(tmp_path, model, fallback="onnx")
    assert said(hit).startswith("hit")
    same(hit, model, inputs())


def exported(path: Path, seed: int = 0) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Net(seed).eval(), (inputs(),), str(path), dynamo=False, input_names=["image"])
    return path


def test_an_onnx_file(tmp_path: Path, never_build: Callable[[], None]) -> None:
    file, cache = exported(tmp_path / "net.onnx"), tmp_path / "cache"

    def converted() -> str:
        return said(torch2edge.convert(file, [inputs()], cache_dir=cache))

    assert converted().startswith("miss")
    exported(file, seed=1)
    assert "most alike has other file; kept" in converted()
    never_build()
    assert converted().startswith("hit")
    (tmp_path / "moved").mkdir()
    file = file.rename(tmp_path / "moved" / "other.onnx")
    assert converted().startswith("hit")


def test_weights_beside_an_onnx_file(tmp_path: Path) -> None:
    import onnx

    cache = tmp_path / "cache"
    for seed in (0, 1):
        model = onnx.load(exported(tmp_path / "net.onnx", seed))
        onnx.save(model, tmp_path / "big.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
        assert said(torch2edge.convert(tmp_path / "big.onnx", [inputs()], cache_dir=cache)).startswith("miss")
    assert said(torch2edge.convert(tmp_path / "big.onnx", [inputs()], cache_dir=cache)).startswith("hit")


# ---- INT8, searches, parts ------------------------------------------------------------------------------------------


def batches(scale: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(2, 3, 8, 8, generator=generator) * scale for _ in range(16)]


@pytest.mark.filterwarnings("ignore:.*samples:torch2edge.CalibrationWarning")
def test_int8_is_found_by_its_ranges(tmp_path: Path, never_build: Callable[[], None]) -> None:
    def made(scale: float) -> str:
        options = {"int8": True, "calibration": torch2edge.Calibration(batches(scale), progress=False), "tolerance": 10}
        return said(convert(tmp_path, **options))

    assert made(1.0).startswith("miss")
    assert made(3.0).startswith("miss")
    never_build()
    assert made(3.0).startswith("hit")
    assert made(1.0).startswith("hit")


def test_a_search_finds_each_of_its_engines(tmp_path: Path, never_build: Callable[[], None]) -> None:
    x = [inputs()]
    first = convert(tmp_path, x=x, fp16=True, max_error=1e-4)
    assert len(engines(tmp_path)) > 1
    never_build()
    second = convert(tmp_path, x=x, fp16=True, max_error=1e-4)
    assert said(second).startswith("hit")
    assert second._plan == first._plan


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = Net(), nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)["logits"]
        return self.head(y[y.abs().sum(1) > 0])


def test_each_part_of_a_partitioned_model(tmp_path: Path, never_build: Callable[[], None]) -> None:
    def made() -> list[str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch2edge.convert(Parts().eval(), [inputs()], fallback="torch", cache_dir=tmp_path, min_ops=1)
        assert isinstance(module, torch2edge.PartitionedModule)
        return [str(r.cache) for r in module.report.engines.values()]

    first = made()
    assert first
    assert all(text.startswith("miss") for text in first)
    never_build()
    assert all(text.startswith("hit") for text in made())


def test_dynamic_shapes(tmp_path: Path, never_build: Callable[[], None]) -> None:
    options = {"dynamic": {0: {0: (1, 2, 6)}}}
    convert(tmp_path, **options)
    never_build()
    model = Net().eval()
    hit = convert(tmp_path, model, **options)
    assert said(hit).startswith("hit")
    for batch in (1, 5):
        same(hit, model, torch.randn(batch, 3, 8, 8))


# ---- the option -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [3, "", True, b""])
def test_cache_dir_that_is_no_path(wrong: Any) -> None:
    stages: list[str] = []
    with pytest.raises(ConfigError, match=r"cache_dir is the path of a folder, but is "):
        torch2edge.convert(Net().eval(), [inputs()], cache_dir=wrong, progress=stages.append)
    assert stages == []


def test_cache_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for fallback in ("error", "torch"):
        with pytest.raises(ConfigError, match="is a file; give the path of a folder"):
            torch2edge.convert(Net().eval(), [inputs()], cache_dir=tmp_path / "file", fallback=fallback)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from torch2edge.cli.main import main

    (tmp_path / "net.py").write_text("import torch\ndef make():\n    torch.manual_seed(0)\n    return torch.nn.Linear(3, 2)\n")
    line = ["convert", "--model", f"{tmp_path / 'net.py'}:make", "--shape", "1x3", "--cache-dir", str(tmp_path / "c")]
    for wanted in ("cache: miss", "cache: hit"):
        assert main(line) == 0
        assert wanted in capsys.readouterr().out


def test_stages(tmp_path: Path) -> None:
    stages: list[str] = []
    convert(tmp_path, progress=stages.append)
    assert stages == ["trace", "prepare", "cache", "lower", "build", "check"]
    stages.clear()
    convert(tmp_path, progress=stages.append)
    assert stages == ["trace", "prepare", "cache", *(["lower"] if why_not_executable() else [])]


def test_a_header_that_tells_of_another_conversion_is_not_taken(tmp_path: Path) -> None:
    convert(tmp_path, verify=False)
    (path,) = engines(tmp_path)
    metadata, plan = read(path)
    metadata["cache"]["parts"]["weights"] = "0" * 64
    write(path, metadata, plan)
    with pytest.warns(CacheWarning, match="set aside as .*: .* is of another conversion than its name says"):
        assert said(convert(tmp_path, verify=False)).startswith("miss")


def test_switches_of_the_process_count(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert "most alike has other versions; kept" in said(convert(mine, verify=False))
